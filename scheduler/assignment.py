"""Assignment of tasks to pilots by class and count: the head's half of two-level scheduling.

The head decides by count, never task by task: a class is a set of tasks that are alike (same
session, function, resources, priority, pool), and what is decided is "so many of this class to
that pilot". `placement`, in the agent, decides which nodes and cores they get there.

Invariants: a pilot is given a task only where its pool, its nodes and its remaining walltime allow
it; it is given more than it has cores for only where the tasks are so short that its executors
would otherwise wait for the head (`PREFETCH_S`), for those of its cores that are sure to be free
again soon, and at most one task beyond that, so that a task that needs many cores can queue up in a
busy pilot and is not starved by small ones. While such a task waits there, others may be given to
the pilot as if its cores were free: what may go before it the pilot decides. A task that a pool can
hold fits in a new pilot of that pool.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Container, Hashable, Iterable, Iterator, Sequence
from typing import Protocol

import msgspec

from pilot.scheduler.amounts import CORELESS, GPUS, MEMORY, UNIT, Amounts, amount_text
from pilot.scheduler.resources import NodeShape, Resources, amount_of, cores_on, nodes_needed
from pilot.scheduler.site_amounts import SiteAmounts

#: The most work that may wait on each core of a pilot, in seconds.
PREFETCH_S = 0.1
#: The most tasks that may wait on each core of a pilot.
PREFETCH_TASKS = 1000
#: The last seconds of a pilot's walltime, in which it starts nothing.
DRAIN_S = 15.0
#: The seconds that pass before a pilot can start the first task; at most a tenth of its walltime.
START_S = 60.0
#: The assumed duration of a task while none of its class has ended, in seconds.
UNKNOWN_S = 60.0
#: The reasons why a pilot cannot run a task: another pool than the task names; too few or too small
#: nodes; too little walltime left.
OTHER_POOL, TOO_SMALL, TOO_SHORT = "other pool", "too small", "too short"


class WorkClass(Protocol):
    """The facts about a class of tasks that the assignment uses."""

    need: Resources
    pool: str
    time_limit_s: float
    #: The longest walltime of the pools that can hold a task, in seconds; inf: there is no end.
    longest_s: float
    #: The mean duration in seconds; None until a task of the class has ended.
    mean_s: float | None
    #: The number of ready tasks of this class.
    ready: int
    #: True if tasks of this class wait for others while they run.
    waits: bool
    #: How many tasks, each a detached child of the next, may wait for one of this class.
    depth: int

    @property
    def session(self) -> Hashable:
        """The session, which shares the cores with others: all its classes count together."""

    @property
    def rank(self) -> tuple[int, int]:
        """The session's priority, then the task's; a higher rank goes first."""

    @property
    def starving(self) -> bool:
        """True if the session got nothing for long: it gets one task before all others."""

    @property
    def late(self) -> bool:
        """True if tasks of several cores got nothing for long: they go before others of their
        session and priority."""

    @property
    def share(self) -> float:
        """The session's cores, divided by its weight: the smallest share goes first."""

    def may_wait_on(self, shape: NodeShape) -> bool:
        """Tell whether tasks of this class may wait for cores on such nodes: no other version of
        them needs fewer there."""


class Pool(Protocol):
    """The facts about a pool that the assignment uses."""

    @property
    def name(self) -> str:
        """The name, as tasks give it."""

    @property
    def shape(self) -> NodeShape:
        """The resources of each node."""

    @property
    def nodes_per_pilot(self) -> int:
        """The largest number of nodes of one pilot."""

    @property
    def walltime_s(self) -> float:
        """The walltime of the pool's pilots, in seconds; 0: no end."""


class PilotShape(Protocol):
    """The facts about a pilot, however busy, that the assignment uses."""

    pool: str
    shape: NodeShape
    nodes: int
    #: The end of the walltime, in seconds since the epoch; 0: no end.
    ends_at: float


class PilotRoom(PilotShape, Protocol):
    """The facts about a pilot, with its load, that the assignment uses."""

    #: The cores of the tasks that the pilot holds.
    load: int
    #: The part of these cores whose tasks are not known to be short: nobody knows when they become
    #: free.
    lasting: int
    #: The tasks without a core that the pilot holds.
    coreless: int
    #: The cores, counted in `load`, of tasks of several cores that have waited there for long.
    stuck: int

    @property
    def avoided(self) -> Container[object]:
        """The classes that have waited there in vain: the pilot gets no more of them for now."""

    @property
    def has_waits(self) -> bool:
        """True if a task there waits for others; its cores are not in `load`."""

    def is_crowded(self, depth: int) -> bool:
        """Tell whether so many tasks of a depth wait there for others that no more are to come."""


def cores_of(pilot: PilotShape) -> int:
    """Return the number of cores of all nodes of a pilot."""
    return pilot.shape.cores * pilot.nodes


def coreless_of(pilot: PilotShape) -> int:
    """Return the most tasks without a core that all nodes of a pilot run at a time."""
    supply = pilot.shape.supply(CORELESS)
    return 0 if supply is None else supply.amount // UNIT * pilot.nodes


def is_short(work: WorkClass) -> bool:
    """Tell whether tasks of this class may wait in a pilot for cores to become free."""
    return work.mean_s is not None and work.mean_s <= PREFETCH_S and not work.waits


def fits(work: WorkClass, pilot: PilotShape, now: float) -> bool:
    """Tell whether an idle pilot could run a task of this class in its remaining time."""
    return not why_unfit(work, pilot, now)


def why_unfit(work: WorkClass, pilot: PilotShape, now: float) -> str:
    """Return why even an idle pilot cannot run a task of this class; empty if it can."""
    if work.pool and work.pool != pilot.pool:
        return OTHER_POOL
    nodes = nodes_needed(work.need, pilot.shape)
    if nodes is None or nodes > pilot.nodes:
        return TOO_SMALL
    if pilot.ends_at and now + required_walltime_s(work) + DRAIN_S > pilot.ends_at:
        return TOO_SHORT
    return ""


def required_walltime_s(work: WorkClass) -> float:
    """Return the walltime to keep for a task: its limit, else 1.5 times its class's mean, which is
    `UNKNOWN_S` as long as nothing is known of it.

    At most this is what a new pilot of the longest walltime has, or the task would never start;
    without a limit nine tenths of that, so that the task need not be the pilot's very first.
    """
    fresh = usable_walltime_s(work.longest_s)
    if work.time_limit_s:
        beyond = work.time_limit_s + DRAIN_S > work.longest_s  # no pilot is long enough for it
        return work.time_limit_s if beyond else min(work.time_limit_s, fresh)
    expected_s = UNKNOWN_S if work.mean_s is None else 1.5 * work.mean_s
    return min(expected_s, 0.9 * fresh)


def usable_walltime_s(walltime_s: float) -> float:
    """Return the part of a walltime, in seconds, that a new pilot has for tasks."""
    return max(0.0, walltime_s - min(START_S, walltime_s / 10) - DRAIN_S)


def can_hold(pool: Pool, need: Resources, named: str) -> bool:
    """Tell whether a pilot of the pool is large enough for a task that names it, or no pool."""
    nodes = nodes_needed(need, pool.shape)
    return named in ("", pool.name) and nodes is not None and nodes <= pool.nodes_per_pilot


def longest_s(need: Resources, named: str, pools: Iterable[Pool]) -> float:
    """Return the longest walltime of the pools that can hold a task; inf: no end, or no pool."""
    walltimes = [pool.walltime_s or math.inf for pool in pools if can_hold(pool, need, named)]
    return max(walltimes, default=math.inf)


def free_slots(work: WorkClass, pilot: PilotRoom) -> int:
    """Return how many more tasks of this class the pilot should hold, provided that they fit."""
    if work in pilot.avoided or pilot.is_crowded(work.depth):
        return 0
    if not work.need.cores:
        # They need no looking ahead: there are many places, and no core waits for the head.
        return max(0, coreless_of(pilot) - pilot.coreless)
    cores = cores_of(pilot)
    budget: float = cores - pilot.load + pilot.stuck
    if work.mean_s is not None and is_short(work):
        # Short tasks queue up, but not behind what may never end; long ones only fill the cores.
        ahead = min(PREFETCH_S / max(work.mean_s, 1e-6), PREFETCH_TASKS)
        budget += ahead * max(0, cores - pilot.lasting)
    count = int(budget // cores_on(work.need, pilot.shape))
    if count <= 0 and pilot.load < cores and work.may_wait_on(pilot.shape):
        return 1
    return max(count, 0)


def early_slots(work: WorkClass, pilot: PilotRoom) -> int:
    """Return how many more tasks of this class the pilot should hold that wait for inputs which are
    made there: as many as fill its cores once more, and of short ones what it may hold ahead."""
    if work in pilot.avoided or not work.need.cores:
        return free_slots(work, pilot)
    each = cores_on(work.need, pilot.shape)
    once_more = max(0, int((2 * cores_of(pilot) - pilot.load) // each))
    return max(free_slots(work, pilot), once_more) if is_short(work) else once_more


def starts_at_once(work: WorkClass, pilot: PilotRoom, now: float) -> bool:
    """Tell whether the pilot has free cores for one more task of this class, and may take it."""
    free = cores_of(pilot) - pilot.load
    its = cores_on(work.need, pilot.shape)
    return its <= free and free_slots(work, pilot) > 0 and fits(work, pilot, now)


def assign(
    classes: Iterable[WorkClass],
    pilots: Iterable[PilotRoom],
    now: float,
    site: SiteAmounts | None = None,
) -> Iterator[tuple[WorkClass, PilotRoom, int]]:
    """Share ready tasks out, classes of high rank first, each over the emptiest pilots.

    Of classes of the same rank, the one whose session has the smallest share of the cores goes
    first, and where several sessions wait, each is given a part of the room at a time: so sessions
    share by weight, and none starves beside one with a million tasks. Nor does one beside sessions
    of higher priority: when it starves it is given one task first.

    No more of the amounts of the `site` is given than there is. A class that is next, and lacks
    only such an amount, is not overtaken by later classes: what they would take of it is left.

    The caller must raise a pilot's `load`, the session's `share`, and lower the class's `ready` by
    what was yielded, and take it from the `site`, before it asks for the next one: the decisions
    follow each other.

    The cost grows with the classes times the pilots. So classes wait by session, in an order that
    stays, and of the sessions only the one that was served has to be put elsewhere.
    """
    pilots = list(pilots)
    ranks: Counter[tuple[int, int]] = Counter()
    # By session: its classes, the first one last, with their places.
    waiting: dict[Hashable, list[tuple[int, WorkClass]]] = {}
    for place, work in enumerate(classes):
        if work.ready:
            ranks[work.rank] += 1
            waiting.setdefault(work.session, []).append((place, work))
    for its in waiting.values():
        its.sort(key=lambda item: (order(item[1]), item[0]), reverse=True)
    line = [(order(its[-1][1]), its[-1][0], its) for its in waiting.values()]
    heapq.heapify(line)
    #: Names of amounts that are reserved for classes that wait for more of them.
    left: set[str] = set()
    while line:
        _, _, its = line[0]
        _, work = its[-1]
        starving = work.starving
        rivals = ranks[work.rank]
        placed = False
        most = work.ready
        if work.need.site and site is not None:
            most = min(most, site.fit(work.need.site, left))
        for pilot, count in _spread(work, pilots, now, rivals, most):
            yield work, pilot, 1 if starving else count
            placed = True
            if starving or rivals > 1:
                break  # the others first
        if work.need.site and site is not None and _waits_for(work, site, pilots):
            left.update(name for name, _ in work.need.site)
        if not placed or not work.ready or (rivals == 1 and not starving):
            its.pop()
            ranks[work.rank] -= 1
        if its:
            place, first = its[-1]
            heapq.heapreplace(line, (order(first), place, its))
        else:
            heapq.heappop(line)


def order(work: WorkClass) -> tuple[bool, int, int, float, int, bool]:
    """Return the sort key of a class: the least is served first."""
    rank = work.rank
    return not work.starving, -rank[0], -rank[1], work.share, -work.depth, not work.late


def _spread(
    work: WorkClass, pilots: list[PilotRoom], now: float, rivals: int, most: int
) -> Iterator[tuple[PilotRoom, int]]:
    """Yield the emptiest pilots first, with the tasks of a class that each gets; at most `most`."""
    if not most or not any(free_slots(work, pilot) for pilot in pilots):
        return  # as it is most of the time for most classes
    candidates = [pilot for pilot in pilots if fits(work, pilot, now)]
    candidates.sort(key=lambda pilot: pilot.load / cores_of(pilot))
    for number, pilot in enumerate(candidates):
        if not most:
            return
        count = min(most, free_slots(work, pilot))
        if rivals > 1:
            count = -(-count // rivals)
        elif pilot.load and len(candidates) - number > 1:
            # Beyond a first filling, an even share: nobody hoards what others could run.
            count = min(count, -(-most // (len(candidates) - number)))
        if count > 0:
            yield pilot, count
            most -= count


def _waits_for(work: WorkClass, site: SiteAmounts, pilots: list[PilotRoom]) -> bool:
    """Tell whether a class waits only for amounts that exist once per site."""
    need = work.need.site
    return (
        work.ready > 0
        and not site.fit(need)
        and site.most(need) > 0
        and any(free_slots(work, pilot) for pilot in pilots)
    )


#: The bonus that makes a pool whose nodes are large enough nearer than any other.
_HOLDS = 1 << 10


def why_infeasible(
    need: Resources,
    pool: str,
    pools: Iterable[tuple[str, NodeShape, int, float]],
    time_limit_s: float,
    site: Amounts = (),
) -> str:
    """Return why no pool can ever run a task; empty if one can.

    Parameters
    ----------
    need
        The resources that the task needs.
    pool
        The pool that the task names; empty for any.
    pools
        Name, node shape, most nodes in one pilot, and longest walltime in seconds (0: no limit).
    time_limit_s
        The task's own limit; 0 for none.
    site
        The amounts that exist once per site.
    """
    pools = list(pools)
    if unknown := _unknown(need, [shape for _, shape, _, _ in pools], site):
        return unknown
    for name, amount in need.site:
        if amount > (there := amount_of(site, name)):
            return (
                f"it needs {amount_text(name, amount)}, and the site has "
                f"{amount_text(name, there)} in all"
            )
    nearest: tuple[int, str] = (0, "")
    names = []
    for name, shape, nodes, walltime_s in pools:
        names.append(name)
        if pool and name != pool:
            continue
        needed = nodes_needed(need, shape)
        if needed is None:
            one = msgspec.structs.replace(need, ranks=1, ranks_per_node=0)
            # The nearest of all: it has most of what is needed.
            parts = [((), one.cores), *(((item,), 0) for item in one.named)]
            level = 1 + sum(
                nodes_needed(msgspec.structs.replace(one, named=named, cores=cores), shape)
                is not None
                for named, cores in parts
            )
            reason = f"a node of pool {name!r} has {_offer(shape, need)}"
        elif needed > nodes:
            level = _HOLDS
            reason = f"it takes {needed} nodes, a pilot of pool {name!r} has at most {nodes}"
        elif walltime_s and time_limit_s + DRAIN_S > walltime_s:
            level = _HOLDS + 1
            reason = (
                f"its time limit of {time_limit_s:g} s is longer than "
                f"the walltime of pool {name!r}, {walltime_s:g} s"
            )
        else:
            return ""
        if level > nearest[0]:
            nearest = level, reason
    if pool and pool not in names:
        return f"there is no pool {pool!r}; the site has {', '.join(names)}"
    return f"no pool can run it: it needs {need}, but {nearest[1]}"


def _offer(shape: NodeShape, need: Resources) -> str:
    """Describe the resources of a node that matter to a task."""
    wanted = [name for name, _ in need.named]
    parts = [f"{shape.cores} core" + ("s" if shape.cores != 1 else "")]
    parts += [str(supply) for supply in shape.named if supply.name in (*wanted, MEMORY)]
    parts += [
        amount_text(name, 0) for name in wanted if shape.supply(name) is None and name != MEMORY
    ]
    if need.constraint:
        parts.append(
            f"the features {', '.join(shape.features)}" if shape.features else "no features"
        )
    for name, amount in need.named:
        if amount > UNIT and amount % UNIT and shape.is_indexed(name):
            parts.append(f"where {name} are given whole, or a part of one")
    return ", ".join(parts)


def _unknown(need: Resources, shapes: Sequence[NodeShape], site: Amounts) -> str:
    """Return why a resource of a task is unknown (nobody declares it); empty if none is."""
    known = {supply.name for shape in shapes for supply in shape.named}
    known.update((MEMORY, GPUS, CORELESS))
    known.update(name for name, _ in site)
    for name, _ in (*need.named, *need.site):
        if name not in known:
            others = sorted(known.difference((MEMORY, GPUS, CORELESS)))
            there = f"there are {', '.join(others)}" if others else "it declares none"
            return f"the site has no resource {name!r}; {there} (keys 'resources' of the site file)"
    return ""
