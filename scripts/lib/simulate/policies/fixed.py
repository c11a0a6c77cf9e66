"""Fixed allocations: asked for once, kept until the work is done."""

from __future__ import annotations

from collections.abc import Iterable

from pilot.scheduler.elasticity import Grow, PoolLimits
from simulate.policies import View


class Fixed:
    """All nodes that a pool may have, for as long as there is work to come.

    Parameters
    ----------
    pool
        The pool.
    apart
        True: in pilots of the pool's size, otherwise in one.
    """

    name = "fixed"
    interval_s = 5.0
    submit_s = 0.0
    poll_s = 5.0
    ends_with_work = True

    def __init__(self, pool: PoolLimits, apart: bool = False) -> None:
        self._pool = pool
        self._size = pool.nodes_per_pilot if apart else pool.max_nodes

    def came(self, nodes: int, wait_s: float) -> None:
        """Learn nothing."""

    def decide(self, view: View) -> Iterable[Grow]:
        """Return the allocations that are missing, as when their walltime was over."""
        pool = self._pool
        missing = pool.max_nodes - sum(pilot.held for pilot in view.pilots if not pilot.draining)
        return [Grow(pool.name, self._size, pool.walltime_s, "fixed")] * (missing // self._size)
