"""The agent's timers: its job's end, its head's silence, and its own sleep."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import yaml
from support.builders import done, template, work

from pilot import clock
from pilot.agent import agent as a
from pilot.agent import service
from pilot.agent.agent import Agent
from pilot.agent.rules import actions
from pilot.agent.world_launching import LaunchedWorld
from pilot.scheduler.resources import NodeShape, Resources
from pilot.site import open_site
from pilot.wire.discovery import HeadAddress, process_started, write_address
from pilot.wire.endpoints import Endpoints, boot_id
from pilot.wire.messages import pilot as m
from pilot.wire.messages.common import WHO_ARE_YOU, Welcome
from pilot.wire.messages.worker import ExecutorExited, NodeHello, NodeStatus
from pilot.worker.node import UNREACHED


class Job:
    """An agent of two nodes whose loop the test turns; what it sends is kept in `sent`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        pool = {"cores_per_node": 2, "warning": "60s", "nodes_per_pilot": 2}
        config = {"name": "test", "batch": "slurm", "pools": {"main": pool}}
        (directory / "site.yaml").write_text(yaml.safe_dump(config))
        site = open_site(directory)
        site.prepare()
        self.agent = Agent(site, "test-1", "main", None)
        self.now = self.agent._ticked
        self.sent: list[object] = []
        self.service = self.agent._service
        self.service._send = self.sent.append

    def tick(self, seconds: float, step_s: float = 0.5) -> None:
        """Let time go by, in so small steps."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step_s)
            self.agent._tick(self.now)

    def hear(self, message: object) -> None:
        self.service.take(message, self.now)

    def node_speaks(self, node: str) -> None:
        self.agent._take(b"", NodeStatus(node, []), self.now)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    monkeypatch.setenv("PILOT_NODELIST", "n[1-2]")
    monkeypatch.setenv("PILOT_JOB_ID", "17")
    monkeypatch.delenv("PILOT_JOB_ENDS_AT", raising=False)
    made = Job(tmp_path / "site")
    yield made
    made.agent._server.close()


def welcomed(job: Job) -> None:
    job.hear(Welcome(1, "1", ""))
    for position, node in enumerate(("n1", "n2")):
        job.agent._take(b"", NodeHello(node, NodeShape(2), position), job.now)


# --- greetings -----------------------------------------------------------------------------------


def test_work_that_crosses_a_greeting_is_left_to_whom_the_head_gives_it_then(job: Job) -> None:
    """The greeting has nothing of it, so the head takes it for lost on the way."""
    welcomed(job)
    known = template()
    job.hear(m.Assign([], [], [known], [work(1)]))
    job.hear(Welcome(1, "1", WHO_ARE_YOU))
    hello = job.sent[-1]
    assert isinstance(hello, m.PilotHello) and hello.held == [(1, 1)]
    job.hear(m.Assign([], [], [], [work(2)]))
    assert job.agent._rules.held == {1: 1}
    job.hear(Welcome(1, "1", ""))
    job.hear(m.Assign([], [], [known], [work(2)]))
    assert job.agent._rules.held == {1: 1, 2: 1}


def test_an_acknowledgement_that_crosses_a_greeting_is_asked_for_again(job: Job) -> None:
    """The greeting says that the attempt is here: a head that has learned of its task since would
    wait for its end."""
    welcomed(job)
    job.service.reports.add([done(1)], job.now)
    job.service.report(job.now)
    job.hear(Welcome(1, "1", WHO_ARE_YOU))
    hello = job.sent[-1]
    assert isinstance(hello, m.PilotHello) and hello.held == [(1, 1)]
    job.hear(m.Committed(1))
    job.sent.clear()
    job.hear(Welcome(1, "1", ""))
    assert m.Completions("test-1", 1, [done(1)]) in job.sent
    job.hear(m.Committed(1))
    assert not job.service.reports


# --- a head that is silent -----------------------------------------------------------------------


def test_idle_pilot_whose_head_is_not_heard_of_ends(job: Job) -> None:
    welcomed(job)
    job.agent._node_heard.clear()  # its nodes are not what this is about
    job.tick(service.ORPHAN_S - 5.0)
    assert not job.service.ending
    job.tick(10.0)
    assert "no head has been heard of" in job.service.ending


def test_pilot_asks_for_a_sign_of_life_and_stays_while_it_gets_one(job: Job) -> None:
    welcomed(job)
    job.agent._node_heard.clear()
    for _ in range(8):
        job.sent.clear()
        job.tick(service.ORPHAN_S / 4)
        asked = [s for s in job.sent if isinstance(s, m.PilotStatus) and s.answer]
        assert len(asked) >= service.ORPHAN_S / 4 / service.ASK_S - 2
        job.hear(m.HeadStatus())
    assert not job.service.ending


def test_pilot_that_works_goes_on_without_a_head(job: Job) -> None:
    welcomed(job)
    job.agent._node_heard.clear()
    job.agent._rules._attempts.held[1] = 1
    job.tick(3 * service.ORPHAN_S, 5.0)
    assert not job.service.ending


def looks(job: Job) -> bool:
    """Look for the head; return whether it was greeted."""
    job.now += a.LOOK_S
    job.sent.clear()
    connected = job.agent._look_for_head(job.now)
    assert connected == any(isinstance(message, m.PilotHello) for message in job.sent)
    return connected


def test_head_whose_address_was_away_is_greeted_again(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the pilot for lost that says nothing, and that does not know whether it is there."""
    monkeypatch.setattr(job.agent._client, "connect", lambda _: None)
    file = job.agent._site.address_file
    here = process_started(os.getpid())
    head = HeadAddress(5, "n1", os.getpid(), here, Endpoints(boot_id(), "unix:///x", ""), "1")
    assert not looks(job)
    write_address(file, head)
    assert looks(job)
    welcomed(job)
    assert not looks(job)
    file.rename(file.with_suffix(".away"))
    assert not looks(job) and not job.service._welcomed
    file.with_suffix(".away").rename(file)
    assert looks(job)
    welcomed(job)
    assert not looks(job) and job.service._welcomed
    # An earlier head is not listened to, and one that is dead is not spoken to.
    write_address(file, msgspec.structs.replace(head, epoch=4))
    assert not looks(job)
    write_address(file, msgspec.structs.replace(head, epoch=6, started=here - 1))
    assert not looks(job)
    write_address(file, msgspec.structs.replace(head, epoch=6))
    assert looks(job)


# --- nodes that do not reach it ------------------------------------------------------------------


class Step:
    """A step, and its exit status once it has ended."""

    def __init__(self, status: int | None) -> None:
        self.status = status

    def poll(self) -> int | None:
        return self.status

    def terminate(self) -> None:
        """Do nothing."""


def test_pilot_whose_nodes_do_not_reach_its_first_one_ends_and_says_which_key(job: Job) -> None:
    steps: dict[str, Any] = {"n1": Step(UNREACHED), "n2": Step(None)}
    job.agent._steps = steps
    job.agent._reap(job.now)
    assert not job.service.ending, "the other one may reach it"
    steps["n2"] = Step(UNREACHED)
    job.agent._reap(job.now)
    assert "do not reach its first node at tcp://" in job.service.ending
    assert "the key 'address' of the pool" in job.service.ending


# --- its own sleep -------------------------------------------------------------------------------


def test_agent_that_stood_still_forgives_its_nodes_once(job: Job) -> None:
    welcomed(job)
    job.tick(90.0, 90.0)
    assert job.agent._rules.hosts == ["n1", "n2"]
    job.node_speaks("n1")
    job.tick(a.NODE_SILENT_S + 1.0)
    assert job.agent._rules.hosts == []  # both have been silent while it was awake
    assert job.service.ending


def test_sleep_is_no_reason_to_give_up_the_head(job: Job) -> None:
    welcomed(job)
    job.agent._node_heard.clear()
    job.tick(10 * service.ORPHAN_S, 10 * service.ORPHAN_S)
    assert not job.service.ending


# --- ends that the end of the job explains -------------------------------------------------------


class Launched:
    """The launcher of a world."""

    pid = 2**22 + 1  # no process has this id
    returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float = 0.0) -> int:
        return self.returncode or 0


def runs_on_executor(job: Job) -> int:
    """A task runs in an executor; return the executor's number."""
    welcomed(job)
    rules = job.agent._rules
    rules.add_work([template(1)], [work(7)], job.now)
    (start,) = [each for each in rules.take_actions() if isinstance(each, actions.StartExecutor)]
    rules.executor_ready(start.executor, 1000, job.now)
    return start.executor


def killed_by(job: Job, executor: int, number: int) -> None:
    job.agent._take(b"", ExecutorExited(executor, -number, 7, job.now, (), ""), job.now)


def runs_in_world(job: Job, tmp_path: Path, ranks_ready: int = 2) -> Launched:
    """A task runs in an MPI world, or waits for its start; return its launcher."""
    welcomed(job)
    rules = job.agent._rules
    mpi = template(1, kind="mpi", resources=Resources(ranks=2, ranks_per_node=1))
    rules.add_work([mpi], [work(7)], job.now)
    (start,) = [each for each in rules.take_actions() if isinstance(each, actions.StartWorld)]
    for rank in range(ranks_ready):
        rules.rank_ready(start.world, rank, job.now)
    launched = Launched()
    world = LaunchedWorld(cast(Any, launched), tmp_path / "world.out")
    job.agent._worlds._worlds[start.world] = world
    return launched


def outcomes(job: Job) -> list[str]:
    return [completion.outcome for completion in job.agent._rules.take_completions()]


def keep_nodes(job: Job) -> None:
    job.agent._node_heard.clear()


@pytest.mark.parametrize(("ranks_ready", "status"), [(2, 143), (1, 143), (0, -15)])
def test_processes_that_are_killed_with_their_job_are_interrupted(
    job: Job, tmp_path: Path, ranks_ready: int, status: int
) -> None:
    launched = runs_in_world(job, tmp_path, ranks_ready)
    keep_nodes(job)
    launched.returncode = status
    job.tick(1.0)
    assert outcomes(job) == []
    job.service.end("its job was cancelled or preempted", job.now, at_once=True)
    job.tick(0.5)
    assert outcomes(job) == ["interrupted"]


def test_ranks_that_die_while_their_job_goes_on_have_crashed(job: Job, tmp_path: Path) -> None:
    launched = runs_in_world(job, tmp_path)
    keep_nodes(job)
    launched.returncode = 143
    job.tick(a.VERDICT_S + 1.0)
    assert outcomes(job) == ["crash"]


def test_a_world_that_does_not_start_for_another_reason_is_told_at_once(
    job: Job, tmp_path: Path
) -> None:
    launched = runs_in_world(job, tmp_path, ranks_ready=0)
    keep_nodes(job)
    launched.returncode = 1
    job.tick(0.5)
    assert outcomes(job) == ["crash"]


def test_executors_that_are_killed_with_their_job_are_interrupted(job: Job) -> None:
    killed_by(job, runs_on_executor(job), signal.SIGTERM)
    keep_nodes(job)
    job.tick(1.0)
    assert outcomes(job) == []
    job.service.end("its job was cancelled or preempted", job.now, at_once=True)
    assert outcomes(job) == ["interrupted"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV])
def test_executors_that_are_killed_while_their_job_goes_on_have_crashed(
    job: Job, number: int
) -> None:
    killed_by(job, runs_on_executor(job), number)
    keep_nodes(job)
    job.tick(a.VERDICT_S + 1.0 if number == signal.SIGTERM else 0.0)
    assert outcomes(job) == ["crash"]


# --- the end of the walltime ---------------------------------------------------------------------


def ends_in(job: Job, seconds: float) -> None:
    job.service.ends_at = job.now + seconds
    job.service.drain_at = service.drain_at(job.service.ends_at, job.now)


def test_pilot_drains_without_a_signal_before_its_walltime_ends(job: Job) -> None:
    welcomed(job)
    job.agent._node_heard.clear()
    job.agent._rules._attempts.held[1] = 1
    ends_in(job, 600.0)
    job.tick(584.0)
    assert not job.agent._rules.draining
    job.tick(2.0)
    assert job.agent._rules.draining and not job.service.ending
    job.tick(600.0 - 586.0 - service.END_S + 0.5)
    assert job.service.ending == "its walltime is over"


def test_pilot_that_has_drained_says_why_it_did(job: Job) -> None:
    welcomed(job)
    job.service.drain("idle for 30 s", job.now)
    job.service.drain("its walltime is near its end", job.now)
    job.tick(1.0)
    assert job.service.ending == "idle for 30 s"


def test_half_of_a_short_walltime_is_left_for_work(job: Job) -> None:
    ends_in(job, 20.0)
    assert job.service.drain_at == job.now + 10.0


@pytest.mark.parametrize(
    ("known_s", "left_s"),
    [(3600.0, 60.0), (0.0, 60.0), (100.0, 100.0)],
    ids=["shortened", "unknown", "a little early"],
)
def test_a_warning_tells_of_an_end_that_was_moved(job: Job, known_s: float, left_s: float) -> None:
    """A job is warned 60 s before its end; Slurm looks at that each half minute."""
    job.service.ends_at = job.now + known_s if known_s else 0.0
    job.service.warned(job.now)
    assert job.service.ends_at == job.now + left_s


def test_a_pilot_is_told_of_a_walltime_that_was_moved(job: Job) -> None:
    welcomed(job)
    ends_in(job, 100.0)
    job.service.take(m.Walltime(900.0), job.now)
    assert job.service.ends_at == job.now + 900.0
    assert job.service.drain_at == job.now + 885.0
    status = [s for s in job.sent if isinstance(s, m.PilotStatus)][-1]
    assert status.left_s == 900.0, "the head hears that it knows"


def test_end_of_the_walltime_is_told_as_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Job
) -> None:
    ends_in(job, 100.0)
    job.service.greet()
    (hello,) = [s for s in job.sent if isinstance(s, m.PilotHello)]
    assert 90.0 < hello.left_s <= 100.0


@pytest.mark.parametrize("told", ["", "0", "Unknown", "N/A"])
def test_walltime_without_a_known_end_has_none(told: str) -> None:
    assert a._end_of_walltime(told) == 0.0


def test_end_of_the_walltime_is_on_the_clock_that_does_not_jump(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "time", lambda: 5000.0)
    assert a._end_of_walltime("5600") == pytest.approx(clock.now() + 600.0, abs=5.0)


# --- where its node is ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "has_port"),
    [("login", False), ("login.example.org", False), ("n1", True), ("login,n1", True)],
)
def test_nodes_of_other_machines_reach_the_agent_by_a_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: str, has_port: bool
) -> None:
    monkeypatch.setenv("PILOT_NODELIST", nodes)
    monkeypatch.setattr(socket, "gethostname", lambda: "login")
    made = Job(tmp_path / "site")
    assert bool(made.agent._server.endpoints.remote) == has_port
    made.agent._server.close()
