"""A finished HDF5 file: its values, whole or in parts, checked as they are read.

Invariants
----------
- Nothing damaged is given out, but for mappings whose checksum nobody knows.
- Threads may share a file; HDF5 itself is not asked for data.
"""

from __future__ import annotations

import atexit
import os
import struct
import weakref
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5g, h5o, h5t
from numpy.typing import NDArray

from pilot.data import chunks
from pilot.data.checksum import Checksum
from pilot.data.dtypes import plain
from pilot.data.hdf5 import (
    ATTRIBUTE,
    HDF5_ERRORS,
    LENGTH,
    ORDER,
    StoredAs,
    cannot_read,
    description,
    stored_chunks,
)
from pilot.data.hdf5_files import FileBytes, access_by, identity_of
from pilot.data.parts import (
    PIECE_BYTES,
    SKELETON,
    Parts,
    no_array,
    pieces,
    raw,
    stored_name,
)
from pilot.errors import PilotError

#: Smaller arrays are not worth a mapping of their own.
_MAPPED_BYTES = 256 * 1024


class SealedFile:
    """A finished file, open for reading. Threads may share it.

    It is closed when nobody refers to it any more.

    Raises
    ------
    ResultError
        The file is missing, or is not a complete HDF5 file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes: FileBytes | None = None
        self._file: Any = None
        try:
            self._bytes = FileBytes(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            self._file = h5f.open(os.fsencode(path), h5f.ACC_RDONLY, access_by(self._bytes))
        except HDF5_ERRORS as cause:
            self.close()
            raise cannot_read(path, "", cause) from cause
        _open_files.add(self)

    def is_at(self, path: Path) -> bool:
        """Tell whether `path` is still this very file, which may have been deleted or replaced."""
        try:
            status = path.stat()
        except OSError:
            return False
        return self._bytes is not None and self._bytes.identity == identity_of(status)

    def read(self, name: str, expected: int | None = None, *, mapped: bool = False) -> Parts:
        """Return the value `name`, checked against its checksum.

        Parameters
        ----------
        expected
            The checksum that is known from elsewhere; otherwise the one in the file counts.
        mapped
            The file is on this machine: large arrays are not copied but mapped, each page of them
            being copied when it is written to. Checked only if a checksum is `expected`.

        Raises
        ------
        ResultError
            The value is not there, or damaged.
        """
        assert self._bytes is not None
        check = not mapped or expected is not None
        reading = _Reading(self._bytes, Checksum() if check else None, mapped)
        return _read(self._file, reading, self.path, name, expected)

    def open(self, name: str) -> tuple[Any, FileBytes]:
        """Return the object `name` in HDF5, and the file that its data are read from.

        Raises
        ------
        ResultError
            The value is not there.
        """
        assert self._bytes is not None
        try:
            return h5o.open(self._file, name.encode()), self._bytes
        except HDF5_ERRORS as cause:
            raise cannot_read(self.path, name, cause) from cause

    def array(self, name: str, place: str = "") -> Any:
        """Return the data set of an array in the value `name`.

        Parameters
        ----------
        name
            The value.
        place
            The name of the array in the value; empty if the value is the array.

        Raises
        ------
        KeyError
            The value has no such array; the message names those that it has.
        ResultError
            The value is not there, or damaged.
        """
        top, source = self.open(name)
        try:
            places = _places(top, source)
            found = stored_name(place, places)
            if found in places:
                return h5d.open(top, found.encode()) if found else top
        except (*HDF5_ERRORS, EOFError, struct.error) as cause:
            raise cannot_read(self.path, name, cause) from cause
        raise no_array(place, places)

    def arrays(self, name: str) -> list[StoredAs]:
        """Return how the arrays of the value `name` are stored; nothing of them is read.

        Raises
        ------
        ResultError
            The value is not there, or damaged.
        """
        top, source = self.open(name)
        try:
            places = _places(top, source)
            found = []
            for place in places:
                data = h5py.Dataset(h5d.open(top, place.encode()) if place else top)
                level = data.compression_opts or 0
                found.append(StoredAs(place, plain(data.dtype), data.shape, level))
            return found
        except (*HDF5_ERRORS, EOFError, struct.error) as cause:
            raise cannot_read(self.path, name, cause) from cause

    def sizes(self) -> dict[str, int]:
        """Return the names of all values, with their sizes in bytes of data.

        Raises
        ------
        ResultError
            The file is damaged.
        """
        found: dict[str, int] = {}
        try:
            groups = [(b"", h5g.open(self._file, b"/"))]
            while groups:
                path, group = groups.pop()
                for key in group:
                    name, node = path + b"/" + key, h5o.open(group, key)
                    if h5a.exists(node, ATTRIBUTE):
                        found[name.decode()] = description(node)[1].size
                    elif isinstance(node, h5g.GroupID):
                        groups.append((name, node))
        except HDF5_ERRORS as cause:
            raise cannot_read(self.path, "", cause) from cause
        return found

    def close(self) -> None:
        """Close the file now."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
        if self._bytes is not None:
            self._bytes.close()
            self._bytes = None

    def __del__(self) -> None:
        self.close()


def _read(file: Any, reading: _Reading, path: Path, name: str, expected: int | None) -> Parts:
    try:
        top = h5o.open(file, name.encode())
        kind, written = description(top)
        if expected is None:
            expected = written.checksum
        if isinstance(top, h5g.GroupID):
            parts = _read_tree(top, reading)
        else:
            data = reading.take(top, kind == b"fortran")
            if isinstance(top.get_type(), h5t.TypeOpaqueID):
                parts = Parts([], [], data.tobytes(), {})
            else:
                parts = Parts([data], [""], None, {}, kind == b"fortran")
    except (*HDF5_ERRORS, EOFError, struct.error) as cause:
        raise cannot_read(path, name, cause) from cause
    found = reading.total.value if reading.total is not None else expected
    if found != expected:
        problem = PilotError(f"its checksum is {found:016x} instead of {expected:016x}")
        raise cannot_read(path, name, problem)
    return parts


def _read_tree(group: Any, reading: _Reading) -> Parts:
    names, skeleton = _skeleton(group, reading.source)
    arrays = []
    for name in names:
        dataset = h5o.open(group, name.encode())
        arrays.append(reading.take(dataset, h5a.exists(dataset, ORDER)))
    reading.check(np.frombuffer(skeleton, np.uint8))
    begin = LENGTH.size + LENGTH.unpack_from(skeleton)[0]
    return Parts(arrays, names, skeleton[begin:], {})


def _places(top: Any, source: FileBytes) -> list[str]:
    """Return the names of a value's arrays; an empty one if the value is an array itself."""
    if isinstance(top, h5g.GroupID):
        return _skeleton(top, source)[0]
    return [] if isinstance(top.get_type(), h5t.TypeOpaqueID) else [""]


def _skeleton(group: Any, source: FileBytes) -> tuple[list[str], bytes]:
    """Return the names of a value's arrays, and the bytes that have them and the pickle."""
    dataset = h5o.open(group, SKELETON.encode())
    packed = _Reading(source).take(dataset).tobytes()
    names = packed[LENGTH.size : LENGTH.size + LENGTH.unpack_from(packed)[0]]
    return names.decode().split("\0"), packed


class _Reading:
    """The reading of one value.

    Parameters
    ----------
    source
        The file.
    total
        What becomes the checksum of what is read; None: it is not checked.
    maps
        Whether large arrays are mapped, privately: what is written to them is seen by nobody else.
        A mapping keeps its data when the file is removed.
    """

    def __init__(
        self, source: FileBytes, total: Checksum | None = None, maps: bool = False
    ) -> None:
        self.source = source
        self.total = total
        self._maps = maps

    def check(self, piece: NDArray[np.uint8]) -> None:
        """Add bytes that were read to the checksum."""
        if self.total is not None:
            self.total.add(piece)

    def take(self, dataset: Any, is_fortran: bool = False) -> NDArray[Any]:
        """Read an array, in Fortran's order or C's."""
        if (stored := stored_chunks(dataset)) is not None:
            data = np.empty(dataset.shape, plain(dataset.dtype), "F" if is_fortran else "C")
            for packed in stored.read(self.source) if data.size else ():
                chunks.unpack(packed, stored.chunk, data)
            for piece in pieces(data) if data.size else ():
                self.check(piece)
            return data
        size = dataset.get_storage_size()
        if self._maps and size >= _MAPPED_BYTES and not is_fortran:
            data = self.source.mapped(dataset, size)
            self.check(raw(data))
            return data
        data = np.empty(dataset.shape, plain(dataset.dtype), "F" if is_fortran else "C")
        if not data.size:
            return data
        if data.flags.c_contiguous:
            self.source.read_into(raw(data).data, dataset.get_offset())
            self.check(raw(data))
            return data
        offset = dataset.get_offset()
        for block in chunks.blocks(data, PIECE_BYTES):
            piece = np.empty(block.shape, block.dtype)
            self.source.read_into(raw(piece).data, offset)
            self.check(raw(piece))
            block[...] = piece
            offset += piece.nbytes
        return data


#: HDF5 closes what is open when the process ends, and would call into a Python that is gone.
_open_files: weakref.WeakSet[SealedFile] = weakref.WeakSet()


@atexit.register
def _close_files() -> None:
    for file in list(_open_files):
        file.close()
