"""One simulation: a workload, a policy, a cluster; and what came of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pilot.scheduler.elasticity import PoolLimits
from simulate.clock import Clock
from simulate.ledger import Ledger, Sample
from simulate.others import Others, Urgent
from simulate.policies import Policy
from simulate.site import Settings, Site
from simulate.slurm import Slurm
from simulate.workload import Workload

#: The work of others goes on for so long before ours begins, in seconds.
BEFORE_S = 4 * 3600.0


@dataclass(frozen=True)
class Case:
    """A cluster, its users, and our workload."""

    nodes: int
    workload: Workload
    settings: Settings
    #: The part of the machine that other users' jobs keep busy.
    load: float = 0.0
    #: The part of all nodes that is taken away each minute, and for how long, in seconds.
    taken_per_minute: float = 0.0
    away_s: float = 60.0
    seed: int = 1


@dataclass(frozen=True)
class Outcome:
    """The outcome of a simulation; times in seconds, sums in node-seconds."""

    policy: str
    tasks: int
    ended: int
    #: From the first task to the end of the last; infinite: it was given up before.
    makespan_s: float
    mean_wait_s: float
    jobs: int
    held_s: float
    starting_s: float
    used_s: float
    lost_s: float
    idle_s: float
    samples: Sequence[Sample]

    @property
    def share(self) -> float:
        """The part of what was held that was used."""
        return self.used_s / self.held_s if self.held_s else 1.0


def simulate(
    case: Case,
    make_policy: Callable[[PoolLimits], Policy],
    watch: Callable[[Clock, Slurm, Site], None] = lambda *_: None,
) -> Outcome:
    """Let the workload of a case be done, with a new policy for its pool.

    Parameters
    ----------
    case, make_policy
        What is simulated.
    watch
        Called after each event.
    """
    clock = Clock()
    slurm = Slurm(clock, case.nodes)
    Others(clock, slurm, case.load, case.seed).begin()
    if case.load:
        while clock.now < BEFORE_S:
            clock.step()
    began_at = clock.now
    policy = make_policy(case.settings.pool)
    site = Site(clock, slurm, case.workload, policy, case.settings)
    Urgent(clock, slurm, case.taken_per_minute, case.away_s, case.seed).begin()
    site.begin()
    while not site.is_over and clock.now - began_at <= case.settings.limit_s and clock.step():
        watch(clock, slurm, site)
    return _outcome(site, policy.name, began_at, clock.now)


def _outcome(site: Site, policy: str, began_at: float, now: float) -> Outcome:
    ledger: Ledger = site.ledger
    ledger.advance(now)
    first = min((task.came_at for task in site.tasks), default=began_at)
    return Outcome(
        policy=policy,
        tasks=len(site.tasks),
        ended=ledger.ended,
        makespan_s=math.inf if site.finished_at is None else site.finished_at - first,
        mean_wait_s=math.fsum(ledger.waits_s) / len(ledger.waits_s) if ledger.waits_s else math.inf,
        jobs=ledger.jobs,
        held_s=ledger.held_s,
        starting_s=ledger.starting_s,
        used_s=ledger.used_s,
        lost_s=ledger.lost_s,
        idle_s=ledger.idle_s,
        samples=[each._replace(at_s=each.at_s - began_at) for each in ledger.samples],
    )
