"""The silence of a head: whether whoever holds the lease has renewed it, as others see it.

Invariant: only the monotonic clock of this process counts; clocks of two machines are never
compared.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from pilot.errors import HeadError
from pilot.head.lease_files import Found, read_newest


class Silence:
    """Tells whether the holder of a lease lives, by the monotonic clock of this process.

    Parameters
    ----------
    path
        The path that the names of the lease's files begin with.
    expire_s
        The time without a renewal after which a lease has run out, in seconds.
    look_s
        The shortest time between two looks, in seconds.
    """

    def __init__(self, path: Path, expire_s: float, look_s: float = 0.0) -> None:
        self._path = path
        self._expire_s = expire_s
        self._look_s = look_s
        self._looked = -look_s
        #: The highest epoch whose lease has run out.
        self.ended = 0
        self._seen: Found | None = None
        self._since = time.monotonic()
        #: True if the lease was seen to be renewed.
        self.moved = False

    @property
    def lasts_s(self) -> float:
        """The time since the lease last changed, in seconds."""
        return time.monotonic() - self._since

    def note(self, found: Found) -> bool:
        """Take in a look at the lease; return whether it has run out."""
        if self._seen is None or found.stamp != self._seen.stamp:
            self.moved = self._seen is not None
            self._seen, self._since = found, time.monotonic()
        return self.lasts_s > self._expire_s

    def look(self) -> None:
        """Look at the lease, if it is time."""
        now = time.monotonic()
        if now - self._looked < self._look_s:
            return
        self._looked = now
        try:
            found = read_newest(self._path) or Found(0, None, (b"", 0, 0))
        except HeadError:
            return  # it cannot be seen now
        if self.note(found) or found.is_dead:
            # With no lease at all for so long, nobody is head.
            self.ended = max(self.ended, found.epoch or sys.maxsize)

    def has_ended(self, epoch: int) -> bool:
        """Tell whether the head of an epoch is dead, or its lease has run out, after one look."""
        self.look()
        return epoch <= self.ended
