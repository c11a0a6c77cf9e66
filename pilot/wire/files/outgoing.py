"""One direction of a connection as its writer has it: frames wait in memory, and go into files.

Invariants
----------
- What could not be written is written again, at the same place and with the same bytes: nothing is
  lost or doubled by a disk that is full for a while. The state needs no room.
- No more than `WINDOW_BYTES` are in the files that the other end has not taken; the rest waits.
- The next file is there before its predecessor says so: nobody looks for a file before it exists,
  which network file systems would remember.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from pathlib import Path

from pilot.wire.files import records as r
from pilot.wire.files.disk import Disk

#: The most bytes in files that the other end has not taken yet; and the length at which a file
#: is followed by the next one.
WINDOW_BYTES = 16 << 20
FILE_BYTES = 4 << 20
#: So much is written at a time, about.
_TOGETHER_BYTES = 2 << 20
#: So often the state is written, which tells that the writer lives, in seconds.
BEAT_S = 5.0
#: When so much more was taken of the other direction, the state tells it at once.
_TAKEN_BYTES = 1 << 19
#: The time before a failed write is tried again, in seconds.
AGAIN_S = 1.0


class Outgoing:
    """The files of one direction, for the end that writes them.

    Parameters
    ----------
    disk
        The access to files.
    directory, name
        The directory of the connection, and ``up`` or ``down``; the first file is there.
    key
        The key of the direction.
    """

    def __init__(self, disk: Disk, directory: Path, name: str, key: bytes) -> None:
        self._disk = disk
        self._directory, self._name, self._key = directory, name, key
        self._file, self._position = 1, r.STATE_BYTES
        #: The number of the next record.
        self._number = 0
        #: The frames that wait, which another thread adds, and their bytes: all that ever came,
        #: and those that went on to be parts of records.
        self._frames: deque[bytes] = deque()
        self._put_bytes = self._parted_bytes = 0
        #: The records to be made, as kind and payload.
        self._parts: deque[tuple[int, memoryview]] = deque()
        #: The bytes of all records that were made, and those of them that are to be written.
        self._made_bytes = 0
        self._pending = b""
        #: True if the next file is there, and `_pending` says so.
        self._turns_over = False
        self._state = r.State(0, 0, 0, 0)
        self._told = -BEAT_S
        self._again = 0.0
        #: The bytes of records that the other end has taken.
        self.acknowledged = 0
        #: What is wrong with the disk; None: nothing.
        self.failure: OSError | None = None

    def put(self, frame: bytes) -> None:
        """Add a frame; for one other thread."""
        self._put_bytes += len(frame)
        self._frames.append(frame)

    def say_name(self, name: bytes) -> None:
        """Say who this end is, before anything else."""
        self._parts.append((r.NAME, memoryview(name)))

    @property
    def unsent_bytes(self) -> int:
        """The bytes that the other end has not taken, about; for any thread."""
        waiting = self._put_bytes - self._parted_bytes
        return max(0, waiting) + max(0, self._made_bytes - self.acknowledged)

    @property
    def is_flushed(self) -> bool:
        """True if everything is in the files."""
        return not (self._frames or self._parts or self._pending)

    @property
    def kind(self) -> int:
        """The kind of the last state that was written."""
        return self._state.kind

    def drop(self) -> None:
        """Forget what is not in the files yet."""
        self._frames.clear()
        self._parts.clear()
        self._pending, self._turns_over = b"", False
        self._parted_bytes, self._made_bytes = self._put_bytes, self._state.written

    def write(self, taken: int, kind: int = r.OPEN) -> bool:
        """Write what there is room for, and the state where it is due; tell whether records were.

        Parameters
        ----------
        taken
            The bytes of records that this end has taken of the other direction.
        kind
            The kind of the state; another one than before is written at once.

        Raises
        ------
        FileNotFoundError
            The files are gone.
        """
        now = time.monotonic()
        state = r.State(kind, self._state.beat + 1, self._state.written, taken)
        is_due = (
            now - self._told >= BEAT_S
            or kind != self._state.kind
            or taken - self._state.taken >= _TAKEN_BYTES
        )
        has_written = False
        try:
            if self.failure is None or now >= self._again:
                while self._gather():
                    self._write_pending()
                    has_written = True
                self.failure = None
            if is_due:
                self._tell(state, now)
        except FileNotFoundError:
            raise
        except OSError as error:
            self.failure, self._again = error, now + AGAIN_S
            if is_due:
                with contextlib.suppress(OSError):
                    self._tell(state, now)
        return has_written

    @property
    def _path(self) -> Path:
        return self._directory / f"{self._name}.{self._file}"

    def _write_pending(self) -> None:
        try:
            self._disk.write(self._path, self._position, self._pending, b"")
        except FileNotFoundError:
            # The other end removes a file when it reads that the next one follows: then that was
            # written, though it seemed to have failed.
            if not self._turns_over:
                raise
        self._advance()

    def _tell(self, state: r.State, now: float) -> None:
        state = state._replace(written=self._state.written)
        try:
            self._disk.write(self._path, 0, b"", r.pack_state(state, self._key))
        except FileNotFoundError:
            if not self._turns_over:  # otherwise as above, and the next file has it later
                raise
        self._state, self._told = state, now

    def _gather(self) -> bool:
        """Make the records that are to be written next; tell whether there are any."""
        if not self._pending and self._position >= FILE_BYTES:
            following = self._directory / f"{self._name}.{self._file + 1}"
            self._disk.create(following, r.pack_state(self._state, self._key))
            self._pending, self._turns_over = self._pack(r.NEXT, memoryview(b"")), True
        if self._pending:
            return True
        made: list[bytes] = []
        size = 0
        while size < _TOGETHER_BYTES and self._made_bytes - self.acknowledged < WINDOW_BYTES:
            if not self._parts:
                if not self._frames:
                    break
                frame = self._frames.popleft()
                self._parted_bytes += len(frame)
                self._parts.extend(r.parts_of(frame))
            made.append(self._pack(*self._parts.popleft()))
            size += len(made[-1])
        self._pending = b"".join(made)
        return bool(made)

    def _pack(self, kind: int, payload: memoryview) -> bytes:
        record = r.pack_record(kind, self._number, payload, self._key)
        self._number += 1
        self._made_bytes += len(record)
        return record

    def _advance(self) -> None:
        """Take note that all that was pending is written."""
        self._position += len(self._pending)
        written = self._state.written + len(self._pending)
        self._state = self._state._replace(written=written)
        self._pending = b""
        if self._turns_over:
            self._file, self._position, self._turns_over = self._file + 1, r.STATE_BYTES, False
