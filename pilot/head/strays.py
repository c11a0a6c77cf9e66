"""Jobs under names of this site that no pilot has. Pure.

The intent to submit a pilot is given up when its job does not turn up for a while; where ``sbatch``
hung for longer than that, it turns up later. Another one was asked for in its place, so it is
cancelled. One that runs and reports itself before that is a pilot like any.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

from pilot.scheduler.batch import JobStatus, Phase

#: The time, in seconds, after which a job is cancelled that nobody knows: while it waits, and while
#: it runs, in which its pilot may report itself.
QUEUED_S, RUNNING_S = 10.0, 120.0
#: The time, in seconds, after which it is cancelled again.
AGAIN_S = 30.0


class Strays:
    """The jobs that nobody knows, and since when they have been seen."""

    def __init__(self) -> None:
        #: The time from which it may be cancelled, by job; and the phase that this goes by.
        self._due: dict[str, tuple[Phase, float]] = {}

    def to_cancel(
        self, jobs: Mapping[str, JobStatus], names: Container[str], prefix: str, now: float
    ) -> list[str]:
        """Return the ids of the jobs that are to be cancelled.

        Parameters
        ----------
        jobs
            All jobs with names of this site, by id.
        names
            The pilots that there are.
        prefix
            The beginning of the names of this site's jobs.
        now
            The time.
        """
        unknown = {
            job.job_id: job.phase
            for job in jobs.values()
            if job.phase in (Phase.QUEUED, Phase.RUNNING, Phase.SUSPENDED)
            and job.name.startswith(prefix)
            and job.name not in names
        }
        known = self._due
        self._due = {}
        found = []
        for job, phase in unknown.items():
            before, due = known.get(job, (None, 0.0))
            if before is not phase:
                due = now + (QUEUED_S if phase is Phase.QUEUED else RUNNING_S)
            elif now >= due:
                found.append(job)
                due = now + AGAIN_S
            self._due[job] = (phase, due)
        return found
