"""Waits: how long the nodes of a pool are waited for, learned from the pilots that came. Pure.

An idle node costs its node-seconds for as long as it is kept; to get it again costs the wait for
it. Kept for about as long as the wait is expected to be, it never costs more than twice as much as
it would with knowledge of when the next work comes: the break-even rule of renting and buying
(A. R. Karlin et al., Competitive snoopy caching, Algorithmica 3, 1988).

Invariants
----------
- A wait goes from the request for a pilot to its first word: the queue, and the start. That of one
  that was preempted before its first word tells nothing: the batch system held it back; nor does
  that of one that was to start after the end of another.
- What waits now is known to take at least as long as it has waited.
- Nodes are never kept longer than `MOST_S`, however long the queue is: they may be somebody else's.
- A node that is got, and kept afterwards, costs about two waits in which it does nothing. With work
  for `WORTH` waits it is used for five sixths of the time that it is held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

#: The waits that are remembered, for each size.
_REMEMBERED = 8
#: The time that idle nodes are kept while nothing is known, in seconds.
UNKNOWN_KEEP_S = 30.0
#: The least and the most time that idle nodes are kept, in seconds.
LEAST_S, MOST_S = 1.0, 600.0
#: The number of waits for which a node has to have work to be worth asking for.
WORTH = 10.0
#: The least and the most seconds of work for which a node is asked for; the most while nothing is
#: known, too.
LEAST_WORK_S, MOST_WORK_S = 5.0, 30.0


class Waits:
    """The last waits for the nodes of one pool, by the size of pilots."""

    def __init__(self) -> None:
        #: By the power of two up to which the number of nodes goes.
        self._waits: dict[int, deque[float]] = {}

    def add(self, nodes: int, wait_s: float) -> None:
        """Note that a pilot of so many nodes has come after `wait_s` seconds."""
        waits = self._waits.setdefault(_size(nodes), deque(maxlen=_REMEMBERED))
        waits.append(max(0.0, wait_s))

    def expected_s(self, nodes: int, waiting: Iterable[tuple[int, float]] = ()) -> float | None:
        """Return the wait that is expected for so many nodes, in seconds; None: nothing is known.

        It is the mean of the last waits of pilots of about this size, or of the size that is
        nearest to it.

        Parameters
        ----------
        nodes
            The nodes of a pilot.
        waiting
            The pilots that wait now: their nodes, and the time that they have waited, in seconds.
        """
        size = _size(nodes)
        so_far = max((s for others, s in waiting if _size(others) <= size), default=0.0)
        if not self._waits:
            return so_far or None
        near = self._waits[min(self._waits, key=lambda known: (abs(known - size), known))]
        return max(sum(near) / len(near), so_far)

    def keep_s(self, nodes: int, waiting: Iterable[tuple[int, float]] = ()) -> float:
        """Return for how long idle nodes are worth to be kept, in seconds."""
        expected = self.expected_s(nodes, waiting)
        return UNKNOWN_KEEP_S if expected is None else min(max(expected, LEAST_S), MOST_S)

    def patience_s(self, nodes: int) -> float:
        """Return for how many seconds of work a node of a pilot of this size is asked for."""
        expected = self.expected_s(nodes)
        if expected is None:
            return MOST_WORK_S
        return min(max(WORTH * expected, LEAST_WORK_S), MOST_WORK_S)


def _size(nodes: int) -> int:
    return max(0, nodes - 1).bit_length()
