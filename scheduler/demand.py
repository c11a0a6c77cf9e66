"""Demand: how many nodes of a pool the tasks of several classes are worth together. Pure.

A class fills nodes by the resource of which its tasks find the least there: eight tasks of a GPU
each fill eight nodes with one GPU, whatever cores are left. Those cores are there for others. So
what classes fill is added up resource by resource, and the fullest one counts.

Invariants
----------
- The tasks of one class fill as many nodes as they take, by how many fit beside each other.
- Several classes are worth no more nodes than one after the other, and no fewer than any of them.
- Work that no new pilot of the pool can run is worth nothing there.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from pilot.scheduler.assignment import UNKNOWN_S, Pool, can_hold, usable_walltime_s
from pilot.scheduler.resources import NodeShape, Resources, nodes_needed, ranks_that_fit

_CORES = "cores"


class GrowingPool(Pool, Protocol):
    """The facts about a pool that say what work is worth in it."""

    @property
    def patience_s(self) -> float:
        """The time, in seconds, within which its nodes may clear a backlog without a call for more
        nodes: `waits.Waits.patience_s`."""


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
    #: What those that wait would be as other versions of their tasks: one place serves them.
    versions: tuple[ClassDemand, ...] = ()

    @property
    def waiting(self) -> int:
        """The number of tasks that no pilot has."""
        return self.count - self.assigned


class Filling:
    """The nodes that tasks of several classes fill together."""

    def __init__(self) -> None:
        #: By resource: the part that is taken of so many nodes.
        self._taken: defaultdict[str, float] = defaultdict(float)

    @property
    def nodes(self) -> float:
        """The number of nodes."""
        return max(self._taken.values(), default=0.0)

    def add(self, nodes: float, profile: Mapping[str, float]) -> None:
        """Add tasks that alone fill so many nodes, of which they take these parts."""
        if nodes > 0.0:
            for name, part in profile.items():
                self._taken[name] += nodes * part

    def add_all(self, other: Filling, part: float = 1.0) -> None:
        """Add a part of what others fill."""
        for name, taken in other._taken.items():
            self._taken[name] += part * taken


def profile_of(need: Resources, shape: NodeShape) -> dict[str, float]:
    """Return the parts of a node's resources that are taken where such tasks fill it."""
    if need.exclusive:
        return {_CORES: 1.0}
    parts = {_CORES: need.cores / shape.cores if shape.cores else 0.0}
    for name, amount in need.named:
        supply = shape.supply(name)
        if supply is not None and supply.amount:
            parts[name] = amount / supply.amount
    most = max(parts.values())
    return {name: part / most for name, part in parts.items()} if most else {_CORES: 1.0}


def holds(pool: Pool, work: ClassDemand) -> bool:
    """Tell whether a new pilot of the pool can run the tasks."""
    return (
        bool(work.count)
        and can_hold(pool, work.need, work.pool)
        and work.required_walltime_s <= usable_walltime_s(pool.walltime_s or math.inf)
    )


def worth(pool: GrowingPool, work: ClassDemand, count: int) -> float:
    """Return the nodes that so many tasks of a class are worth, in a pool that can hold them.

    The tasks fill at most ``count / (tasks per node)`` nodes, and are worth ``node-seconds /
    patience_s``, since fewer nodes would be done soon anyway.
    """
    nodes = nodes_needed(work.need, pool.shape) or 1
    mean_s = UNKNOWN_S if work.mean_s is None else work.mean_s
    if nodes > 1 or work.need.exclusive:
        per_task = float(nodes)
    else:
        # The number of tasks that fit beside each other on one node.
        per_task = 1.0 / max(1, ranks_that_fit(work.need, pool.shape) // work.need.ranks)
    filled = min(count, work.most) * per_task
    return min(filled, max(count * per_task * mean_s / pool.patience_s, per_task))


def nodes_at_once(pool: Pool, work: ClassDemand) -> int:
    """Return the nodes that one waiting task needs, in a pool that can hold it."""
    return (nodes_needed(work.need, pool.shape) or 0) if work.waiting else 0


def filled(pool: GrowingPool, demand: Sequence[ClassDemand]) -> tuple[Filling, Filling]:
    """Return what the waiting tasks are worth, and those that pilots hold; the pool holds all."""
    waiting, held = Filling(), Filling()
    for work in demand:
        profile = profile_of(work.need, pool.shape)
        nodes = worth(pool, work, work.waiting)
        waiting.add(nodes, profile)
        held.add(worth(pool, work, work.count) - nodes, profile)
    return waiting, held


def nodes_wanted(
    pool: GrowingPool, demand: Sequence[ClassDemand], there: int = 0
) -> tuple[int, int]:
    """Return the nodes that the demand is worth in a pool, and the most that one task needs.

    Parameters
    ----------
    pool, demand
        The pool, and the tasks to run.
    there
        Nodes that the pool has: tasks that pilots hold are worth no more.
    """
    here = [work for work in demand if holds(pool, work)]
    together, held = filled(pool, here)
    if held.nodes:
        together.add_all(held, min(held.nodes, there) / held.nodes)
    at_once = max((nodes_at_once(pool, work) for work in here), default=0)
    return max(math.ceil(together.nodes - 1e-9), at_once), at_once
