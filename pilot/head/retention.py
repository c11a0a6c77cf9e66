"""Retention: which sessions that have ended are purged because of their age, or for space.

Invariants
----------
- Nothing is purged that has not ended, and nothing where the site file names no bound.
- The oldest goes first, and no more than what the bounds ask for.
- Sizes are measured in a thread: the loop waits for no file system.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

from pilot.data.usage import session_sizes
from pilot.head.machine import HERE, Machine

log = logging.getLogger("pilot.head")

#: The time between two looks, in seconds; files are measured no more often than that.
LOOK_S = 600.0


def surplus(
    sessions: Mapping[int, float | None],
    sizes: Mapping[int, int],
    keep_s: float | None,
    keep_bytes: int,
    now: float,
) -> list[int]:
    """Return the sessions to purge, the oldest first.

    Parameters
    ----------
    sessions
        The sessions that are not purged, and the time of the end of each; None: it has not ended.
    sizes
        What each session takes on the disk, in bytes; of one that was purged it is on its way out.
    keep_s
        How long data are kept after a session's end, in seconds; None: for ever.
    keep_bytes
        What the data of all sessions may take; 0: whatever they do.
    now
        The time.
    """
    total = sum(sizes.get(session, 0) for session in sessions)
    ended = sorted((at, session) for session, at in sessions.items() if at is not None)
    found = []
    for at, session in ended:
        size = sizes.get(session, 0)
        is_old = keep_s is not None and now - at > keep_s
        if is_old or (keep_bytes and total > keep_bytes and size):
            found.append(session)
            total -= size
    return found


class Retention:
    """Tells now and then which sessions are to be purged.

    Parameters
    ----------
    directory
        The site directory.
    keep_s, keep_bytes
        The bounds; see `surplus`.
    machine
        Has the thread that measures.
    """

    def __init__(
        self, directory: Path, keep_s: float | None, keep_bytes: int, machine: Machine = HERE
    ) -> None:
        self._directory = directory
        self._keep_s = keep_s
        self._keep_bytes = keep_bytes
        self._thread = machine.start_thread("retention") if keep_bytes else None
        self._sizes: Future[dict[int, int]] | None = None
        self._looked = -math.inf
        self._due: deque[int] = deque()

    @property
    def is_bounded(self) -> bool:
        """True if anything is ever purged."""
        return self._keep_s is not None or bool(self._keep_bytes)

    def wants(self, now: float) -> bool:
        """Tell whether it is time for a `look` at the sessions."""
        # The clock may have been set back.
        self._looked = min(self._looked, now)
        if not self.is_bounded or now - self._looked < LOOK_S:
            return False
        if self._thread is not None and self._sizes is None:
            self._sizes = self._thread.submit(session_sizes, self._directory)
        return self._sizes is None or self._sizes.done()

    def look(self, sessions: Mapping[int, float | None], now: float) -> None:
        """Find out which sessions are to be purged; `sessions` as for `surplus`."""
        sizes: dict[int, int] = {}
        if self._sizes is not None:
            sizes, self._sizes = self._sizes.result(), None
        self._looked = now
        self._due = deque(surplus(sessions, sizes, self._keep_s, self._keep_bytes, now))

    def take(self) -> int | None:
        """Return the next session to purge; None: there is none. One at a time, since a session of
        a million tasks takes seconds."""
        return self._due.popleft() if self._due else None

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
