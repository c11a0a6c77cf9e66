"""Tasks that are told in time: they save, stop, and go on elsewhere; nobody else notices."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot

DEADLINE_S = 90.0
#: The tasks of a job of 30 s are told 3 s before they are interrupted.
SHORT = {"walltime": "30s", "warning": "3s"}

Make = Callable[..., SiteUnderTest]


def pool(**changes: Any) -> dict[str, Any]:
    """The pools of a site: one, of one pilot with two cores."""
    return {"main": {"cores_per_node": 2, "walltime": "1h", "idle_time": "1m", **changes}}


def count(directory: str, steps: int, pause_s: float = 0.05) -> list[tuple[int, int]]:
    """Count in steps, each in a file, up to a checkpoint in time; return where each attempt was
    told."""
    context = pilot.context()
    step, told = context.checkpoint.load() or (0, [])
    while step < steps:
        with Path(directory, f"step-{step}").open("a") as file:
            file.write(f"{context.attempt}\n")
        time.sleep(pause_s)
        step += 1
        if context.should_stop:
            assert context.stop_reason and context.stop_at is not None
            context.checkpoint.save(step, [*told, (context.attempt, step)])
            raise pilot.Stopped
    return told


def count_blindly(directory: str, seconds: float) -> int:
    """Count attempts, and never look whether to stop."""
    Path(directory, f"blind-{pilot.context().attempt}").touch()
    time.sleep(seconds if pilot.context().attempt == 1 else 0.0)
    return pilot.context().attempt


def steps_in(directory: Path) -> dict[int, str]:
    """The counts of attempts, by step."""
    files = directory.glob("step-*")
    return {int(path.name.partition("-")[2]): path.read_text() for path in files}


def attempts_of(site: SiteUnderTest, future: pilot.Future[Any]) -> list[tuple[str, str]]:
    """Outcome of each attempt, and the class of what it has told."""
    rows = site.query("task", task=future.task_id)["attempts_made"]
    return [(row["outcome"], (row["error"] or "").partition(":")[0]) for row in rows]


def cancel_pilots(site: SiteUnderTest) -> None:
    """Cancel the jobs of all pilots, as a user does."""
    for pid in site.pids_of("agent", 1):
        os.killpg(pid, signal.SIGTERM)


def wait_for_steps(directory: Path, most: int = 20) -> None:
    """Wait until it counts, for longer than it takes to be known that it listens."""
    wait_until(lambda: len(steps_in(directory)) > most, DEADLINE_S)


def test_a_task_saves_before_the_end_of_the_walltime_and_goes_on_in_the_next_pilot(
    make_site: Make,
) -> None:
    site = make_site(pools=pool(**SHORT))
    with site.guarded_session() as session:
        future = session.submit(count, str(site.scratch), 180, 0.1)
        told = future.result(DEADLINE_S)
        assert told, "18 s of work cannot end in one pilot"
        assert {len(text.split()) for text in steps_in(site.scratch).values()} == {1}
        assert len(steps_in(site.scratch)) == 180, "each step once"
        attempts = attempts_of(site, future)
        assert attempts == [("interrupted", "Stopped")] * len(told) + [("ok", "")]


def test_a_cancelled_job_waits_for_the_tasks_that_listen_and_for_no_others(
    make_site: Make,
) -> None:
    site = make_site()
    with site.guarded_session() as session:
        future = session.submit(count, str(site.scratch), 120)
        blind = session.submit(count_blindly, str(site.scratch), 60.0)
        wait_for_steps(site.scratch, 40)
        wait_until(Path(site.scratch, "blind-1").exists, DEADLINE_S)
        cancel_pilots(site)
        ((attempt, _),) = future.result(DEADLINE_S)
        assert attempt == 1
        assert blind.result(DEADLINE_S) == 2
        assert set(steps_in(site.scratch).values()) == {"1\n", "2\n"}
        assert attempts_of(site, future) == [("interrupted", "Stopped"), ("ok", "")]
        assert [outcome for outcome, _ in attempts_of(site, blind)] == ["interrupted", "ok"]


def test_sigterm_that_comes_again_takes_no_time_from_the_tasks(make_site: Make) -> None:
    """Slurm sends it to a step, and its launcher, which Slurm has sent it to, has it sent again."""
    site = make_site()
    with site.guarded_session() as session:
        future = session.submit(count, str(site.scratch), 5, 1.5)
        wait_for_steps(site.scratch, 2)
        node = site.pid_of("node")
        cancel_pilots(site)
        for _ in range(3):
            time.sleep(0.05)  # else the kernel makes one signal of them
            os.kill(node, signal.SIGTERM)
        assert future.result(DEADLINE_S)
        assert {len(text.split()) for text in steps_in(site.scratch).values()} == {1}
        assert attempts_of(site, future) == [("interrupted", "Stopped"), ("ok", "")]


def test_a_task_that_does_not_stop_is_ended_when_its_grace_is_over(make_site: Make) -> None:
    site = make_site(pools=pool(stop_grace="1s"))

    def go_on(directory: str) -> int:
        context = pilot.context()
        Path(directory, f"attempt-{context.attempt}").touch()
        while context.attempt == 1:
            if context.should_stop:
                Path(directory, "told").touch()
            time.sleep(0.02)
        return context.attempt

    with site.guarded_session() as session:
        future = session.submit(go_on, str(site.scratch))
        wait_until(Path(site.scratch, "attempt-1").exists, DEADLINE_S)
        wait_until(lambda: session.query("task", task=future.task_id)["state"] == "RUNNING", 20)
        time_to_be_known(site)
        cancel_pilots(site)
        assert future.result(DEADLINE_S) == 2
        assert Path(site.scratch, "told").exists()
        assert [outcome for outcome, _ in attempts_of(site, future)] == ["interrupted", "ok"]


def time_to_be_known(site: SiteUnderTest) -> None:
    """Wait until the agent knows what listens: until its node worker has reported twice."""
    pid = site.pid_of("node")
    before = switches(pid)
    wait_until(lambda: switches(pid) > before + 6, 20.0)


def switches(pid: int) -> int:
    """The number of times that a process has waited for something."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches"):
            return int(line.split()[1])
    raise AssertionError(pid)


def test_stopping_without_having_been_told_is_an_error(shared_site: SiteUnderTest) -> None:
    def stop() -> None:
        raise pilot.Stopped("for no reason")

    with shared_site.guarded_session() as session:
        future = session.submit(stop)
        with pytest.raises(pilot.TaskError, match="was not told to stop"):
            future.result(DEADLINE_S)
        assert [outcome for outcome, _ in attempts_of(shared_site, future)] == ["error"]


def test_callbacks_are_called_once_in_a_thread_of_their_own(make_site: Make) -> None:
    site = make_site()

    def wait(directory: str) -> str:
        context, told = pilot.context(), threading.Event()
        if context.attempt > 1:
            return Path(directory, "called").read_text()

        def note() -> None:
            with Path(directory, "called").open("a") as file:
                file.write(f"{threading.current_thread() is threading.main_thread()} ")

        context.on_stop(fail)
        context.on_stop(note)
        context.on_stop(told.set)
        Path(directory, "waits").touch()
        told.wait()
        raise pilot.Stopped

    def fail() -> None:
        raise ValueError("its own affair")

    with site.guarded_session() as session:
        future = session.submit(wait, str(site.scratch))
        wait_until(Path(site.scratch, "waits").exists, DEADLINE_S)
        time_to_be_known(site)
        cancel_pilots(site)
        assert future.result(DEADLINE_S) == "False "


def test_a_task_that_listens_still_ends_when_it_is_cancelled(shared_site: SiteUnderTest) -> None:
    def listen(path: str) -> None:
        while not pilot.context().should_stop:
            Path(path).touch()
            time.sleep(0.02)

    with shared_site.guarded_session() as session:
        path = shared_site.scratch / "listens"
        future = session.submit(listen, str(path))
        wait_until(path.exists, DEADLINE_S)
        executor = shared_site.pid_of("executor")
        future.cancel()
        wait_until(lambda: not Path(f"/proc/{executor}").exists(), 4.0, "SIGTERM is enough")


def test_sigterm_ends_no_task_whose_function_looks_also_before_its_first_look(
    make_site: Make,
) -> None:
    """Some batch systems send it to all processes of a job."""

    def step(path: str) -> tuple[int, int]:
        if pilot.context().attempt == 1 and path:
            Path(path).touch()
            while not Path(f"{path}-go").exists():
                time.sleep(0.02)
        return os.getpid(), pilot.context().attempt + pilot.context().should_stop

    site = make_site(pools=pool(cores_per_node=1))
    with site.guarded_session() as session:
        executor, _ = session.submit(step, "").result(DEADLINE_S)
        path = site.scratch / "begun"
        future = session.submit(step, str(path))
        wait_until(path.exists, DEADLINE_S)
        os.kill(executor, signal.SIGTERM)
        Path(f"{path}-go").touch()
        assert future.result(DEADLINE_S) == (executor, 1)


PROGRAM = """\
import os, pathlib, signal, sys, time
saved, how = pathlib.Path(sys.argv[1]), sys.argv[2]
def save(number, frame):
    saved.write_text("saved")
    if how == "signal":
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    sys.exit(75)
signal.signal(signal.SIGUSR2, save)
if saved.exists():
    print("goes on")
    sys.exit(0)
pathlib.Path(f"{saved}-runs").touch()
time.sleep(120)
"""


@pytest.mark.parametrize(("how", "by_shell"), [("status", True), ("signal", False)])
def test_a_program_gets_its_signal_and_is_run_again(
    make_site: Make, how: str, by_shell: bool
) -> None:
    site = make_site()
    program = site.scratch / "program.py"
    program.write_text(PROGRAM)
    text = f"{sys.executable} {program} {{saved}} {how}"
    if by_shell:
        text = f"cd /; {text} && echo well; exit $?"
    command = pilot.shell(text, stop_signal="USR2", max_crashes=0)
    saved = site.scratch / "saved"
    with site.guarded_session() as session:
        future = session.submit(command, saved=saved)
        wait_until(Path(f"{saved}-runs").exists, DEADLINE_S)
        time_to_be_known(site)
        cancel_pilots(site)
        assert "goes on" in future.result(DEADLINE_S).stdout
        assert attempts_of(site, future) == [("interrupted", "Stopped"), ("ok", "")]


def test_a_program_that_the_end_of_the_job_ends_has_not_failed(make_site: Make) -> None:
    """Slurm signals programs itself, and they end before the pilot knows why."""
    site = make_site()
    text = "[ -e {mark} ] || {{ touch {mark}; exec sleep 60; }}"
    with site.guarded_session() as session:
        mark = site.scratch / "mark"
        future = session.submit(pilot.shell(text), mark=mark)
        wait_until(mark.exists, DEADLINE_S)
        executor = site.pid_of("executor")
        os.killpg(executor, signal.SIGTERM)
        cancel_pilots(site)
        assert future.result(DEADLINE_S).returncode == 0
        assert [outcome for outcome, _ in attempts_of(site, future)] == ["interrupted", "ok"]


def test_a_program_that_ends_itself_has_failed(shared_site: SiteUnderTest) -> None:
    with shared_site.guarded_session() as session:
        future = session.submit(pilot.shell("kill 0; sleep 60"))
        with pytest.raises(pilot.CommandFailed):
            future.result(DEADLINE_S)


def test_ranks_stop_together(make_site: Make) -> None:
    pytest.importorskip("mpi4py")
    site = make_site()

    @pilot.mpi(ranks=2, max_crashes=0)
    def run(directory: str) -> list[int]:
        from mpi4py import MPI

        world, context = MPI.COMM_WORLD, pilot.context()
        step, begins = context.checkpoint.load() or (0, [])
        begins = [*begins, step]
        while step < 100:
            if world.rank == 0:
                with Path(directory, f"step-{step}").open("a") as file:
                    file.write(f"{context.attempt}\n")
            time.sleep(0.05)
            step += 1
            if world.allreduce(context.should_stop, MPI.LOR):
                context.checkpoint.save(step, begins)
                raise pilot.Stopped
        return begins

    with site.guarded_session() as session:
        future = session.submit(run, str(site.scratch))
        wait_for_steps(site.scratch, 40)
        cancel_pilots(site)
        begins = future.result(DEADLINE_S)
        assert len(begins) == 2 and begins[1] >= 40
        assert set(steps_in(site.scratch).values()) == {"1\n", "2\n"}, "each step once"
        assert attempts_of(site, future) == [("interrupted", "Stopped"), ("ok", "")]
