"""The other users of the simulated Slurm: their jobs, and those of a higher priority.

Sizes and run times are log-normal, so that a few jobs have most of the node-hours, as in the
workloads that the Parallel Workloads Archive keeps (D. Feitelson et al., JPDC 74, 2014). Users ask
for more walltime than their jobs take. More come by day than by night.
"""

from __future__ import annotations

import math
import random

from simulate.clock import Clock
from simulate.slurm import Job, Slurm

#: The medians and the spreads (sigma) of the sizes in nodes, and of the run times in seconds.
NODES, NODES_SPREAD = 4.0, 1.3
RUNS_S, RUNS_SPREAD = 1800.0, 1.2
#: The longest that they run, in seconds, and the largest part of the machine that a job has.
LONGEST_S, LARGEST = 8 * 3600.0, 0.25
#: How many times as much walltime is asked for as is used.
OVERESTIMATE = (1.1, 4.0)
#: The part by which the rate of submissions is higher at three in the afternoon than on average.
BY_DAY = 0.3
DAY_S = 86_400.0


class Others:
    """Jobs of other users, which keep a part of the machine busy."""

    def __init__(self, clock: Clock, slurm: Slurm, load: float, seed: int) -> None:
        self._clock, self._slurm = clock, slurm
        self._random = random.Random(f"others {seed}")
        mean = _mean_of(lambda: self._size() * self._runs_s())
        #: The mean time between two submissions, in seconds.
        self._between_s = mean / (load * slurm.size) if load else math.inf

    def begin(self) -> None:
        """Fill the machine, and go on submitting."""
        if math.isinf(self._between_s):
            return
        nodes = 0
        load = self._slurm.size * 0.95
        while nodes < load:
            size = self._size()
            self._submit(size, self._runs_s() * self._random.random())
            nodes += size
        self._next()

    def _next(self) -> None:
        # A thinned process: candidates come at the highest rate, and some are left out.
        self._clock.after(
            self._random.expovariate((1.0 + BY_DAY) / self._between_s), self._candidate
        )

    def _candidate(self) -> None:
        hour = 2.0 * math.pi * (self._clock.now / DAY_S - 15.0 / 24.0)
        rate = 1.0 + BY_DAY * math.cos(hour)
        # Both are drawn whatever comes of it: so what others do does not depend on anything.
        size, runs_s = self._size(), self._runs_s()
        if self._random.random() < rate / (1.0 + BY_DAY):
            self._submit(size, runs_s)
        self._next()

    def _submit(self, size: int, runs_s: float) -> None:
        walltime_s = min(LONGEST_S, runs_s * self._random.uniform(*OVERESTIMATE))
        runs_s = min(runs_s, walltime_s)

        def started(job: Job) -> None:
            life = job.life
            self._clock.after(
                runs_s, lambda: self._slurm.complete(job) if job.life == life else None
            )

        self._slurm.submit(Job(size, walltime_s, started, lambda *_: None))

    def _size(self) -> int:
        largest = max(1, int(LARGEST * self._slurm.size))
        size = round(self._random.lognormvariate(math.log(NODES), NODES_SPREAD))
        return min(max(1, size), largest)

    def _runs_s(self) -> float:
        runs_s = self._random.lognormvariate(math.log(RUNS_S), RUNS_SPREAD)
        return min(max(60.0, runs_s), LONGEST_S)


class Urgent:
    """Urgent jobs of one node each, which preempt whatever runs there."""

    def __init__(
        self, clock: Clock, slurm: Slurm, per_minute: float, away_s: float, seed: int
    ) -> None:
        self._clock, self._slurm = clock, slurm
        self._random = random.Random(f"urgent {seed}")
        self._away_s = away_s
        #: Such jobs in a second.
        self._rate = per_minute * slurm.size / 60.0

    def begin(self) -> None:
        """Begin to take nodes away."""
        if self._rate:
            self._clock.after(self._random.expovariate(self._rate), self._take)

    def _take(self) -> None:
        node = self._random.randrange(self._slurm.size)
        if self._slurm.take_away(node, self._away_s):
            self._clock.after(self._away_s, lambda: self._slurm.bring_back(node))
        self.begin()


def _mean_of(draw: object, count: int = 4000) -> float:
    """Return the mean of many draws."""
    assert callable(draw)
    return math.fsum(draw() for _ in range(count)) / count
