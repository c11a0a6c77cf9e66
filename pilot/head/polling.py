"""The pace at which the batch system is asked for the jobs of pilots. Pure.

A pilot that runs tells of itself; so the queue is asked for what pilots cannot tell: that a job
waits again, was cancelled, or has ended without a word. What may change at any moment is looked at
as often as the site allows, and all else the less often the longer nothing has changed.

Invariants
----------
- Two queries are never closer than the site's ``poll_interval``.
- A pilot that is silent, missing, being submitted or being ended is looked for at that pace.
- The pace never falls below one query in `MOST_S`, or in ``poll_interval`` where that is longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from pilot.head.outlook import INTENDED, RUNNING, PilotRow
from pilot.scheduler.batch import JobStatus

#: The longest interval, in seconds, and in intervals of the site.
MOST_S, MOST_TIMES = 60.0, 8.0
#: An interval is this part of the time in which nothing has changed.
PART = 0.25
#: The silence, in seconds, after which a pilot is looked for: it reports each second.
SILENT_S = 5.0

#: The part of an answer that matters for what follows, by job.
Picture: TypeAlias = Mapping[str, tuple[object, ...]]


def picture(jobs: Mapping[str, JobStatus]) -> Picture:
    """Return what is compared of two answers."""
    return {
        job.job_id: (job.state, job.reason, job.node_count, job.restart_count)
        for job in jobs.values()
    }


def interval_s(
    rows: Iterable[PilotRow], shortest_s: float, changed: float, asked: float, now: float
) -> float:
    """Return the time from the last query to the next one, in seconds.

    Parameters
    ----------
    rows
        The pilots.
    shortest_s
        The site's interval, in seconds.
    changed
        The time of the first answer that was like the last one.
    asked
        The time of the last query.
    now
        The time.
    """
    if any(_may_change(row, asked, now) for row in rows):
        return shortest_s
    calm_s = max(0.0, asked - changed)
    most_s = max(shortest_s, min(MOST_S, MOST_TIMES * shortest_s))
    return min(max(shortest_s, PART * calm_s), most_s)


def _may_change(row: PilotRow, asked: float, now: float) -> bool:
    """Tell whether the batch system may have news of a pilot that it does not tell itself."""
    if row.state == INTENDED or row.cancelled_at or row.missing_since is not None:
        return True
    if row.created > asked or row.moved_to is not None:
        return True
    if row.state != RUNNING:
        return row.job_runs_since is not None  # its job runs, and it has not reported itself
    if row.left_alone:
        return False  # nobody waits for it
    # It has said good-bye, or nothing to this head, or something has become of it.
    return not row.suspended and now - row.heard > SILENT_S
