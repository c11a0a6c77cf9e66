"""A head that cannot be asked any more: its machine is gone, it is stopped, its site was moved."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from subprocess import PIPE
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support import tasks
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot
from pilot.cli import cli
from pilot.client import head_finder
from pilot.client.session import Session
from pilot.head.lease_files import has_run_out, read_lease
from pilot.site import open_site
from pilot.wire.discovery import process_started, read_address

DEADLINE_S = 60.0
#: Short, since each of these waits for it.
EXPIRE_S = 4.0


@pytest.fixture
def site(make_site: Callable[..., SiteUnderTest]) -> SiteUnderTest:
    return make_site(lease={"renew": "300ms", "expire": f"{EXPIRE_S:g}s"})


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, words, prog_name="pilot")


def work(site: SiteUnderTest) -> None:
    with site.session() as session:
        assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9


def lose_machine(site: SiteUnderTest) -> None:
    """Kill the head, and let it look as on a machine that is gone."""
    os.kill(site.head_pid, signal.SIGKILL)
    wait_until(lambda: not site.head_pid, DEADLINE_S, "the head to be gone")
    elsewhere = {"host": "gone", "pid": 1}
    address = json.loads(site.site.address_file.read_text())
    endpoints = {"boot": "gone/boot", "local": "unix:///nowhere", "remote": "tcp://127.0.0.1:9"}
    site.site.address_file.write_text(json.dumps({**address, **elsewhere, "endpoints": endpoints}))
    for path in site.directory.glob("head.lease.[0-9]*"):
        lease = json.loads(path.read_text())
        path.write_text(json.dumps({**lease, **elsewhere, "boot": "gone/boot"}))


def await_expiry(site: SiteUnderTest) -> None:
    wait_until(lambda: has_run_out(site.site.lease_file, EXPIRE_S), DEADLINE_S, "the lease")


def test_site_whose_machine_is_gone_can_be_read_at_once(site: SiteUnderTest) -> None:
    work(site)
    lose_machine(site)
    await_expiry(site)
    for words in (("status",), ("session", "list"), ("events",), ("task", "list")):
        result = run(*words)
        assert result.exit_code == 0, result.stderr
    assert "the head does not run" in run("status").stdout
    assert run("head", "status").exit_code == 3
    stopped = run("head", "stop")
    assert stopped.exit_code == 0 and "counts as dead" in stopped.stderr
    work(site)  # whose head ends the pilots in the end


@pytest.mark.parametrize("waits", [True, False], ids=["at once", "later"])
def test_site_whose_machine_is_gone_gets_a_new_head(site: SiteUnderTest, waits: bool) -> None:
    work(site)
    before = read_address(site.site.address_file)
    lose_machine(site)
    if waits:
        await_expiry(site)
    work(site)
    after = read_address(site.site.address_file)
    assert before is not None and after is not None
    assert after.epoch > before.epoch and after.database == before.database
    assert "its database is copied" in (site.site.logs / "head.log").read_text()


def test_start_does_not_call_a_dead_head_a_running_one(site: SiteUnderTest) -> None:
    work(site)
    lose_machine(site)
    started = run("head", "start")
    assert started.exit_code == 0 and "runs: pid" in started.stdout
    assert site.head_pid


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_head_that_was_idle_is_followed_while_a_client_waits(
    site: SiteUnderTest, by: signal.Signals
) -> None:
    with site.session() as session:
        assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4
        lost = site.head_pid
        os.kill(lost, by)
        assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9
        assert site.head_pid not in (0, lost)


def test_stop_ends_a_stopped_head(site: SiteUnderTest) -> None:
    work(site)
    stopped = site.head_pid
    os.kill(stopped, signal.SIGSTOP)
    result = run("head", "stop")
    assert result.exit_code == 0 and f"pid {stopped}" in result.stderr
    assert "killed" in result.stderr
    assert stopped not in [process.pid for process in site.processes()]
    work(site)  # and ends the pilots with the fixture


def test_copy_of_a_site_has_a_head_of_its_own(site: SiteUnderTest) -> None:
    """The copy was made while the head runs, which goes on with the original."""
    with site.session() as session:
        assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4
        first = site.head_pid
        copy = site.home / "copy"
        shutil.copytree(site.directory, copy, ignore=lambda *_: ["head.start"])
        try:
            with Session(copy) as other:
                assert other.submit(pow, 2, 5).result(DEADLINE_S) == 32
                one, two = read_address(site.site.address_file), read_address(copy / "head.json")
                assert one is not None and two is not None
                assert one.pid == first != two.pid
                assert one.database != two.database
            assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9
            assert site.head_pid == first
        finally:
            run("head", "stop", "--site", str(copy))


def test_moved_site_goes_on(site: SiteUnderTest) -> None:
    work(site)
    before = read_address(site.site.address_file)
    moved = site.home / "moved"
    site.directory.rename(moved)
    session = Session(open_site(moved))
    try:
        assert session.submit(pow, 2, 5).result(DEADLINE_S) == 32
        after = read_address(moved / "head.json")
        assert before is not None and after is not None
        assert before.database == after.database
    finally:
        session.detach()
        run("head", "stop", "--site", str(moved))


def test_site_that_was_away_goes_on_where_it_was(
    site: SiteUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    """As when its file system is not mounted for a while; longer than its head can do without."""
    away = site.home / "away"
    with site.session() as session:
        assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4
        head = site.head_pid
        site.directory.rename(away)
        future = session.submit(tasks.square, 3)
        wait_until(lambda: "is gone" in caplog.text, DEADLINE_S, "the client to say so")
        wait_until(lambda: process_started(head) == -1, DEADLINE_S, "the head to end")
        away.rename(site.directory)  # nobody has made it anew meanwhile
        assert future.result(DEADLINE_S) == 9
    assert caplog.text.count("Put it back, and nothing is lost; waiting for that") == 1


def test_client_whose_site_does_not_come_back_ends_in_words(
    site: SiteUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_finder, "GONE_S", 0.5)
    away = site.home / "away"
    session = site.session()
    assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4
    head = site.head_pid
    site.directory.rename(away)
    os.kill(head, signal.SIGKILL)
    try:
        with pytest.raises(pilot.SiteError, match="is gone: was it moved or removed"):
            session.submit(tasks.square, 3).result(DEADLINE_S)
    finally:
        away.rename(site.directory)
    work(site)


HOLDER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
print("ready", flush=True)
database.execute(sys.argv[2])
database.execute("SELECT count(*) FROM sessions").fetchone()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("begin", ["BEGIN EXCLUSIVE", "BEGIN"], ids=["writer", "reader"])
def test_clients_wait_while_another_program_holds_the_database(
    site: SiteUnderTest, caplog: pytest.LogCaptureFixture, begin: str
) -> None:
    """As a tool for backups does, and a script with a transaction that it has forgotten."""
    with site.session() as session:
        assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4
        command = [sys.executable, "-c", HOLDER, str(site.site.database), begin]
        with subprocess.Popen(command, stdin=PIPE, stdout=PIPE) as holder:
            assert holder.stdout is not None and holder.stdout.readline() == b"ready\n"
            os.kill(site.head_pid, signal.SIGKILL)
            assert holder.stdout.readline() == b"held\n"
            future = session.submit(tasks.square, 3)
            wait_until(lambda: "waiting for that" in caplog.text, DEADLINE_S, "the client's words")
            assert f"pid {holder.pid} (python" in caplog.text and not future.done()
            holder.communicate()
        assert future.result(DEADLINE_S) == 9


def test_site_begins_anew_when_its_database_has_vanished(site: SiteUnderTest) -> None:
    """Its pilots meet another database, and end."""
    work(site)
    agent, epoch = site.pid_of("agent"), site.query("head")["epoch"]
    assert "a head of this site runs" in run("site", "reset", "--yes").stderr
    os.kill(site.head_pid, signal.SIGKILL)
    wait_until(lambda: not site.head_pid, DEADLINE_S, "the head to be gone")
    for path in site.directory.glob("tasks.db*"):
        path.unlink()
    for words in (("head", "start"), ("status",), ("task", "list")):
        refused = run(*words)
        assert refused.exit_code == 5 and "pilot site reset" in refused.stderr
    reset = run("site", "reset", "--yes")
    assert reset.exit_code == 0 and "before-" in reset.stdout
    work(site)
    wait_until(
        lambda: agent not in [process.pid for process in site.processes()],
        DEADLINE_S,
        "the previous pilot to end",
    )
    assert site.query("head")["epoch"] > epoch
    assert run("session", "list", "--json").stdout.count('"id"') == 1


def test_database_that_is_removed_under_its_head_is_written_anew(site: SiteUnderTest) -> None:
    with site.session() as session:
        assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4
        head = site.head_pid
        for path in site.directory.glob("tasks.db*"):
            path.unlink()
        assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9
        wait_until(site.site.database.exists, DEADLINE_S, "the head to notice")
        os.kill(head, signal.SIGKILL)
        assert session.submit(tasks.square, 4).result(DEADLINE_S) == 16
        assert len(site.query("tasks", session=session.id)) == 3
        for path in site.directory.glob("tasks.db*"):
            path.unlink()
        session.detach()
    run("head", "stop")  # at once
    work(site)
    assert len(site.query("sessions")) == 2


def test_log_that_is_removed_under_its_head_takes_nothing_along(site: SiteUnderTest) -> None:
    log = site.site.database.with_name("tasks.db-wal")
    with site.session() as session:
        assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4
        log.unlink()
        wait_until(
            lambda: session.submit(tasks.square, 3).result(DEADLINE_S) == 9 and log.exists(),
            DEADLINE_S,
            "the head to notice",
        )
        os.kill(site.head_pid, signal.SIGKILL)
        assert session.submit(tasks.square, 4).result(DEADLINE_S) == 16


def stopped(site: SiteUnderTest) -> int:
    """Stop the head; return the last event that the lease knows of."""
    run("head", "stop")
    lease = read_lease(site.site.lease_file)
    assert lease is not None and not lease.unclosed
    with contextlib.closing(sqlite3.connect(site.site.database)) as database:
        ((last,),) = database.execute("SELECT max(first + count - 1) FROM events")
    assert lease.events == last, "a copy without the last event is an older one"
    return lease.events


def await_progress(site: SiteUnderTest, before: int) -> None:
    def noted() -> bool:
        lease = read_lease(site.site.lease_file)
        return lease is not None and lease.unclosed and lease.events > before

    wait_until(noted, DEADLINE_S, "the lease to know of more events")


@pytest.mark.parametrize("heads", [1, 2], ids=["first head", "later"])
def test_killed_head_whose_log_is_missing_is_not_followed_without_it(
    site: SiteUnderTest, heads: int
) -> None:
    log = site.site.database.with_name("tasks.db-wal")
    work(site)
    if heads > 1:
        before = stopped(site)  # then there is more in the database than its log
        work(site)
        await_progress(site, before)
    os.kill(site.head_pid, signal.SIGKILL)
    wait_until(lambda: not site.head_pid, DEADLINE_S, "the head to be gone")
    log.rename(site.home / "log")
    refused = run("head", "start")
    assert refused.exit_code == 5 and f"{log} is missing" in refused.stderr
    assert f"touch {log}" in refused.stderr
    assert run("status").exit_code == 5
    (site.home / "log").rename(log)
    work(site)
    assert len(site.query("sessions")) == heads + 1


def test_older_copy_of_the_database_is_another_one(site: SiteUnderTest) -> None:
    """Numbers that were given since are given again: nobody may take them for the first ones."""
    work(site)
    before = stopped(site)
    copy = shutil.copy(site.site.database, site.home / "copy.db")
    session = site.session()
    future = session.submit(tasks.square, 3)
    assert future.result(DEADLINE_S) == 9
    session.detach()
    agent = site.pid_of("agent")
    await_progress(site, before)
    os.kill(site.head_pid, signal.SIGKILL)
    wait_until(lambda: not site.head_pid, DEADLINE_S, "the head to be gone")
    for path in site.directory.glob("tasks.db*"):
        path.unlink()
    shutil.copy(copy, site.site.database)
    assert "-wal is missing" in run("head", "start").stderr
    site.site.database.with_name("tasks.db-wal").touch()
    with site.session() as other:
        with pytest.raises(pilot.PilotError, match="of an earlier database of site"):
            other.submit(tasks.echo, future).result(DEADLINE_S)
        assert other.submit(tasks.square, 2).result(DEADLINE_S) == 4
    wait_until(lambda: process_started(agent) == -1, DEADLINE_S, "the previous pilot to end")


@pytest.mark.parametrize("made_by", ["site backup", "cp"])
def test_database_that_is_replaced_under_its_head_is_kept_aside(
    site: SiteUnderTest, made_by: str
) -> None:
    copy = site.home / "copy.db"
    if made_by == "cp":
        work(site)
        run("head", "stop")
        shutil.copy(site.site.database, copy)
    work(site)
    if made_by == "site backup":
        assert run("site", "backup", str(copy)).exit_code == 0
    session = site.session()
    assert session.submit(tasks.square, 2).result(DEADLINE_S) == 4
    head, agent = site.head_pid, site.pid_of("agent")
    copy.replace(site.site.database)
    wait_until(lambda: process_started(head) == -1, DEADLINE_S, "the head to end")
    with pytest.raises(pilot.HeadError, match="has another database now"):
        session.submit(tasks.square, 3).result(DEADLINE_S)
    work(site)
    assert len(site.query("sessions")) == 2
    wait_until(lambda: process_started(agent) == -1, DEADLINE_S, "the previous pilot to end")
    (aside,) = site.directory.glob("tasks.db.until-*")
    assert f"until now is in {aside}" in (site.site.logs / "head.log").read_text()
    run("head", "stop")
    aside.replace(site.site.database)
    work(site)
    assert len(site.query("sessions")) == (3 if made_by == "site backup" else 4)


def change(site: SiteUnderTest, statement: str) -> list[tuple[Any, ...]]:
    """Change the database behind the back of everybody."""
    database = sqlite3.connect(site.site.database)
    try:
        with database:
            return database.execute(statement).fetchall()
    finally:
        database.close()


@pytest.mark.parametrize(
    "damage",
    [
        "sessions SET environment = x'c1'",
        "sessions SET weight = x'00ff'",
        "sessions SET state = x'8f01'",
        "templates SET detail = x'c1ff00'",
        "tasks SET inputs = x'ff'",
        "tasks SET attempts = x'0102'",
        "tasks SET created = x'0102'",
        "functions SET digest = x'01'",
    ],
)
def test_damaged_session_stops_no_other_and_can_be_left_out(
    site: SiteUnderTest, damage: str
) -> None:
    with site.session() as session:
        session.pause()
        session.submit(tasks.square, 3)
        session.flush()
        session.detach()
    work(site)
    run("head", "stop")
    number = change(site, "SELECT min(id) FROM sessions")[0][0]
    where = "id" if damage.startswith("sessions") else "session"
    change(site, f"UPDATE {damage} WHERE {where} = {number}")
    change(site, "UPDATE events SET changes = x'c1' WHERE first = 1")
    assert run("head", "start").exit_code == 0
    work(site)
    told = run("status")
    assert f"session {number} in the database is damaged" in told.stderr
    assert f"pilot site leave-out {number}" in told.stderr
    asked = run("session", "pause", str(number))
    assert asked.exit_code == 1 and "is damaged" in asked.stderr
    events = run("events")
    assert events.exit_code == 0 and "cannot be read: their row" in events.stdout
    run("head", "stop")
    assert "no open session 77" in run("site", "leave-out", "77").stderr
    assert run("site", "leave-out", str(number)).exit_code == 0
    work(site)
    assert "is damaged" not in run("status").stderr


def test_backup_can_be_put_in_the_place_of_the_database(site: SiteUnderTest) -> None:
    copy = site.home / "copy.db"
    work(site)
    written = run("site", "backup", str(copy))
    assert written.exit_code == 0 and copy.exists()
    again = run("site", "backup", str(copy))
    assert again.exit_code == 1 and "exists already" in again.stderr
    work(site)
    run("head", "stop")
    for path in site.directory.glob("tasks.db*"):
        path.unlink()
    copy.rename(site.site.database)
    work(site)
    assert len(site.query("sessions")) == 2, "the second one came after the copy"
