"""What the head makes of what pilots say: of the life that it knows, and of earlier ones."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.builders import done, spec, template

from pilot.head.core import events as ev
from pilot.head.pilots import Pilots
from pilot.head.shell import Shell
from pilot.head.store.store import Store
from pilot.model.tasks import Environment, Function, SessionInfo
from pilot.scheduler.batch import BatchUnavailable, JobStatus, Phase, open_batch
from pilot.scheduler.resources import NodeShape
from pilot.site import create_site
from pilot.version import __version__
from pilot.wire.messages import PROTOCOL
from pilot.wire.messages import pilot as m
from pilot.wire.messages.common import WHO_ARE_YOU, Welcome

NOW = 1000.0
CODE = Function(b"f1", b"code")
NODES = [m.NodeInfo("n1", NodeShape(4))]


class Head:
    """The head's side of pilots, and what it has sent."""

    def __init__(self, directory: Path) -> None:
        site = create_site(directory, "local")
        site.prepare()
        self.sent: list[tuple[bytes, Any]] = []
        self.store = Store(site.database)
        self.shell = Shell(
            self.store, lambda to, what: self.sent.append((to, what)), (), _nothing, lambda _: 0
        )
        batch = open_batch(site.config, site.jobs)
        self.start = partial(Pilots, site, self.shell, batch, 1, _nothing, NOW)
        self.pilots = self.start()

    def hear(self, address: bytes, message: Any) -> None:
        self.pilots.handlers[type(message)](address, message, NOW)

    def hello(self, address: bytes, life: int, *sessions: int) -> str:
        """A life of the pilot, which knows these sessions, introduces itself; returns why it is
        refused."""
        hello = m.PilotHello(
            PROTOCOL, __version__, "p", "7", life, "main", NODES, 0.0, sessions=list(sessions)
        )
        told = len(self.sent)
        self.hear(address, hello)
        to, welcome = self.sent[told]
        assert to == address
        return str(welcome.refused)

    @property
    def address(self) -> bytes:
        """Where the pilot's work is sent."""
        return self.shell.peers.pilots["p"].address


def _nothing() -> None:
    pass


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    head = Head(tmp_path / "site")
    yield head
    head.pilots.fleet.close()
    head.store.close()


def test_later_life_takes_the_place_of_the_earlier_one(head: Head) -> None:
    assert not head.hello(b"first", 0)
    assert not head.hello(b"second", 1)
    assert head.address == b"second"


def test_earlier_life_that_comes_back_changes_nothing(head: Head) -> None:
    """Its node was cut off, and its job was requeued meanwhile."""
    head.hello(b"first", 0)
    head.hello(b"second", 1)
    head.hear(b"first", m.PilotStatus("p", [], [], 99.0, draining=True))
    to, welcome = head.sent[-1]
    assert (to, welcome.refused) == (b"first", WHO_ARE_YOU)
    assert "life 1 of its job has joined" in head.hello(b"first", 0)
    head.hear(b"first", m.PilotBye("p", "its job was requeued"))
    pilot, row = head.shell.core.pilots["p"], head.pilots.fleet.pilots["p"]
    assert (pilot.draining, pilot.nodes, head.address) == (False, 1, b"second")
    assert (row.draining, row.idle_s) == (False, 0.0)


def test_pilot_that_connects_anew_is_known_by_its_new_connection(head: Head) -> None:
    head.hello(b"p#1", 0)
    assert not head.hello(b"p#2", 0)
    assert head.address == b"p#2"
    head.hear(b"p#2", m.PilotBye("p", "idle"))
    assert "p" not in head.shell.core.pilots


def test_pilot_is_told_to_forget_what_it_was_sent_of_a_session_that_ends(head: Head) -> None:
    head.hello(b"p#1", 0)
    shell = head.shell
    for session in (1, 2):
        info = SessionInfo(session, "", Environment("/", (), {}))
        shell.assignments.open(info, {b"f1": Function(b"f1", b"code")})
        shell.apply(ev.SessionOpened(session), NOW)
    shell.learn(1, (), [template()])
    shell.apply(ev.TasksSubmitted(1, [template()], [spec(1)], {}), NOW)
    head.pilots.assign(NOW)
    assign = head.sent[-1][1]
    assert [item.task for item in assign.work] == [1] and [t.id for t in assign.templates] == [1]
    head.sent.clear()
    for session in (1, 2):
        shell.apply(ev.SessionOpened(session, closed=True), NOW)
    assert not head.sent, "task 1 has not ended, and of session 2 the pilot knows nothing"
    head.hear(b"p#1", m.Completions("p", 1, [done(1)]))
    assert head.sent == [(b"p#1", m.ForgetSession(1))]
    assert not shell.peers.pilots["p"].sent


def test_pilot_is_told_to_forget_what_it_has_from_an_earlier_head(head: Head) -> None:
    shell = head.shell
    shell.assignments.open(SessionInfo(1, "", Environment("/", (), {})), {})
    shell.apply(ev.SessionOpened(1, restored=True), NOW)
    head.hello(b"p#1", 0, 1)
    head.sent.clear()
    shell.apply(ev.SessionOpened(1, closed=True), NOW)
    assert head.sent == [(b"p#1", m.ForgetSession(1))]


def test_pilot_is_told_what_has_ended_while_it_had_no_head(head: Head) -> None:
    info = SessionInfo(2, "", Environment("/", (), {}))
    head.shell.assignments.open(info, {})
    head.hello(b"p#1", 0, 1, 2)
    assert head.sent[-1] == (b"p#1", m.ForgetSession(1))
    assert sum(isinstance(told, m.ForgetSession) for _, told in head.sent) == 1


def test_what_tasks_wait_for_is_what_their_pilot_has_told_last(head: Head) -> None:
    head.hello(b"p#1", 0)
    fetch = m.InputFetch(1, 1, 1 << 26, "n1", "n2")
    head.hear(b"p#1", m.PilotStatus("p", [], NODES, 0.0, fetches=[fetch]))
    assert head.shell.peers.pilots["p"].fetches == [fetch]
    head.hear(b"p#1", m.PilotStatus("p", [], NODES, 0.0))
    assert not head.shell.peers.pilots["p"].fetches


def test_pilot_that_asks_for_a_sign_of_life_gets_one(head: Head) -> None:
    head.hello(b"p#1", 0)
    head.sent.clear()
    head.hear(b"p#1", m.PilotStatus("p", [], NODES, 0.0))
    assert not head.sent, "one of an earlier release would not know it"
    head.hear(b"p#1", m.PilotStatus("p", [], NODES, 0.0, answer=True))
    assert head.sent == [(b"p#1", m.HeadStatus())]


def test_walltime_that_is_left_holds_whatever_the_clocks_say(head: Head) -> None:
    hello = m.PilotHello(PROTOCOL, __version__, "p", "7", 0, "main", NODES, 99_999.0, left_s=600.0)
    head.hear(b"p#1", hello)
    assert head.shell.core.pilots["p"].ends_at == NOW + 600.0


def test_head_that_stood_still_waits_for_pilots_anew(head: Head) -> None:
    head.hello(b"p#1", 0)
    head.pilots.tick(NOW, decide=True)
    row = head.pilots.fleet.pilots["p"]
    assert row.heard == NOW
    head.pilots.tick(NOW + 600.0, decide=True)
    assert row.heard == NOW + 600.0
    head.pilots.tick(NOW + 600.25, decide=True)
    assert row.heard == NOW + 600.0


def test_pilot_that_ends_a_task_has_worked(head: Head) -> None:
    head.hello(b"p#1", 0)
    head.hear(b"p#1", m.Completions("p", 1, [done(1, "interrupted")]))
    assert not head.pilots.fleet.pilots["p"].worked
    head.hear(b"p#1", m.Completions("p", 2, [done(1, "error")]))
    assert head.pilots.fleet.pilots["p"].worked


def test_pilot_of_the_head_before_is_waited_for_until_what_it_holds_is_taken_in(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    head.hello(b"p#1", 0)
    head.pilots.fleet.close()
    head.pilots = head.start()
    with monkeypatch.context() as full:
        full.setattr(head.pilots.fleet, "joined", fail)
        with pytest.raises(sqlite3.OperationalError):
            head.hello(b"p#2", 0)
    awaited = head.pilots.awaited()
    assert awaited is not None and awaited["pilots"] == ["p"], "others would get what it holds"
    head.hello(b"p#2", 0)
    assert head.pilots.awaited() is None


def test_pilot_whose_greeting_failed_is_asked_for_it_again(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may not have the tasks that were on their way to it."""

    def fail(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    status = m.PilotStatus("p", [], NODES, 0.0, False)
    head.hello(b"p#1", 0)
    _submit(head, 1)
    head.pilots.assign(NOW)
    with monkeypatch.context() as full:
        full.setattr(head.pilots.fleet, "joined", fail)
        with pytest.raises(sqlite3.OperationalError):
            head.hello(b"p#1", 0)
    head.hear(b"p#1", status)
    assert head.sent[-1][1].refused == WHO_ARE_YOU
    head.hello(b"p#1", 0)
    assert not head.shell.core.pilots["p"].held
    head.sent.clear()
    head.hear(b"p#1", status)
    assert not head.sent


def _submit(head: Head, *tasks: int) -> None:
    shell = head.shell
    shell.assignments.open(SessionInfo(1, "", Environment("/", (), {})), {b"f1": CODE})
    shell.apply(ev.SessionOpened(1), NOW)
    shell.learn(1, (), [template()])
    shell.apply(ev.TasksSubmitted(1, [template()], [spec(task) for task in tasks], {}), NOW)


def test_a_task_that_cannot_be_handed_out_fails_and_the_others_run(head: Head) -> None:
    """Its arguments are neither in memory nor in the database."""
    head.hello(b"p#1", 0)
    _submit(head, 1, 2, 3)
    head.shell.assignments.drop(2)
    head.sent.clear()
    head.pilots.assign(NOW)
    welcomes = [what for _, what in head.sent if isinstance(what, Welcome)]
    assert [welcome.refused for welcome in welcomes] == [WHO_ARE_YOU]
    assert set(head.shell.core.tasks) == {1, 3}
    (bad,) = head.shell.outcomes.told([2])
    assert bad.failure is not None and "arguments of task 0.2" in bad.failure.message
    head.hello(b"p#1", 0)
    head.pilots.assign(NOW)
    works = [item.task for _, what in head.sent if isinstance(what, m.Assign) for item in what.work]
    assert sorted(works) == [1, 3]


def test_a_database_that_cannot_be_read_for_a_moment_fails_no_task(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    head.hello(b"p#1", 0)
    _submit(head, 1)
    with monkeypatch.context() as patch:
        patch.setattr(head.shell.assignments, "pack", fail)
        with pytest.raises(sqlite3.OperationalError):
            head.pilots.assign(NOW)
    head.hello(b"p#1", 0)
    head.pilots.assign(NOW)
    assert isinstance(head.sent[-1][1], m.Assign) and set(head.shell.core.tasks) == {1}


def test_pilots_say_what_they_hold_when_handing_out_has_failed(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("as told")

    head.hello(b"p#1", 0)
    _submit(head, 1)
    with monkeypatch.context() as patch:
        patch.setattr(head.shell.core, "assign", fail)
        with pytest.raises(RuntimeError):
            head.pilots.assign(NOW)
    assert head.sent[-1][1].refused == WHO_ARE_YOU


def test_an_end_waits_for_submissions_under_way(head: Head) -> None:
    """A pilot whose job is being submitted while all are told to end is cancelled, too."""
    may, batch = threading.Event(), Batch()
    batch.submitting = may.wait
    fleet = head.pilots.fleet
    fleet._batch = fleet._submitting._batch = batch  # type: ignore[assignment]  # a stand-in
    _submit(head, 1)
    head.pilots.tick(NOW, decide=True)
    (name,) = fleet.pilots
    threading.Timer(0.2, may.set).start()
    head.pilots.end_all("told to", NOW)
    assert batch.taken in ([], [name]) and batch.cancelled == ["7"] * len(batch.taken)
    assert not fleet.pilots


@pytest.mark.parametrize("answered", [True, False])
def test_a_submission_without_an_answer_is_cancelled_by_name(head: Head, answered: bool) -> None:
    began, may, batch = threading.Event(), threading.Event(), Batch()

    def submitting() -> None:
        began.set()
        assert may.wait(20)

    batch.submitting, batch.answers = submitting, answered
    fleet = head.pilots.fleet
    fleet._batch = fleet._submitting._batch = batch  # type: ignore[assignment]  # a stand-in
    _submit(head, 1)
    head.pilots.tick(NOW, decide=True)
    (name,) = fleet.pilots
    assert began.wait(20)
    threading.Timer(0.1, may.set).start()
    head.pilots.end_all("told to", NOW)
    assert (batch.taken, batch.cancelled) == ([name], ["7"])


def _queued(name: str) -> JobStatus:
    return JobStatus(job_id="7", name=name, phase=Phase.QUEUED, state="PENDING")


class Batch:
    """A batch system that takes its time for one job, 7."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.cancelled: list[str] = []
        self.answers = True

    def submitting(self) -> object:
        pass

    def submit(self, request: Any) -> str:
        self.submitting()
        self.taken.append(request.name)
        if not self.answers:
            raise BatchUnavailable("it did not answer in time")
        return "7"

    def jobs(self, _prefix: str, _ids: Any = ()) -> dict[str, JobStatus]:
        return {job.job_id: job for job in map(_queued, self.taken)}

    def cancel(self, jobs: Any) -> None:
        self.cancelled += jobs

    def close(self) -> None:
        pass


def test_no_work_is_handed_out_while_there_is_no_room_for_its_results(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    head.hello(b"p#1", 0)
    _submit(head, 1)
    head.sent.clear()
    head.shell.commits._unwritten = 1 << 40
    head.pilots.assign(NOW)
    assert not head.sent
    head.shell.commits._unwritten = 0
    head.pilots.assign(NOW)
    assert isinstance(head.sent[-1][1], m.Assign)


def test_what_is_known_of_pilots_does_not_grow_with_those_that_ended(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pilot.head.pilots.LIVES_KNOWN", 10)
    for number in range(100):
        hello = m.PilotHello(PROTOCOL, __version__, f"p{number}", "7", 0, "main", NODES, 0.0)
        head.hear(b"%d" % number, hello)
        if number:
            head.hear(b"%d" % number, m.PilotBye(f"p{number}", "idle"))
            head.pilots.fleet.ended(f"p{number}", "idle", NOW)
    known = list(head.pilots._lives)
    assert known[0] == "p0" and known[-1] == "p99" and len(known) < 20
    assert not head.shell.core.pilots.keys() - {"p0"}
