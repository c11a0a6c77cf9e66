"""Parsl's strategy ``simple``, as documented."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pilot.scheduler.elasticity import End, Grow, PoolLimits
from simulate.policies import View


class ParslSimple:
    """The strategy ``simple`` of Parsl, with its defaults.

    Every 5 s (``strategy_period``) the tasks that wait or run are compared with the slots of all
    blocks, running or queued, where a slot is a worker, of which each core of a node has one. With
    fewer slots than tasks (``parallelism`` 1) blocks are asked for until there are as many, all at
    once, up to ``max_blocks``. Only when there has been no task at all for 120 s
    (``max_idletime``) do blocks end, and then all of them. Durations play no part. A block has
    ``nodes_per_block`` nodes, always.

    A task over several nodes counts as one. ``init_blocks`` is 0 here. The blocks end with the
    program.

    Sources: Parsl's user guide, chapter "Execution", section "Elasticity"
    (https://parsl.readthedocs.io/en/stable/userguide/configuration/execution.html), and the
    documentation of ``parsl.jobs.strategy.Strategy`` and ``parsl.config.Config``.
    """

    name = "parsl-simple"
    interval_s = 5.0
    submit_s = 0.0
    poll_s = 5.0
    ends_with_work = True
    max_idle_s = 120.0

    def __init__(self, pool: PoolLimits) -> None:
        self._pool = pool
        self._max_blocks = pool.max_nodes // pool.nodes_per_pilot
        self._idle_since: float | None = None

    def came(self, nodes: int, wait_s: float) -> None:
        """Learn nothing."""

    def decide(self, view: View) -> Iterable[Grow | End]:
        """Return the blocks to ask for, or to end."""
        pool = self._pool
        tasks = sum(work.count for work in view.demand)
        blocks = [pilot for pilot in view.pilots if not pilot.draining]
        if not tasks:
            if self._idle_since is None:
                self._idle_since = view.now
            if view.now - self._idle_since > self.max_idle_s:
                return [End(pilot.name, "idle") for pilot in blocks]
            return []
        self._idle_since = None
        per_block = pool.nodes_per_pilot * pool.shape.cores
        slots = len(blocks) * per_block
        if slots >= tasks:
            return []
        more = min(math.ceil((tasks - slots) / per_block), self._max_blocks - len(blocks))
        return [Grow(pool.name, pool.nodes_per_pilot, pool.walltime_s, "tasks")] * more
