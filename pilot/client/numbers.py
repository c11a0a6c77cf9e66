"""The numbers that a client gives to its tasks: counted within blocks from the head.

More are asked for while half of the last block is left, twice as many each time. So a future knows
its id at once, nobody waits for a number in the ordinary case, and a client whose head is away goes
on with what it has.

Invariants
----------
- A number is given once, whatever threads ask for it: what is lost leaves a gap.
- No thread holds the lock while it waits for the head.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from pilot.errors import PilotError

#: No more are asked for ahead of time.
BLOCK_MOST = 65_536


class Numbers:
    """Ids for the tasks that one client submits to one session.

    Parameters
    ----------
    first, count
        The first block.
    ask
        A function that asks the head for more ids; its future has the first id and the count.
    wait
        A function that waits for such a future.
    """

    def __init__(
        self,
        first: int,
        count: int,
        ask: Callable[[int], Future[Any]],
        wait: Callable[[Future[Any]], Any],
    ) -> None:
        self._ask = ask
        self._wait = wait
        # A thread that asks may get the answer at once, and takes it in while it holds the lock.
        self._lock = threading.RLock()
        self._blocks = deque([range(first, first + count)])
        self._left = count
        self._size = count
        self._asked: Future[Any] | None = None

    def take(self, count: int) -> list[int]:
        """Return `count` ids that nobody else has, in the order in which they are to be used.

        Raises
        ------
        PilotError
            There are no more, and the head gives none.
        """
        while True:
            with self._lock:
                if self._left - count < self._size // 2 and self._asked is None:
                    self._ask_for(count - self._left)
                if self._left >= count:
                    return self._cut(count)
                asked = self._asked
            assert asked is not None
            self._wait(asked)
            self._given(asked)

    def give_back(self) -> list[tuple[int, int]]:
        """Return what was never taken, as first ids and lengths of rows; nobody takes it then."""
        with self._lock:
            blocks, self._blocks, self._left = self._blocks, deque(), 0
            return [(block.start, len(block)) for block in blocks if block]

    def _cut(self, count: int) -> list[int]:
        self._left -= count
        taken: list[int] = []
        while len(taken) < count:
            block, missing = self._blocks[0], count - len(taken)
            taken += block[:missing]
            if missing < len(block):
                self._blocks[0] = block[missing:]
            else:
                self._blocks.popleft()
        return taken

    def _ask_for(self, missing: int) -> None:
        """Ask for a block, which covers at least the `missing` ids."""
        try:
            asked = self._ask(max(missing, min(2 * self._size, BLOCK_MOST)))
        except PilotError:
            if missing > 0:
                raise
            return  # there are enough for now
        self._asked = asked
        asked.add_done_callback(self._given)

    def _given(self, asked: Future[Any]) -> None:
        """Take in a block that has come, once."""
        with self._lock:
            if self._asked is not asked:
                return
            self._asked = None
            if asked.cancelled() or asked.exception() is not None:
                return  # whoever waits is told, and the next one asks again
            first, count = asked.result()
            self._blocks.append(range(first, first + count))
            self._left += count
            self._size = max(self._size, min(count, BLOCK_MOST))
