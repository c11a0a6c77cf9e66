"""Elasticity: how many nodes to ask for, and which to give back. Pure, with reasons.

Demand (`demand`) is measured in node-seconds, not in task counts: what waits and runs, by class,
times its mean time, against the pilots that there are and those that wait in the queue. A thousand
tasks of a millisecond need no second node; four tasks of an hour need all that the pool allows.
Nodes that are there count for a task only where they are there for long enough: by the same
`assignment.required_walltime_s` that tasks are given out by.

Invariants: never more nodes at once than the pool's `max_nodes`, never a pilot asked for while
`max_queued` are in the queue (but for those that the batch system holds back after it has taken
their nodes); a pilot is ended only when it has been idle for as long as its nodes are worth to be
kept, or has waited in the queue for as long with nothing left to do: it would lose its place at
each short gap in the work. A pilot that works gives back the nodes that have been idle for as long,
where there are too many or it ends too soon for what waits, but never so many that a task that
waits finds too few at once. Tasks in pilots are worth no more nodes than there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from pilot.formatting import counted
from pilot.scheduler.assignment import DRAIN_S
from pilot.scheduler.demand import (
    ClassDemand,
    Filling,
    filled,
    holds,
    nodes_at_once,
    nodes_wanted,
    profile_of,
    worth,
)
from pilot.scheduler.resources import NodeShape, nodes_needed
from pilot.scheduler.shapes import least_nodes, least_walltime_s
from pilot.scheduler.waits import LEAST_S, MOST_WORK_S

#: The reasons why a pool asks for no more nodes: it has what its work is worth; it has its maximum;
#: the maximum of its pilots wait in the queue; the rest is too few for a task that needs more nodes
#: at once; a user has set the number of nodes, or lets no pilots come; an administrator holds one;
#: the budget allows no more.
ENOUGH, MAX_NODES, MAX_QUEUED, AT_ONCE = "enough", "max_nodes", "max_queued", "at once"
SCALED, HELD, ADMIN, BUDGET = "scaled", "held", "administrator", "budget"


class Halt(NamedTuple):
    """The reason why no pilot of a pool may be asked for, whatever there is to do."""

    kind: str
    #: A clause that follows the pool's name, such as "it is held by hand".
    text: str


class BudgetLimit(NamedTuple):
    """The nodes that a pool's budget allows."""

    #: Nodes that may be asked for now, for the whole walltime.
    nodes: int
    #: True if pilots are to end, too.
    is_used_up: bool
    #: The state of the budget, as a clause.
    text: str


class PoolLimits(msgspec.Struct, frozen=True):
    """The limits to a pool's growth."""

    name: str
    shape: NodeShape
    min_nodes: int
    max_nodes: int
    nodes_per_pilot: int
    max_queued: int
    walltime_s: float
    #: The seconds of work for which a node is asked for.
    patience_s: float = MOST_WORK_S
    #: True if a pilot may be smaller or shorter than the pool wishes: `shapes`.
    is_flexible: bool = False
    #: Words of the user who has set the number of nodes, which is `min_nodes` and `max_nodes`; then
    #: surplus pilots end with their tasks. Empty: the pool follows its work.
    scaled: str = ""
    #: The reason why no pilot may be asked for; None: they may.
    halt: Halt | None = None
    #: What the budget allows; None: there is none.
    budget: BudgetLimit | None = None


class PilotSupply(msgspec.Struct, frozen=True):
    """A pilot as elasticity sees it."""

    name: str
    pool: str
    nodes: int
    #: True if the pilot waits in the batch system's queue.
    queued: bool
    #: True if it waits there because it has lost its nodes, and the batch system does not let it
    #: have others yet: it was asked for long ago, and keeps nobody from asking for more.
    held_back: bool = False
    #: False if it waits there, and is not expected to start: it counts against the limits, and is
    #: no supply.
    comes: bool = True
    #: The seconds since the pilot last had a task; 0 while it has one. Of a queued pilot: since it
    #: has been `unwanted`.
    idle_s: float = 0.0
    #: The time that idle nodes are worth to be kept, in seconds: the pool's, or `waits.keep_s`.
    keep_s: float = 60.0
    #: For how long each node that the pilot could give back has been idle, in seconds; empty if it
    #: cannot give back single nodes.
    idle_nodes_s: tuple[float, ...] = ()
    #: True if the pilot takes no more tasks.
    draining: bool = False
    #: The remaining walltime, or for a queued pilot all of it, in seconds.
    left_s: float = math.inf
    #: The cores of the tasks that the pilot holds.
    load: int = 0
    #: The nodes of its job, granted or requested, if these are more: they count against the limit.
    held: int = 0
    #: What each of its nodes has, if that is less than the pool promises; None: it is not.
    shape: NodeShape | None = None
    #: True if the pilot is not ours: it is never ended, whether it works or not.
    own: bool = False
    #: True if a job can be asked for now that starts when this one has ended: the batch system
    #: takes such requests, and nobody has asked yet.
    may_be_followed: bool = False


class Grow(msgspec.Struct, frozen=True):
    """A decision to submit a pilot."""

    pool: str
    nodes: int
    walltime_s: float
    reason: str
    #: The pilot after whose end it starts, which has its nodes until then; empty: at once.
    after: str = ""
    #: The fewest nodes, and the shortest walltime in seconds, that will do; 0: all of it.
    least_nodes: int = 0
    least_walltime_s: float = 0.0


class End(msgspec.Struct, frozen=True):
    """A decision to end a pilot, or to cancel its queued job."""

    pilot: str
    reason: str


class Shrink(msgspec.Struct, frozen=True):
    """A decision to give back so many of a pilot's nodes, the longest idle first."""

    pilot: str
    nodes: int
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
    #: Pilots in the queue of the batch system that could start if there were nodes.
    queued: int
    #: Nodes of the largest pilot that takes tasks.
    largest: int
    #: Pilots with less walltime left, in seconds, do not serve what waits; 0: all of them do.
    too_short_s: float = 0.0
    #: The shortest walltime that the work allows, in seconds.
    least_walltime_s: float = 0.0
    #: The nodes that the budget allows.
    affordable: float = math.inf
    #: The fewest nodes that a waiting task needs at once; 0: nothing waits.
    least_at_once: int = 0

    @property
    def next_nodes(self) -> int:
        """The number of nodes of the next pilot."""
        wanted = max(self.target - self.have, self.at_once)
        nodes = int(min(self.pool.nodes_per_pilot, wanted, self.free, self.affordable))
        return nodes - self.left_over(nodes) if nodes >= self.at_once else nodes

    def left_over(self, nodes: int) -> int:
        """Return how many of so many nodes are of no use for what waits: tasks that all need the
        same number of them at once."""
        return nodes % self.at_once if self.least_at_once == self.at_once > 1 else 0

    @property
    def blocked_by(self) -> str:
        """The reason why no more nodes are asked for; empty if they are."""
        limit = SCALED if self.pool.scaled else MAX_NODES
        if self.have >= self.target:
            return limit if self.wanted > self.target else ENOUGH
        if self.pool.halt is not None:
            return self.pool.halt.kind
        if self.affordable <= 0:
            return BUDGET
        if self.free <= 0:
            return limit
        if self.queued >= self.pool.max_queued:
            return MAX_QUEUED
        needed = self.at_once if self.at_once > self.largest else self.least_at_once
        if self.next_nodes < needed:
            return AT_ONCE if self.affordable >= needed else BUDGET
        return ""

    def is_too_small(self, pilot: PilotSupply) -> bool:
        """Tell whether a pilot has nothing to do, and too few nodes for any task that waits."""
        return pilot.nodes < self.least_at_once and not pilot.load


def standings(
    pools: Sequence[PoolLimits], demand: Sequence[ClassDemand], pilots: Sequence[PilotSupply]
) -> list[PoolStatus]:
    """Return the status of each pool.

    Tasks that name no pool make demand in the first one, in the order of the site file, that can
    hold them: no pool grows for work that has another place. (Pilots that are there take whatever
    fits them.) Of tasks with versions that is the first version for which a pool may still grow.
    """
    found = []
    placed: set[int] = set()
    demand = list(_chosen(pools, demand, pilots))
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


def _chosen(
    pools: Sequence[PoolLimits], demand: Sequence[ClassDemand], pilots: Sequence[PilotSupply]
) -> Iterator[ClassDemand]:
    """Choose, for tasks that wait and have versions, the one that pools are to have nodes for."""
    for work in demand:
        if not work.versions:
            yield work
            continue
        ways = (work, *work.versions)
        open_ = [pool for pool in pools if _may_grow(pool, pilots)]
        found = next(
            (way for those in (open_, pools) for way in ways if any(holds(p, way) for p in those)),
            work,
        )
        if found is work:
            yield work
        else:
            yield found
            if work.assigned:
                yield msgspec.structs.replace(work, count=work.assigned, versions=())


def _may_grow(pool: PoolLimits, pilots: Sequence[PilotSupply]) -> bool:
    """Tell whether a pool may have more nodes than it has."""
    held = sum(max(pilot.nodes, pilot.held) for pilot in pilots if pilot.pool == pool.name)
    affordable = pool.budget is None or pool.budget.nodes > 0
    return pool.halt is None and affordable and held < pool.max_nodes


def _serves(pilot: PilotSupply) -> bool:
    """Tell whether a pilot takes tasks, or will when it has come."""
    return pilot.comes and not pilot.draining


def _standing(
    pool: PoolLimits, demand: Sequence[ClassDemand], pilots: Sequence[PilotSupply]
) -> PoolStatus:
    usable = [pilot for pilot in pilots if _serves(pilot)]
    # Nodes of a draining pilot are still held: the limit counts them, the supply does not.
    held = sum(max(pilot.nodes, pilot.held) for pilot in pilots)
    wanted, at_once = nodes_wanted(pool, demand, held)
    target = min(max(wanted, pool.min_nodes), pool.max_nodes)
    least = min((nodes_at_once(pool, work) for work in demand if work.waiting), default=0)
    have = sum(pilot.nodes for pilot in usable if pilot.nodes >= least or pilot.load)
    largest = max((pilot.nodes for pilot in usable), default=0)
    lack = _lack(pool, demand, pilots)
    if lack.nodes:
        have = min(have, target - lack.nodes)
    if unheld := _unheld(pool, demand, usable):
        have = min(have, target - unheld)
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
        queued=sum(pilot.queued and not pilot.held_back for pilot in pilots),
        largest=largest,
        too_short_s=lack.left_s,
        least_walltime_s=least_walltime_s(
            pool.walltime_s,
            [(work.mean_s, work.required_walltime_s) for work in demand if work.waiting],
        ),
        affordable=math.inf if pool.budget is None else pool.budget.nodes,
        least_at_once=least,
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
    _, busy = filled(pool, demand)
    held = min(busy.nodes, sum(pilot.nodes for pilot in pilots)) / max(1, load)
    shorter = sorted(filter(_serves, pilots), key=lambda pilot: pilot.left_s)
    most = _Lack()
    together, free = Filling(), 0.0
    at_once = largest = 0
    for work in sorted(waiting, key=lambda work: -work.required_walltime_s):
        together.add(worth(pool, work, work.waiting), profile_of(work.need, pool.shape))
        at_once = max(at_once, nodes_at_once(pool, work))
        left_s = work.required_walltime_s + DRAIN_S
        while shorter and shorter[-1].left_s >= left_s:
            pilot = shorter.pop()
            free += max(0.0, pilot.nodes - held * pilot.load)
            largest = max(largest, pilot.nodes)
        if not shorter:
            break  # every pilot is long enough for the rest
        nodes = math.ceil(together.nodes - free - 1e-9)
        if at_once > largest:
            nodes = max(nodes, at_once)
        if nodes > most.nodes:
            most = _Lack(nodes, left_s, at_once, largest)
    return most


def _unheld(pool: PoolLimits, demand: Sequence[ClassDemand], pilots: Sequence[PilotSupply]) -> int:
    """Return the nodes that waiting tasks lack because those of some pilots have too little."""
    poor = [pilot for pilot in pilots if pilot.shape is not None]
    if not poor:
        return 0
    lacking = [w for w in demand if w.waiting and not all(_fits(pilot, w) for pilot in poor)]
    together = Filling()
    for work in lacking:
        together.add(worth(pool, work, work.waiting), profile_of(work.need, pool.shape))
    able = sum(pilot.nodes for pilot in pilots if all(_fits(pilot, work) for work in lacking))
    return max(0, math.ceil(together.nodes - able - 1e-9))


def _fits(pilot: PilotSupply, work: ClassDemand) -> bool:
    """Tell whether the nodes of a pilot have what a task needs."""
    return pilot.shape is None or nodes_needed(work.need, pilot.shape) is not None


def decide(
    pools: Sequence[PoolLimits], demand: Sequence[ClassDemand], pilots: Sequence[PilotSupply]
) -> list[Grow | End | Shrink]:
    """Return the pilots to submit, to end and to shrink, pool by pool."""
    return decide_by(standings(pools, demand, pilots), pilots)


def decide_by(
    pools: Sequence[PoolStatus], pilots: Sequence[PilotSupply]
) -> list[Grow | End | Shrink]:
    """Return the decisions, and count pilots to submit in the pools' status."""
    decisions: list[Grow | End | Shrink] = []
    for its in pools:
        pool = its.pool
        while not its.blocked_by:
            nodes = its.next_nodes
            decisions.append(
                Grow(
                    pool.name,
                    nodes,
                    pool.walltime_s,
                    f"{_what_for(its)}, {max(its.have, 0)} there or on the way",
                    least_nodes=_least_nodes(its, nodes),
                    least_walltime_s=its.least_walltime_s if pool.is_flexible else 0.0,
                )
            )
            its.have, its.free, its.queued = its.have + nodes, its.free - nodes, its.queued + 1
            its.largest = max(its.largest, nodes)
            its.affordable -= nodes
        mine = [pilot for pilot in pilots if pilot.pool == pool.name]
        decisions += _successors(its, mine)
        usable = [pilot for pilot in mine if not pilot.draining]
        spare = sum(pilot.nodes for pilot in usable if pilot.comes) - its.target
        # Those that do not come take nobody's place.
        in_vain = sum(pilot.nodes for pilot in usable if not pilot.comes)
        if its.at_once > its.largest:
            # Idle pilots that are too small hold the nodes that the task waits for.
            spare = sum(pilot.nodes for pilot in usable if pilot.idle_s and pilot.comes)
        for pilot in sorted(usable, key=lambda pilot: (not pilot.queued, -pilot.idle_s)):
            if pilot.own:
                continue
            is_spare = pilot.nodes <= (spare if pilot.comes else spare + in_vain)
            # Idle pilots that end too soon, or are too small, hold nodes that a new one could have.
            surplus = is_spare or pilot.left_s < its.too_short_s or its.is_too_small(pilot)
            if pool.budget is not None and pool.budget.is_used_up:
                decisions.append(End(pilot.name, f"the budget is used up: {pool.budget.text}"))
            elif pool.scaled and is_spare:
                decisions.append(End(pilot.name, f"the pool is {pool.scaled}"))
            elif pilot.queued and surplus and not its.wanted:
                if pilot.idle_s < pilot.keep_s:
                    continue
                text = f"nothing has been left for it to do for {pilot.idle_s:.0f} s"
                decisions.append(End(pilot.name, text))
            elif not pilot.queued and pilot.idle_s >= _keep_s(pilot, its) and surplus:
                decisions.append(End(pilot.name, f"idle for {pilot.idle_s:.0f} s"))
            elif not pilot.queued and (nodes := _spare_nodes(pilot, spare, its)):
                reason = f"{nodes} of {pilot.nodes} nodes idle for {_keep_s(pilot, its):.0f} s"
                decisions.append(Shrink(pilot.name, nodes, reason))
                spare -= nodes
                continue
            else:
                continue
            if pilot.comes:
                spare -= pilot.nodes
            else:
                in_vain -= pilot.nodes
    return decisions


def _least_nodes(its: PoolStatus, nodes: int) -> int:
    """Return the fewest nodes that will do in the place of so many; 0: all of them."""
    if not its.pool.is_flexible:
        return 0
    return least_nodes(nodes, its.at_once if its.at_once > its.largest else 0)


def unwanted(pools: Sequence[PoolStatus], pilots: Sequence[PilotSupply]) -> set[str]:
    """Return the names of the queued pilots of which nothing would be left to do if they came now.

    For how long that has been so is their `PilotSupply.idle_s`.
    """
    content = {its.pool.name: its.target for its in pools if not its.wanted}
    found = set()
    for name, target in content.items():
        mine = [pilot for pilot in pilots if pilot.pool == name and not pilot.draining]
        spare = sum(pilot.nodes for pilot in mine) - target
        for pilot in sorted(mine, key=lambda pilot: pilot.comes):
            if pilot.queued and pilot.nodes <= spare:
                found.add(pilot.name)
                spare -= pilot.nodes
    return found


def _successors(its: PoolStatus, pilots: Sequence[PilotSupply]) -> Iterator[Grow]:
    """Yield the pilots to submit in the place of those that are about to end, as the pool has no
    room for more: so their nodes are asked for before, and never more are held."""
    if its.blocked_by != MAX_NODES or its.free > 0 or not its.at_once:
        return  # or nothing waits
    for pilot in sorted(pilots, key=lambda pilot: pilot.left_s):
        # One that drains long before its end may be on its way to the queue, as when preempted.
        too_late_s = max(its.too_short_s, 2 * DRAIN_S) if pilot.draining else its.too_short_s
        if pilot.left_s >= too_late_s or not pilot.may_be_followed:
            continue
        nodes = int(
            min(its.target - its.have, pilot.nodes, its.pool.nodes_per_pilot, its.affordable)
        )
        if nodes <= 0 or its.queued >= its.pool.max_queued:
            return
        if nodes < its.least_at_once:
            continue  # no task that waits finds enough there, and fewer are free for a larger one
        reason = f"{_what_for(its)}, and {pilot.name} ends in {max(0.0, pilot.left_s):.0f} s"
        yield Grow(its.pool.name, nodes, its.pool.walltime_s, reason, pilot.name)
        its.have, its.queued = its.have + nodes, its.queued + 1
        its.affordable -= nodes


def _what_for(its: PoolStatus) -> str:
    """Return what a pool has its target of nodes for, in words."""
    if its.pool.scaled:
        return its.pool.scaled
    if its.wanted < its.target:
        return f"{counted(its.target, 'node')} are kept (min_nodes)"
    return f"work for {counted(its.wanted, 'node')}"


def _keep_s(pilot: PilotSupply, its: PoolStatus) -> float:
    """Return for how long idle nodes of a pilot are kept, in seconds: hardly where they end too
    soon for what waits, which a new one could run there."""
    return min(pilot.keep_s, LEAST_S) if pilot.left_s < its.too_short_s else pilot.keep_s


def _spare_nodes(pilot: PilotSupply, spare: int, its: PoolStatus) -> int:
    """Return how many nodes a pilot that works can give back, of so many that are too many."""
    idle = sum(idle_s >= _keep_s(pilot, its) for idle_s in pilot.idle_nodes_s)
    if pilot.left_s < its.too_short_s:
        spare = idle  # what waits does not fit into its time, and a new one could have its nodes
    spare = max(spare, its.left_over(pilot.nodes))
    if pilot.nodes >= its.at_once:
        # It may be the only one that is large enough.
        spare = min(spare, pilot.nodes - its.at_once)
    return max(0, min(idle, spare, pilot.nodes - 1))
