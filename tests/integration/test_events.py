"""The log of events with a real head: exactly once, in order, also when the head is killed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial

import pytest
from click.testing import CliRunner
from support import tasks
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot.cli import cli
from pilot.client.events import Event
from pilot.client.query_client import QueryClient

DEADLINE_S = 60.0

#: What may come after what, in the life of one task.
FOLLOWS = {
    "PENDING": {"READY", "ABORTED", "CANCELLED"},
    "READY": {"ASSIGNED", "ABORTED", "CANCELLED"},
    "ASSIGNED": {"RUNNING", "READY", "CANCELLED", "COMPLETED", "FAILED"},
    "RUNNING": {"READY", "DELEGATED", "COMPLETED", "FAILED", "TIMED_OUT", "CANCELLED"},
    "DELEGATED": {"COMPLETED", "FAILED", "CANCELLED"},
}


@pytest.fixture
def followers() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that follow; what is left of them is killed."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def follow(site: SiteUnderTest, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pilot", "events", "--site", str(site.directory), "--follow"]
        + [str(argument) for argument in arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def lives(events: list[Event]) -> dict[str, list[Event]]:
    """The events of each task, in order."""
    found: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.task is not None:
            found[event.task].append(event)
    return found


def kill_head(site: SiteUnderTest) -> None:
    os.kill(wait_until(lambda: site.head_pid, DEADLINE_S, "a head"), signal.SIGKILL)


def test_killed_heads_neither_lose_nor_repeat_an_event(
    local_site: SiteUnderTest, followers: list[subprocess.Popen[str]]
) -> None:
    directory, count = local_site.scratch / "marks", 200
    directory.mkdir()
    with local_site.session() as session:
        seen: list[Event] = []
        thread = threading.Thread(
            target=lambda: seen.extend(session.events(follow=True)), daemon=True
        )
        thread.start()
        followers.append(follow(local_site, "--session", session.id, "--json"))
        futures = session.submit_many(
            tasks.note_run, [(str(directory), number, 0.005) for number in range(count)]
        )
        failing = session.submit(tasks.fail)
        after = session.submit(tasks.square, failing)

        def have_run(number: float) -> bool:
            return len(list(directory.iterdir())) > number

        for share in (0.2, 0.6):
            wait_until(partial(have_run, share * count), DEADLINE_S, "tasks to run")
            kill_head(local_site)
        assert pilot.gather(futures, timeout=DEADLINE_S) == list(range(count))
        assert after.exception(DEADLINE_S)
        session.shutdown(wait=False)
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    out, err = followers[0].communicate(timeout=DEADLINE_S)
    assert (followers[0].returncode, err) == (0, "")
    assert [Event(**json.loads(line)) for line in out.splitlines()] == seen
    with QueryClient(local_site.site) as ask:
        log = [Event(*row) for row in ask("events", limit=10_000)["events"]]
    assert [event for event in log if event.session == session.id] == seen
    starts = [event.number for event in log if event.state == "STARTED"]
    assert len(starts) == 3

    numbers = [event.number for event in seen]
    assert numbers == sorted(set(numbers))
    assert [e.state for e in seen if e.kind == "session"] == ["OPEN", "CLOSING", "CLOSED"]
    found = lives(seen)
    assert len(found) == count + 2
    for life in found.values():
        for earlier, later in itertools.pairwise(life):
            assert later.state in FOLLOWS[earlier.state] or (
                # The next head hears from the pilot what it has, or what has ended there.
                earlier.state in ("READY", "ASSIGNED", "RUNNING")
                and later.state in ("ASSIGNED", "READY", "COMPLETED", "FAILED")
                and any(earlier.number < start < later.number for start in starts)
            ), life
    assert Counter(life[-1].state for life in found.values()) == {
        "COMPLETED": count,
        "FAILED": 1,
        "ABORTED": 1,
    }
    assert {life[0].state for life in found.values()} == {"READY", "PENDING"}
    assert [event.state for event in found[after.task_id]] == ["PENDING", "ABORTED"]


def test_a_site_is_followed_over_heads_until_ctrl_c(
    local_site: SiteUnderTest, followers: list[subprocess.Popen[str]]
) -> None:
    lines: list[str] = []
    followers.append(follow(local_site))
    stream = followers[0].stdout
    assert stream is not None
    reader = threading.Thread(target=lambda: lines.extend(stream), daemon=True)
    reader.start()

    def told(word: str) -> int:
        return sum(word in line.split() for line in lines)

    with local_site.session() as session:
        assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4
    wait_until(lambda: told("CLOSED"), DEADLINE_S, "the end of the session")
    assert [told(state) for state in ("STARTED", "QUEUED", "JOINED", "COMPLETED")] == [1, 1, 1, 1]
    kill_head(local_site)
    with local_site.session() as session:
        assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9
    wait_until(lambda: told("CLOSED") == 2, DEADLINE_S, "the end of the second session")
    assert (told("STARTED"), told("COMPLETED")) == (2, 2)
    local_site.stop()
    wait_until(lambda: not local_site.head_pid, DEADLINE_S, "the head to end")
    # Nobody is there to ask: it reads the file, where the pilot's end was written last.
    wait_until(lambda: told("ENDED"), DEADLINE_S, "the end of the pilot")
    followers[0].send_signal(signal.SIGINT)
    status = followers[0].wait(DEADLINE_S)
    reader.join(DEADLINE_S)
    assert followers[0].stderr is not None
    # It may be interrupted when it has written a line and has not noted that: twice is not lost.
    last = len(lines)
    goes_on = [f"pilot: go on with --since {number}\n" for number in (last, last - 1)]
    assert status == 130 and followers[0].stderr.read() in goes_on
    assert [int(line.split()[0]) for line in lines] == list(range(1, len(lines) + 1))


def test_events_are_shown_by_session_task_state_and_number(shared_site: SiteUnderTest) -> None:
    def shown(*arguments: object) -> list[Event]:
        words = ["events", "--site", shared_site.directory, "--json", *arguments]
        result = CliRunner().invoke(cli, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return [Event(**json.loads(line)) for line in result.stdout.splitlines()]

    with shared_site.session() as session:
        first, second = session.submit(tasks.square, 2), session.submit(tasks.fail)
        assert second.exception(DEADLINE_S) and first.result(DEADLINE_S)
        session.pause()
        session.resume()
    every = shown()
    assert shown("--session", session.id) == [e for e in every if e.session == session.id]
    assert shown("--task", first.task_id) == [e for e in every if e.task == first.task_id]
    (failed,) = shown("--state", "failed", "--session", session.id)
    assert (failed.task, failed.detail) == (second.task_id, "ValueError")
    assert shown("--since", failed.number) == [e for e in every if e.number > failed.number]
    assert shown("--since", -2) == every[-2:]
    assert shown("--limit", 3) == every[:3]
    assert [event.state for event in shown("--session", session.id) if event.kind == "session"] == [
        "OPEN",
        "PAUSED",
        "RESUMED",
        "CLOSING",
        "CLOSED",
    ]
    assert shown("--follow", "--task", first.task_id)[-1].state == "COMPLETED"
    line = CliRunner().invoke(
        cli, ["events", "-s", str(shared_site.directory), "--task", second.task_id]
    )
    assert line.stdout.splitlines()[-1].split()[3:] == [
        "task",
        second.task_id,
        "FAILED",
        "ValueError",
    ]
    for wrong in (["--session", "999"], ["--task", "99.1"], ["--state", "DONE"]):
        result = CliRunner().invoke(cli, ["events", "-s", str(shared_site.directory), *wrong])
        assert result.exit_code == 1


def test_what_is_purged_and_deleted_is_in_the_log(local_site: SiteUnderTest) -> None:
    with local_site.session() as session:
        session.submit(tasks.square, 2)
    with local_site.session() as other:
        wait_until(lambda: other.query("session", session=session.id)["state"] == "CLOSED")
        for verb in ("purge", "delete"):
            words = ["session", verb, "--yes", "-s", str(local_site.directory), str(session.id)]
            assert CliRunner().invoke(cli, words).exit_code == 0
            if verb == "purge":
                assert next(iter(session.events(-1))).state == "PURGED"
        with QueryClient(local_site.site) as ask:
            log = [Event(*row) for row in ask("events")["events"]]
    of_session = [event.state for event in log if event.session == session.id]
    assert of_session[-1] == "DELETED"
    assert {"OPEN", "READY", "COMPLETED"}.isdisjoint(of_session)  # deleted with the session
