"""How tasks have ended: what is kept in memory is bounded, and nothing is forgotten too early."""

from __future__ import annotations

from typing import Any

import pytest

from pilot.head import outcome_cache as module
from pilot.head.core.events import Ended
from pilot.head.outcome_cache import Outcomes
from pilot.model.tasks import TaskFailure, TaskOutcome
from pilot.model.values import Value


class Rows:
    """A database that has every outcome, and counts what is read."""

    any_released = False

    def __init__(self) -> None:
        self.read: list[int] = []

    def results(self, tasks: Any) -> list[TaskOutcome]:
        these = list(tasks)
        self.read += these
        return [TaskOutcome(task, "COMPLETED") for task in these]


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def outcomes(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> Outcomes:
    monkeypatch.setattr(module, "RECENT", 10)
    monkeypatch.setattr(module, "RECENT_BYTES", 100_000)
    return Outcomes(rows)  # type: ignore[arg-type]  # as much of a store as it needs


def keep(outcomes: Outcomes, first: int, last: int, size: int = 0) -> None:
    for task in range(first, last):
        outcomes.keep(Ended(task, 1, "COMPLETED", 1.0, (Value(size, bytes(size)),), None))


def in_memory(outcomes: Outcomes, rows: Rows, tasks: range) -> list[int]:
    rows.read.clear()
    outcomes.told(tasks)
    return [task for task in tasks if task not in rows.read]


def test_what_was_never_accepted_is_lost(outcomes: Outcomes, rows: Rows) -> None:
    rows.results = lambda tasks: [TaskOutcome(1, "FAILED") for _ in tasks]
    assert [outcome.state for outcome in outcomes.told([1, 2])] == ["FAILED", "LOST"]


@pytest.mark.parametrize("size", [0, 20_000])
def test_the_oldest_are_forgotten_by_number_and_by_bytes(
    outcomes: Outcomes, rows: Rows, size: int
) -> None:
    for first in range(0, 200, 10):
        keep(outcomes, first, first + 10, size)
        outcomes.trim(tuple)
        kept = in_memory(outcomes, rows, range(first + 10))
        assert len(kept) <= 20 and len(kept) * size <= 200_000
        assert kept == list(range(first + 10 - len(kept), first + 10)), "the newest stay"
        assert kept


def test_errors_count_with_their_texts(outcomes: Outcomes, rows: Rows) -> None:
    for task in range(20):
        outcomes.keep(Ended(task, 1, "FAILED", 1.0, (), TaskFailure("E", "x" * 50_000)))
    outcomes.trim(tuple)
    assert len(in_memory(outcomes, rows, range(20))) <= 2


def test_what_is_not_committed_is_kept_whatever_it_takes(outcomes: Outcomes, rows: Rows) -> None:
    keep(outcomes, 0, 5, 50_000)
    keep(outcomes, 5, 100, 50_000)
    outcomes.trim(lambda: range(5, 100))
    assert in_memory(outcomes, rows, range(100)) == list(range(5, 100))
    outcomes.trim(tuple)
    assert len(in_memory(outcomes, rows, range(100))) <= 2


def test_a_deleted_result_is_read_again(outcomes: Outcomes, rows: Rows) -> None:
    keep(outcomes, 0, 3)
    outcomes.forget(1)
    outcomes.forget(1)
    assert in_memory(outcomes, rows, range(3)) == [0, 2]
    outcomes.forget_all()
    assert in_memory(outcomes, rows, range(3)) == []
    keep(outcomes, 0, 5, 50_000)
    outcomes.trim(tuple)
    assert len(in_memory(outcomes, rows, range(5))) == 1


def test_a_session_that_has_ended_is_forgotten_when_that_is_committed(
    outcomes: Outcomes, rows: Rows
) -> None:
    first, second = 1 << 32, 2 << 32
    keep(outcomes, first, first + 3, 1000)
    keep(outcomes, second, second + 3, 1000)
    outcomes.close(1)
    outcomes.trim(lambda: [first + 2])
    assert in_memory(outcomes, rows, range(first, first + 3)) == [first + 2]
    assert in_memory(outcomes, rows, range(second, second + 3)) == list(range(second, second + 3))
    outcomes.trim(tuple)
    assert in_memory(outcomes, rows, range(first, first + 3)) == []
    outcomes.close(2)
    outcomes.trim(tuple)
    assert not outcomes._recent and not outcomes._bytes and not outcomes._closed
