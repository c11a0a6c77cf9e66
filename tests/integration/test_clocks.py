"""The wall clock jumps under a head and its pilots: nothing is lost, and nothing stands still."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.moved_clock import MovedClock
from support.sites import SiteUnderTest, local_template, site_under_test
from support.waiting import wait_until

import pilot
from pilot.client.starter import ensure_head

DEADLINE_S = 60.0


@pytest.fixture
def clock(tmp_path: Path) -> MovedClock:
    return MovedClock(tmp_path)


@pytest.fixture
def site(clock: MovedClock, tmp_path: Path) -> Iterator[SiteUnderTest]:
    """A site whose pilots, and all that these start, have the moved clock."""
    environment = {"variables": clock.variables}
    with site_under_test(local_template(3, environment=environment), tmp_path) as made:
        yield made


def held(go: str, began: str) -> float:
    """Wait for a file; return how far the wall clock went meanwhile."""
    with open(began, "a") as file:
        file.write("began\n")
    start = time.time()
    end = time.monotonic() + 120.0
    while not Path(go).exists():
        assert time.monotonic() < end, "nobody has let it go"
        time.sleep(0.02)
    return time.time() - start


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_wall_clock_that_jumps_under_head_and_pilots_changes_nothing(
    site: SiteUnderTest, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in clock.variables.items():
        monkeypatch.setenv(name, value)
    head = ensure_head(site.site)
    for name in clock.variables:
        monkeypatch.delenv(name)
    limited = pilot.task(time_limit=600.0)
    # Tasks see the environment of this program, not that of the head.
    with site.session(variables=clock.variables) as session:
        assert session.submit(nap, 0.0).result(DEADLINE_S) == 0.0
        agent = site.pid_of("agent")
        for seconds in (120, 3600, -3600):
            clock.move(0)
            go, began = site.scratch / f"go{seconds}", site.scratch / f"began{seconds}"
            waits = session.submit(limited(held), str(go), str(began))
            wait_until(began.exists, DEADLINE_S, "the task to begin")
            clock.move(seconds)
            # The agent's timers go on: it is ended by its limit.
            endless = session.submit(pilot.task(time_limit=1.0)(nap), 600.0)
            with pytest.raises(pilot.TaskTimedOut):
                endless.result(DEADLINE_S)
            assert session.submit(nap, 0.0).result(DEADLINE_S) == 0.0
            go.touch()
            moved = waits.result(DEADLINE_S)
            assert abs(moved - seconds) < 60.0, "the clock of the task was not moved"
            assert began.read_text() == "began\n"
            made = session.query("task", task=waits.task_id)["attempts_made"]
            assert [attempt["outcome"] for attempt in made] == ["ok"]
        assert site.pid_of("agent") == agent
        # The head's timers go on too: a lost pilot is replaced.
        os.kill(agent, signal.SIGKILL)
        assert session.submit(nap, 0.0).result(DEADLINE_S) == 0.0
        assert site.head_pid == head.pid
    # With the fixture the head is told to stop, and has to end in time.
