"""The simulated Slurm: nodes, and jobs that wait for them, first come first served.

Jobs start in the order of their submission. When the first one does not find its nodes, those
behind it may start before it if that does not delay it, by the walltimes that were asked for:
backfill as in EASY (D. Lifka, The ANL/IBM SP scheduling system, JSSPP 1995). As in Slurm, the
order is gone through soon after each change, and backfill is done at intervals. A job may ask for a
range of nodes, of which it gets as many as there are; and name a shorter walltime that will do,
which only backfill uses, and makes as long as the gap.

Invariants
----------
- A node is free, in one job, or taken away.
- A job runs at most for its walltime. A job that is preempted waits again under the same number,
  no sooner than after `REQUEUE_DELAY_S`, in its old place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from simulate.clock import Clock

#: The time from a change to the next look at the queue, and between backfills, in seconds:
#: ``sched_interval`` is longer, but submissions and ends bring a look of their own;
#: ``bf_interval`` is 30 s by default.
LOOK_S, BACKFILL_S = 1.0, 30.0
#: The most jobs that backfill tries (``bf_max_job_test``, 500 by default).
BACKFILL_JOBS = 500
#: A requeued job waits at least for this time: ``requeue_delay``, by default the life of a
#: credential.
REQUEUE_DELAY_S = 120.0

Started = Callable[["Job"], None]
Ended = Callable[["Job", str], None]
#: The reasons for which a job ends.
COMPLETED, TIMEOUT, CANCELLED, PREEMPTED = "completed", "timeout", "cancelled", "preempted"


@dataclass(eq=False)
class Job:
    """A job; `started` and `ended` tell its owner."""

    count: int
    walltime_s: float
    started: Started
    ended: Ended
    #: The job after whose end it may start.
    after: Job | None = None
    #: The fewest nodes, and the shortest walltime in seconds, that will do; 0: all of it.
    least: int = 0
    least_walltime_s: float = 0.0
    number: int = 0
    nodes: list[int] = field(default_factory=list)
    #: The nodes that it had when it last ended, or was preempted.
    had: int = 0
    #: The end of its walltime; 0: it does not run.
    ends_at: float = 0.0
    #: The time before which it does not start.
    eligible_at: float = 0.0
    is_over: bool = False
    #: The number of its life, which a preemption ends.
    life: int = 0

    def __post_init__(self) -> None:
        #: The nodes that it asks for; `count` are those that it has while it runs.
        self.most = self.count

    @property
    def fewest(self) -> int:
        """The fewest nodes that it starts with."""
        return self.least or self.count

    @property
    def runs(self) -> bool:
        """True if it has nodes."""
        return bool(self.nodes)


class _Start(NamedTuple):
    """The start of a job, with what it gets."""

    job: Job
    nodes: int
    walltime_s: float


class Slurm:
    """The nodes of a cluster and their queue."""

    def __init__(self, clock: Clock, nodes: int) -> None:
        self._clock = clock
        self.size = nodes
        self.free = list(range(nodes - 1, -1, -1))
        #: The job on each node; None: it is free, or taken away.
        self.jobs: list[Job | None] = [None] * nodes
        #: The nodes that are taken away, and until when they are thought to be.
        self.away: dict[int, float] = {}
        self.running: set[Job] = set()
        self._queue: list[Job] = []
        self._number = 0
        self._will_look = False
        self._backfilled = -BACKFILL_S

    @property
    def queued(self) -> int:
        """The number of jobs that wait."""
        return len(self._queue)

    # --- what users ask

    def submit(self, job: Job) -> None:
        """Put a job at the end of the queue."""
        self._number += 1
        job.number = self._number
        self._queue.append(job)
        self._look_soon()

    def cancel(self, job: Job) -> None:
        """End a job, which waits or runs."""
        if job.runs:
            self._end(job, CANCELLED)
        elif not job.is_over:
            self._queue.remove(job)
            job.is_over = True
            job.ended(job, CANCELLED)

    def complete(self, job: Job) -> None:
        """End a job whose processes have ended."""
        if job.runs:
            self._end(job, COMPLETED)

    def release(self, job: Job, nodes: Iterable[int]) -> None:
        """Take these nodes from a running job, which has others."""
        for node in nodes:
            job.nodes.remove(node)
            self._free(node)
        assert job.nodes, "a job is never left without nodes"
        job.count = job.most = len(job.nodes)
        job.least = min(job.least, job.count)
        self._look_soon()

    def starts_in_s(self, nodes: int) -> float:
        """Return in how many seconds a job of so many nodes would start, as ``sbatch --test-only``
        says: by the walltimes of what runs. It takes no account of what waits."""
        now, there = self._clock.now, len(self.free)
        if there >= nodes:
            return 0.0
        ends = [(job.ends_at, len(job.nodes)) for job in self.running]
        ends += [(until, 1) for until in self.away.values()]
        for at, count in sorted(ends):
            there += count
            if there >= nodes:
                return max(0.0, at - now)
        raise ValueError(f"{nodes} nodes are never there")

    # --- what else happens

    def take_away(self, node: int, for_s: float = 0.0) -> bool:
        """Take a node for somebody of a higher priority, and preempt the job that has it.

        Return False if it was taken already. That it is for so many seconds is known to forecasts.
        """
        if node in self.away:
            return False
        job = self.jobs[node]
        if job is not None:
            self._requeue(job)
        self.free.remove(node)
        self.away[node] = self._clock.now + for_s
        return True

    def bring_back(self, node: int) -> None:
        """Give back a node that was taken away."""
        del self.away[node]
        self._free(node)
        self._look_soon()

    # --- inside

    def _free(self, node: int) -> None:
        self.jobs[node] = None
        self.free.append(node)

    def _leave_nodes(self, job: Job) -> None:
        for node in job.nodes:
            self._free(node)
        job.had = len(job.nodes)
        job.nodes = []
        job.ends_at = 0.0
        job.life += 1
        self.running.discard(job)
        self._look_soon()

    def _end(self, job: Job, why: str) -> None:
        self._leave_nodes(job)
        job.is_over = True
        job.ended(job, why)

    def _requeue(self, job: Job) -> None:
        self._leave_nodes(job)
        job.count = job.most
        job.eligible_at = self._clock.now + REQUEUE_DELAY_S
        place = next((n for n, o in enumerate(self._queue) if o.number > job.number), None)
        self._queue.insert(len(self._queue) if place is None else place, job)
        self._clock.at(job.eligible_at, self._look_soon)
        job.ended(job, PREEMPTED)

    def _look_soon(self) -> None:
        if not self._will_look and self._queue:
            self._will_look = True
            self._clock.after(LOOK_S, self._look)

    def _look(self) -> None:
        self._will_look = False
        first = self._start_in_order()
        if first is None:
            return
        left_s = self._backfilled + BACKFILL_S - self._clock.now
        if left_s <= 0.0:
            self._backfilled = self._clock.now
            self._backfill(first)
            left_s = BACKFILL_S
        if self._queue:
            self._clock.at(self._backfilled + BACKFILL_S, self._look_soon)

    def _may_start(self, job: Job) -> bool:
        return job.eligible_at <= self._clock.now and (job.after is None or job.after.is_over)

    def _start_in_order(self) -> Job | None:
        """Start jobs until one does not find its nodes; return that one."""
        starts: list[_Start] = []
        first = None
        free = len(self.free)
        for job in self._queue:
            if not self._may_start(job):
                continue
            if job.fewest > free:
                first = job
                break
            starts.append(_Start(job, min(job.count, free), job.walltime_s))
            free -= starts[-1].nodes
        self._start(starts)
        return first

    def _backfill(self, first: Job) -> None:
        """Start jobs that do not delay the first one."""
        now = self._clock.now
        free = len(self.free)
        # When the first will have its nodes, and how many will be left then.
        there, at = free, now
        for job in sorted(self.running, key=lambda job: (job.ends_at, job.number)):
            there, at = there + len(job.nodes), job.ends_at
            if there >= first.fewest:
                break
        left = max(0, there - first.fewest)
        starts: list[_Start] = []
        behind = self._queue[self._queue.index(first) + 1 :][:BACKFILL_JOBS]
        for job in behind:
            if not free:
                break
            nodes, walltime_s = min(job.count, free), job.walltime_s
            if nodes < job.fewest or not self._may_start(job):
                continue
            if now + walltime_s > at:
                if nodes > left and now + (job.least_walltime_s or walltime_s) <= at:
                    walltime_s = at - now
                elif job.fewest <= left:
                    nodes = min(nodes, left)
                    left -= nodes
                else:
                    continue
            free -= nodes
            starts.append(_Start(job, nodes, walltime_s))
        self._start(starts)

    def _start(self, starts: Sequence[_Start]) -> None:
        if not starts:
            return
        gone = {start.job for start in starts}
        self._queue = [job for job in self._queue if job not in gone]
        now = self._clock.now
        for job, nodes, walltime_s in starts:
            job.count = nodes
            job.nodes = [self.free.pop() for _ in range(nodes)]
            for node in job.nodes:
                self.jobs[node] = job
            job.ends_at = now + walltime_s
            self.running.add(job)
            self._clock.at(job.ends_at, functools.partial(self._time_out, job, job.life))
            job.started(job)

    def _time_out(self, job: Job, life: int) -> None:
        if job.runs and job.life == life:
            self._end(job, TIMEOUT)
