"""A head without its process: what it says to whom when the database fails."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pilot.head.commits import RETRY_S
from pilot.head.machine import Machine
from pilot.head.service import TICK_S, Service
from pilot.head.store.store import Store
from pilot.model.ids import task_id
from pilot.model.tasks import Environment, Function, TaskSpec, Template
from pilot.model.values import Value
from pilot.scheduler.batch import BatchUnavailable, JobRequest, open_batch
from pilot.scheduler.resources import Resources
from pilot.site import create_site
from pilot.wire.messages import PROTOCOL
from pilot.wire.messages import client as m

NOW = 1000.0
FULL = sqlite3.OperationalError("database or disk is full")


class Peers:
    """The connections of a head: what arrives, and what was sent."""

    def __init__(self) -> None:
        self.arrived: list[tuple[bytes, Any]] = []
        self.sent: list[Any] = []

    def receive(self) -> list[tuple[bytes, Any]]:
        arrived, self.arrived = self.arrived, []
        return arrived

    def take_unreadable(self) -> list[Any]:
        return []

    trouble = ""

    def is_over_files(self, peer: bytes) -> bool:
        return False

    def take_gone(self) -> list[bytes]:
        return []

    def is_here(self, peer: bytes) -> bool:
        return True

    def send(self, peer: bytes, message: Any) -> None:
        self.sent.append(message)

    def unsent(self, peer: bytes) -> int:
        return 0


class Head:
    """A service whose turns the test makes."""

    def __init__(self, directory: Path) -> None:
        site = create_site(directory, "local")
        self.peers, self.store = Peers(), Store(site.database)
        batch = open_batch(site.config, site.jobs)
        batch.submit = _refuse  # no pilot is started here
        self.now = NOW
        machine = Machine(now=lambda: self.now)
        self.service = Service(
            site, self.store, self.peers, batch, 1, _nothing, _nothing, machine=machine
        )
        self.service.restore()

    def hear(self, message: Any) -> list[Any]:
        """Have a message arrive, and turns; returns what is said."""
        self.peers.arrived.append((b"client", message))
        return self.turns()

    def turns(self) -> list[Any]:
        """Have some turns; returns what is said."""
        self.peers.sent.clear()
        for _ in range(4):
            self.now += TICK_S
            if self.service.turn(self.now):
                self.service.tick(self.now)
            self.store.join()
        return self.peers.sent

    def open(self) -> int:
        (reply,) = self.hear(m.OpenSession(1, "s", Environment("/", (), {})))
        return int(reply.result[0])


def _nothing() -> None:
    pass


def _refuse(request: JobRequest) -> str:
    raise BatchUnavailable("as told")


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    head = Head(tmp_path / "site")
    yield head
    head.service.close()
    head.store.close()


def _fail(*_: object) -> None:
    raise FULL


def _bound(head: Head, state: str = "OPEN") -> int:
    """Open a session that ends 5 s after its client, with one task that nobody runs."""
    head.hear(m.ClientHello(PROTOCOL, "1"))
    (reply,) = head.hear(m.OpenSession(1, "s", Environment("/", (), {}), grace_s=5.0))
    session = int(reply.result[0])
    known = Template(1, session, "f", "python", b"f", Resources())
    spec = TaskSpec(reply.result[2], 1, b"")
    head.hear(m.Submit(2, session, [Function(b"f", b"code")], [known], [spec]))
    if state != "OPEN":
        head.hear(m.ControlSession(3, session, "stop" if state == "STOPPED" else "close"))
    assert _states(head, session) == (state, ["READY"])
    return session


def _states(head: Head, session: int) -> tuple[str, list[str]]:
    """The state of a session, and those of its tasks, in the database."""
    row = head.store.session(session)
    assert row is not None
    tasks = head.store.select("SELECT state FROM tasks WHERE session = :s", {"s": session})
    return row.state, [state for (state,) in tasks]


def _turns(head: Head, seconds: float) -> None:
    """Have a head make its turns for so long."""
    end = head.now + seconds
    while head.now < end:
        head.turns()


@pytest.mark.parametrize("state", ["OPEN", "STOPPED", "CLOSING"])
def test_a_session_ends_with_its_client_of_another_machine(
    head: Head, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setattr(head.peers, "is_here", lambda _: False)
    session = _bound(head, state)
    for _ in range(5):
        _turns(head, 3.0)
        head.hear(m.Watch([]))  # it lives
    _turns(head, 3.0)
    assert _states(head, session) == (state, ["READY"])
    _turns(head, 3.0)
    assert _states(head, session) == ("CLOSED", ["CANCELLED"])
    ((reason,),) = head.store.select("SELECT reason FROM sessions WHERE id = :s", {"s": session})
    assert reason == "its client has been gone for 5.0 s"


def test_a_client_of_this_machine_may_be_silent(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = _bound(head)
    _turns(head, 60.0)
    assert _states(head, session) == ("OPEN", ["READY"])
    monkeypatch.setattr(head.peers, "take_gone", lambda: [b"client"])
    _turns(head, 6.0)
    assert _states(head, session) == ("CLOSED", ["CANCELLED"])


def test_a_head_that_was_asleep_blames_nobody(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head.peers, "is_here", lambda _: False)
    session = _bound(head)
    head.now += 3600.0
    head.turns()
    assert _states(head, session) == ("OPEN", ["READY"])
    _turns(head, 6.0)
    assert _states(head, session) == ("CLOSED", ["CANCELLED"])


def test_a_session_that_is_let_go_lives_on(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head.peers, "is_here", lambda _: False)
    session = _bound(head)
    (reply,) = head.hear(m.ControlSession(7, session, "unbind"))
    assert not reply.error
    _turns(head, 60.0)
    assert _states(head, session) == ("OPEN", ["READY"])


def test_who_needs_numbers_for_tasks_waits_while_the_disk_is_full(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = head.open()
    with monkeypatch.context() as full:
        full.setattr(head.store._writer, "at_once", _fail)
        assert not head.hear(m.Reserve(7, session, 10))
    (reply,) = head.turns()
    assert (reply.request, reply.error, reply.result[1]) == (7, "", 10)
    assert not head.turns(), "once"


def test_what_the_full_disk_keeps_from_being_done_is_said_in_words(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head.store, "add_session", _fail)
    (reply,) = head.hear(m.OpenSession(1, "s", Environment("/", (), {})))
    assert reply.error == "the database cannot be used now: database or disk is full; try again"


def test_child_gets_the_number_of_a_task_though_the_database_failed_when_it_was_asked_for(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the second child it could not be read whether it is known, the first had a number."""
    session = head.open()
    known = Template(1, session, "f", "python", b"f", Resources())
    tasks = [TaskSpec(n, 1, b"", ordinal=n) for n in (1, 2)]
    message = m.Detach(7, session, 99, [Function(b"f", b"code")], [known], tasks)
    read = head.store.detached

    def fail_at_the_second(parent: int, ordinal: int) -> int | None:
        return _fail() if ordinal == 2 else read(parent, ordinal)

    with monkeypatch.context() as damaged:
        damaged.setattr(head.store, "detached", fail_at_the_second)
        head.hear(message)
    (reply,) = head.turns()
    assert not reply.error and set(head.store.states(reply.result)) == set(reply.result)


def _value(task: int) -> TaskSpec:
    """Return what has ended once it is accepted."""
    return TaskSpec(task, 1, b"", values=(Value(1, b"v"),))


def _introduced(session: int) -> tuple[list[Function], list[Template]]:
    return [Function(b"f", b"code")], [Template(1, session, "f", "python", b"f", Resources())]


def test_who_is_still_there_goes_on_in_a_session_that_others_have_opened_again(head: Head) -> None:
    head.hear(m.ClientHello(PROTOCOL, "1", True))
    session = head.open()
    first = task_id(session, 1)
    head.hear(m.Submit(1, session, *_introduced(session), [_value(first)]))
    for verb in ("close", "reopen"):
        head.hear(m.ControlSession(2, session, verb))
    said = head.hear(m.Submit(3, session, [], [], [_value(first + 1)]))
    assert m.Accepted(3, []) in said, "what it is to run was told before"
    told = [each.task for one in said if isinstance(one, m.Outcomes) for each in one.outcomes]
    assert told == [first + 1]
    assert not head.service._shell.peers.watchers
    assert head.service._shell.peers.members[session] == {b"client"}


def test_who_submits_is_told_though_it_was_taken_for_gone(head: Head) -> None:
    """It may have ended before the greeting that the head asks for arrives."""
    head.hear(m.ClientHello(PROTOCOL, "1", True))
    session = head.open()
    head.service._clients.gone(b"client")
    nowhere = TaskSpec(task_id(session, 2), 1, b"", ((task_id(session, 9), 0),))
    tasks = [_value(task_id(session, 1)), nowhere]
    said = head.hear(m.Submit(1, session, *_introduced(session), tasks))
    told = [each.task for one in said if isinstance(one, m.Outcomes) for each in one.outcomes]
    assert told == [task_id(session, 1)]
    assert not head.service._shell.peers.watchers, "what was refused will not end"


def test_what_ran_is_not_refused_to_who_sends_it_again_when_its_session_has_ended(
    head: Head,
) -> None:
    session = head.open()
    first = task_id(session, 1)
    head.hear(m.Submit(1, session, *_introduced(session), [_value(first)]))
    head.hear(m.ControlSession(2, session, "close"))
    # The answer was lost with the connection.
    head.hear(m.ClientHello(PROTOCOL, "1", True, [(first, 10)]))
    again = m.Submit(1, session, *_introduced(session), [_value(first), _value(first + 1)])
    said = head.hear(again)
    told = [each.task for one in said if isinstance(one, m.Outcomes) for each in one.outcomes]
    refused = [task for one in said if isinstance(one, m.Accepted) for task, _ in one.refused]
    assert (told, refused) == ([first], [first + 1])


def test_what_has_ended_is_not_taken_on_again_while_the_disk_keeps_it_from_being_written(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = head.open()
    first = task_id(session, 1)
    submitted = m.Submit(1, session, *_introduced(session), [_value(first)])
    with monkeypatch.context() as full:
        full.setattr(head.store._writer, "_put", _fail)
        assert not head.hear(submitted), "nothing is told before it is written"
        # The client has connected anew, and sends what nobody has answered.
        head.hear(m.ClientHello(PROTOCOL, "1", True, [(first, 10)]))
        assert not head.hear(submitted)
    head.now += RETRY_S  # it has room again
    said = head.turns()
    told = [each for one in said if isinstance(one, m.Outcomes) for each in one.outcomes]
    assert {(each.task, each.state) for each in told} == {(first, "COMPLETED")}
    assert m.Accepted(1, []) in said
    states = [
        change.state
        for _, changes in head.store.events(1, None, 100)
        for change in changes
        if change.kind == "task"
    ]
    assert states.count("COMPLETED") == 1, states
