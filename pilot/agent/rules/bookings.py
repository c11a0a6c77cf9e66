"""The booking of a pilot: what is kept for a task that waits for several cores. Pure.

What becomes free on the booked nodes is kept for the task, until it has all that it needs. Work
that will have ended before the task can begin may use it meanwhile (backfilling); all else starts
on what is left, as if the kept part were taken.

Invariants
----------
- One class has a booking at a time: that whose first task was found to have waited for
  `queues.STARVED_S` first.
- Only tasks are backfilled that end by then: tasks of their class took no longer, or they have a
  time limit.
- While something stays on the booked nodes that was there before the booking, and nobody knows when
  it ends, or it should have ended, only those tasks are backfilled that take no more than a part
  (`PATIENCE`) of the time that the booked one has waited. After that, none are.
- A booking goes to other nodes, or to a later time, only where it begins sooner there, or
  `MOST_MOVES` times where it has not begun in time.
- What is kept is free, and no node is in use for it.
- While no task has waited for so long, nothing here costs anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from pilot.agent.rules.cores import Cores
from pilot.agent.rules.queues import Queue
from pilot.scheduler.booking import Booking, Stay, book
from pilot.scheduler.placement import NodeAllocation

#: A booking is thought over so often, in seconds.
RENEW_S = 1.0
#: How often a booking that has not begun in time may go to other nodes.
MOST_MOVES = 3
#: The part of the time that a task has waited by which others may delay it, where nobody knows when
#: it can begin.
PATIENCE = 0.1
#: Enough tasks for any process.
_MANY = 1 << 30


class Bookings:
    """The booking of a pilot, if there is one."""

    def __init__(self, cores: Cores) -> None:
        self._cores = cores
        #: The class whose first task has the booking; None: there is no booking.
        self.queue: Queue | None = None
        self._booking = Booking(math.inf, {})
        #: What is kept, by node, and the nodes where that is less than the task needs.
        self._kept: dict[str, NodeAllocation] = {}
        self._lacking: set[str] = set()
        self._keeps = False
        self._made_at = self._renewed_at = 0.0
        self._moves = 0
        #: True if something is in its way of which nobody knows when it ends.
        self._is_blocked = False
        #: When a class could not have a booking, since the nodes that can be used are too few.
        self._failed_at = -math.inf

    def __bool__(self) -> bool:
        return self.queue is not None

    @property
    def nodes(self) -> Iterable[str]:
        """The nodes that are booked."""
        return self._booking.ranks.keys()

    @property
    def starts_at(self) -> float:
        """The time at which the task is thought to begin; inf: nobody knows."""
        return self._booking.starts_at

    # --- making and ending

    def make(self, queue: Queue, stays: Callable[[], Iterable[Stay]], now: float) -> None:
        """Give the first task of a class the booking, unless there is one."""
        if self.queue is not None or now - self._failed_at < RENEW_S:
            return
        if len(queue.alike) > 1 and (queue.nodes or 0) > len(self._cores.hosts):
            return  # its tasks can start as another version alone
        self._made_at = self._renewed_at = now
        those = list(stays())
        booking = self._book(queue, those)
        if booking is None:
            self._failed_at = now
            return
        self.queue, self._booking = queue, booking
        self._moves = 0
        self._look_for_blocks(those)
        self.keep()

    def renew(self, stays: Callable[[], Iterable[Stay]], now: float) -> None:
        """Think the booking over, if that was not done for a while; nothing is kept meanwhile."""
        queue = self.queue
        if queue is None or now - self._renewed_at < RENEW_S:
            return
        self._renewed_at = now
        self.let_go()
        those = list(stays())
        new, old = self._book(queue, those), self._booking
        if new is None:
            self.end()
            return
        is_gone = any(name not in self._cores.nodes for name in old.ranks)
        is_late = now > old.starts_at and new.starts_at < math.inf and self._moves < MOST_MOVES
        if is_gone or is_late or new.starts_at < old.starts_at:
            self._moves += is_late
            self._booking = new
        self._look_for_blocks(those)

    def end_if_idle(self) -> None:
        """End the booking if its task has begun, or is gone."""
        queue = self.queue
        if queue is not None and not (queue.waiting and queue.waiting_since):
            self.end()

    def end(self) -> None:
        """End the booking, and keep nothing."""
        self.let_go()
        self.queue = None
        self._booking = Booking(math.inf, {})

    def _book(self, queue: Queue, stays: Iterable[Stay]) -> Booking | None:
        cores = self._cores
        nodes = [
            node
            for name, node in cores.nodes.items()
            if name not in cores.resting and queue.node in ("", name)
        ]
        return book(queue.need, nodes, stays)

    def _look_for_blocks(self, stays: Iterable[Stay]) -> None:
        ranks, made_at = self._booking.ranks, self._made_at
        self._is_blocked = any(
            stay.until == math.inf and stay.since <= made_at and stay.share.node in ranks
            for stay in stays
        )

    # --- keeping

    def keep(self) -> None:
        """Keep what is free of what the task needs on its nodes."""
        if self.queue is None:
            return
        self._keeps = True
        need = self.queue.need
        self._lacking.clear()
        for name, ranks in self._booking.ranks.items():
            node = self._cores.nodes.get(name)
            if node is None or name in self._cores.reserved:
                self._lacking.add(name)
                continue
            if (before := self._kept.pop(name, None)) is not None:
                self._cores.unkeep(before)
            share, is_all = node.cut_available(need, ranks)
            self._cores.keep(share)
            self._kept[name] = share
            if not is_all:
                self._lacking.add(name)

    def let_go(self) -> None:
        """Free what is kept."""
        self._keeps = False
        for share in self._kept.values():
            self._cores.unkeep(share)
        self._kept.clear()

    def forget_node(self, name: str) -> None:
        """Forget what is kept on a lost node."""
        self._kept.pop(name, None)

    # --- who may use it

    def backfills(self, queue: Queue, now: float) -> bool:
        """Tell whether tasks of a class may use what is kept; if not, it is kept now."""
        may = queue.at_most_s <= self._gap_s(now)
        if may:
            self.let_go()
        elif not self._keeps:
            self.keep()
        return may

    def most(self, queue: Queue, shares: Iterable[NodeAllocation], now: float) -> int:
        """Return how many tasks of a class may follow each other on cores that they have."""
        if queue is self.queue or not any(share.node in self._lacking for share in shares):
            return _MANY
        longest_s = queue.at_most_s
        gap_s = self._gap_s(now)
        return 0 if longest_s > gap_s else int(gap_s / longest_s) if longest_s else _MANY

    def _gap_s(self, now: float) -> float:
        """Return the time that others may still use what is kept, in seconds."""
        assert self.queue is not None
        starts_at = self._booking.starts_at
        if now < starts_at < math.inf:
            return starts_at - now
        return PATIENCE * (now - self.queue.waiting_since) if self._is_blocked else -1.0
