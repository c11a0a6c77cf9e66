"""Commits: what is told when, and what becomes of a batch that cannot be written."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, cast

import pytest

from pilot import clock
from pilot.errors import PilotError
from pilot.head.commits import RETRY_S, Commits
from pilot.head.core.events import Log
from pilot.head.store.batch import Batch
from pilot.model.tasks import Function
from pilot.wire.messages.pilot import Committed

DISK_FULL = sqlite3.OperationalError("database or disk is full")


class Disk:
    """A store whose commits are done when the test says so."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.done: Callable[[Exception | None], None] | None = None
        #: How a commit that is waited for ends.
        self.error: Exception | None = None

    def next_event(self) -> int:
        return 1

    def write(self, batch: Batch, done: Callable[[Exception | None], None]) -> None:
        self.batches.append(batch)
        self.done = done

    def finish(self, error: Exception | None = None) -> None:
        done, self.done = self.done, None
        assert done is not None
        done(error)

    def join(self) -> None:
        if self.done is not None:
            self.finish(self.error)


class Turn:
    """Commits on such a disk, and what was sent."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.log = Log()
        self.sent: list[int] = []
        self.commits = Commits(
            cast("Any", self.disk),
            self.log,
            self._send,
            lambda: None,
            lambda: None,
        )

    def _send(self, _peer: bytes, message: Any) -> None:
        self.sent.append(message.seq)

    def tell(self, seq: int) -> None:
        self.commits.tell(b"peer", Committed(seq))


@pytest.fixture
def turn() -> Turn:
    return Turn()


def test_nothing_is_told_before_its_own_commit_is_done(turn: Turn) -> None:
    turn.tell(1)
    turn.commits.begin(0.0, events_too=False)
    turn.tell(2)  # it is no part of what is being written
    turn.commits.finish()
    assert turn.sent == []
    turn.disk.finish()
    turn.commits.finish()
    assert turn.sent == [1]
    assert turn.commits.pending


def test_one_commit_at_a_time(turn: Turn) -> None:
    turn.tell(1)
    turn.commits.begin(0.0, events_too=True)
    turn.tell(2)
    turn.commits.begin(0.0, events_too=True)
    assert len(turn.disk.batches) == 1


def test_what_could_not_be_written_goes_first_in_the_next(turn: Turn) -> None:
    turn.tell(1)
    turn.commits.begin(0.0, events_too=False)
    turn.tell(2)
    turn.disk.finish(DISK_FULL)
    turn.commits.finish()
    assert turn.sent == []
    assert turn.commits.trouble == str(DISK_FULL)
    turn.commits.begin(0.0, events_too=False)
    assert len(turn.disk.batches) == 1  # not at once
    turn.commits.begin(1e12 + RETRY_S, events_too=False)
    turn.disk.finish()
    turn.commits.finish()
    assert turn.sent == [1, 2]
    assert not turn.commits.trouble
    assert not turn.commits.pending


def test_events_alone_wait_and_are_told_when_committed(turn: Turn) -> None:
    turn.log.other("pilot", "JOINED", 0, 0.0)
    turn.commits.begin(0.0, events_too=False)
    assert not turn.disk.batches
    turn.commits.begin(0.0, events_too=True)
    assert turn.commits.last_event == 0
    turn.disk.finish()
    turn.commits.finish()
    assert turn.commits.last_event == 1


def test_events_alone_that_could_not_be_written_are_written_later(turn: Turn) -> None:
    turn.log.other("pilot", "JOINED", 0, 0.0)
    turn.commits.begin(0.0, events_too=True)
    turn.disk.finish(DISK_FULL)
    turn.commits.finish()
    assert turn.commits.pending
    turn.commits.begin(1e12 + RETRY_S, events_too=True)
    turn.disk.finish()
    turn.commits.finish()
    assert turn.commits.last_event == 1
    assert not turn.commits.trouble and not turn.commits.pending


def test_flush_writes_also_what_came_while_a_commit_was_under_way(turn: Turn) -> None:
    turn.tell(1)
    turn.commits.begin(0.0, events_too=False)
    turn.tell(2)
    turn.commits.flush(0.0)
    assert turn.sent == [1, 2]


def test_flush_says_that_nothing_was_done(turn: Turn) -> None:
    turn.disk.error = DISK_FULL
    turn.tell(1)
    with pytest.raises(PilotError, match="disk is full; nothing was done"):
        turn.commits.flush(0.0)
    assert turn.sent == []


def test_one_that_cannot_be_told_keeps_nobody_else_from_it(turn: Turn) -> None:
    def fail() -> None:
        raise RuntimeError("as told")

    turn.tell(1)
    turn.commits.then(fail)
    turn.tell(2)
    turn.commits.begin(0.0, events_too=False)
    turn.disk.finish()
    turn.commits.finish()
    assert turn.sent == [1, 2] and not turn.commits.pending


def test_a_write_that_raises_loses_nothing(turn: Turn, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("as told")

    with monkeypatch.context() as patch:
        patch.setattr(turn.disk, "write", fail)
        turn.tell(1)
        turn.commits.begin(0.0, events_too=False)
    assert turn.commits.trouble and turn.commits.pending and not turn.sent
    turn.commits.flush(clock.now() + RETRY_S)
    assert turn.sent == [1]


def test_what_cannot_be_written_is_measured_while_it_grows(
    turn: Turn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pilot.head.commits.UNWRITTEN_BYTES", 10_000)
    commits = turn.commits
    now = 0.0
    for number in range(4):
        commits.batch.add_functions(1, [Function(b"%d" % number, bytes(4000))])
        assert commits.is_full == (number == 3), number
        commits.begin(now, events_too=False)
        turn.disk.finish(DISK_FULL)
        commits.finish()
        now = clock.now() + RETRY_S + 1.0
    assert "no more work is handed out" in commits.trouble
    commits.flush(now)
    assert not commits.is_full and not commits.trouble
    assert len(turn.disk.batches[-1].functions) == 4
