"""How long idle nodes are kept, by what it took to get them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.scheduler.waits import (
    LEAST_S,
    LEAST_WORK_S,
    MOST_S,
    MOST_WORK_S,
    UNKNOWN_KEEP_S,
    Waits,
)

SECONDS = st.floats(0.0, 1e6)


def waits(*known: tuple[int, float]) -> Waits:
    made = Waits()
    for nodes, wait_s in known:
        made.add(nodes, wait_s)
    return made


def test_nothing_is_known_at_first() -> None:
    assert waits().expected_s(1) is None
    assert waits().keep_s(1) == UNKNOWN_KEEP_S


def test_pilots_of_about_that_size_count() -> None:
    known = waits((1, 2.0), (1, 4.0), (3, 50.0), (4, 70.0))
    assert known.expected_s(1) == 3.0
    assert known.expected_s(3) == known.expected_s(4) == 60.0
    assert known.expected_s(64) == 60.0, "the nearest that is known"
    assert known.expected_s(2) == 3.0, "of two that are as near, the smaller one"


def test_old_waits_are_forgotten() -> None:
    known = waits(*[(1, 1000.0)] * 50, *[(1, 1.0)] * 8)
    assert known.expected_s(1) == 1.0


def test_what_waits_now_takes_at_least_as_long_as_it_has() -> None:
    known = waits((1, 2.0))
    assert known.expected_s(1, [(1, 90.0)]) == 90.0
    assert known.expected_s(4, [(1, 90.0)]) == 90.0, "more nodes wait no less"
    assert known.expected_s(1, [(4, 90.0)]) == 2.0, "fewer nodes may come sooner"
    assert waits().keep_s(1, [(1, 90.0)]) == 90.0


@pytest.mark.parametrize(("wait_s", "kept_s"), [(0.1, LEAST_S), (5.0, 5.0), (36_000.0, MOST_S)])
def test_nodes_are_kept_for_as_long_as_they_are_waited_for_within_bounds(
    wait_s: float, kept_s: float
) -> None:
    assert waits((1, wait_s)).keep_s(1) == kept_s


@pytest.mark.parametrize(
    ("wait_s", "work_s"), [(0.1, LEAST_WORK_S), (1.5, 15.0), (3_600.0, MOST_WORK_S)]
)
def test_nodes_that_come_soon_are_asked_for_sooner(wait_s: float, work_s: float) -> None:
    assert waits().patience_s(1) == MOST_WORK_S
    assert waits((1, wait_s)).patience_s(1) == work_s


@given(wait_s=st.floats(LEAST_S, MOST_S), gap_s=SECONDS)
def test_it_never_costs_more_than_twice_of_what_one_would_pay_who_knew(
    wait_s: float, gap_s: float
) -> None:
    kept_s = waits((1, wait_s)).keep_s(1)
    paid = gap_s if gap_s <= kept_s else kept_s + wait_s
    assert paid <= 2.0 * min(gap_s, wait_s) * (1.0 + 1e-9)
