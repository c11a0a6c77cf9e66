"""The contract of a batch system (`scheduler.batch`): the same tests for every one.

Slurm is the virtual cluster (``scripts/virtual-cluster up``), by its commands and by its library;
without a cluster, or a pyslurm for its release, that part is skipped. The third one, in one file of
the tests, is no part of Pilot.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from support import toy_batch

from pilot.scheduler.batch import (
    BatchKind,
    BatchSystem,
    BatchUnavailable,
    JobRequest,
    JobStatus,
    Phase,
    ShrinkRefused,
    SubmitRefused,
    WhyEnded,
    find_kind,
)
from pilot.scheduler.batch.local.processes import LocalBatch
from pilot.scheduler.batch.slurm.library import LibraryBatch, try_library
from pilot.site_configs import PoolConfig, pool_type

_CLUSTER = Path(__file__).parents[2] / "scripts" / "virtual-cluster"
#: What each section of a batch system has, of what is asked here.
MANNERS = {"command_limit_s": 30.0}
#: As site files name them; pyslurm is another way to Slurm.
SYSTEMS = {"local": "local", "slurm": "slurm", "toy": f"{toy_batch.__name__}:Toy"}


@dataclass
class Site:
    """A batch system under test, and the jobs that a test has there."""

    #: Which one it is.
    name: str
    #: Opens the same batch system once more, as a new process would.
    open: Callable[[], BatchSystem]
    #: A directory for jobs that all nodes see.
    directory: Path
    #: How long a job may take to start or end, in seconds.
    limit_s: float
    #: The way to Slurm.
    interface: str = "commands"
    #: Begins the names of this test's jobs, and of no others.
    prefix: str = field(default_factory=lambda: f"pilot-{uuid.uuid4().hex[:8]}-")

    @property
    def kind(self) -> BatchKind:
        """Return the kind of the system: the facts that need no asking."""
        return find_kind(SYSTEMS[self.name])

    def pool(self, **changes: object) -> PoolConfig:
        """Return the request of a job."""
        asked: dict[str, Any] = {"cores_per_node": 1, "memory_per_node_mib": 100, **changes}
        return pool_type(SYSTEMS[self.name])(**asked)

    def request(self, script: str, name: str = "job", **changes: object) -> JobRequest:
        """A one-node job that runs a shell script."""
        request = JobRequest(
            name=self.prefix + name,
            command=["/bin/bash", "-c", script],
            nodes=1,
            walltime_s=600,
            directory=self.directory,
            directives=self.pool(),
        )
        return msgspec.structs.replace(request, **changes)

    def wait_for(
        self, batch: BatchSystem, job_id: str, is_so: Callable[[JobStatus], bool]
    ) -> JobStatus:
        """The job's status as soon as `is_so` holds for it."""
        deadline = time.monotonic() + self.limit_s
        while True:
            status = batch.jobs(self.prefix).get(job_id)
            if status is not None and is_so(status):
                return status
            assert time.monotonic() < deadline, f"job {job_id} still is {status}"
            time.sleep(0.1)

    def wait_for_text(self, job_id: str, text: str) -> str:
        """The job's output as soon as it holds `text`."""
        path = self.directory / f"{job_id}.out"
        deadline = time.monotonic() + self.limit_s
        while True:
            output = path.read_text() if path.exists() else ""
            if text in output:
                return output
            assert time.monotonic() < deadline, f"{text!r} is not in the output {output!r}"
            time.sleep(0.1)

    def end_all(self) -> None:
        """End what the test left, and wait until it is gone."""
        batch = self.open()
        deadline = time.monotonic() + 2 * self.limit_s
        while left := [j for j, s in batch.jobs(self.prefix).items() if s.phase is not Phase.ENDED]:
            batch.cancel(left)
            assert time.monotonic() < deadline, f"jobs {left} do not end"
            time.sleep(0.1)
        batch.close()


def ended(status: JobStatus) -> bool:
    return status.phase is Phase.ENDED


def running(status: JobStatus) -> bool:
    return status.phase is Phase.RUNNING and bool(status.nodes)


@pytest.fixture(scope="module")
def cluster() -> dict[str, str]:
    """Where the virtual cluster's ``slurm.conf`` and shared directory are."""
    if not _CLUSTER.exists():
        pytest.skip("scripts/virtual-cluster is not here")
    told = subprocess.run(
        [sys.executable, _CLUSTER, "status", "--json"], capture_output=True, text=True, timeout=60
    )
    if told.returncode != 0:
        pytest.skip("no virtual cluster is up; start one by: scripts/virtual-cluster up")
    answer: dict[str, str] = json.loads(told.stdout)
    exports = subprocess.run(
        [sys.executable, _CLUSTER, "env"], capture_output=True, text=True, timeout=60, check=True
    )
    for line in exports.stdout.splitlines():
        name, _, value = shlex.split(line)[1].partition("=")
        answer[name] = value
    return answer


@pytest.fixture(params=[*SYSTEMS, "pyslurm"])
def site(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    if request.param == "local":
        site = Site(
            "local",
            open=lambda: LocalBatch(tmp_path / "jobs", kill_grace_s=1.0),
            directory=tmp_path,
            limit_s=20.0,
        )
    elif request.param == "toy":
        manners = SimpleNamespace(queue=str(tmp_path / "jobs"), **MANNERS)
        toy = find_kind(SYSTEMS["toy"])
        site = Site(
            "toy", open=lambda: toy.open(manners, tmp_path), directory=tmp_path, limit_s=20.0
        )
    else:
        cluster = request.getfixturevalue("cluster")
        for name in ("SLURM_CONF", "PATH"):
            if name in cluster:
                monkeypatch.setenv(name, cluster[name])
        interface = "commands" if request.param == "slurm" else "pyslurm"
        manners = SimpleNamespace(cluster="", interface=interface, **MANNERS)
        if interface == "pyslurm":
            as_chosen = SimpleNamespace(cluster="", interface="auto", **MANNERS)
            if why := try_library(as_chosen)[1]:
                pytest.skip(why)
        directory = Path(cluster["shared_directory"]) / f"contract-{uuid.uuid4().hex[:8]}"
        directory.mkdir()
        slurm = find_kind("slurm")
        site = Site(
            "slurm",
            open=lambda: slurm.open(manners, directory),
            directory=directory,
            limit_s=90.0,
            interface=interface,
        )
    try:
        yield site
        site.end_all()
    finally:
        if site.name == "slurm":
            shutil.rmtree(site.directory)


@pytest.fixture
def batch(site: Site) -> Iterator[BatchSystem]:
    batch = site.open()
    yield batch
    batch.close()
    if isinstance(batch, LibraryBatch):
        assert batch.trouble == "", "the commands took over"


def test_a_job_runs_and_completes(site: Site, batch: BatchSystem) -> None:
    before = time.time()
    job_id = batch.submit(site.request("echo to-output; echo to-errors >&2; pwd"))
    status = site.wait_for(batch, job_id, ended)
    assert (status.job_id, status.name) == (job_id, site.prefix + "job")
    assert (status.why_ended, status.exit_status) == (WhyEnded.COMPLETED, 0)
    assert status.restart_count == 0
    assert status.submitted_at is not None
    assert status.started_at is not None
    assert status.ends_at is not None
    # Slurm counts whole seconds.
    assert before - 1.5 <= status.submitted_at <= status.started_at <= status.ends_at
    output = site.wait_for_text(job_id, "to-errors")
    assert "to-output" in output
    assert str(site.directory) in output.splitlines()


def test_a_job_that_fails_tells_its_exit_status(site: Site, batch: BatchSystem) -> None:
    exits = batch.submit(site.request("exit 3", name="exits"))
    dies = batch.submit(site.request("kill -SEGV $$", name="dies"))
    status = site.wait_for(batch, exits, ended)
    assert (status.why_ended, status.exit_status) == (WhyEnded.FAILED, 3)
    status = site.wait_for(batch, dies, ended)
    assert (status.why_ended, status.exit_status) == (WhyEnded.FAILED, 128 + 11)


def test_a_running_job_tells_where_and_until_when(site: Site, batch: BatchSystem) -> None:
    job_id = batch.submit(site.request("echo NODES=$PILOT_NODELIST; sleep 300"))
    status = site.wait_for(batch, job_id, running)
    assert status.started_at is not None
    assert status.ends_at is not None
    assert status.ends_at - status.started_at == pytest.approx(600, abs=2)
    assert (status.why_ended, status.exit_status, status.expected_at) == (None, None, None)
    output = site.wait_for_text(job_id, "NODES=")
    told = output.partition("NODES=")[2].split()[0]
    assert tuple(site.kind.node_names(told)) == status.nodes


def test_a_job_knows_itself(site: Site, batch: BatchSystem) -> None:
    script = 'echo "id=$PILOT_JOB_ID restarts=$PILOT_RESTART_COUNT ends=$PILOT_JOB_ENDS_AT."'
    job_id = batch.submit(site.request(script))
    output = site.wait_for_text(job_id, "ends=")
    assert f"id={job_id} restarts=0 " in output
    ends_at = float(output.partition("ends=")[2].split(".")[0])
    status = site.wait_for(batch, job_id, ended)
    assert status.started_at is not None
    assert ends_at == pytest.approx(status.started_at + 600, abs=5)


def test_setup_and_variables_reach_the_command(site: Site, batch: BatchSystem) -> None:
    request = site.request(
        'echo "[$FROM_SETUP][$GIVEN]"',
        setup="export FROM_SETUP=from-setup\n# a comment",
        variables={"GIVEN": "it's $HOME; `x`"},
    )
    job_id = batch.submit(request)
    assert "[from-setup][it's $HOME; `x`]" in site.wait_for_text(job_id, "]\n")


def test_odd_directories_are_taken_as_they_are(site: Site, batch: BatchSystem) -> None:
    directory = site.directory / 'it\'s a "dir" $(touch x) %j %% #1;&'
    directory.mkdir()
    job_id = batch.submit(site.request("pwd", directory=directory))
    site.wait_for(batch, job_id, ended)
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        [f"{site.prefix}job.sh", f"{job_id}.out"]
    )
    assert (directory / f"{job_id}.out").read_text() == f"{directory}\n"


def test_the_prefix_selects_jobs(site: Site, batch: BatchSystem) -> None:
    first = batch.submit(site.request("sleep 300", name="a-1"))
    second = batch.submit(site.request("sleep 300", name="b-1"))
    assert set(batch.jobs(site.prefix)) == {first, second}
    assert set(batch.jobs(site.prefix + "a-")) == {first}
    assert batch.jobs(site.prefix + "c-") == {}


def test_cancel_ends_jobs_that_run_and_jobs_that_do_not_listen(
    site: Site, batch: BatchSystem
) -> None:
    polite = batch.submit(site.request("echo up; exec sleep 300", name="polite"))
    deaf = batch.submit(site.request("trap '' TERM; echo up; sleep 300; sleep 300", name="deaf"))
    site.wait_for_text(polite, "up")
    site.wait_for_text(deaf, "up")
    before = time.monotonic()
    batch.cancel([polite, deaf])
    assert time.monotonic() - before < 5.0  # it does not wait for their end
    for job_id in (polite, deaf):
        status = site.wait_for(batch, job_id, ended)
        assert status.why_ended is WhyEnded.CANCELLED


def test_the_command_is_told_that_it_is_cancelled(site: Site, batch: BatchSystem) -> None:
    script = "trap 'kill $!; echo told; exit 0' TERM; echo up; sleep 300 & wait"
    job_id = batch.submit(site.request(script))
    site.wait_for_text(job_id, "up")
    batch.cancel([job_id])
    site.wait_for_text(job_id, "told")
    assert site.wait_for(batch, job_id, ended).why_ended is WhyEnded.CANCELLED


def test_cancelling_twice_or_too_late_is_no_error(site: Site, batch: BatchSystem) -> None:
    job_id = batch.submit(site.request("true"))
    site.wait_for(batch, job_id, ended)
    batch.cancel([job_id])
    batch.cancel([job_id, "987654321"])
    batch.cancel([])
    assert site.wait_for(batch, job_id, ended).why_ended is WhyEnded.COMPLETED


def test_unknown_jobs_are_nowhere(site: Site, batch: BatchSystem) -> None:
    assert batch.jobs(site.prefix) == {}
    assert batch.account(["987654321"]) == {}
    assert batch.account([]) == {}


def test_accounting_tells_ended_jobs_from_others(site: Site, batch: BatchSystem) -> None:
    over = batch.submit(site.request("exit 3", name="over"))
    alive = batch.submit(site.request("sleep 300", name="alive"))
    site.wait_for(batch, over, ended)
    deadline = time.monotonic() + site.limit_s
    # Accounting comes a little later.
    while not (over in (found := batch.account([over, alive])) and ended(found[over])):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert alive not in found or not ended(found[alive])
    assert found[over].name == site.prefix + "over"
    assert (found[over].why_ended, found[over].exit_status) == (WhyEnded.FAILED, 3)


def test_a_job_outlives_the_process_that_submitted_it(site: Site, batch: BatchSystem) -> None:
    """A head that is killed leaves its pilots at work; the next one finds them by name."""
    script = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from pilot.scheduler.batch import JobRequest, find_kind
from pilot.site_configs import pool_type
name, system, interface = sys.argv[1:]
manners = SimpleNamespace(command_limit_s=30.0, cluster="", interface=interface, queue="")
batch = find_kind(system).open(manners, Path("jobs"))
print(batch.submit(JobRequest(name=name, nodes=1, walltime_s=600,
    command=["/bin/bash", "-c", "echo up; sleep 300"], directory=Path.cwd(),
    directives=pool_type(system)(cores_per_node=1, memory_per_node_mib=100))), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    paths = [str(_CLUSTER.parents[1]), str(_CLUSTER.parents[1] / "tests")]
    done = subprocess.run(
        [sys.executable, "-c", script, site.prefix + "orphan", SYSTEMS[site.name], site.interface],
        cwd=site.directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -9, done.stderr
    job_id = done.stdout.strip()
    site.wait_for_text(job_id, "up")
    status = site.wait_for(batch, job_id, running)
    assert status.name == site.prefix + "orphan"
    batch.cancel([job_id])
    with contextlib.closing(site.open()) as again:
        assert site.wait_for(again, job_id, ended).why_ended is WhyEnded.CANCELLED


def test_the_command_is_warned_before_its_walltime_ends(site: Site, batch: BatchSystem) -> None:
    # A minute is Slurm's shortest walltime, and it looks for those near their end twice a minute.
    script = "trap 'kill $!; echo warned; exit 0' USR1; echo up; sleep 300 & wait"
    job_id = batch.submit(site.request(script, walltime_s=60, warning_s=57))
    site.wait_for_text(job_id, "warned")
    assert site.wait_for(batch, job_id, ended).why_ended is WhyEnded.COMPLETED


def test_a_job_ends_with_its_walltime(site: Site, batch: BatchSystem) -> None:
    if site.name == "slurm":
        pytest.skip("Slurm's shortest walltime is a minute")
    script = "trap 'echo warned' USR1; trap 'echo told' TERM; while :; do sleep 300 & wait; done"
    job_id = batch.submit(site.request(script, walltime_s=1.0, warning_s=0.6))
    status = site.wait_for(batch, job_id, ended)
    assert status.why_ended is WhyEnded.TIMEOUT
    assert status.exit_status == 128 + 9  # it did not listen
    output = site.wait_for_text(job_id, "told")
    assert output.index("warned") < output.index("told")


def test_no_process_of_a_job_is_left(site: Site, batch: BatchSystem) -> None:
    if site.name != "local":
        pytest.skip("what a job leaves on a node is up to the site, in Slurm its ProctrackType")
    mark = f"300.{uuid.uuid4().int % 10**9}"
    script = f"setsid sleep {mark} & setsid sleep {mark} & sleep 0.2; exit 0"
    job_id = batch.submit(site.request(script))
    site.wait_for(batch, job_id, ended)
    assert not [c for c in Path("/proc").glob("[0-9]*/cmdline") if mark in _read(c)]


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_what_cannot_run_is_refused(site: Site, batch: BatchSystem) -> None:
    if site.name == "slurm":
        request = site.request("true", directives=site.pool(partition="no-such-partition"))
    elif site.name == "toy":
        request = site.request("true", directives=site.pool(purse="beggars"))
    else:
        request = site.request("true", nodes=2)
    with pytest.raises(SubmitRefused, match=r"invalid|2 nodes"):
        batch.submit(request)
    with pytest.raises(SubmitRefused, match="not-there"):
        batch.submit(site.request("true", directory=site.directory / "not-there"))
    assert batch.jobs(site.prefix) == {}


def test_a_shrink_works_or_is_refused(site: Site, batch: BatchSystem) -> None:
    if site.name != "slurm":
        job_id = batch.submit(site.request("sleep 300"))
        with pytest.raises(ShrinkRefused):
            batch.release_nodes(job_id, ["localhost"])
        assert site.wait_for(batch, job_id, running)
        return
    job_id = batch.submit(site.request("echo up; sleep 300", nodes=2))
    status = site.wait_for(batch, job_id, running)
    assert len(status.nodes) == 2
    site.wait_for_text(job_id, "up")
    _retry(site, lambda: batch.release_nodes(job_id, status.nodes[:1]))
    assert site.wait_for(batch, job_id, lambda s: s.nodes == status.nodes[:1]).phase is (
        Phase.RUNNING
    )
    with pytest.raises(ShrinkRefused):
        batch.release_nodes("987654321", status.nodes[:1])
    with pytest.raises(ShrinkRefused):
        batch.release_nodes(job_id, [])


def _retry(site: Site, shrink: Callable[[], None]) -> None:
    """Slurm refuses while the job is still being written to accounting."""
    deadline = time.monotonic() + site.limit_s
    while True:
        try:
            return shrink()
        except BatchUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def test_a_job_that_follows_another_starts_when_that_has_ended(
    site: Site, batch: BatchSystem
) -> None:
    if not site.kind.has_successors:
        pytest.skip("it takes no such requests")
    first = batch.submit(site.request("echo up; sleep 300"))
    site.wait_for_text(first, "up")
    second = batch.submit(site.request("echo up", name="second", after=first))
    assert site.wait_for(batch, second, lambda s: s.phase is Phase.QUEUED and bool(s.reason))
    batch.cancel([first])  # however it ends
    site.wait_for_text(second, "up")
    assert batch.jobs(site.prefix)[first].phase is Phase.ENDED


def test_a_preempted_job_waits_under_its_id(site: Site, batch: BatchSystem) -> None:
    if site.name != "slurm":
        pytest.skip("nothing preempts its jobs")
    one_node = site.pool(partition="main", sbatch_options=("--nodelist=n1", "--exclusive"))
    victim = batch.submit(site.request("echo up; sleep 300", name="victim", directives=one_node))
    site.wait_for_text(victim, "up")
    urgent = site.pool(partition="urgent", sbatch_options=("--nodelist=n1", "--exclusive"))
    winner = batch.submit(site.request("sleep 300", name="winner", directives=urgent))
    status = site.wait_for(batch, victim, lambda s: s.restart_count == 1)
    assert (status.job_id, status.why_ended) == (victim, None)
    status = site.wait_for(batch, victim, lambda s: s.phase is Phase.QUEUED)
    assert (status.nodes, status.started_at, status.exit_status) == ((), None, None)
    assert site.wait_for(batch, winner, running).nodes == ("n1",)


def test_no_answer_is_told_as_such(
    site: Site, batch: BatchSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = batch.submit(site.request("sleep 300"))
    site.wait_for(batch, job_id, running)
    jobs = site.directory / "jobs"
    with monkeypatch.context() as broken:
        if site.name == "slurm":
            manners = SimpleNamespace(command_limit_s=1.0, cluster="", interface=site.interface)
            batch = site.kind.open(manners, site.directory)
            broken.setenv("SLURM_CONF", str(site.directory / "no-slurm.conf"))
        elif site.name == "toy":
            jobs.rename(site.directory / "aside")
            jobs.touch()
        else:
            # A record that cannot be read: nothing is concluded from it.
            record = jobs / job_id
            (record / "status.json").rename(record / "aside")
            (record / "status.json").write_text("{")
        with pytest.raises(BatchUnavailable):
            batch.jobs(site.prefix)
        with pytest.raises(BatchUnavailable):
            batch.cancel([job_id])
        assert batch.account([job_id]) == {}
    if site.name == "toy":
        jobs.unlink()
        (site.directory / "aside").rename(jobs)
    elif site.name == "local":
        (record / "aside").rename(record / "status.json")
    assert batch.jobs(site.prefix)[job_id].phase is Phase.RUNNING


def test_what_is_known_without_asking_is_complete(site: Site, batch: BatchSystem) -> None:
    kind = site.kind
    pool = site.pool()
    assert kind.name == site.name and kind.title and kind.unlisted
    assert kind.own_allocation({}) is None
    assert list(kind.pool_faults(pool)) == []
    assert batch.check({"main": pool}) == ""
    assert (kind.meaning("unheard of", "7"), kind.release_advice("unheard of", "7")) == ("", "")
    assert kind.resume_advice("7")
    assert kind.mpi_ways("")


def test_a_job_finds_itself_in_its_environment(site: Site, batch: BatchSystem) -> None:
    if site.kind.is_local:
        pytest.skip("it is no allocation: the head would have the same without it")
    job_id = batch.submit(site.request("env; echo end-of-environment"))
    output = site.wait_for_text(job_id, "end-of-environment")
    environment = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    status = site.wait_for(batch, job_id, ended)
    allocation = site.kind.own_allocation(environment)
    assert allocation is not None
    assert (allocation.job_id, allocation.node_count, allocation.restart_count) == (job_id, 1, 0)
    assert tuple(site.kind.node_names(allocation.nodelist)) == status.nodes
