"""When sessions are closed that everybody has left."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pilot.head.core.leaving import CLIENT_S, Leaving, lives
from pilot.head.core.state import Session


def session(number: int, unfinished: int = 0, closed: bool = False) -> Session:
    made = Session(number)
    made.unfinished, made.closed = unfinished, closed
    return made


def test_only_what_is_done_and_left_is_closed_after_a_while() -> None:
    leaving = Leaving(60.0)
    sessions = {n: session(n) for n in (1, 2)}
    sessions |= {3: session(3, unfinished=1), 4: session(4, closed=True)}
    attended = {2}
    assert leaving.due(sessions, attended.__contains__, 1000.0) == []
    assert leaving.due(sessions, attended.__contains__, 1059.0) == []
    assert leaving.due(sessions, attended.__contains__, 1060.0) == [1]
    attended.clear()
    sessions[3].unfinished = 0
    assert leaving.due(sessions, attended.__contains__, 1062.0) == [1]
    assert leaving.due(sessions, attended.__contains__, 1122.0) == [1, 2, 3]


def test_who_comes_back_has_the_whole_time_again() -> None:
    leaving = Leaving(60.0)
    sessions = {1: session(1)}
    leaving.due(sessions, lambda _: False, 1000.0)
    leaving.due(sessions, lambda _: True, 1050.0)
    assert leaving.due(sessions, lambda _: False, 1061.0) == []
    assert leaving.due(sessions, lambda _: False, 1121.0) == [1]


def test_clients_live_while_they_are_heard() -> None:
    heard = {b"a": 1000.0}
    assert lives(heard, {b"a", b"b"}, 1000.0 + CLIENT_S - 1)
    assert not lives(heard, {b"a", b"b"}, 1000.0 + CLIENT_S)
    assert not lives(heard, {b"b"}, 1000.0) and not lives(heard, (), 1000.0)


@given(st.lists(st.integers(1, 10**9), unique=True), st.sets(st.integers(1, 10**9)))
def test_next_head_knows_what_was_closed_so(closed: list[int], opened: set[int]) -> None:
    leaving = Leaving(60.0)
    leaving.closed(closed)
    for number in opened:
        leaving.opened(number)
    again = Leaving(60.0, leaving.text)
    assert again.text == leaving.text
    assert {n for n in [*closed, *opened] if n in again} == set(closed) - opened


def test_not_all_that_ever_were_are_known() -> None:
    leaving = Leaving(60.0)
    leaving.closed(range(1, 30_001))
    assert 1 not in leaving and 30_000 in leaving and len(leaving.text) < 100_000
