"""One direction of a connection as its reader has it: looks at the files, by position.

Invariants
----------
- What is not valid is not there yet: it is looked at again, and nothing after it is taken.
- A file is removed once all of it was taken, and the next one is there.
- A look reads a bounded amount.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from pilot.wire.files import records as r
from pilot.wire.files.disk import Disk

#: So much is read at a look; a record is never longer.
LOOK_BYTES = 2 << 20
#: After so many looks another key is another key.
_FOREIGN_LOOKS = 3


class Incoming:
    """The files of one direction, for the end that reads them.

    Parameters
    ----------
    disk
        The access to files.
    directory, name
        The directory of the connection, and ``up`` or ``down``.
    key
        The key of the direction.
    """

    def __init__(self, disk: Disk, directory: Path, name: str, key: bytes) -> None:
        self._disk = disk
        self._directory, self._name, self._key = directory, name, key
        self._file, self._position = 1, r.STATE_BYTES
        self._records = r.Records(key)
        #: The last state that was seen; None: the other end has said nothing yet.
        self.state: r.State | None = None
        #: The bytes of records that were taken, in all files.
        self.taken = 0
        #: How many looks in a row have found a state with another key.
        self._foreign = 0

    @property
    def is_behind(self) -> bool:
        """True if the writer says that it has written more than was taken."""
        return self.state is not None and self.state.written > self.taken

    def look(self) -> list[r.Record]:
        """Return the records that have arrived; more may be there.

        Raises
        ------
        FileNotFoundError
            The file is gone.
        OSError
            It cannot be read now.
        ForeignKeyError
            The writer holds another key.
        """
        path = self._directory / f"{self._name}.{self._file}"
        told, seen = self._disk.look(path, self._position, LOOK_BYTES)
        self._note_state(told)
        records, length = self._records.read(seen)
        self._position += length
        self.taken += length
        if records and records[-1].kind == r.NEXT:
            del records[-1]
            self._file, self._position = self._file + 1, r.STATE_BYTES
            with contextlib.suppress(OSError):  # it goes with its directory
                self._disk.remove(path)
        return records

    def _note_state(self, told: bytes) -> None:
        """Take note of the state, unless it is an older one that a cache still has."""
        try:
            state = r.unpack_state(told, self._key)
        except r.ForeignKeyError:
            # It may be an old state that is overwritten in part, but not again and again.
            self._foreign += 1
            if self.state is None and self._foreign >= _FOREIGN_LOOKS:
                raise
            return
        self._foreign = 0
        if state is not None and (self.state is None or state.beat >= self.state.beat):
            self.state = state
