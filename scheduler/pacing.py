"""Pacing: which of the pilots that pools want are asked for now, and which a moment later. Pure.

The batch system is sent one job at a time, and no sooner than after the site's ``submit_interval``.
Where the site leaves that open, it follows from how long the batch system takes: so it is asked
quickly while it answers quickly, and seldom while it is busy.
A pilot that is asked for long before its turn has the size and the reason of a moment that is over
by then; its wait is for the most part the head's own, and not the price of its nodes; and cancels
and looks at the queue wait behind it. So it is asked for when it is about to be submitted, and
until then it is decided upon anew.

A program that submits task by task has not said all when its first one is there. So a pilot that is
smaller than the pool's pilots may be is asked for a moment later, with what has come meanwhile.

Invariants
----------
- A pilot that is asked for is submitted within `AHEAD_S`, if the batch system is no slower than
  ``submit_interval``; one may be asked for whenever none is being submitted, and that time is near.
- Pools that want pilots get them in turn.
- A pool that wants a pilot has one asked for `SETTLE_S` later, whatever comes meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from pilot.scheduler.elasticity import Grow

#: The time before its submission in which a pilot is asked for, in seconds: that between two
#: decisions.
AHEAD_S = 1.0
#: How long the size of a pilot waits for more work, in seconds.
SETTLE_S = 0.5
#: An interval that the site leaves open: so many times as long as the last submission took, its
#: bounds, and what it is before the first one, in seconds.
TIMES_AS_LONG, LEAST_S, MOST_S, UNKNOWN_S = 2.0, 0.2, 10.0, 1.0


class Pace:
    """The pace at which the pilots of a site are asked for.

    Parameters
    ----------
    interval_s
        The least time between two submissions, in seconds; None: by how long they take.
    largest
        The most nodes of a pilot, by pool; no pilots of others wait for more work.
    """

    def __init__(
        self, interval_s: float | None, largest: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        self._largest = largest
        self._follows = interval_s is None
        #: The least time between two submissions, in seconds.
        self.interval_s = UNKNOWN_S if interval_s is None else interval_s
        #: The time of the next submission, if none was late.
        self._due = 0.0
        #: By pool, when a pilot was last asked for: a number that grows.
        self._turns: dict[str, int] = {}
        self._turn = 0
        #: By pool, since when it wants a pilot.
        self._wanting: dict[str, float] = {}

    def took(self, seconds: float) -> None:
        """Note how long a submission took, whether it was answered or not."""
        if self._follows:
            self.interval_s = min(max(TIMES_AS_LONG * seconds, LEAST_S), MOST_S)

    def in_turn(self, wanted: Iterable[Grow]) -> list[Grow]:
        """Return the pilots of the pool first that has waited for longest."""
        return sorted(wanted, key=lambda grow: self._turns.get(grow.pool, 0))

    def unsettled(self, wanted: Iterable[Grow], now: float) -> dict[str, float]:
        """Return the pools whose smaller pilots wait for more work, and until when.

        Parameters
        ----------
        wanted
            All pilots that are wanted now.
        now
            The time.
        """
        small = {grow.pool for grow in wanted if self.is_small(grow)}
        # The clock may have been set back.
        self._wanting = {pool: min(self._wanting.get(pool, now), now) for pool in small}
        until = {pool: since + SETTLE_S for pool, since in self._wanting.items()}
        return {pool: at for pool, at in until.items() if at > now}

    def is_small(self, grow: Grow) -> bool:
        """Tell whether a pilot could have more nodes if there were more work."""
        return not grow.after and grow.nodes < self._largest.get(grow.pool, 0)

    def allows(self, under_way: int, now: float) -> bool:
        """Tell whether a pilot that is asked for now is submitted soon.

        Parameters
        ----------
        under_way
            The pilots that were asked for, and of which the batch system has not answered.
        now
            The time.
        """
        # The clock may have been set back.
        self._due = min(self._due, now + self.interval_s + AHEAD_S)
        near = self._due - now < AHEAD_S
        return near and (not under_way or under_way * self.interval_s < AHEAD_S)

    def asked(self, pool: str, now: float) -> None:
        """Note that a pilot of a pool is asked for."""
        self._due = max(self._due, now) + self.interval_s
        self._turn += 1
        self._turns[pool] = self._turn
