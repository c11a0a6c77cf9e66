"""Allocations that users have made become pilots with what they have, and stay theirs."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.fleets import NOW, FakeBatch, Head
from support.waiting import wait_until

from pilot import clock
from pilot.agent.agent import shape_of_nodes
from pilot.errors import PilotError
from pilot.head.core.state import Pilot
from pilot.head.fleet_commands import FleetCommands
from pilot.head.giving_up import JOIN_S, SILENT_S
from pilot.head.outlook import PilotRow
from pilot.head.own_pilot import shape_of, start_agent_in
from pilot.scheduler.batch import (
    Allocation,
    BatchError,
    BatchUnavailable,
    JobStatus,
    Phase,
    WhyEnded,
)
from pilot.scheduler.batch.slurm.allocation import allocation_here, read_allocation
from pilot.scheduler.resources import NodeShape, indexed, node_shape
from pilot.site import open_site
from pilot.wire.messages import client as m

USER = 1000
RECORD = (
    "JobId=77 JobName=bash UserId=ada(1000) GroupId=ada(1000) MCS_label=N/A Priority=4294901758 "
    "Nice=0 Account=(null) QOS=(null) JobState=RUNNING Reason=None Dependency=(null) Requeue=1 "
    "Restarts=0 BatchFlag=0 Reboot=0 ExitCode=0:0 DerivedExitCode=0:0 RunTime=00:00:12 "
    "TimeLimit=00:10:00 TimeMin=N/A SubmitTime=2026-11-28T10:00:00 "
    "StartTime=2026-11-28T10:00:00 EndTime=2026-11-28T10:10:00 Deadline=N/A Partition=main "
    "AllocNode:Sid=login:4242 ReqNodeList=(null) ExcNodeList=(null) {nodes} "
    "MinCPUsNode=1 MinMemoryNode=100M MinTmpDiskNode=0 Features=(null) Command=(null) "
    "WorkDir=/home/ada Power="
)
ONE = (
    "NodeList=n1 BatchHost=n1 NumNodes=1 NumCPUs=2 NumTasks=1 CPUs/Task=2 "
    "ReqB:S:C:T=0:0:*:* TRES=cpu=2,mem=100M,node=1,billing=2 Socks/Node=* "
    "NtasksPerN:B:S:C=0:0:*:* CoreSpec=* JOB_GRES=(null) Nodes=n1 CPU_IDs=0-1 Mem=100 GRES="
)


def told(nodes: str = ONE, **changes: str) -> str:
    record = RECORD.format(nodes=nodes)
    for name, value in changes.items():
        before = next(word for word in record.split(" ") if word.startswith(f"{name}="))
        record = record.replace(before, f"{name}={value}")
    return record + "\n"


# --- what Slurm says -----------------------------------------------------------------------------


def test_job_smaller_than_a_node_has_what_it_was_given() -> None:
    its = read_allocation("77", told(), USER)
    assert its[:4] == ("77", "n1", 1, 0)
    assert (its.cores, its.memory_mib, its.gpus) == (2, 100, 0)
    assert its.ends_at is not None


@pytest.mark.parametrize(
    ("nodes", "cores", "memory_mib", "gpus"),
    [
        ("Nodes=n[1-2] CPU_IDs=0-3 Mem=4000 GRES=gpu:2(IDX:0-1)", 4, 4000, 2),
        ("Nodes=n1 CPU_IDs=0-3,8,10-11 Mem=0 GRES=", 7, None, 0),
        ("Nodes=n1 CPU_IDs=0-7 Mem=9 GRES= Nodes=n2 CPU_IDs=4 Mem=5 GRES=", 1, 5, 0),
        ("Nodes=n[1-2] CPU_IDs=0 Mem=1 GRES=gpu:a100:4(IDX:0-2,7)", 1, 1, 4),
        ("Nodes=n[1-2] CPU_IDs=0 Mem=1 GRES_IDX=gpu(IDX:0-1)", 1, 1, 2),
        ("Nodes=n[1-2] CPU_IDs=0 Mem=1 GRES=gpu:a100:2(IDX:0-1),gpu:v100:1(IDX:4)", 1, 1, 3),
        ("Nodes=n[1-2] CPU_IDs=0 Mem=1 GRES=nic:2(IDX:0-1),shard:3", 1, 1, 0),
        ("Nodes=n[1-2] CPU_IDs=0 Mem=1 GRES=gpu:1", 1, 1, 1),
    ],
)
def test_nodes_have_the_least_that_one_of_them_has(
    nodes: str, cores: int, memory_mib: int | None, gpus: int
) -> None:
    text = f"NodeList=n[1-2] BatchHost=n1 NumNodes=2 NumCPUs=9 JOB_GRES=gpu:8 {nodes}"
    its = read_allocation("77", told(text), USER)
    assert (its.node_count, its.cores, its.memory_mib, its.gpus) == (2, cores, memory_mib, gpus)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (told(JobState="PENDING"), "job 77 is PENDING, not RUNNING"),
        (told(JobState="COMPLETED"), "job 77 is COMPLETED"),
        (told(UserId="eve(1001)"), r"job 77 is not yours: it is of eve\(1001\)"),
        (told(JobName="a HetJobId=77"), "job 77 is heterogeneous"),
        (told() + told(JobId="78"), "job 77 is heterogeneous"),
    ],
)
def test_job_that_cannot_be_a_pilot_is_refused_in_words(output: str, message: str) -> None:
    with pytest.raises(BatchError, match=message):
        read_allocation("77", output, USER)


@pytest.mark.parametrize(
    "output", ["", "slurm_load_jobs error", told("NodeList=n1 NumNodes=1"), told("NodeList=n[")]
)
def test_what_is_not_understood_is_no_answer(output: str) -> None:
    with pytest.raises(BatchUnavailable):
        read_allocation("77", output, USER)


@pytest.mark.parametrize(
    ("variables", "cores", "memory_mib", "gpus"),
    [
        ({"SLURM_JOB_CPUS_PER_NODE": "1", "SLURM_MEM_PER_NODE": "100"}, 1, 100, 0),
        ({"SLURM_JOB_CPUS_PER_NODE": "8(x3),4", "SLURM_MEM_PER_CPU": "500"}, 4, 2000, 0),
        ({"SLURM_JOB_CPUS_PER_NODE": "8", "SLURM_MEM_PER_NODE": "0"}, 8, None, 0),
        ({"SLURM_JOB_CPUS_PER_NODE": "8", "SLURM_GPUS_ON_NODE": "2"}, 8, None, 2),
        ({"SLURM_JOB_CPUS_PER_NODE": "8", "SLURM_JOB_GPUS": "0,2-3"}, 8, None, 3),
        ({}, None, None, 0),
    ],
)
def test_job_knows_itself_what_it_has(
    variables: dict[str, str], cores: int | None, memory_mib: int | None, gpus: int
) -> None:
    its = allocation_here({"SLURM_JOB_ID": "77", **variables})
    assert its is not None
    assert (its.cores, its.memory_mib, its.gpus, its.parts) == (cores, memory_mib, gpus, 1)


def test_parts_of_a_heterogeneous_job_are_told() -> None:
    its = allocation_here({"SLURM_JOB_ID": "77", "SLURM_HET_SIZE": "2"})
    assert its is not None and its.parts == 2
    assert allocation_here({}) is None


# --- what tasks may use --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("its", "shape"),
    [
        (Allocation("7", "n1", cores=2, memory_mib=100, gpus=0), node_shape(2, 100)),
        (Allocation("7", "n1", cores=2, gpus=1), node_shape(2, 2000, 1)),
        (Allocation("7", "n1", cores=16, memory_mib=9000, gpus=4), None),
        (Allocation("7", "n1"), "pool"),
    ],
)
def test_shape_is_that_of_the_job(its: Allocation, shape: Any) -> None:
    other = indexed("fpga", [0, 1])
    pool = node_shape(8, 8000, 2, [other])
    expected = {None: node_shape(16, 9000, 4, [other]), "pool": pool}.get(shape, shape)
    assert shape_of(pool, its) == expected


def test_agent_uses_what_it_was_told_and_no_more_than_it_is_bound_to(tmp_path: Path) -> None:
    head = Head(tmp_path / "site", FakeBatch())
    head.close()
    pool = head.site.config.pools["main"]
    assert shape_of_nodes(pool, {}) == pool.shape
    environment = {"PILOT_NODE_SHAPE": msgspec.json.encode(node_shape(10_000, 50)).decode()}
    assert shape_of_nodes(pool, environment) == node_shape(10_000, 50)
    bound = shape_of_nodes(pool, {**environment, "PILOT_NODE": "n1"})
    assert bound == node_shape(len(os.sched_getaffinity(0)), 50)


# --- the head ------------------------------------------------------------------------------------


class Step:
    """What starts an agent in a job; it lives until the test ends it."""

    def __init__(self) -> None:
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode

    def terminate(self) -> None:
        self.returncode = -15


class Adopting(Head):
    """A fleet that adopts, and takes no orders but that."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[Step] = []
        self.told: list[tuple[PilotRow, Allocation]] = []
        self.refused: list[str] = []
        monkeypatch.setattr("pilot.head.adopting.start_agent_in", self._step)
        super().__init__(directory, FakeBatch())
        its = Allocation("77", "n1", 1, cores=1, memory_mib=100, gpus=0)
        self.batch.allocations["77"] = its

    def _step(self, site: object, row: PilotRow, allocation: Allocation) -> Step:
        self.steps.append(Step())
        return self.steps[-1]

    def take_on(self, job: str = "77", now: float = NOW) -> None:
        self.fleet.adopting.adopt_other(
            job, "main", now, lambda *it: self.told.append(it), self.refuse
        )
        self.settle()

    def refuse(self, why: str) -> None:
        self.refused.append(why)

    def joined(self) -> PilotRow:
        self.take_on()
        (row,) = self.fleet.pilots.values()
        self.fleet.joined(row.name, "77", "main", 1, NOW)
        self.rooms[row.name] = room(row.name, 1)
        return row


def room(name: str, cores: int) -> Pilot:
    """A pilot of one node that has introduced itself."""
    return Pilot(name, "main", NodeShape(cores), 1, 0.0)


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Adopting]:
    made = Adopting(tmp_path / "site", monkeypatch)
    yield made
    made.close()


def test_adopted_job_becomes_a_pilot_that_is_never_ended(head: Adopting) -> None:
    row = head.joined()
    assert [each.job_id for _, each in head.told] == ["77"] and row.own
    head.fleet.heard(row.name, 1e6, False, NOW)
    assert head.fleet.tick(NOW + 10.0, list) == []
    head.take_on()
    assert head.refused == ["job 77 is a pilot already"]


def test_part_of_a_node_does_not_count_as_a_whole_one(head: Adopting) -> None:
    row = head.joined()
    (supply,) = head.fleet.supply(NOW)
    assert (supply.nodes, supply.held, supply.own) == (0, 1, True)
    head.rooms[row.name] = room(row.name, 4)
    assert head.fleet.supply(NOW)[0].nodes == 1


def test_job_that_cannot_be_adopted_leaves_nothing(head: Adopting) -> None:
    head.take_on("78")
    assert head.refused == ["Slurm knows no job 78"] and not head.fleet.pilots


def test_agent_that_does_not_come_up_is_told_with_its_output(head: Adopting) -> None:
    head.take_on()
    (row,) = head.fleet.pilots.values()
    (head.site.jobs / f"{row.name}.out").write_text("srun: error: Unable to create step\n")
    head.steps[0].returncode = 1
    head.tick(NOW + 2.0)
    assert not head.fleet.pilots
    (ended,) = head.store.rows("list_pilots", {"alive": False, "limit": 9})
    assert ended["reason"] == "its agent could not be started: srun: error: Unable to create step"
    assert not head.batch.cancelled and not head.fleet.trouble


def list_job(head: Adopting, **changes: Any) -> None:
    """Have Slurm list the adopted job so."""
    fields: dict[str, Any] = {"phase": Phase.RUNNING, "state": "RUNNING", "started_at": NOW}
    job = JobStatus(job_id="77", name="bash", **{**fields, **changes})
    head.batch.jobs = lambda name_prefix, job_ids=(): {"77": job}


def test_old_job_has_time_to_have_its_agent_started(head: Adopting) -> None:
    list_job(head)
    now = clock.now() + 10 * JOIN_S  # the head runs for as long
    head.take_on(now=now)
    head.look(now + 1)
    assert len(head.fleet.pilots) == 1
    head.look(now + 2 * JOIN_S)
    assert not head.fleet.pilots and not head.batch.cancelled, "its agent has not come up"


def test_job_that_is_requeued_is_a_pilot_no_more(head: Adopting) -> None:
    head.joined()
    list_job(head, phase=Phase.QUEUED, state="PENDING", started_at=None)
    head.look(NOW + 10)
    assert not head.fleet.pilots and not head.batch.cancelled


def test_job_that_ends_ends_the_pilot(head: Adopting) -> None:
    head.joined()
    list_job(head, phase=Phase.ENDED, state="CANCELLED", why_ended=WhyEnded.CANCELLED)
    head.look(NOW + 10)
    assert not head.fleet.pilots and not head.fleet.trouble


@pytest.mark.parametrize("holds", [False, True])
def test_silent_pilot_is_kept_as_long_as_its_tasks_may_hold_what_the_site_has_once(
    head: Adopting, holds: bool
) -> None:
    told: list[bool] = []

    def lost(name: str, reason: str, may_live: bool = False, **_: Any) -> bool:
        told.append(may_live)
        return holds and may_live

    head.fleet._lost = lost
    row = head.joined()
    list_job(head)
    head.look(NOW + SILENT_S + 1.0)
    assert told == [True], "its agent may be cut off, and go on"
    assert list(head.fleet.pilots) == [row.name] * holds and not head.batch.cancelled
    assert head.fleet.supply(NOW) == []
    if holds:
        head.look(NOW + 10 * SILENT_S)
        assert told == [True] and not head.batch.cancelled
        head.fleet.joined(row.name, "77", "main", 1, NOW + 11 * SILENT_S)
        assert len(head.fleet.supply(NOW)) == 1, "it was there all the time"
        head.look(NOW + 13 * SILENT_S)
        list_job(head, phase=Phase.ENDED, state="CANCELLED", why_ended=WhyEnded.CANCELLED)
        head.look(NOW + 14 * SILENT_S)
        assert told == [True, True, False] and not head.fleet.pilots


def test_next_head_knows_that_the_job_is_not_its_own(head: Adopting) -> None:
    row = head.joined()
    head.again()
    (found,) = head.fleet.pilots.values()
    assert found.own and found.name == row.name
    head.fleet.cancel_all([row.name])
    head.fleet.left(row.name, "it has drained")
    assert not head.fleet.pilots and not head.batch.cancelled, "the job goes on, the pilot does not"


def test_pool_is_not_kept_waiting_for_an_adopted_job_to_run_a_task(head: Adopting) -> None:
    """Whose pilots have failed asks for one at a time; what waits may need more nodes at once."""
    head.joined()
    assert not head.fleet._roster.unproven()


def test_pilot_that_was_taken_for_ended_is_still_in_a_job_that_is_not_ours(head: Adopting) -> None:
    """Its agent had not heard that it was to end; meanwhile another one has the job's nodes."""
    name = head.joined().name
    head.fleet.ended(name, "told to", NOW)
    head.again()
    other = head.joined()
    assert not head.fleet.is_surplus(other.name)
    late = head.fleet.joined(name, "77", "main", 1, NOW)
    assert late.own and head.fleet.is_surplus(name)
    head.fleet.cancel_all([name])
    assert not head.fleet.is_surplus(other.name), "that one is to end"
    head.fleet.left(name, "it has drained")
    assert list(head.fleet.pilots) == [other.name] and not head.batch.cancelled


def test_next_head_knows_that_of_a_pilot_that_has_said_good_bye(head: Adopting) -> None:
    """The head died before its agent had ended."""
    row = head.joined()
    head.fleet.left(row.name, "it has drained")
    head.fleet._roster.save(row)
    head.again()
    (found,) = head.fleet.pilots.values()
    assert found.own and found.reason == "it has drained"


def test_answer_says_what_the_pilot_has(head: Adopting) -> None:
    sent: list[Any] = []

    class Pilots:
        fleet = head.fleet

    pilots: Any = Pilots()
    commands = FleetCommands(head.site, pilots, lambda _, message: sent.append(message))

    def ask(**arguments: Any) -> m.Reply:
        message = m.ControlFleet(1, "adopt", **arguments)
        commands.handlers[m.ControlFleet](b"", message, NOW)
        head.settle()
        reply = sent.pop()
        assert isinstance(reply, m.Reply)
        return reply

    (name,) = [ask(subject="77", reason="a notebook").result.split()[4]]
    (row,) = head.fleet.pilots.values()
    assert name == row.name
    assert ask(subject="78").error == "Slurm knows no job 78"
    with pytest.raises(PilotError, match="there is no pool 'other'"):
        ask(subject="77", pool="other")
    head.tick(NOW + 2.0)
    wanted: dict[str, object] = {"since": 0.0, "pool": None, "limit": 9}
    (entry,) = [e for e in head.store.rows("decisions_since", wanted) if e["kind"] == "adopt"]
    text = "adopted: job 77 has 1 node, with 1 core, 100 MiB for tasks on each: a notebook"
    assert entry["detail"] == text


def test_agent_starts_as_a_step_of_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "site"
    directory.mkdir(mode=0o700)
    (directory / "site.yaml").write_text(
        "batch: slurm\npools: {main: {cores_per_node: 4}}\n"
        "environment: {setup: export SET=up, variables: {GIVEN: value}}\n"
    )
    site = open_site(directory)
    site.prepare()
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    seen = tmp_path / "seen"
    (bin_ / "srun").write_text(
        "#!/bin/bash\n"
        f'echo "$@" > {seen}.tmp; while [ "$1" != bash ]; do shift; done\n'
        f'"$1" "$2" "${{3%exec*}} env" >> {seen}.tmp; mv {seen}.tmp {seen}\n'
    )
    (bin_ / "srun").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    row = PilotRow("p-1", "main", 2, 0.0, "QUEUED", "77", "", NOW, own=True)
    its = Allocation("77", "n[3-4]", 2, 1, 5600.0, cores=2, memory_mib=100, gpus=0)
    process = start_agent_in(site, row, its)
    assert process.wait(20) == 0
    wait_until(seen.exists, 20, "srun to be called")
    words, *lines = seen.read_text().splitlines()
    assert "--overlap" in words and "--jobid=77" in words and "--nodelist=n3" in words
    assert f"agent {directory} p-1 --pool main" in seen.read_text()
    environment: Mapping[str, str] = dict(line.split("=", 1) for line in lines if "=" in line)
    assert environment["SET"] == "up" and environment["GIVEN"] == "value"
    assert environment["PILOT_NODELIST"] == "n[3-4]" and environment["PILOT_NODE"] == "n3"
    assert environment["PILOT_RESTART_COUNT"] == "1"
    assert environment["PILOT_JOB_ENDS_AT"] == "5600.0"
    shape = msgspec.json.decode(environment["PILOT_NODE_SHAPE"], type=NodeShape)
    assert shape == node_shape(2, 100, coreless=32)
