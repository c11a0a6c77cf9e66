"""Whole sessions on a batch system that is no part of Pilot: one file, named in the site file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import tasks, toy_batch
from support.sites import TESTS, SiteUnderTest, site_under_test
from support.waiting import wait_until

import pilot
from pilot.cli.commands.head import check_batch
from pilot.errors import BatchError, SiteError
from pilot.scheduler.batch import BatchKind, BatchSystem, Keys
from pilot.site import open_site

DEADLINE_S = 60.0
MIB = 1024 * 1024
TOY = f"{toy_batch.__name__}:Toy"

Make = Callable[..., SiteUnderTest]


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    """Where the toy has its jobs."""
    path = tmp_path / "queue"
    path.mkdir()
    return path


@pytest.fixture
def make(queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make a site on the toy; its processes end with the test."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    with contextlib.ExitStack() as stack:

        def made(cores: int = 2, **pool: Any) -> SiteUnderTest:
            pool = {"cores_per_node": cores, "max_nodes": 2, "idle_time": "1m", **pool}
            template = {
                "batch": TOY,
                "lease": {"renew": "500ms", "expire": "10s"},
                "toy": {"queue": str(queue), "poll_interval": "200ms", "submit_interval": "50ms"},
                "pools": {"main": {"walltime": "1h", **pool}},
            }
            return stack.enter_context(site_under_test(template, tmp_path))

        yield made
        (queue / "asleep").unlink(missing_ok=True)  # jobs that wait can end then


def where() -> tuple[str, str]:
    """The job and the node of a task; on its first node a job's processes know no other name."""
    return os.environ["PILOT_JOB_ID"], os.environ.get("TOY_NODE", "first")


def meet(mark: str, wanted: str) -> tuple[str, str]:
    """As `where`, of a task that runs at the same time as another one."""
    tasks.wait_for_file(mark, wanted)
    return where()


@pilot.mpi(ranks=2)
def world() -> tuple[int, str]:
    from mpi4py import MPI

    return MPI.COMM_WORLD.allreduce(1), where()[0]


def rows(site: SiteUnderTest, alive: bool = True) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = site.query("fleet", alive=alive)
    return found


def test_tasks_run_and_both_nodes_of_a_pilot_are_used(make: Make) -> None:
    site = make(cores=1, nodes_per_pilot=2, min_nodes=2)
    marks = [str(site.scratch / name) for name in ("a", "b")]
    with site.guarded_session() as session:
        both = [session.submit(meet, *each) for each in (marks, marks[::-1])]
        seen = [future.result(DEADLINE_S) for future in both]
        assert {job for job, _ in seen} == {"job:1@toy"}
        twin = f"{os.uname().nodename}~twin"
        assert {node for _, node in seen} == {"first", twin}
        (row,) = rows(site)
        assert (row["job"], row["nodes"]) == ("job:1@toy", 2)


def block(number: int, mark: str, wanted: str) -> Any:
    """A block, made while another task makes one on the other node, once both may."""
    import numpy as np

    tasks.wait_for_file(mark, wanted)
    return np.full(MIB // 2, float(number))  # 4 MiB


def total(first: Any, second: Any) -> tuple[float, bool]:
    """The sum of two blocks, and whether one of them is a copy from another node."""
    maps = Path("/proc/self/maps").read_text()
    return float(first.sum() + second.sum()), "/copies/results/" in maps


def test_a_task_gets_what_is_in_the_memory_of_another_node(make: Make) -> None:
    site = make(cores=1, nodes_per_pilot=2, min_nodes=2)
    with site.guarded_session() as session:
        for number in range(10):
            marks = [str(site.scratch / f"{name}{number}") for name in ("a", "b")]
            both = [session.submit(block, number, *each) for each in (marks, marks[::-1])]
            found = session.submit(total, *both)
            session.release(both)
            value, is_copied = found.result(DEADLINE_S)
            assert value == 2 * number * (MIB // 2)
            if is_copied:
                break  # else it was on the disk sooner
        assert is_copied


def test_mpi_functions_run_by_the_launcher_that_it_brings(make: Make) -> None:
    pytest.importorskip("mpi4py", reason="needs mpi4py: pip install 'pilot-hpc[mpi]'")
    if not (Path(sys.executable).parent / "mpiexec").exists():
        pytest.skip("there is no MPI beside Python")
    site = make()
    with site.guarded_session() as session:
        assert session.submit(world).result(DEADLINE_S) == (2, "job:1@toy")


def test_pilots_come_with_the_work_and_go_without(make: Make, queue: Path) -> None:
    (queue / "asleep").touch()
    site = make(cores=1, idle_time="500ms", max_pilots_queued=2)
    marks = [str(site.scratch / name) for name in ("a", "b")]
    with site.guarded_session() as session:
        both = [session.submit(meet, *each) for each in (marks, marks[::-1])]
        wait_until(lambda: "asleep" in both[0].why(), DEADLINE_S, "the reason to be told")
        told = both[0].why()
        assert "waits in the Toy" in told
        assert "asleep (the Toy sleeps; wake it for job:" in told
        assert "remove the file asleep, and job:" in told
        (queue / "asleep").unlink()
        assert {future.result(DEADLINE_S)[0] for future in both} == {"job:1@toy", "job:2@toy"}
        wait_until(lambda: not rows(site), DEADLINE_S, "idle pilots to end")
        assert session.submit(where).result(DEADLINE_S)[0] == "job:3@toy"


def test_what_is_cancelled_ends(make: Make) -> None:
    site = make(cores=1, max_nodes=1)
    with site.guarded_session() as session:
        future = session.submit(tasks.wait_for_file, str(site.scratch / "a"), "/never")
        wait_until((site.scratch / "a").exists, DEADLINE_S, "the task to begin")
        assert future.cancel()
        assert session.submit(where).result(DEADLINE_S) == ("job:1@toy", "first")
    site.stop()
    # Of the job itself, the toy says so: the head has cancelled it, or its agent has ended.
    batch = site.site.config.kind.open(site.site.config.manners, site.site.jobs)
    wait_until(
        lambda: [job.state for job in batch.jobs("").values()] == ["OVER"], DEADLINE_S, "its end"
    )


def test_a_head_that_is_killed_finds_its_pilot_again(make: Make) -> None:
    site = make(cores=1, max_nodes=1)
    go, began = site.scratch / "go", site.scratch / "began"
    with site.guarded_session() as session:
        future = session.submit(tasks.wait_for_file, str(began), str(go))
        wait_until(began.exists, DEADLINE_S, "the task to begin")
        killed = site.head_pid
        os.kill(killed, signal.SIGKILL)
        later = session.submit(where)
        go.touch()
        assert future.result(DEADLINE_S) == str(began)
        assert later.result(DEADLINE_S) == ("job:1@toy", "first")
        assert site.head_pid not in (0, killed)
        assert [row["job"] for row in rows(site, alive=False)] == ["job:1@toy"]


def test_a_job_that_is_killed_is_followed_by_another(make: Make, queue: Path) -> None:
    site = make(cores=1, max_nodes=1)
    go, began = site.scratch / "go", site.scratch / "began"
    with site.guarded_session() as session:
        future = session.submit(tasks.wait_for_file, str(began), str(go))
        wait_until(began.exists, DEADLINE_S, "the task to begin")
        going = toy_batch._get(queue / "1.toy", "going")
        os.killpg(going["pid"], signal.SIGKILL)
        go.touch()
        future.result(DEADLINE_S)
        assert session.submit(where).result(DEADLINE_S)[0] == "job:2@toy"


def test_refusals_are_told_in_its_words(make: Make) -> None:
    site = make(purse="beggars")
    with pytest.raises(BatchError, match="but the Toy gives nothing to main"):
        check_batch(site.site)
    with site.guarded_session() as session:
        future = session.submit(where)
        wait_until(lambda: "the Toy took no pilot" in future.why(), DEADLINE_S, "the refusal")
        assert "mend purse of pool main" in future.why()
        session.cancel()


def test_a_head_runs_in_its_job(make: Make) -> None:
    site = make(cores=1)
    script = site.scratch / "study.py"
    script.write_text(
        "import os, pilot\n"
        "with pilot.Session() as session:\n"
        "    print(session.submit(os.getenv, 'PILOT_JOB_ID').result(60))\n"
    )
    host = os.uname().nodename
    variables = {"TOY_JOB": "job:9@toy", "TOY_NODES": host, "TOY_DEADLINE": "9999999999"}
    done = subprocess.run(
        [sys.executable, "-m", "pilot", "run", "--site", str(site.directory), str(script)],
        env={**os.environ, **variables, "PILOT_TEST": site.mark},
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["job:9@toy"]
    assert "runs in job job:9@toy" in done.stderr


class Nameless(toy_batch.Toy):
    """It has no name."""

    name = ""


class Greedy(toy_batch.Toy):
    """It takes the name of another section."""

    name = "pools"


class StrictKeys(Keys, frozen=True, kw_only=True):
    """A key without a default."""

    host: str


class Strict(BatchKind):
    """It has to be told something."""

    name = "strict"
    manners_keys = StrictKeys

    def open(self, manners: Any, directory: Path) -> BatchSystem:
        """Make no other than the toy."""
        return toy_batch.ToyBatch(directory)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("batch: support.toy_batch:Toy\ntoy: {que: x}", r"toy.que: unknown key.*'queue'"),
        ("batch: support.toy_batch:Toi", r"batch: .*cannot be imported.*Toi.*PYTHONPATH"),
        ("batch: no_such_module:Toy", r"batch: .*cannot be imported: No module named"),
        ("batch: os:getcwd", r"batch: 'os:getcwd' is not a batch system: it is not a subclass"),
        ("batch: pilot.scheduler.batch:BatchKind", r"batch: .* it cannot be made: .*abstract"),
        (f"batch: {__name__}:Nameless", r"batch: .* its attribute 'name' is not a word"),
        (f"batch: {__name__}:Greedy", r"batch: .* calls itself 'pools', which is a key of all"),
        (f"batch: {__name__}:Strict", r"the key 'strict' is missing"),
        (f"batch: {__name__}:Strict\nstrict: {{}}", r"strict: the key 'host' is missing"),
        (
            "batch: support.toy_batch",
            r"batch: 'support.toy_batch' is not a batch system; .*module:Cl",
        ),
    ],
)
def test_mistakes_are_told_with_the_line(tmp_path: Path, line: str, told: str) -> None:
    directory = tmp_path / "site"
    directory.mkdir(mode=0o700)
    (directory / "site.yaml").write_text(f"{line}\npools: {{main: {{cores_per_node: 1}}}}\n")
    with pytest.raises(SiteError, match=rf"site.yaml:\d: {told}"):
        open_site(directory)


def test_its_keys_are_checked_as_those_of_others(tmp_path: Path) -> None:
    directory = tmp_path / "site"
    directory.mkdir(mode=0o700)
    file = directory / "site.yaml"
    for pool, told in [
        ("{}", "pools.main.cores_per_node: must be a number.*; count them"),
        ("{cores_per_node: 1, purse: a b}", "pools.main.purse: 'a b' is no purse"),
        ("{cores_per_node: 1, partition: x}", "pools.main.partition: unknown key"),
    ]:
        file.write_text(f"batch: {TOY}\npools:\n  main: {pool}\n")
        with pytest.raises(SiteError, match=told):
            open_site(directory)


def test_nodes_are_checked_by_a_job_of_any_batch_system(make: Make) -> None:
    directory = make().directory
    command = [sys.executable, "-m", "pilot", "--site", str(directory), "doctor", "--job", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout)["findings"]
    told = {each["check"]: each["found"] for each in found}
    assert "the Toy answers" in told["the Toy"]
    assert "find each other" in told["MPI"] and "~twin" in told["MPI"]
    assert "keeps its toys" in told["giving nodes back"]
    assert len({node for each in found for node in each["nodes"]}) == 2
