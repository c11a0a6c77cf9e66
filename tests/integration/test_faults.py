"""Any process may be killed at any moment: no result is lost, and no finished task runs again.

Tasks leave one mark in a directory for each time that they run, so that every run is counted.
"""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import tasks
from support.sites import TESTS, SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot.head.lease import read_lease

DEADLINE_S = 30.0


def marks(site: SiteUnderTest) -> Path:
    """Where the tasks of a test leave their marks."""
    path = site.scratch / "marks"
    path.mkdir(exist_ok=True)
    return path


def runs(directory: Path) -> dict[int, int]:
    """How often each task has run."""
    return {int(path.name): len(path.read_text().splitlines()) for path in directory.iterdir()}


def wait_for_runs(directory: Path, least: int) -> None:
    wait_until(lambda: len(list(directory.iterdir())) >= least, DEADLINE_S, f"{least} tasks")


# --- the head -------------------------------------------------------------------------------------


def test_killed_head_is_replaced_and_no_task_runs_twice(local_site: SiteUnderTest) -> None:
    directory, count = marks(local_site), 1000
    with local_site.session() as session:
        futures = session.submit_many(
            tasks.note_run, [(str(directory), number, 0.002) for number in range(count)]
        )
        wait_for_runs(directory, count // 4)
        agent, head = local_site.pid_of("agent"), local_site.head_pid
        os.kill(head, signal.SIGKILL)
        assert pilot.gather(futures, timeout=DEADLINE_S) == list(range(count))
        assert local_site.head_pid not in (0, head)
    assert runs(directory) == dict.fromkeys(range(count), 1)
    assert local_site.pid_of("agent") == agent


def test_head_killed_again_and_again(local_site: SiteUnderTest) -> None:
    directory, count = marks(local_site), 300
    heads = set()
    with local_site.session() as session:
        futures = session.submit_many(
            tasks.note_run, [(str(directory), number, 0.01) for number in range(count)]
        )
        for share in (0.1, 0.4, 0.7):
            wait_for_runs(directory, int(count * share))
            head = wait_until(lambda: local_site.head_pid, DEADLINE_S, "a head")
            heads.add(head)
            os.kill(head, signal.SIGKILL)
        assert pilot.gather(futures, timeout=DEADLINE_S) == list(range(count))
    assert len(heads) == 3
    assert runs(directory) == dict.fromkeys(range(count), 1)


def test_killed_head_keeps_what_waits_for_inputs(local_site: SiteUnderTest) -> None:
    started, go = local_site.scratch / "started", local_site.scratch / "go"
    with local_site.session() as session:
        first = session.submit(tasks.wait_for_file, str(started), str(go))
        second = session.submit(tasks.echo, first, then=[first])
        third = session.submit(tasks.square, 3)
        assert third.result(DEADLINE_S) == 9
        wait_until(started.exists, DEADLINE_S, "the first task to run")
        os.kill(local_site.head_pid, signal.SIGKILL)
        go.touch()
        assert second.result(DEADLINE_S) == ((str(started),), {"then": [str(started)]})
        # What had ended before is still an input.
        assert session.submit(tasks.square, third).result(DEADLINE_S) == 81


def test_head_that_is_busy_for_long_stays_head(make_site: Callable[..., SiteUnderTest]) -> None:
    """With one message, for longer than it may be silent."""
    site = make_site(lease={"renew": "200ms", "expire": "4s"})
    with site.session() as session:
        session.pause()
        futures = session.submit_many(tasks.square, [(number,) for number in range(200_000)])
        session.flush()
        before = site.head_pid
        session.cancel()
        assert all(future.cancelled() for future in futures)
        session.resume()
        assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9
        assert site.head_pid == before


def test_stopped_head_gives_way_and_ends_when_it_wakes(
    make_site: Callable[..., SiteUnderTest],
) -> None:
    site = make_site(lease={"renew": "200ms", "expire": "2s"})
    directory, count = marks(site), 100
    with site.session() as session:
        futures = session.submit_many(
            tasks.note_run, [(str(directory), number, 0.02) for number in range(count)]
        )
        wait_for_runs(directory, 10)
        old = site.head_pid
        before = read_lease(site.site.lease_file)
        os.kill(old, signal.SIGSTOP)
        try:
            new = site.start_head()
            wait_until(lambda: site.head_pid == new.pid, DEADLINE_S, "the new head")
            assert pilot.gather(futures, timeout=DEADLINE_S) == list(range(count))
        finally:
            if old in [process.pid for process in site.processes()]:
                os.kill(old, signal.SIGCONT)
        wait_until(
            lambda: old not in [process.pid for process in site.processes()],
            DEADLINE_S,
            "the old head to end",
        )
        after = read_lease(site.site.lease_file)
        assert before is not None and after is not None
        assert (after.pid, after.epoch) == (new.pid, before.epoch + 1)
        assert session.submit(tasks.square, 5).result(DEADLINE_S) == 25
    assert runs(directory) == dict.fromkeys(range(count), 1)
    site.stop()
    new.communicate(timeout=DEADLINE_S)


@pytest.mark.parametrize("damage", ["removed", "emptied", "a directory"])
def test_epoch_outlives_the_lease(make_site: Callable[..., SiteUnderTest], damage: str) -> None:
    """A pilot listens to no head of a lower epoch than it has known."""
    site = make_site(lease={"renew": "200ms", "expire": "3s"})
    with site.session() as session:
        assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4
        before, agent = site.query("head")["epoch"], site.pid_of("agent")
        for epoch in (1, 2):
            os.kill(site.head_pid, signal.SIGKILL)
            wait_until(lambda: not site.head_pid, DEADLINE_S, "the head to be gone")
            for file in site.directory.glob("head.lease*"):
                if file.is_dir():
                    continue
                file.unlink(missing_ok=True)
                if damage == "emptied":
                    file.touch()
                elif damage == "a directory":
                    file.mkdir()
            assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9
            assert site.query("head")["epoch"] > before + epoch - 1
            assert site.pid_of("agent") == agent


def test_second_head_is_refused(local_site: SiteUnderTest) -> None:
    with local_site.session() as session:
        assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4
        first = local_site.head_pid
        second = local_site.start_head()
        said, _ = second.communicate(timeout=DEADLINE_S)
        assert second.returncode != 0
        assert f"pid {first}" in said and "pilot head stop" in said
        assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9
    assert local_site.head_pid == first


def test_many_heads_at_once_leave_one(local_site: SiteUnderTest) -> None:
    heads = [local_site.start_head() for _ in range(4)]
    try:
        wait_until(lambda: local_site.head_pid, DEADLINE_S, "a head")
        wait_until(
            lambda: sum(head.poll() is None for head in heads) <= 1, DEADLINE_S, "the others to end"
        )
        assert [head.pid for head in heads if head.poll() is None] == [local_site.head_pid]
        with local_site.session() as session:
            assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4
    finally:
        local_site.stop()
        for head in heads:
            head.communicate(timeout=DEADLINE_S)


# --- clients --------------------------------------------------------------------------------------

CLIENT = """
import sys
from pilot import Session
from support import tasks
directory, site = sys.argv[1:]
session = Session(site, sys_path=sys.path[:1])
futures = session.submit_many(tasks.note_run, [(directory, n, 0.05) for n in range(40)])
session._connection.flush()
print(session.id, *(future.task_id for future in futures), flush=True)
session.shutdown()
"""


def test_session_outlives_its_killed_client(local_site: SiteUnderTest) -> None:
    directory = marks(local_site)
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(directory), str(local_site.directory)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert client.stdout is not None
    try:
        number, *ids = client.stdout.readline().split()
        assert len(ids) == 40
        wait_for_runs(directory, 3)
    finally:
        client.kill()
        client.communicate()
    assert len(runs(directory)) < 40

    def ended() -> bool:
        shown = local_site.query("session", session=int(number))
        return bool(shown["unfinished"] == 0)

    wait_until(ended, DEADLINE_S, "the session's tasks")
    assert runs(directory) == dict.fromkeys(range(40), 1)
    assert {local_site.query("result", task=task)["state"] for task in ids} == {"COMPLETED"}


def test_detached_session_is_attached_again(local_site: SiteUnderTest) -> None:
    started, go = local_site.scratch / "started", local_site.scratch / "go"
    first = local_site.session(name="left")
    future = first.submit(tasks.wait_for_file, str(started), str(go))
    number = first.detach()
    assert not future.done() or future.exception() is not None
    wait_until(started.exists, DEADLINE_S, "the task to run")
    with local_site.session(session_id=number) as again:
        assert again.id == number
        go.touch()
        assert again.submit(tasks.square, 4).result(DEADLINE_S) == 16
    shown = local_site.query("session", session=number)
    assert (shown["name"], shown["states"]) == ("left", {"COMPLETED": 2})
    with pytest.raises(pilot.PilotError, match=f"session {number} is CLOS"):
        local_site.session(session_id=number)


# --- the processes of a pilot ---------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["agent", "node", "executor", "forkserver", "keeper"])
def test_killed_process_of_a_pilot(local_site: SiteUnderTest, victim: str) -> None:
    directory, count = marks(local_site), 60
    with local_site.session() as session:
        futures = session.submit_many(
            tasks.note_run, [(str(directory), number, 0.05) for number in range(count)]
        )
        wait_for_runs(directory, 10)
        done_before = {future.result() for future in futures if future.done()}
        words = {"forkserver": "forkserver", "keeper": "keeper.py"}
        word = words.get(victim, f"pilot {victim} ")
        os.kill(local_site.processes(word)[0].pid, signal.SIGKILL)
        assert pilot.gather(futures, timeout=DEADLINE_S) == list(range(count))
    counted = runs(directory)
    assert sorted(counted) == list(range(count))
    assert all(counted[number] == 1 for number in done_before)
    # Only what was in the hands of the killed process, or of those that end with it, ran again.
    assert sum(counted.values()) <= count + 8


def test_everything_killed_at_once(local_site: SiteUnderTest) -> None:
    directory, count = marks(local_site), 60
    with local_site.session() as session:
        futures = session.submit_many(
            tasks.note_run, [(str(directory), number, 0.05) for number in range(count)]
        )
        wait_for_runs(directory, 10)
        done_before = {future.result() for future in futures if future.done()}
        for process in local_site.processes("pilot "):
            os.kill(process.pid, signal.SIGKILL)
        assert pilot.gather(futures, timeout=DEADLINE_S) == list(range(count))
    counted = runs(directory)
    assert all(counted[number] == 1 for number in done_before)


def test_task_that_exits_takes_only_itself(local_site: SiteUnderTest) -> None:
    directory = marks(local_site)
    with local_site.session() as session:
        agent = None
        others = session.submit_many(
            tasks.note_run, [(str(directory), number, 0.02) for number in range(50)]
        )
        bad = session.submit(pilot.task(max_crashes=0)(tasks.leave_without_a_word), 3)
        agent = local_site.pid_of("agent")
        with pytest.raises(pilot.TaskCrashed, match="exit status 3"):
            bad.result(DEADLINE_S)
        assert pilot.gather(others, timeout=DEADLINE_S) == list(range(50))
        assert local_site.pid_of("agent") == agent
    assert runs(directory) == dict.fromkeys(range(50), 1)


def test_task_that_kills_its_executors_is_given_up(local_site: SiteUnderTest) -> None:
    with local_site.session() as session:
        bad = session.submit(pilot.task(max_crashes=2)(tasks.kill_itself))
        with pytest.raises(pilot.TaskCrashed, match="SIGKILL"):
            bad.result(DEADLINE_S)
        shown = local_site.query("task", task=bad.task_id)
        assert [attempt["outcome"] for attempt in shown["attempts_made"]] == ["crash"] * 3
        assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9


def test_crash_tells_the_last_output(local_site: SiteUnderTest) -> None:
    def speak_and_die() -> None:
        print("these are my last words", flush=True)
        os._exit(5)

    with local_site.session() as session:
        future = session.submit(pilot.task(max_crashes=0)(speak_and_die))
        error = future.exception(DEADLINE_S)
    assert isinstance(error, pilot.TaskCrashed)
    assert "these are my last words" in str(error.__cause__)


# --- limits and cancels ---------------------------------------------------------------------------


def test_time_limit_ends_the_task_and_what_it_started(local_site: SiteUnderTest) -> None:
    def start_a_child(directory: str) -> None:
        child = subprocess.Popen(["sleep", "1000"])
        Path(directory, "child").write_text(str(child.pid))
        child.wait()

    with local_site.session() as session:
        # The first task starts the pilot; the limit is then the task's own.
        assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4
        limited = pilot.task(time_limit=0.5)(start_a_child)
        future = session.submit(limited, str(local_site.scratch))
        with pytest.raises(pilot.TaskTimedOut, match=r"0\.5 s"):
            future.result(DEADLINE_S)
        child = int((local_site.scratch / "child").read_text())
        wait_until(
            lambda: child not in [process.pid for process in local_site.processes()],
            DEADLINE_S,
            "the task's child to end",
        )
        assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9


def test_nothing_waits_behind_a_task_that_turns_out_to_be_long(
    local_site: SiteUnderTest, tmp_path: Path
) -> None:
    go = tmp_path / "go"

    def work(number: int, directory: str) -> int:
        if number == 500:
            tasks.wait_for_file(str(tmp_path / "started"), str(go))
        return tasks.note_run(directory, number)

    with local_site.session() as session:
        # Known to be short, they are sent several at a time.
        pilot.gather(session.submit_many(work, [(0, str(tmp_path))] * 200), timeout=DEADLINE_S)
        runs = tmp_path / "runs"
        runs.mkdir()
        numbers = range(1, 1001)
        futures = session.submit_many(work, [(number, str(runs)) for number in numbers])
        late = futures.pop(499)
        pilot.gather(futures, timeout=DEADLINE_S)
        assert not late.done()
        go.touch()
        assert late.result(DEADLINE_S) == 500
        assert {path.name: len(path.read_text().split()) for path in runs.iterdir()} == {
            str(number): 1 for number in numbers
        }


def test_cancelled_running_task_is_ended(local_site: SiteUnderTest) -> None:
    started, never = local_site.scratch / "started", local_site.scratch / "never"
    with local_site.session() as session:
        future = session.submit(tasks.wait_for_file, str(started), str(never), 1000.0)
        waiting = session.submit(tasks.echo, future)
        wait_until(started.exists, DEADLINE_S, "the task to run")
        assert future.cancel()
        assert future.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            future.result()
        with pytest.raises(pilot.TaskAborted, match="CANCELLED"):
            waiting.result(DEADLINE_S)
        # Its core is free again: two tasks that need each other run at the same time.
        a, b = local_site.scratch / "a", local_site.scratch / "b"
        both = [
            session.submit(tasks.wait_for_file, str(a), str(b)),
            session.submit(tasks.wait_for_file, str(b), str(a)),
        ]
        assert pilot.gather(both, timeout=DEADLINE_S) == [str(a), str(b)]


def test_cancelled_session_ends(local_site: SiteUnderTest) -> None:
    started, never = local_site.scratch / "started", local_site.scratch / "never"
    with local_site.session() as session:
        futures = [
            session.submit(tasks.wait_for_file, str(started), str(never), 1000.0) for _ in range(20)
        ]
        wait_until(started.exists, DEADLINE_S, "a task to run")
        session.cancel()
        done, waiting = concurrent.futures.wait(futures, DEADLINE_S)
        assert not waiting and all(future.cancelled() for future in done)


# --- the end --------------------------------------------------------------------------------------


def test_told_to_end_nothing_is_left(local_site: SiteUnderTest) -> None:
    """Also of a task that was running: it is interrupted, and the next head runs it."""
    started, go = local_site.scratch / "started", local_site.scratch / "go"
    first = local_site.session()
    first.submit(tasks.wait_for_file, str(started), str(go), 1000.0)
    wait_until(started.exists, DEADLINE_S, "the task to run")
    number = first.detach()
    local_site.stop()
    wait_until(lambda: not local_site.processes(), DEADLINE_S, "all processes to end")
    started.unlink()
    go.touch()
    with local_site.session(session_id=number):
        wait_until(started.exists, DEADLINE_S, "the task to run again")
    assert local_site.query("session", session=number)["states"] == {"COMPLETED": 1}
