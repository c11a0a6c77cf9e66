"""Elasticity: how many nodes to ask for, and which pilots to end. Pure, with reasons.

Demand is measured in node-seconds, not in task counts: what waits and runs, by class, times its
mean time, against the pilots that there are and those that wait in the queue. A thousand tasks
of a millisecond need no second node; four tasks of an hour need all that the pool allows. Nodes
that are there count for a task only where they are there for long enough: by the same
`assignment.required_walltime_s` that tasks are given out by.

Invariants: never more nodes than the pool's `max_nodes`, never more than `max_queued` pilots in
the queue; a pilot is ended only when it has been idle for the pool's idle time, or when it is
still queued and nothing is left to do. Tasks in pilots are worth no more nodes than there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from pilot.scheduler.assignment import DRAIN_S, can_hold, usable_walltime_s
from pilot.scheduler.resources import NodeShape, Resources, nodes_needed, ranks_that_fit

#: The assumed duration of a task while none of its class has ended, in seconds.
UNKNOWN_S = 60.0
#: The seconds within which the present nodes may clear a backlog without a call for more nodes.
PATIENCE_S = 30.0

#: The reasons why a pool asks for no more nodes: it has what its work is worth; it has its maximum;
#: the maximum of its pilots wait in the queue; the rest is too few for a task that needs more nodes
#: at once.
ENOUGH, MAX_NODES, MAX_QUEUED, AT_ONCE = "enough", "max_nodes", "max_queued", "at once"


class ClassDemand(msgspec.Struct, frozen=True):
    """Tasks of one class that wait or run."""

    need: Resources
    #: The pool that the tasks name; empty: any.
    pool: str
    count: int
    mean_s: float | None
    #: The walltime to keep for each, in seconds: `assignment.required_walltime_s`.
    required_walltime_s: float = 0.0
    #: The number of these tasks that pilots hold; the others wait.
    assigned: int = 0
    #: The number that may run at once, by the amounts that they need of the site.
    most: float = math.inf

    @property
    def waiting(self) -> int:
        """The number of tasks that no pilot has."""
        return self.count - self.assigned


class PoolLimits(msgspec.Struct, frozen=True):
    """The limits to a pool's growth."""

    name: str
    shape: NodeShape
    min_nodes: int
    max_nodes: int
    nodes_per_pilot: int
    max_queued: int
    walltime_s: float
    idle_s: float


class PilotSupply(msgspec.Struct, frozen=True):
    """A pilot as elasticity sees it."""

    name: str
    pool: str
    nodes: int
    #: True if the pilot waits in the batch system's queue.
    queued: bool
    #: The seconds since the pilot last had a task; 0 while it has one.
    idle_s: float = 0.0
    #: True if the pilot takes no more tasks.
    draining: bool = False
    #: The remaining walltime, or for a queued pilot all of it, in seconds.
    left_s: float = math.inf
    #: The cores of the tasks that the pilot holds.
    load: int = 0
    #: The nodes of its job, granted or requested, if these are more: they count against the limit.
    held: int = 0
    #: True if the pilot is not ours: it is never ended, whether it works or not.
    own: bool = False


class Grow(msgspec.Struct, frozen=True):
    """A decision to submit a pilot."""

    pool: str
    nodes: int
    walltime_s: float
    reason: str


class End(msgspec.Struct, frozen=True):
    """A decision to end a pilot, or to cancel its queued job."""

    pilot: str
    reason: str


class PoolStatus(msgspec.Struct):
    """The demand on a pool in nodes, and the nodes that it has and may have."""

    pool: PoolLimits
    #: Nodes that the work is worth, and the most that one task needs at once.
    wanted: int
    at_once: int
    #: Nodes that the pool should have, and has or will have, as far as they serve the work.
    target: int
    have: int
    #: The nodes that the pool may still ask for.
    free: int
    #: Pilots in the queue of the batch system.
    queued: int
    #: Nodes of the largest pilot that takes tasks.
    largest: int
    #: Pilots with less walltime left, in seconds, do not serve what waits; 0: all of them do.
    too_short_s: float = 0.0

    @property
    def next_nodes(self) -> int:
        """The number of nodes of the next pilot."""
        wanted = max(self.target - self.have, self.at_once)
        return min(self.pool.nodes_per_pilot, wanted, self.free)

    @property
    def blocked_by(self) -> str:
        """The reason why no more nodes are asked for; empty if they are."""
        if self.have >= self.target:
            return MAX_NODES if self.wanted > self.target else ENOUGH
        if self.free <= 0:
            return MAX_NODES
        if self.queued >= self.pool.max_queued:
            return MAX_QUEUED
        if self.next_nodes < self.at_once and self.at_once > self.largest:
            return AT_ONCE
        return ""


def nodes_wanted(
    pool: PoolLimits, demand: Sequence[ClassDemand], there: int = 0
) -> tuple[int, int]:
    """Return the nodes that the demand is worth in a pool, and the most that one task needs.

    Parameters
    ----------
    pool, demand
        The pool, and the tasks to run.
    there
        Nodes that the pool has: tasks that pilots hold are worth no more.
    """
    waiting = held = 0.0
    at_once = 0
    for work in demand:
        if not holds(pool, work):
            continue
        nodes = _worth(pool, work, work.waiting)
        waiting += nodes
        held += _worth(pool, work, work.count) - nodes
        at_once = max(at_once, _at_once(pool, work))
    return max(math.ceil(waiting + min(held, there) - 1e-9), at_once), at_once


def _worth(pool: PoolLimits, work: ClassDemand, count: int) -> float:
    """Return the nodes that so many tasks of a class are worth, in a pool that can hold them.

    The tasks fill at most ``count / (tasks per node)`` nodes, and are worth ``node-seconds /
    PATIENCE_S``, since fewer nodes would be done soon anyway.
    """
    nodes = nodes_needed(work.need, pool.shape) or 1
    mean_s = UNKNOWN_S if work.mean_s is None else work.mean_s
    if nodes > 1:
        per_task = float(nodes)
    else:
        # What fits beside each other in one node.
        per_task = 1.0 / max(1, ranks_that_fit(work.need, pool.shape) // work.need.ranks)
    filled = min(count, work.most) * per_task
    return min(filled, max(count * per_task * mean_s / PATIENCE_S, per_task))


def _at_once(pool: PoolLimits, work: ClassDemand) -> int:
    """Return the nodes that one waiting task needs, in a pool that can hold it."""
    return (nodes_needed(work.need, pool.shape) or 0) if work.waiting else 0


def holds(pool: PoolLimits, work: ClassDemand) -> bool:
    """Tell whether a new pilot of the pool can run the tasks."""
    return (
        bool(work.count)
        and can_hold(pool, work.need, work.pool)
        and work.required_walltime_s <= usable_walltime_s(pool.walltime_s or math.inf)
    )


def standings(
    pools: Sequence[PoolLimits], demand: Sequence[ClassDemand], pilots: Sequence[PilotSupply]
) -> list[PoolStatus]:
    """Return the status of each pool.

    Tasks that name no pool make demand in the first one, in the order of the site file, that can
    hold them: no pool grows for work that has another place. (Pilots that are there take whatever
    fits them.)
    """
    found = []
    placed: set[int] = set()
    for pool in pools:
        here = [
            number
            for number, work in enumerate(demand)
            if number not in placed and holds(pool, work)
        ]
        placed.update(here)
        mine = [pilot for pilot in pilots if pilot.pool == pool.name]
        found.append(_standing(pool, [demand[number] for number in here], mine))
    return found


def _standing(
    pool: PoolLimits, demand: Sequence[ClassDemand], pilots: Sequence[PilotSupply]
) -> PoolStatus:
    usable = [pilot for pilot in pilots if not pilot.draining]
    # Nodes of a draining pilot are still held: the limit counts them, the supply does not.
    held = sum(max(pilot.nodes, pilot.held) for pilot in pilots)
    wanted, at_once = nodes_wanted(pool, demand, held)
    target = min(max(wanted, pool.min_nodes), pool.max_nodes)
    have = sum(pilot.nodes for pilot in usable)
    largest = max((pilot.nodes for pilot in usable), default=0)
    lack = _lack(pool, demand, pilots)
    if lack.nodes:
        have = min(have, target - lack.nodes)
    if at_once > largest:
        # Nodes in several small pilots do not serve a task that needs them at once.
        have = min(have, target - at_once)
    elif lack.at_once > lack.largest:
        at_once, largest = lack.at_once, lack.largest
    return PoolStatus(
        pool,
        wanted,
        at_once,
        target,
        have,
        free=pool.max_nodes - held,
        queued=sum(pilot.queued for pilot in pilots),
        largest=largest,
        too_short_s=lack.left_s,
    )


class _Lack(NamedTuple):
    """The nodes that waiting tasks lack because pilots end too soon for them."""

    nodes: int = 0
    #: The walltime that nodes must have left, in seconds.
    left_s: float = 0.0
    #: Nodes that one of the tasks needs, and those of the largest pilot that is long enough.
    at_once: int = 0
    largest: int = 0


def _lack(pool: PoolLimits, demand: Sequence[ClassDemand], pilots: Sequence[PilotSupply]) -> _Lack:
    """Return the largest lack of nodes: for the longest tasks, for these and the next, and so on.

    Pilots that are long enough for some tasks are long enough for all shorter ones. Tasks that
    pilots hold take their part of these nodes.
    """
    load = sum(pilot.load for pilot in pilots)
    waiting = [work for work in demand if work.waiting]
    held = sum(_worth(pool, w, w.count) - _worth(pool, w, w.waiting) for w in demand)
    held = min(held, sum(pilot.nodes for pilot in pilots)) / max(1, load)
    shorter = sorted(
        (pilot for pilot in pilots if not pilot.draining), key=lambda pilot: pilot.left_s
    )
    most = _Lack()
    worth = free = 0.0
    at_once = largest = 0
    for work in sorted(waiting, key=lambda work: -work.required_walltime_s):
        worth += _worth(pool, work, work.waiting)
        at_once = max(at_once, _at_once(pool, work))
        left_s = work.required_walltime_s + DRAIN_S
        while shorter and shorter[-1].left_s >= left_s:
            pilot = shorter.pop()
            free += max(0.0, pilot.nodes - held * pilot.load)
            largest = max(largest, pilot.nodes)
        if not shorter:
            break  # every pilot is long enough for the rest
        nodes = math.ceil(worth - free - 1e-9)
        if at_once > largest:
            nodes = max(nodes, at_once)
        if nodes > most.nodes:
            most = _Lack(nodes, left_s, at_once, largest)
    return most


def decide(
    pools: Sequence[PoolLimits], demand: Sequence[ClassDemand], pilots: Sequence[PilotSupply]
) -> list[Grow | End]:
    """Return the pilots to submit and to end, pool by pool."""
    decisions: list[Grow | End] = []
    for its in standings(pools, demand, pilots):
        pool = its.pool
        while not its.blocked_by:
            nodes = its.next_nodes
            decisions.append(
                Grow(
                    pool.name,
                    nodes,
                    pool.walltime_s,
                    f"work for {its.wanted} nodes, {max(its.have, 0)} there or on the way",
                )
            )
            its.have, its.free, its.queued = its.have + nodes, its.free - nodes, its.queued + 1
            its.largest = max(its.largest, nodes)
        usable = [pilot for pilot in pilots if pilot.pool == pool.name and not pilot.draining]
        spare = sum(pilot.nodes for pilot in usable) - its.target
        if its.at_once > its.largest:
            # Idle pilots that are too small hold the nodes that the task waits for.
            spare = sum(pilot.nodes for pilot in usable if pilot.idle_s)
        for pilot in sorted(usable, key=lambda pilot: (not pilot.queued, -pilot.idle_s)):
            if pilot.own:
                continue
            # Idle pilots that end too soon hold nodes that a new one could have.
            surplus = pilot.nodes <= spare or pilot.left_s < its.too_short_s
            if pilot.queued and surplus and not its.wanted:
                decisions.append(End(pilot.name, "nothing is left for it to do"))
            elif not pilot.queued and pilot.idle_s >= pool.idle_s and surplus:
                decisions.append(End(pilot.name, f"idle for {pilot.idle_s:.0f} s"))
            else:
                continue
            spare -= pilot.nodes
    return decisions
