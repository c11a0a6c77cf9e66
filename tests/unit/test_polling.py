"""The pace at which the batch system is asked."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from support.fleets import running_row

from pilot.head import polling as p
from pilot.head.outlook import INTENDED, QUEUED, PilotRow
from pilot.scheduler.batch import JobStatus, Phase

NOW = 10_000.0


row = partial(running_row, NOW)


WAITS = row(state=QUEUED, heard=0.0, job_runs_since=None)


def pace(*rows: PilotRow, shortest_s: float = 2.0, calm_s: float = 1e6) -> float:
    return p.interval_s(rows, shortest_s, NOW - calm_s, NOW, NOW)


@pytest.mark.parametrize("pilot", [row(), WAITS, row(suspended=True, heard=NOW - 500.0)])
def test_the_less_changes_the_less_is_asked(pilot: PilotRow) -> None:
    paces = [pace(pilot, calm_s=calm_s) for calm_s in (0.0, 8.0, 20.0, 40.0, 64.0, 1e6)]
    assert paces == [2.0, 2.0, 5.0, 10.0, 16.0, 16.0]


@pytest.mark.parametrize(("shortest_s", "longest_s"), [(0.2, 1.6), (10.0, 60.0), (90.0, 90.0)])
def test_the_site_bounds_the_pace(shortest_s: float, longest_s: float) -> None:
    assert pace(row(), shortest_s=shortest_s) == longest_s
    assert pace(row(), shortest_s=shortest_s, calm_s=0.0) == shortest_s


@pytest.mark.parametrize(
    "pilot",
    [
        row(state=INTENDED, job=None, heard=0.0),
        row(cancelled_at=NOW - 1.0),
        row(missing_since=NOW),
        row(created=NOW + 1.0, state=QUEUED, heard=0.0, job_runs_since=None),
        row(moved_to=NOW + 60.0),
        row(state=QUEUED, heard=0.0),  # its job runs
        row(heard=0.0, draining=True),  # it has said good-bye
        row(heard=NOW - 6.0),
    ],
)
def test_what_may_change_at_any_moment_is_looked_for(pilot: PilotRow) -> None:
    assert pace(pilot, row(), WAITS) == 2.0


def test_answers_are_alike_whose_jobs_are() -> None:
    def answer(**changes: Any) -> p.Picture:
        fields: dict[str, Any] = {"job_id": "7", "name": "p", "phase": Phase.QUEUED}
        fields |= {"state": "PENDING", "reason": "Priority"}
        return p.picture({"7": JobStatus(**{**fields, **changes})})

    assert answer() == answer(expected_at=NOW)
    assert answer() != answer(reason="JobHeldUser") != answer(state="RUNNING")
    assert answer() != answer(restart_count=1)
