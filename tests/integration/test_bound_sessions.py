"""Sessions that end with their clients, by real clients and heads that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import tasks
from support.sites import TESTS, SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot.client.events import read_events
from pilot.client.starter import ensure_head
from pilot.formatting import duration

DEADLINE_S = 60.0
GRACE_S = 1

_PROGRAM = """
import sys, pilot
from support import tasks
session = pilot.Session(sys.argv[1], sys_path=sys.path[:1], ends_with_client=float(sys.argv[2]))
future = session.submit(tasks.wait_for_file, sys.argv[3], sys.argv[4], 3600.0)
waits = session.submit(tasks.echo, future)
session.flush()
print(session.id, flush=True)
"""


#: Has a client take this machine for another one: so it connects over the network.
_ELSEWHERE = """
from pilot.wire import endpoints
endpoints.boot_id = lambda: "another machine"
"""


def start(
    site: SiteUnderTest, directory: Path, then: str, grace_s: float = GRACE_S, before: str = ""
) -> tuple[subprocess.Popen[str], int]:
    """Start a program whose task runs; return it, and the number of its session."""
    began, wanted = directory / "began", directory / "wanted"
    client = subprocess.Popen(
        [
            *(sys.executable, "-c", before + _PROGRAM + then, str(site.directory), str(grace_s)),
            *(str(began), str(wanted)),
        ],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout is not None
    session = int(client.stdout.readline())
    wait_until(began.exists, DEADLINE_S, "the task to begin")
    return client, session


@contextmanager
def program(
    site: SiteUnderTest,
    directory: Path,
    then: str = "sys.stdin.read()\n",
    grace_s: float = GRACE_S,
    before: str = "",
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    client, session = start(site, directory, then, grace_s, before)
    try:
        yield client, session
    finally:
        (directory / "wanted").touch()
        client.kill()
        client.communicate()


def has_ended(site: SiteUnderTest, session: int) -> Callable[[], bool]:
    return lambda: bool(site.query("session", session=session)["state"] == "CLOSED")


def assert_ended_with_client(site: SiteUnderTest, session: int, grace_s: float = GRACE_S) -> None:
    """Everything is told, and nothing of it runs any more."""
    wait_until(has_ended(site, session), DEADLINE_S, "the session to end")
    row = site.query("session", session=session)
    assert row["reason"] == f"its client has been gone for {duration(grace_s)}"
    assert row["states"] == {"CANCELLED": 2}
    wait_until(lambda: not site.processes("pilot executor"), DEADLINE_S, "its executor to end")
    told = read_events(site.query, session=session)
    assert [(event.state, event.detail) for event in told if event.kind == "session"] == [
        ("OPEN", ""),
        ("CLOSING", row["reason"]),
        ("CLOSED", ""),
    ]
    for task in site.query("tasks", session=session):
        assert (task["state"], task["error"]) == ("CANCELLED", "ClientGone")
    assert row["reason"] in site.query("why", subject=str(session))["answer"]
    assert row["reason"] in site.query("why", subject=f"{session}.1")["answer"]


def test_a_client_that_is_killed_takes_its_tasks_along(
    local_site: SiteUnderTest, tmp_path: Path
) -> None:
    with program(local_site, tmp_path) as (client, session):
        client.kill()
        assert_ended_with_client(local_site, session)


def test_a_program_that_ends_without_closing_its_session(
    local_site: SiteUnderTest, tmp_path: Path
) -> None:
    # At its end it is gone: not before the task runs, which may take longer than its grace.
    then = "import os, time\nwhile not os.path.exists(sys.argv[3]):\n    time.sleep(0.01)\n"
    with program(local_site, tmp_path, then) as (client, session):
        assert client.wait(DEADLINE_S) == 0
        assert_ended_with_client(local_site, session)


def test_a_client_that_lives_has_its_results(local_site: SiteUnderTest) -> None:
    with local_site.session(ends_with_client=GRACE_S) as session:
        assert session.submit(tasks.pause, 3.0 * GRACE_S).result(DEADLINE_S) == 3.0


def test_a_new_head_does_not_end_what_its_client_waits_for(local_site: SiteUnderTest) -> None:
    with local_site.session(ends_with_client=GRACE_S) as session:
        future = session.submit(tasks.pause, 5.0)
        session.flush()
        os.kill(local_site.head_pid, signal.SIGKILL)
        assert future.result(DEADLINE_S) == 5.0
        assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9


def test_a_client_that_is_killed_with_the_head(local_site: SiteUnderTest, tmp_path: Path) -> None:
    with program(local_site, tmp_path) as (client, session):
        first = local_site.head_pid
        client.kill()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: local_site.head_pid != first, DEADLINE_S, "the head to be dead")
        ensure_head(local_site.site)
        assert_ended_with_client(local_site, session)


def test_a_client_elsewhere_that_stands_still(
    make_site: Callable[..., SiteUnderTest], tmp_path: Path
) -> None:
    """As with a laptop that is closed: the connection is there, and nothing is heard."""
    site, grace_s = make_site(head={"address": "lo"}), 3.0
    then = (
        "print(session._connection._client.endpoint, flush=True)\n"
        "from concurrent.futures import wait\n"
        "wait([future, waits]); print(future.cancelled(), waits.cancelled(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with program(site, tmp_path, then, grace_s, _ELSEWHERE) as (client, session):
        assert client.stdout is not None
        assert client.stdout.readline().startswith("tcp://")
        client.send_signal(signal.SIGSTOP)
        try:
            assert_ended_with_client(site, session, grace_s)
        finally:
            client.send_signal(signal.SIGCONT)
        # It is told, once it is there again.
        assert client.stdout.readline() == "True True\n"


def test_a_client_elsewhere_that_lives_has_its_results(
    make_site: Callable[..., SiteUnderTest], tmp_path: Path
) -> None:
    site = make_site(head={"address": "lo"})
    then = "print(session.submit(tasks.pause, 12.0).result(), flush=True)\nsys.stdin.read()\n"
    with program(site, tmp_path, then, 4.0, _ELSEWHERE) as (client, session):
        assert client.stdout is not None
        assert client.stdout.readline() == "12.0\n"
        assert site.query("session", session=session)["state"] == "OPEN"


def test_who_has_attached_keeps_it(local_site: SiteUnderTest, tmp_path: Path) -> None:
    with program(local_site, tmp_path) as (client, session):
        with local_site.session(session_id=session) as mine:
            client.kill()
            client.wait()
            assert mine.submit(tasks.pause, 3.0 * GRACE_S).result(DEADLINE_S) == 3.0
            (tmp_path / "wanted").touch()
            assert mine.future(f"{session}.1").result(DEADLINE_S) == str(tmp_path / "began")


@pytest.mark.parametrize("then", ["session.detach()\n", "session.detach(); sys.stdin.read()\n"])
def test_detach_lets_it_live(local_site: SiteUnderTest, tmp_path: Path, then: str) -> None:
    with program(local_site, tmp_path, then) as (client, session):
        other = local_site.session(ends_with_client=GRACE_S)
        assert client.stdin is not None
        if "stdin" not in then:
            client.wait(DEADLINE_S)
        wait_until(
            lambda: not local_site.query("session", session=session)["grace_s"],
            DEADLINE_S,
            "the session to be let go",
        )
        client.kill()
        # Longer than its grace would have been.
        assert other.submit(tasks.pause, 3.0 * GRACE_S).result(DEADLINE_S) == 3.0
        other.shutdown()
        (tmp_path / "wanted").touch()
        with local_site.session(session_id=session) as mine:
            assert mine.future(f"{session}.1").result(DEADLINE_S) == str(tmp_path / "began")


def test_what_was_ended_so_may_be_run_again(local_site: SiteUnderTest, tmp_path: Path) -> None:
    with program(local_site, tmp_path) as (client, session):
        client.kill()
        wait_until(has_ended(local_site, session), DEADLINE_S, "the session to end")
        (tmp_path / "wanted").touch()
        command: Any = [sys.executable, "-m", "pilot", "retry", str(session)]
        done = subprocess.run(
            command,
            env={**os.environ, "PILOT_SITE": str(local_site.directory)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        wait_until(
            lambda: local_site.query("session", session=session)["states"].get("COMPLETED") == 2,
            DEADLINE_S,
            "both to run again",
        )
        assert local_site.query("session", session=session)["grace_s"] == 0.0
        assert local_site.query("session", session=session)["reason"] is None


def test_a_workflow_that_ends_with_its_terminal(local_site: SiteUnderTest, tmp_path: Path) -> None:
    began = tmp_path / "began"
    workflow = tmp_path / "endless.yaml"
    workflow.write_text(
        f"ends_with_client: 1s\ntasks: {{a: {{run: 'touch {began}; sleep 3600'}}}}\n"
    )
    words = [sys.executable, "-m", "pilot", "run", str(workflow)]
    environment = {**os.environ, "PILOT_SITE": str(local_site.directory)}
    run = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
    try:
        wait_until(began.exists, DEADLINE_S, "the task to begin")
    finally:
        run.kill()
        run.wait()
    (row,) = local_site.query("sessions")
    wait_until(has_ended(local_site, row["id"]), DEADLINE_S, "the session to end")
    detached = subprocess.run(
        [*words, "--ends-with-client", "1s", "--detach"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert detached.returncode == 2 and "--ends-with-client" in detached.stderr
    shown = pilot.sessions(local_site.site)[0]
    assert shown["reason"] == "its client has been gone for 1.0 s"
