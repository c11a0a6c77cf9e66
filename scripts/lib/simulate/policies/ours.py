"""Our policy: the program's own elasticity and waits, called as the head calls them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from pilot.head.outlook import patient
from pilot.scheduler.elasticity import (
    End,
    Grow,
    PilotSupply,
    PoolLimits,
    Shrink,
    decide_by,
    standings,
    unwanted,
)
from pilot.scheduler.pacing import Pace
from pilot.scheduler.waits import Waits
from simulate.policies import SUBMIT_S, View


class Ours:
    """The decisions of Pilot for a pool, as a head makes them once a second.

    Parameters
    ----------
    pool
        The pool.
    idle_time_s
        How long idle nodes are kept, in seconds; None: by what they were waited for (``auto``).
    submit_s
        The least time between two submissions, in seconds: ``slurm.submit_interval``; None: by how
        long they take.
    """

    name = "pilot"
    interval_s = 1.0
    # slurm.poll_interval, as in the site template.
    poll_s = 10.0
    ends_with_work = False

    def __init__(
        self, pool: PoolLimits, idle_time_s: float | None = None, submit_s: float | None = None
    ) -> None:
        self._pool = pool
        self._idle_time_s = idle_time_s
        self._waits = Waits()
        self._pace = Pace(submit_s)
        self._pace.took(SUBMIT_S)
        self.submit_s = self._pace.interval_s
        #: The queued pilots of which nothing would be left to do, and since when.
        self._unwanted: dict[str, float] = {}

    def came(self, nodes: int, wait_s: float) -> None:
        """Learn how long nodes are waited for."""
        self._waits.add(nodes, wait_s)

    def decide(self, view: View) -> Iterable[Grow | End | Shrink]:
        """Return the program's decisions."""
        keeps: dict[int, float] = {}
        waiting = self._waiting(view)
        supply = []
        for pilot in view.pilots:
            if pilot.nodes not in keeps:
                keeps[pilot.nodes] = self._keep_s(pilot.nodes, waiting)
            supply.append(self._known(pilot, keeps[pilot.nodes], view.now))
        pools = patient([self._pool], {self._pool.name: self._waits})
        stands = standings(pools, view.demand, supply)
        self._unwanted = {
            name: self._unwanted.get(name, view.now) for name in unwanted(stands, supply)
        }
        return self._in_turn(decide_by(stands, supply), view)

    def _in_turn(
        self, decisions: Iterable[Grow | End | Shrink], view: View
    ) -> Iterator[Grow | End | Shrink]:
        """Yield the decisions, but of pilots to ask for only those whose turn it is."""
        under_way = view.under_way
        for decision in decisions:
            if isinstance(decision, Grow):
                if not self._pace.allows(under_way, view.now):
                    continue
                self._pace.asked(decision.pool, view.now)
                under_way += 1
            yield decision

    def _known(self, pilot: PilotSupply, keep_s: float, now: float) -> PilotSupply:
        """Return a pilot with what a head knows of it besides."""
        if (since := self._unwanted.get(pilot.name)) is not None:
            return msgspec.structs.replace(pilot, keep_s=keep_s, idle_s=now - since)
        return msgspec.structs.replace(pilot, keep_s=keep_s)

    def _waiting(self, view: View) -> list[tuple[int, float]]:
        """Return the nodes of each pilot that waits, and for how long it has: for as long as there
        was work for it."""
        return [
            (pilot.nodes, self._unwanted.get(pilot.name, view.now) - view.asked_at[pilot.name])
            for pilot in view.pilots
            if pilot.name in view.asked_at
        ]

    def _keep_s(self, nodes: int, waiting: Iterable[tuple[int, float]]) -> float:
        if self._idle_time_s is not None:
            return self._idle_time_s
        return self._waits.keep_s(nodes, waiting)
