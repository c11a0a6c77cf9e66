"""The ends of walltimes that somebody moves while a job runs. Pure.

Invariants
----------
- Only by how much an end moves is taken from the batch system: its clock may be another one.
- A pilot is told of the new end until what it says itself agrees with it.
"""

from __future__ import annotations

import logging

from pilot.head.outlook import PilotRow
from pilot.scheduler.assignment import PilotRoom
from pilot.scheduler.batch import JobStatus, Phase

log = logging.getLogger("pilot.fleet")

#: The end of a walltime counts as moved if it is further away from where it was, in seconds.
WALLTIME_MOVED_S = 5.0


def note_walltime(row: PilotRow, job: JobStatus, room: PilotRoom | None) -> None:
    """Note in a pilot's row that somebody has moved the end of its running job.

    Parameters
    ----------
    row, job
        The pilot, and its job as a list has it.
    room
        What the pilot has said of itself; None: it has not introduced itself.
    """
    if job.phase is not Phase.RUNNING or job.ends_at is None:
        row.job_ends_at = row.moved_to = None
        return
    before, row.job_ends_at = row.job_ends_at, job.ends_at
    if before is None or room is None or abs(job.ends_at - before) <= WALLTIME_MOVED_S:
        return
    if room.ends_at:
        row.moved_to = (row.moved_to or room.ends_at) + job.ends_at - before
        log.info("the walltime of job %s was moved by %.0f s", row.job, job.ends_at - before)


def walltime_to_tell_s(row: PilotRow, ends_at: float, now: float) -> float | None:
    """Return the walltime, in seconds, that a pilot has to be told of; None: it knows.

    Parameters
    ----------
    row
        The pilot.
    ends_at
        The end of its walltime as it knows it.
    now
        The time.
    """
    if row.moved_to is None:
        return None
    if abs(row.moved_to - ends_at) <= WALLTIME_MOVED_S:
        row.moved_to = None
        return None
    return max(0.0, row.moved_to - now)
