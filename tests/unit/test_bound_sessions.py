"""Sessions that end with their clients: when these have been gone for long enough."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pilot.client.session_settings import GRACE_S, check_settings
from pilot.errors import PilotError
from pilot.head.core.bound_sessions import STEP_S, BoundSessions

NOW, FIND_S = 1000.0, 15.0


class Bound(BoundSessions):
    """Sessions of which the test says who is there, by a clock that it moves on."""

    def __init__(self) -> None:
        super().__init__(FIND_S)
        self.now = NOW
        self.open = {1, 2}
        self.attended: set[int] = set()
        #: When the last client of a session was heard.
        self.heard: dict[int, float] = {}

    def _is_attended(self, session: int, since: float) -> bool:
        return session in self.attended or self.heard.get(session, 0.0) > since

    def look(self, seconds: float = 0.25) -> list[int]:
        """Return what ends, so long after the last look."""
        self.now += seconds
        return [session for session, _ in self.due(self.open, self._is_attended, self.now)]

    def lasts(self, most_s: float = 1000.0) -> float:
        """Return how long it takes until something ends."""
        begin = self.now
        while not self.look():
            assert self.now - begin < most_s, "it does not end"
        return self.now - begin


def test_a_session_ends_when_its_clients_have_been_gone_for_long_enough() -> None:
    bound = Bound()
    bound.bind(1, 10.0)
    bound.bind(2, 0.0)  # it does not end with them
    bound.attended = {1}
    for _ in range(100):
        assert bound.look() == []
    bound.attended = set()
    assert bound.lasts() == pytest.approx(10.0)
    assert bound.due(bound.open, lambda *_: False, bound.now) == [(1, 10.0)]
    bound.release(1)
    assert [bound.look() for _ in range(100)] == [[]] * 100


def test_who_comes_back_in_time_has_the_whole_time_again() -> None:
    bound = Bound()
    bound.bind(1, 10.0)
    bound.look()
    for _ in range(39):
        assert bound.look() == []
    bound.attended = {1}
    assert bound.look() == []
    bound.attended = set()
    assert bound.lasts() == pytest.approx(10.0)


def test_a_client_that_is_heard_now_and_then_is_there() -> None:
    bound = Bound()
    bound.bind(1, 10.0)
    for _ in range(20):
        bound.heard[1] = bound.now + 0.1
        for _ in range(36):  # 9 s
            assert bound.look() == []
    assert bound.lasts() == pytest.approx(1.25, abs=0.3)


def test_time_in_which_the_head_stood_still_does_not_count() -> None:
    bound = Bound()
    bound.bind(1, 10.0)
    bound.look()
    assert bound.look(3600.0) == []
    assert bound.look(-3600.0) == []
    assert bound.lasts() == pytest.approx(10.0 - STEP_S)
    bound.release(1)
    bound.bind(1, 1.0)
    assert [bound.look(3600.0) for _ in range(4)] == [[], [], [], [1]]


def test_a_new_head_is_to_be_found_first() -> None:
    bound = Bound()
    bound.bind(1, 10.0, restored=True)
    bound.look()
    assert bound.lasts() == pytest.approx(FIND_S + 10.0)
    back = Bound()
    back.bind(1, 10.0, restored=True)
    back.look()
    back.attended = {1}
    back.look()
    back.attended = set()
    assert back.lasts() == pytest.approx(10.0)


def test_what_has_ended_otherwise_is_forgotten() -> None:
    bound = Bound()
    bound.bind(1, 10.0)
    bound.look()
    bound.open = {2}
    bound.look()
    bound.open = {1, 2}  # open again, and not bound again
    assert [bound.look() for _ in range(100)] == [[]] * 100


@given(
    grace_s=st.floats(1.0, 30.0),
    steps=st.lists(st.tuples(st.floats(0.0, 100.0), st.booleans()), max_size=200),
)
def test_nothing_ends_before_its_time(grace_s: float, steps: list[tuple[float, bool]]) -> None:
    bound = Bound()
    bound.bind(1, grace_s)
    bound.look(0.0)
    gone_s = 0.0
    for seconds, is_there in steps:
        bound.attended = {1} if is_there else set()
        ended = bound.look(seconds)
        gone_s = 0.0 if is_there else gone_s + seconds
        if ended:
            assert not is_there and gone_s >= grace_s - 1e-6
            break


@pytest.mark.parametrize(
    ("given", "grace_s"),
    [(False, 0.0), (None, 0.0), (True, GRACE_S), (30, 30.0), ("5m", 300.0), (1, 1.0)],
)
def test_the_time_may_be_given(given: bool | int | str, grace_s: float) -> None:
    settings = check_settings("s", None, (), None, 1.0, 0, None, ends_with_client=given)
    assert settings.grace_s == grace_s


@pytest.mark.parametrize(
    ("given", "session", "words"),
    [
        (0, None, "ends_with_client=0: give at least 1 s"),
        (0.5, None, "give at least 1 s"),
        ("soon", None, "ends_with_client: 'soon' is not a duration"),
        (float("nan"), None, "ends_with_client: .*nan"),
        ([], None, "ends_with_client: "),
        (True, 3, "session 3 was opened before"),
    ],
)
def test_what_has_no_meaning_is_refused(
    given: float | str, session: int | None, words: str
) -> None:
    with pytest.raises(PilotError, match=words):
        check_settings("s", session, (), None, 1.0, 0, None, ends_with_client=given)
