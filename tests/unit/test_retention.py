"""Which sessions that have ended are purged."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.head.retention import LOOK_S, Retention, surplus

DAY_S = 86400.0
GIB = 1 << 30
NOW = 1000 * DAY_S


def test_nothing_goes_where_nothing_is_bounded() -> None:
    assert surplus({1: 0.0}, {1: GIB}, None, 0, NOW) == []
    assert not Retention(Path("nowhere"), None, 0).wants(NOW)


def test_the_old_go_and_none_that_has_not_ended() -> None:
    sessions = {1: NOW - 31 * DAY_S, 2: NOW - 29 * DAY_S, 3: None, 4: NOW - 40 * DAY_S}
    assert surplus(sessions, {}, 30 * DAY_S, 0, NOW) == [4, 1]


def test_no_more_go_than_the_space_needs() -> None:
    sessions = {1: 10.0, 2: 20.0, 3: 30.0, 4: None}
    sizes = {1: 2 * GIB, 2: 0, 3: 2 * GIB, 4: 3 * GIB, 9: 50 * GIB}  # the last one was purged
    assert surplus(sessions, sizes, None, 7 * GIB, NOW) == []
    assert surplus(sessions, sizes, None, 6 * GIB, NOW) == [1]
    assert surplus(sessions, sizes, None, 4 * GIB, NOW) == [1, 3]
    assert surplus(sessions, sizes, None, 1, NOW) == [1, 3], "what has not ended stays"


@given(
    ends=st.lists(st.none() | st.floats(0.0, NOW), max_size=20),
    sizes=st.lists(st.integers(0, 100), min_size=20, max_size=20),
    keep_s=st.none() | st.floats(0.0, NOW),
    keep_bytes=st.integers(0, 500),
)
def test_the_bounds_hold_afterwards_and_the_newest_stay(
    ends: list[float | None], sizes: list[int], keep_s: float | None, keep_bytes: int
) -> None:
    sessions = dict(enumerate(ends))
    of = dict(enumerate(sizes))
    gone = surplus(sessions, of, keep_s, keep_bytes, NOW)
    assert len(set(gone)) == len(gone) and all(sessions[one] is not None for one in gone)
    left = {one: at for one, at in sessions.items() if one not in gone}
    if keep_s is not None:
        assert all(at is None or NOW - at <= keep_s for at in left.values())
    total = sum(of[one] for one in left)
    if keep_bytes and total > keep_bytes:
        assert all(at is None or not of[one] for one, at in left.items())
    elif gone and keep_s is None:
        assert total + of[gone[-1]] > keep_bytes, "the last one need not have gone"


def test_one_goes_at_a_time_and_looks_are_seldom(tmp_path: Path) -> None:
    retention = Retention(tmp_path, DAY_S, 0)
    assert retention.wants(NOW)
    retention.look({1: 0.0, 2: 1.0}, NOW)
    assert [retention.take(), retention.take(), retention.take()] == [1, 2, None]
    assert not retention.wants(NOW + LOOK_S - 1.0)
    assert retention.wants(NOW + LOOK_S)
    retention.look({}, NOW + LOOK_S)
    assert not retention.wants(NOW), "the clock was set back"
    assert retention.wants(NOW + LOOK_S)


@pytest.mark.parametrize("part", ["results", "checkpoints"])
def test_sizes_are_those_of_the_files(tmp_path: Path, part: str) -> None:
    for session in (1, 2):
        (tmp_path / part / str(session)).mkdir(parents=True)
        (tmp_path / part / str(session) / "a.h5").write_bytes(bytes(100_000))
    retention = Retention(tmp_path, None, 150_000)
    while not retention.wants(NOW):
        assert retention._sizes is not None
        retention._sizes.exception(30.0)  # waits
    retention.look({1: 10.0, 2: 20.0}, NOW)
    assert (retention.take(), retention.take()) == (1, None)
    retention.close()
