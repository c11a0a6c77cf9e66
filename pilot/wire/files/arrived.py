"""The frames that the thread has read and the loop of the process has not received.

Invariant: they are kept up to a limit; then nothing more is read, and the other end keeps what
follows.
"""

from __future__ import annotations

from collections import deque

#: With so many bytes of frames nothing more is read.
KEPT_BYTES = 8 << 20
#: At most so many frames are received before others have their turn.
_BATCH = 1000


class Arrived:
    """The frames that the thread has read and the loop has not received."""

    def __init__(self) -> None:
        self._frames: deque[tuple[bytes, bytes | memoryview]] = deque()
        self._put_bytes = self._taken_bytes = 0

    @property
    def has_room(self) -> bool:
        """True if more may be read."""
        return self._put_bytes - self._taken_bytes < KEPT_BYTES

    def __bool__(self) -> bool:
        return bool(self._frames)

    def put(self, peer: bytes, frames: list[bytes | memoryview]) -> None:
        """Add frames of a peer; for the thread."""
        self._put_bytes += sum(map(len, frames))
        self._frames.extend((peer, frame) for frame in frames)

    def take(self) -> list[tuple[bytes, bytes | memoryview]]:
        """Return some of the frames, with the names of their senders; for the loop."""
        taken: list[tuple[bytes, bytes | memoryview]] = []
        while self._frames and len(taken) < _BATCH:
            taken.append(self._frames.popleft())
        self._taken_bytes += sum(len(frame) for _, frame in taken)
        return taken
