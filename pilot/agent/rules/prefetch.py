"""The work that was sent ahead to an executor or a world, and how it is taken back. Pure.

A pipeline serves tasks that are short. Where one turns out to be long, or one behind it is
cancelled, the node worker is asked to have the process skip what it has not begun.

Invariants
----------
- While an answer is awaited nothing is added, unless all that was sent has ended: what is taken
  back are the last ones.
- However often it is asked for, a work is taken back once.
"""

from __future__ import annotations

from collections import deque

from pilot.wire.messages.pilot import AttemptSpec

#: What waits behind a task for longer than this is taken back, in seconds.
BEHIND_S = 0.1
#: A process that could not be stopped is asked again after so many seconds.
AGAIN_S = 1.0


class Prefetch(deque[AttemptSpec]):
    """The work that a process runs or will run, in order, as far as it has reported."""

    __slots__ = ("_asked_at", "_sent", "_settled")

    def __init__(self) -> None:
        super().__init__()
        #: How many works it was sent in all, and up to which of them it is known that they had
        #: begun or are taken back.
        self._sent = self._settled = 0
        #: When it was asked last; 0 while no answer is awaited.
        self._asked_at = 0.0

    def free_slots(self, depth: int) -> int:
        """Return how many more items may be added, given a limit of `depth`; 0 while more than half
        are left."""
        if not self:
            self._asked_at = 0.0  # all has ended: no answer can take anything back
            return depth
        return 0 if self._asked_at or len(self) > depth // 2 else depth - len(self)

    def note_sent(self, count: int) -> None:
        """Note that `count` more items are on their way to the process."""
        self._sent += count

    def is_stuck(self, since: float, now: float) -> bool:
        """Tell whether to ask for work back, given the time since which the first item has been
        first."""
        if self._asked_at:
            return now - self._asked_at > AGAIN_S
        return len(self) > 1 and self._sent > self._settled and now - since > BEHIND_S

    def ask(self, now: float) -> int:
        """Note that the process is asked now; return the number of the last item that it is to
        skip."""
        self._asked_at = now
        return self._sent

    def unsend(self, begun: int, upto: int) -> list[AttemptSpec]:
        """Remove the items after the `begun`-th, up to the `upto`-th, which are skipped; the last
        comes first."""
        if upto == self._sent:
            self._asked_at = 0.0  # else it is the answer to an older question
        count = upto - max(begun, self._settled)
        self._settled = max(upto, self._settled)
        return [self.pop() for _ in range(count)]
