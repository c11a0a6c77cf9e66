"""Which pilot gets how many tasks of which class: the head's half of two-level scheduling.

The head decides by count, never task by task: a class is a set of tasks that are alike (same
session, function, resources, priority, pool), and what is decided is "so many of this class to
that pilot". Which nodes and cores they get there is `placement`, in the agent.

Invariants: a pilot is given a task only where its pool, its nodes and its remaining walltime allow
it; it is given more than it has cores for only where the tasks are so short that its executors
would otherwise wait for the head (`PREFETCH_S`), and at most one task beyond that, so that a task
that needs many cores can queue up in a busy pilot and is not starved by small ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import msgspec

from scheduler.resources import NodeShape, Resources, nodes_needed

#: Work of at most so many seconds may wait on each core of a pilot.
PREFETCH_S = 0.1
#: And at most so many tasks.
PREFETCH_TASKS = 1000
#: A pilot starts nothing in the last seconds of its walltime.
DRAIN_S = 15.0
#: Why a pilot cannot run a task: it is of another pool than the task names; its nodes are too few,
#: or too small; it ends too soon.
OTHER_POOL, TOO_SMALL, TOO_SHORT = "other pool", "too small", "too short"


class WorkClass(Protocol):
    """What the assignment needs to know of a class of tasks."""

    need: Resources
    pool: str
    time_limit_s: float
    #: Mean duration in seconds; None until one has ended.
    mean_s: float | None
    #: Tasks of this class that are ready.
    ready: int

    @property
    def rank(self) -> tuple[int, int]:
        """Higher goes first: the session's priority, then the task's."""

    @property
    def starving(self) -> bool:
        """Whether its session was given nothing for long: it gets one task before all others."""

    @property
    def share(self) -> float:
        """Cores that its session has, by the session's weight: who has least goes first."""


class PilotRoom(Protocol):
    """What the assignment needs to know of a pilot."""

    pool: str
    shape: NodeShape
    nodes: int
    #: Cores of the tasks that it holds.
    load: int
    #: Seconds since the epoch; 0: no end.
    ends_at: float


def fits(work: WorkClass, pilot: PilotRoom, now: float) -> bool:
    """Whether the pilot could ever run a task of this class in the time that it has left."""
    return not misfit(work, pilot, now)


def misfit(work: WorkClass, pilot: PilotRoom, now: float) -> str:
    """Why the pilot cannot run a task of this class, however idle it is; empty where it can."""
    if work.pool and work.pool != pilot.pool:
        return OTHER_POOL
    nodes = nodes_needed(work.need, pilot.shape)
    if nodes is None or nodes > pilot.nodes:
        return TOO_SMALL
    if pilot.ends_at and now + needed_s(work) + DRAIN_S > pilot.ends_at:
        return TOO_SHORT
    return ""


def needed_s(work: WorkClass) -> float:
    """The walltime to keep for a task: its limit, else half more than the mean of its like."""
    return work.time_limit_s or 1.5 * (work.mean_s or 0.0)


def room(work: WorkClass, pilot: PilotRoom) -> int:
    """How many more tasks of this class the pilot should hold, if they fit at all."""
    cores = pilot.shape.cores * pilot.nodes
    per_task = work.need.total_cores
    ahead = 0.0
    if work.mean_s is not None:
        ahead = min(PREFETCH_S / max(work.mean_s, 1e-6), PREFETCH_TASKS)
    # A mean under the prefetch window lets short tasks queue up; long ones only fill the cores.
    budget = cores * (1 + (ahead if ahead >= 1 else 0))
    count = int((budget - pilot.load) // per_task)
    if count <= 0 and pilot.load < cores:
        return 1
    return max(count, 0)


def assign(
    classes: Iterable[WorkClass], pilots: Iterable[PilotRoom], now: float
) -> Iterator[tuple[WorkClass, PilotRoom, int]]:
    """Share ready tasks out, classes of high rank first, each over the emptiest pilots.

    Of classes of the same rank, the one whose session has the smallest share of the cores goes
    first, and where several sessions wait, each is given a part of the room at a time: so sessions
    share by weight, and none starves beside one with a million tasks. Nor does one beside sessions
    of higher priority: when it starves it is given one task first.

    The caller must raise a pilot's `load` and lower the class's `ready` by what was yielded before
    it asks for the next one: the decisions follow each other.
    """
    pilots = list(pilots)
    waiting = [work for work in classes if work.ready]
    while waiting:
        work = min(waiting, key=order)
        starving = work.starving
        rivals = sum(other.rank == work.rank for other in waiting)
        placed = False
        for pilot, count in _spread(work, pilots, now, rivals):
            yield work, pilot, 1 if starving else count
            placed = True
            if starving or rivals > 1:
                break  # the others first
        if not placed or not work.ready or (rivals == 1 and not starving):
            waiting.remove(work)


def order(work: WorkClass) -> tuple[bool, int, int, float]:
    """What classes are served by: the least first."""
    return not work.starving, -work.rank[0], -work.rank[1], work.share


def _spread(
    work: WorkClass, pilots: list[PilotRoom], now: float, rivals: int
) -> Iterator[tuple[PilotRoom, int]]:
    """How many tasks of one class each pilot should get now, the emptiest pilots first."""
    candidates = [pilot for pilot in pilots if fits(work, pilot, now)]
    candidates.sort(key=lambda pilot: pilot.load / (pilot.shape.cores * pilot.nodes))
    for number, pilot in enumerate(candidates):
        if not work.ready:
            return
        count = min(work.ready, room(work, pilot))
        if rivals > 1:
            count = -(-count // rivals)
        elif pilot.load and len(candidates) - number > 1:
            # Beyond a first filling, an even share: nobody hoards what others could run.
            count = min(count, -(-work.ready // (len(candidates) - number)))
        if count > 0:
            yield pilot, count


def refusal(
    need: Resources,
    pool: str,
    pools: Iterable[tuple[str, NodeShape, int, float]],
    time_limit_s: float,
) -> str:
    """Why no pool can ever run a task, or an empty text where one can.

    Parameters
    ----------
    need
        What the task needs.
    pool
        The pool that it names; empty for any.
    pools
        Name, node shape, most nodes in one pilot, and longest walltime in seconds (0: no limit).
    time_limit_s
        The task's own limit; 0 for none.
    """
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
            level = 1 + sum(
                nodes_needed(each, shape) is not None
                for each in (
                    msgspec.structs.replace(one, memory_mib=0, gpus=0),
                    msgspec.structs.replace(one, cores=0, gpus=0),
                    msgspec.structs.replace(one, cores=0, memory_mib=0),
                )
            )
            reason = (
                f"a node of pool {name!r} has {shape.cores} cores"
                + (f", {shape.memory_mib} MiB" if shape.memory_mib else "")
                + (f", {shape.gpus} GPUs" if need.gpus else "")
            )
        elif needed > nodes:
            level = 5
            reason = f"it takes {needed} nodes, a pilot of pool {name!r} has at most {nodes}"
        elif walltime_s and time_limit_s + DRAIN_S > walltime_s:
            level = 6
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
