"""The clock of long-lived processes does not jump with the wall clock."""

import time

import pytest

from pilot import clock


def test_it_agrees_with_the_wall_clock_at_the_start() -> None:
    assert clock.now() == pytest.approx(time.time(), abs=5.0)


def test_a_jump_of_the_wall_clock_does_not_move_it(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = time.time
    before = clock.now()
    monkeypatch.setattr(time, "time", lambda: wall() + 3600.0)
    assert clock.now() - before < 60.0
    # The end of a job that is told by the new time is as far away as it says.
    assert clock.from_wall(time.time() + 100.0) - clock.now() == pytest.approx(100.0, abs=5.0)
