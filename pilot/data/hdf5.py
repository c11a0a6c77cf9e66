"""The layout of values in HDF5 files, which a `Draft` writes and a `SealedFile` reads.

Responsible for how a value lies in a file, and for turning HDF5's errors into Pilot's. Knows
neither sessions nor tasks.

A value is one of

- a data set of a native type: a lone array (its kind is ``fortran`` where it was in that order: the
  file has it in C's);
- a data set of opaque bytes: the pickle of an object without arrays;
- a group: an object with arrays. They are native data sets named after their place in the object;
  ``.pickle`` holds the names in order and the skeleton (see `pilot.data.parts`): the length of the
  names in 8 bytes, the names with NUL between them, the skeleton. Attributes repeat plain numbers
  and strings for people.

Each carries the attribute ``pilot`` with its kind, size in bytes and checksum.

Invariants:

- a file has its final name only when it is whole and on the disk, and is never changed after that
  (it may be replaced by one that has fewer of its values, see `pilot.data.sweeping`);
- all data sets are contiguous, or compressed in chunks (see `pilot.data.chunks`), and HDF5 only
  says where: data are read and written without it, and it never meets a full disk itself;
- HDF5 gets file objects, never names. So it takes no file locks, which Lustre may not have; and a
  user may look into a file with h5py meanwhile, which it otherwise refuses in the same process
  when the settings differ.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from h5py import h5a, h5d, h5t

from pilot.data import chunks
from pilot.data.hdf5_files import FileBytes
from pilot.errors import ResultError

#: What h5py raises for a file that is damaged or cannot be written, or when a callback fails.
HDF5_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, SystemError)

ATTRIBUTE = b"pilot"
ATTRIBUTE_DTYPE = np.dtype([("kind", "S8"), ("size", "<u8"), ("checksum", "<u8")])
ATTRIBUTE_TYPE = h5t.py_create(ATTRIBUTE_DTYPE, logical=True)

#: Tells a pickle from an array of bytes. It has no tag, since h5py reads no type that has one.
PICKLE_TYPE = h5t.create(h5t.OPAQUE, 1)

#: Of large arrays in a group that are to be read into Fortran's order at once.
ORDER = b"pilot.order"
#: Before the names in ``.pickle``.
LENGTH = struct.Struct("<Q")


class Written(NamedTuple):
    """The size and checksum of a written value, which a reference to it needs besides its name."""

    size: int
    checksum: int


class StoredAs(NamedTuple):
    """An array in a value as it is stored."""

    #: Its name in the value; empty if the value is the array.
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    #: Its compression: 1 to 9, or 0 for none.
    level: int


def description(top: Any) -> tuple[bytes, Written]:
    """Return the kind of a value, and the size and checksum that `Draft.write` returned for it."""
    described = np.empty((), ATTRIBUTE_DTYPE)
    h5a.open(top, ATTRIBUTE).read(described, ATTRIBUTE_TYPE)
    found = Written(described["size"].item(), described["checksum"].item())
    return described["kind"].item(), found


class StoredChunks(NamedTuple):
    """The chunks of a data set in a finished file."""

    dataset: Any
    chunk: tuple[int, ...]

    def read(self, source: FileBytes) -> Iterator[chunks.Packed]:
        """Yield the chunks as they are in the file."""
        most = math.prod(self.chunk) * self.dataset.get_type().get_size()
        for place in chunks.places(self.dataset.shape, self.chunk):
            found = self.dataset.get_chunk_info_by_coord(place)
            if found.size > most:
                raise ValueError("a chunk is damaged")
            data = bytearray(found.size)
            source.read_into(memoryview(data), found.byte_offset)
            yield chunks.Packed(place, data, found.filter_mask)


def stored_chunks(dataset: Any) -> StoredChunks | None:
    """Return the chunks of a data set; None if it is contiguous."""
    created = dataset.get_create_plist()
    if created.get_layout() != h5d.CHUNKED:
        return None
    return StoredChunks(dataset, created.get_chunk())


def cannot_read(path: Path, name: str, cause: Exception) -> ResultError:
    """Return the error to raise for a value that cannot be read: why, and what to do."""
    what = f"{name} in {path}" if name else str(path)
    if isinstance(cause, FileNotFoundError):
        return ResultError(
            f"cannot read {what}: there is no such file on {os.uname().nodename}. If there is one "
            "on other hosts, this one does not see the site's directory, or sees it late: let "
            "data.patience in the site file be longer. If there is none, it was deleted, with its "
            "session or by a clean-up of the file system: run the task again."
        )
    reason = cause.args[0] if isinstance(cause, KeyError) else cause
    return ResultError(
        f"cannot read {what}: {reason}. The file is damaged or was changed; restore it from a "
        "backup, or run the task again."
    )
