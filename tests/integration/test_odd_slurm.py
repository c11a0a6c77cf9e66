"""Real heads and pilots on a Slurm that forgets, hides, holds and garbles."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_slurm import SEPARATOR, FakeSlurm, slurm_template
from support.sites import SiteUnderTest, site_under_test
from support.waiting import wait_until

import pilot
from pilot.site import open_site

DEADLINE_S = 60.0


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    made = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{made.commands}{os.pathsep}{os.environ['PATH']}")
    return made


Make = Callable[..., SiteUnderTest]


@pytest.fixture
def make(slurm: FakeSlurm, tmp_path: Path) -> Iterator[Make]:
    """Make a site; its processes end with the test, as do all jobs of the Slurm."""
    with contextlib.ExitStack() as stack:
        yield lambda **changes: stack.enter_context(
            site_under_test(slurm_template(**changes), tmp_path)
        )
        # Whatever it does wrong: the heads' jobs end.
        for name in ("hold", "hide", "empty", "mute", "down", "before", "after", "rename"):
            slurm.switch_off(name)


def held(go: str, began: str) -> str:
    """Wait for a file; note each time that this begins."""
    with open(began, "a") as file:
        file.write(f"{os.environ['PILOT_JOB_ID']}\n")
    end = time.monotonic() + 120.0
    while not Path(go).exists():
        assert time.monotonic() < end, "nobody has let it go"
        time.sleep(0.02)
    return os.environ["PILOT_JOB_ID"]


class Held:
    """A task that runs until it is let go."""

    def __init__(self, session: pilot.Session, scratch: Path, **options: Any) -> None:
        self._session = session
        self._go, self._began = scratch / "go", scratch / "began"
        task = pilot.task(**options)(held)
        self.future = session.submit(task, str(self._go), str(self._began))

    @property
    def jobs(self) -> list[str]:
        """The jobs that it was begun in, in order."""
        return self._began.read_text().split() if self._began.exists() else []

    def begun(self, times: int = 1) -> str:
        wait_until(lambda: len(self.jobs) >= times, DEADLINE_S, "the task to begin")
        return self.jobs[-1]

    def let_go(self) -> list[str]:
        """End it; return how its attempts ended."""
        self._go.touch()
        self.future.result(DEADLINE_S)
        made = self._session.query("task", task=self.future.task_id)["attempts_made"]
        return [attempt["outcome"] for attempt in made]


def looks(slurm: FakeSlurm, more: int) -> Callable[[], bool]:
    """Whether the head has looked at the queue so often again."""
    enough = len(slurm.calls("squeue")) + more
    return lambda: len(slurm.calls("squeue")) >= enough


def trouble(site: SiteUnderTest) -> str:
    return str(site.query("head")["trouble"])


def pilots(site: SiteUnderTest, alive: bool = True) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = site.query("fleet", alive=alive)
    return rows


# --- pilots that never work ----------------------------------------------------------------------


def test_jobs_that_are_taken_and_never_listed_are_not_asked_for_without_end(
    slurm: FakeSlurm, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.switch("mute")
    slurm.switch("answer", "@;other\n")
    site = make(pool={"max_nodes": 1})
    with site.guarded_session() as session:
        future = session.submit(os.getpid)
        wait_until(lambda: "not list" in trouble(site), 90.0, "the trouble to be told")
        assert "the last 3 pilots of pool main" in trouble(site)
        assert slurm.submitted() == 3
        told = future.why()
        assert "the last 3 pilots" in told and "squeue does not list its job" in told
        assert "slurm.cluster" in told
        cancelled = {job for call in slurm.calls("scancel") for job in call if job.isdecimal()}
        assert {"7001", "7002"} <= cancelled, "on another cluster, all would start"
        # The next head does not begin anew.
        os.kill(site.head_pid, signal.SIGKILL)
        assert "the last 3 pilots" in session.query("head")["trouble"]
        session.cancel()


def test_pilots_that_die_at_once_are_waited_for_longer_and_longer(
    slurm: FakeSlurm, make: Make
) -> None:
    site = make(environment={"setup": "echo 'module: command not found' >&2; exit 1"})
    with site.guarded_session() as session:
        future = session.submit(os.getpid)
        wait_until(lambda: "command not found" in trouble(site), DEADLINE_S, "the trouble")
        job = slurm.submitted() + 7000
        text = trouble(site)
        assert "ended before they had worked" in text and "(exit status 1)" in text
        assert f"jobs/{job}.out ends with: module: command not found" in text
        wait_until(lambda: "the last 4 pilots" in trouble(site), DEADLINE_S, "another try")
        assert slurm.submitted() == 4
        assert "the last 4 pilots" in future.why()
        session.cancel()


def test_a_pilot_that_works_makes_the_dead_ones_forgotten(slurm: FakeSlurm, make: Make) -> None:
    site = make(environment={"setup": '[ -e "$PILOT_SCRATCH/mended" ] || exit 7'})
    scratch = site.scratch
    config = site.directory / "site.yaml"
    config.write_text(config.read_text().replace("$PILOT_SCRATCH", str(scratch)))
    site.site = open_site(site.directory)
    with site.guarded_session() as session:
        future = session.submit(os.getpid)
        wait_until(lambda: "exit status 7" in trouble(site), DEADLINE_S, "the trouble")
        (scratch / "mended").touch()
        future.result(DEADLINE_S)
        wait_until(lambda: not trouble(site), DEADLINE_S, "the end of the trouble")


# --- pilots that are not listed ------------------------------------------------------------------


def test_a_pilot_that_talks_is_there_whatever_lists_say(slurm: FakeSlurm, make: Make) -> None:
    site = make(pool={"max_nodes": 2})
    with site.guarded_session() as session:
        task = Held(session, site.scratch)
        job = task.begun()
        for name, value in [
            ("empty", ""),
            ("hide", job),
            ("rename", "another"),
            ("no_accounting", ""),
        ]:
            slurm.switch(name, value)
            wait_until(looks(slurm, 3), DEADLINE_S, "three looks at the queue")
            if name != "no_accounting":
                slurm.switch_off(name)
        slurm.switch("empty")
        wait_until(looks(slurm, 20), DEADLINE_S, "twenty looks at the queue")
        slurm.switch_off("empty")
        assert task.let_go() == ["ok"]
        assert task.jobs == [job]
        assert slurm.submitted() == 1


def test_a_queued_pilot_that_one_list_leaves_out_stays(slurm: FakeSlurm, make: Make) -> None:
    slurm.switch("hold")
    site = make(pool={"max_nodes": 2})
    with site.guarded_session() as session:
        future = session.submit(os.getppid)
        wait_until(lambda: [p["job"] for p in pilots(site)] == ["7001"], DEADLINE_S, "the job")
        slurm.switch("empty")
        wait_until(looks(slurm, 20), DEADLINE_S, "twenty looks at the queue")
        slurm.switch_off("empty")
        slurm.switch_off("hold")
        future.result(DEADLINE_S)
        assert slurm.submitted() == 1


# --- what others have in the queue ---------------------------------------------------------------


@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param({"Name": "a\nb"}, id="line break"),
        pytest.param({"Name": f"a{SEPARATOR}b"}, id="separator"),
        pytest.param({"NodeList": f"n[{','.join(map(str, range(1, 9999, 2)))}]"}, id="cut"),
        pytest.param(None, id="notice"),
    ],
)
def test_others_jobs_do_not_blind_the_head(
    slurm: FakeSlurm, make: Make, foreign: dict[str, str] | None
) -> None:
    site = make()
    with site.guarded_session() as session:
        task = Held(session, site.scratch)
        job = task.begun()
        wait_until(looks(slurm, 1), DEADLINE_S, "a look at the queue")
        slurm.switch("before", _line(slurm, foreign) if foreign else "slurm: a notice\n")
        os.killpg(slurm.pid(job), signal.SIGKILL)
        assert task.begun(2) != job
        assert task.let_go() == ["interrupted", "ok"]
        assert not trouble(site)


def _line(slurm: FakeSlurm, changes: dict[str, str]) -> str:
    """A line of another job, as the head's command would have it."""
    asked = next(a for a in slurm.calls("squeue")[0] if a.startswith("--Format="))
    fields = {"JobID": "8", "State": "PENDING", "Reason": "JobHeldUser", "Name": "other"}
    line = ""
    for column in asked.partition("=")[2].split(","):
        name, width = column.rstrip(SEPARATOR).split(":")
        text = (fields | changes).get(name, "")
        line += text.ljust(int(width))[: int(width)] + SEPARATOR
    return f"{line}\n"


# --- odd answers ---------------------------------------------------------------------------------


def test_any_answer_that_holds_one_job_number_is_one(slurm: FakeSlurm, make: Make) -> None:
    slurm.switch("answer", "--> Verifying host ... OK\nSubmitted batch job @ on cluster x\n")
    site = make()
    with site.guarded_session() as session:
        assert session.submit(pow, 2, 5).result(DEADLINE_S) == 32
        assert slurm.submitted() == 1 and not trouble(site)


def test_a_job_that_is_found_by_its_name_ends_the_trouble(slurm: FakeSlurm, make: Make) -> None:
    slurm.switch("answer", "thank you\n")
    site = make(pool={"max_nodes": 3, "max_pilots_queued": 3})
    with site.guarded_session() as session:
        futures = session.submit_many(time.sleep, [(1.0,)] * 12)
        pilot.gather(futures, timeout=DEADLINE_S)
        wait_until(lambda: not trouble(site), DEADLINE_S, "the end of the trouble")
        assert all(row["state"] != "INTENDED" for row in pilots(site))


def test_a_slow_sbatch_makes_no_second_job(slurm: FakeSlurm, make: Make) -> None:
    slurm.switch("slow", "4")
    site = make(slurm={"command_limit": "2s"}, pool={"max_nodes": 1})
    with site.guarded_session() as session:
        assert session.submit(pow, 2, 5).result(DEADLINE_S) == 32
        wait_until(lambda: not trouble(site), DEADLINE_S, "the end of the trouble")
        assert slurm.submitted() == 1


# --- suspended -----------------------------------------------------------------------------------


def test_a_suspended_pilot_is_told_as_such_and_goes_on(slurm: FakeSlurm, make: Make) -> None:
    site = make()
    with site.guarded_session() as session:
        task = Held(session, site.scratch)
        job = task.begun()
        wait_until(lambda: pilots(site)[0]["state"] == "RUNNING", DEADLINE_S, "the pilot")
        subprocess.run([slurm.commands / "scontrol", "suspend", job], check=True)
        wait_until(lambda: pilots(site)[0]["state"] == "SUSPENDED", DEADLINE_S, "its suspension")
        wait_until(
            lambda: f"SUSPENDED, and stands still: `scontrol resume {job}`" in task.future.why(),
            DEADLINE_S,
            "the suspension to be told",
        )
        subprocess.run([slurm.commands / "scontrol", "resume", job], check=True)
        wait_until(lambda: pilots(site)[0]["state"] == "RUNNING", DEADLINE_S, "it to go on")
        assert task.let_go() == ["ok"]


# --- MPI -----------------------------------------------------------------------------------------


@pilot.mpi(ranks=2, max_crashes=0)
def world_size() -> int:
    from mpi4py import MPI

    return int(MPI.COMM_WORLD.allreduce(1))


needs_mpi = pytest.mark.skipif(
    not (Path(sys.executable).parent / "mpiexec").exists(), reason="there is no MPI beside Python"
)


@needs_mpi
def test_what_forms_an_mpi_world_is_found_out_once(slurm: FakeSlurm, make: Make) -> None:
    slurm.switch("world", "pmi2")
    site = make(cores=2)
    with site.guarded_session() as session:
        assert session.submit(world_size).result(DEADLINE_S) == 2
        tried = [call for call in slurm.calls("srun") if "-c" in call]
        assert len([call for call in tried if "--ntasks=2" in call]) == 4  # and the world itself
        assert "pmi2" in (site.directory / "mpi.json").read_text()
        before = len(slurm.calls("srun"))
        os.killpg(slurm.pid("7001"), signal.SIGKILL)
        assert session.submit(world_size).result(DEADLINE_S) == 2
        assert len(slurm.calls("srun")) == before + 1, "it is remembered"


@needs_mpi
def test_ranks_that_form_no_world_are_an_error_at_once(slurm: FakeSlurm, make: Make) -> None:
    slurm.switch("world", "pmi2")
    site = make(cores=2, mpi={"launcher": "srun", "options": ["--mpi=pmix"]})
    with site.guarded_session() as session:
        future = session.submit(world_size)
        with pytest.raises(pilot.TaskCrashed) as caught:
            future.result(DEADLINE_S)
        told = str(caught.value)
        assert "srun --mpi=pmix started 2 ranks, and they are MPI worlds of 1" in told
        assert "srun --mpi=list" in told and "mpi: {launcher: mpiexec}" in told
        assert session.submit(pow, 2, 5).result(DEADLINE_S) == 32


# --- inside a job --------------------------------------------------------------------------------

IN_A_JOB = """
import os, sys, time
import pilot

def where(seconds):
    time.sleep(seconds)
    return os.environ["PILOT_JOB_ID"]

with pilot.Session() as session:
    print("ran in", session.submit(where, 0.0).result(60))
    long = session.submit(where, 2.0)
    while "walltime ends in" not in long.why():
        assert not long.done(), "its end is not known"
    long.result(60)
    end = time.monotonic() + 5.0
    while time.monotonic() < end:  # a pause that is longer than pilots may be idle
        time.sleep(0.1)
    print("ran in", session.submit(where, 0.0).result(60))
    print("ended", [row["reason"] for row in session.query("fleet") if row["state"] == "ENDED"])
"""


def test_the_own_allocation_is_kept_and_its_walltime_known(
    slurm: FakeSlurm, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.switch("ends", str(int(time.time()) + 1800))
    site = make(pool={"idle_time": "1s"})
    script = site.scratch / "study.py"
    script.write_text(IN_A_JOB)
    variables = {"SLURM_JOB_ID": "9001", "SLURM_JOB_NUM_NODES": "1", "PILOT_TEST": site.mark}
    variables["SLURM_JOB_NODELIST"] = os.uname().nodename
    done = subprocess.run(
        [sys.executable, "-m", "pilot", "run", "--site", "local", str(script)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == ["ran in 9001", "ran in 9001", "ended []"]
    assert slurm.submitted() == 0 and not slurm.calls("scancel")
