"""A head without its process: what it says to whom when the database fails."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pilot.head.service import TICK_S, Service
from pilot.head.store.store import Store
from pilot.model.tasks import Environment, Function, TaskSpec, Template
from pilot.scheduler.batch import BatchUnavailable, JobRequest, open_batch
from pilot.scheduler.resources import Resources
from pilot.site import create_site
from pilot.wire import messages as m

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
        self.service = Service(site, self.store, self.peers, batch, 1, _nothing, _nothing)
        self.service.restore()
        self.now = NOW

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


def test_who_needs_numbers_for_tasks_waits_while_the_disk_is_full(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = head.open()
    with monkeypatch.context() as full:
        full.setattr(head.store, "_now", _fail)
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
