"""HyperQueue's automatic allocation, as documented."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pilot.scheduler.elasticity import End, Grow, PoolLimits
from pilot.scheduler.resources import nodes_needed
from simulate.policies import View


class HyperQueue:
    """The automatic allocation of HyperQueue, for one allocation queue.

    It asks for as many workers (one on each node) as the tasks that wait would fill, less those
    that wait in the queue already, in allocations of up to ``--max-workers-per-alloc`` nodes, of
    which at most ``--backlog`` wait in the queue at a time, and up to ``--max-worker-count`` in
    all. Tasks over several nodes have allocations of their size, which come first. Durations play
    no part, but a task's time request. A worker ends when it has been idle for 5 minutes
    (``--idle-timeout``), an allocation with its last worker; what is queued is not cancelled.
    Allocation is considered every 5 s while tasks come and workers change.

    Here all workers of an allocation end together, when all are idle: until then Slurm holds their
    nodes anyway, and here they remain of use (in its favour).

    Source: HyperQueue's documentation, chapter "Automatic allocation"
    (https://it4innovations.github.io/hyperqueue/stable/deployment/allocation/).
    """

    name = "hyperqueue"
    interval_s = 5.0
    submit_s = 0.0
    poll_s = 0.0
    ends_with_work = False
    idle_timeout_s = 300.0

    def __init__(self, pool: PoolLimits, backlog: int | None = None) -> None:
        self._pool = pool
        self._backlog = pool.max_queued if backlog is None else backlog

    def came(self, nodes: int, wait_s: float) -> None:
        """Learn nothing."""

    def decide(self, view: View) -> Iterable[Grow | End]:
        """Return the allocations to ask for, and those that end by themselves."""
        pool = self._pool
        queued = [pilot.nodes for pilot in view.pilots if pilot.queued]
        single, wide = self._wanted(view)
        decisions: list[Grow | End] = []
        for nodes in queued:
            fitting = next((n for n, each in enumerate(wide) if each <= nodes), None)
            if fitting is not None:
                nodes -= wide.pop(fitting)
            single -= nodes
        largest = pool.nodes_per_pilot
        sizes = wide + [largest] * (max(0, single) // largest)
        if single > 0 and single % largest:
            sizes.append(single % largest)
        left = pool.max_nodes - sum(pilot.held for pilot in view.pilots)
        for number, size in enumerate(sizes[: max(0, self._backlog - len(queued))]):
            # One that is too small is of no use to a task over several nodes, which waits then.
            nodes = size if number < len(wide) else min(size, left)
            if not 0 < nodes <= left:
                break
            left -= nodes
            decisions.append(Grow(pool.name, nodes, pool.walltime_s, "tasks wait"))
        decisions += [
            End(pilot.name, "idle timeout")
            for pilot in view.pilots
            if not pilot.queued and not pilot.draining and pilot.idle_s >= self.idle_timeout_s
        ]
        return decisions

    def _wanted(self, view: View) -> tuple[int, list[int]]:
        """Return the workers that waiting tasks of one node would fill, and for tasks over several
        nodes the size of each allocation."""
        pool = self._pool
        cores = 0
        wide: list[int] = []
        for work in view.demand:
            nodes = nodes_needed(work.need, pool.shape) or 1
            if nodes > 1:
                wide += [nodes] * min(work.waiting, pool.max_nodes // nodes)
            else:
                cores += work.waiting * work.need.total_cores
        single = math.ceil(cores / pool.shape.cores)
        return min(single, self._backlog * pool.nodes_per_pilot), wide
