"""The pace at which pilots are asked for: not before their turn."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pilot.scheduler.elasticity import Grow
from pilot.scheduler.pacing import (
    AHEAD_S,
    LEAST_S,
    MOST_S,
    SETTLE_S,
    TIMES_AS_LONG,
    UNKNOWN_S,
    Pace,
)


def grow(pool: str) -> Grow:
    return Grow(pool, 1, 3600.0, "")


def test_a_pilot_is_asked_for_within_a_second_of_its_submission() -> None:
    pace = Pace(5.0)
    assert pace.allows(0, 100.0)
    pace.asked("main", 100.0)
    assert not pace.allows(0, 104.0), "it would only wait in the head"
    assert pace.allows(0, 104.25)
    pace.asked("main", 104.25)
    assert not pace.allows(0, 109.0), "that one was submitted at 105 s"
    assert pace.allows(0, 109.25)


def test_no_other_one_waits_behind_a_slow_submission() -> None:
    pace = Pace(1.0)
    pace.asked("main", 100.0)
    assert not pace.allows(1, 160.0)
    assert pace.allows(0, 160.0)


def test_as_many_as_are_submitted_until_the_next_decision_are_asked_for_together() -> None:
    pace = Pace(0.25)
    asked = 0
    while pace.allows(asked, 100.0):
        pace.asked("main", 100.0)
        asked += 1
    assert asked == AHEAD_S / 0.25
    assert all(Pace(0.0).allows(under_way, 100.0) for under_way in range(1000))


def test_a_clock_that_is_set_back_stops_nothing() -> None:
    pace = Pace(5.0)
    pace.asked("main", 1e6)
    assert not pace.allows(0, 100.0)
    assert pace.allows(0, 105.25)


def test_an_interval_that_is_left_open_follows_the_batch_system() -> None:
    pace = Pace(None)
    assert pace.interval_s == UNKNOWN_S
    pace.took(0.001)
    assert pace.interval_s == LEAST_S
    pace.took(0.8)
    assert pace.interval_s == 0.8 * TIMES_AS_LONG
    pace.took(30.0)
    assert pace.interval_s == MOST_S
    given = Pace(5.0)
    given.took(0.001)
    assert given.interval_s == 5.0


def test_a_pilot_smaller_than_it_could_be_waits_a_moment_for_more_work() -> None:
    pace = Pace(0.0, {"main": 4})
    one, four = Grow("main", 1, 3600.0, ""), Grow("main", 4, 3600.0, "")
    assert pace.unsettled([four, one], 100.0) == {"main": 100.0 + SETTLE_S}
    assert pace.is_small(one) and not pace.is_small(four)
    # More work comes, and is not waited for any longer.
    assert pace.unsettled([Grow("main", 3, 3600.0, "")], 100.1) == {"main": 100.0 + SETTLE_S}
    assert pace.unsettled([one], 100.0 + SETTLE_S) == {}
    assert pace.unsettled([], 101.0) == {}
    assert pace.unsettled([one], 102.0) == {"main": 102.0 + SETTLE_S}


def test_what_follows_another_pilot_waits_for_nothing() -> None:
    pace = Pace(0.0, {"main": 4})
    assert pace.unsettled([Grow("main", 1, 3600.0, "", after="p1")], 100.0) == {}
    assert Pace(0.0).unsettled([Grow("main", 1, 3600.0, "")], 100.0) == {}


def test_work_that_settles_is_not_forgotten_by_a_clock_that_is_set_back() -> None:
    pace = Pace(0.0, {"main": 4})
    one = Grow("main", 1, 3600.0, "")
    pace.unsettled([one], 1e6)
    assert pace.unsettled([one], 100.0) == {"main": 100.0 + SETTLE_S}


def test_pools_have_their_turns() -> None:
    pace = Pace(1.0)
    wanted = [grow("a"), grow("a"), grow("b")]
    assert [each.pool for each in pace.in_turn(wanted)] == ["a", "a", "b"]
    pace.asked("a", 100.0)
    assert pace.in_turn(wanted)[0].pool == "b"
    pace.asked("b", 101.0)
    assert pace.in_turn(wanted)[0].pool == "a"


@given(interval_s=st.floats(0.0, 10.0), took_s=st.floats(0.0, 5.0))
def test_nothing_is_submitted_later_than_if_all_were_asked_for_at_once(
    interval_s: float, took_s: float
) -> None:
    """With decisions after each submission, and once in a second besides."""
    pace, now, free_at, last, starts = Pace(interval_s), 0.0, 0.0, -100.0, []
    for _ in range(10):
        while not pace.allows(0, now):
            now += 1.0
        pace.asked("main", now)
        last = max(now, free_at, last + interval_s)
        starts.append(last)
        now = free_at = last + took_s
    assert starts[-1] <= 9 * max(interval_s, took_s) + 1e-6
