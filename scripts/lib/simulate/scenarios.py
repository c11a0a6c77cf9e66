"""The scenarios that ``scripts/simulate`` knows, with their defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pilot.scheduler.elasticity import PoolLimits
from pilot.scheduler.resources import NodeShape
from simulate import workload
from simulate.policies import Policy
from simulate.policies.fixed import Fixed
from simulate.policies.hyperqueue import HyperQueue
from simulate.policies.ours import Ours
from simulate.policies.parsl import ParslSimple
from simulate.run import Case
from simulate.site import Settings

#: The shape of every node.
SHAPE = NodeShape(4)
#: The walltime of pilots, in seconds.
WALLTIME_S = 4 * 3600.0
#: The policies by name; ours is first, and stands out in pictures.
POLICIES: dict[str, Callable[[PoolLimits], Policy]] = {
    policy.name: policy for policy in (Ours, ParslSimple, HyperQueue, Fixed)
}
#: The rates at which nodes are taken away, as parts of all of them in a minute.
RATES = (0.0, 0.05, 0.1, 0.25, 0.5)


@dataclass(frozen=True)
class Options:
    """The choices of the user of ``scripts/simulate``; 0: the scenario's own."""

    nodes: int = 0
    nodes_per_pilot: int = 0
    max_queued: int = 0
    stretch: float = 0.0
    load: float = -1.0
    startup_s: float = 0.0
    rates: Sequence[float] = RATES
    seed: int = 1
    #: False: pilots have the pool's shape, whatever starts first.
    flexible: bool = True


def _pool(options: Options, nodes: int, per_pilot: int, queued: int) -> PoolLimits:
    per_pilot = min(options.nodes_per_pilot or per_pilot, nodes)
    queued = options.max_queued or queued
    return PoolLimits(
        "main", SHAPE, 0, nodes, per_pilot, queued, WALLTIME_S, is_flexible=options.flexible
    )


def w10(options: Options) -> Iterator[tuple[str, Case]]:
    """Bursts with pauses: W10, stretched in time, on an empty partition."""
    nodes = options.nodes or 1000
    stretch = options.stretch or (60.0 if nodes > 16 else 1.0)
    pool = _pool(options, nodes, max(4, nodes // 20), 2)
    settings = Settings(
        pool,
        options.startup_s or (5.0 if stretch > 1.0 else 1.5),
        sample_s=stretch / 2,
        limit_s=20_000.0 * stretch,
    )
    work = workload.bursts(SHAPE, nodes / 4, stretch)
    yield "", Case(nodes, work, settings, load=max(0.0, options.load), seed=options.seed)


def preemption(options: Options) -> Iterator[tuple[str, Case]]:
    """Work for 20 minutes on all nodes, of which more and more are taken away."""
    nodes = options.nodes or 1000
    pool = _pool(options, nodes, 1, 100)
    settings = Settings(pool, options.startup_s or 5.0, sample_s=20.0, limit_s=4 * 3600.0)
    gang = 2 if pool.nodes_per_pilot > 1 else 0
    work = workload.sweep(SHAPE, nodes, 20.0, 120.0, 10.0, options.seed, gang)
    for rate in options.rates:
        yield (
            f"{100 * rate:g}",
            Case(nodes, work, settings, taken_per_minute=rate, seed=options.seed),
        )


def day(options: Options) -> Iterator[tuple[str, Case]]:
    """Work of one day on a busy machine: sweeps, gangs, rounds of short tasks, and single ones."""
    nodes = options.nodes or 1000
    most = max(8, nodes * 2 // 5)
    pool = _pool(options, most, 16, 4)
    settings = Settings(pool, options.startup_s or 5.0, sample_s=240.0)
    work = workload.day(SHAPE, most / 400, options.seed)
    load = 0.7 if options.load < 0 else options.load
    yield "", Case(nodes, work, settings, load=load, seed=options.seed)


#: The scenarios by name.
SCENARIOS: dict[str, Callable[[Options], Iterator[tuple[str, Case]]]] = {
    "w10": w10,
    "preemption": preemption,
    "day": day,
}


def policy_for(
    name: str, case: Case, submit_s: float | None = None, idle_time_s: float | None = None
) -> Callable[[PoolLimits], Policy]:
    """Return what makes a policy for a case: where nodes are taken away, fixed allocations are of
    the pool's size, since one for all nodes would never run. Ours has the site's settings given."""
    if name == Fixed.name and case.taken_per_minute:
        return lambda pool: Fixed(pool, apart=True)
    if name == Ours.name:
        return lambda pool: Ours(pool, idle_time_s, submit_s)
    return POLICIES[name]
