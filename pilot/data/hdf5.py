"""HDF5 files: a `Draft` while a file is written, a `SealedFile` once it has its name.

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

import atexit
import contextlib
import io
import math
import mmap
import os
import struct
import weakref
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5fd, h5g, h5o, h5p, h5s, h5t
from numpy.typing import NDArray

from pilot.data import chunks, dimensions, durable
from pilot.data.checksum import Checksum
from pilot.data.dtypes import plain
from pilot.data.labelled import Labels
from pilot.data.parts import (
    PIECE_BYTES,
    SKELETON,
    Parts,
    is_fortran,
    native_type,
    no_array,
    pieces,
    raw,
    stored_name,
)
from pilot.data.patience import patiently
from pilot.errors import PilotError, ResultError, StorageError

#: What h5py raises for a file that is damaged or cannot be written, or when a callback fails.
_HDF5_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, SystemError)

_ATTRIBUTE = b"pilot"
_ATTRIBUTE_DTYPE = np.dtype([("kind", "S8"), ("size", "<u8"), ("checksum", "<u8")])
_ATTRIBUTE_TYPE = h5t.py_create(_ATTRIBUTE_DTYPE, logical=True)

#: Tells a pickle from an array of bytes. It has no tag, since h5py reads no type that has one.
_PICKLE_TYPE = h5t.create(h5t.OPAQUE, 1)

_SCALAR = h5s.create(h5s.SCALAR)

#: Of large arrays in a group that are to be read into Fortran's order at once.
_ORDER = b"pilot.order"
_FORTRAN = np.array(b"fortran")
_ORDER_TYPE = h5t.py_create(_FORTRAN.dtype, logical=True)
#: Arrays begin at such an offset in the file, so that they are aligned in memory when it is mapped.
_ALIGNMENT = 64
#: Smaller data sets need none.
_ALIGNED_BYTES = 4096
#: Smaller arrays are not worth a mapping of their own.
_MAPPED_BYTES = 256 * 1024

#: So much is copied at a time from file to file.
_COPY_BYTES = 4 * 1024 * 1024

#: Before the names in ``.pickle``.
_LENGTH = struct.Struct("<Q")

_LINKS = h5p.create(h5p.LINK_CREATE)
_LINKS.set_create_intermediate_group(True)
_LINKS.set_char_encoding(h5t.CSET_UTF8)

_DATASETS = h5p.create(h5p.DATASET_CREATE)
_DATASETS.set_layout(h5d.CONTIGUOUS)
_DATASETS.set_fill_time(h5d.FILL_TIME_NEVER)
_DATASETS.set_alloc_time(h5d.ALLOC_TIME_EARLY)
_DATASETS.set_obj_track_times(False)


def _chunked_datasets(chunk: tuple[int, ...], itemsize: int, level: int) -> Any:
    """Return how data sets of compressed chunks are created."""
    created = h5p.create(h5p.DATASET_CREATE)
    created.set_chunk(chunk)
    if itemsize > 1:
        created.set_shuffle()
    created.set_deflate(level)
    created.set_fill_time(h5d.FILL_TIME_NEVER)
    created.set_obj_track_times(False)
    return created


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


class Draft:
    """A file that is being written, under its temporary name.

    Parameters
    ----------
    temporary
        In the directory of the final file. What is there is overwritten.
    within
        The directory is made where it is missing, but not this one above it.

    Raises
    ------
    StorageError
        The file cannot be created.
    """

    def __init__(self, temporary: Path, within: Path | None = None) -> None:
        self.temporary = temporary
        self._descriptor = -1
        self._file: Any = None
        self._metadata = _Metadata()
        try:
            durable.make_directory(temporary.parent, within)
            self._descriptor = os.open(
                temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644
            )
            access = _access(self._metadata)
            # As old a format as has checksums on all metadata: readable from HDF5 1.8 on.
            access.set_libver_bounds(h5f.LIBVER_V18, getattr(h5f, "LIBVER_V110", h5f.LIBVER_LATEST))
            access.set_alignment(_ALIGNED_BYTES, _ALIGNMENT)
            self._file = h5f.create(os.fsencode(temporary), h5f.ACC_TRUNC, fapl=access)
            _drafts.add(self)
        except _HDF5_ERRORS as cause:
            self.discard()
            raise durable.cannot_write(temporary, cause) from cause

    def write(self, name: str, parts: Parts, level: int = 0) -> Written:
        """Write a value as the object `name`, which must be new.

        Parameters
        ----------
        name
            The name.
        parts
            The value.
        level
            How much its data sets are compressed: 1 to 9, zlib's; 0: not at all.

        Raises
        ------
        StorageError
            The value cannot be written. The values before it are not affected.
        """
        encoded = name.encode()
        self._check_open()
        try:
            written, kind, top = self._write(encoded, parts, level)
            self._describe(top, kind, written)
        except BaseException as cause:
            with contextlib.suppress(*_HDF5_ERRORS):  # It may not be linked yet.
                h5g.open(self._file, b"/").unlink(encoded)
            if isinstance(cause, _HDF5_ERRORS):
                raise durable.cannot_write(self.temporary, cause) from cause
            raise
        return written

    def _write(self, name: bytes, parts: Parts, level: int) -> tuple[Written, bytes, Any]:
        total = Checksum()
        if parts.skeleton is None:
            top = self._array(name, parts.arrays[0], level, total)
            kind = b"fortran" if parts.is_fortran else b"array"
            return Written(parts.size, total.value), kind, top
        if not parts.arrays:
            top = self._pickle(name, np.frombuffer(parts.skeleton, np.uint8), level, total)
            return Written(parts.size, total.value), b"pickle", top
        for path, array in zip(parts.names, parts.arrays, strict=True):
            dataset = self._array(name + b"/" + path.encode(), array, level, total)
            if array.nbytes > PIECE_BYTES and is_fortran(array):
                h5a.create(dataset, _ORDER, _ORDER_TYPE, _SCALAR).write(_FORTRAN, _ORDER_TYPE)
        names = "\0".join(parts.names).encode()
        data = np.frombuffer(_LENGTH.pack(len(names)) + names + parts.skeleton, np.uint8)
        self._pickle(name + b"/" + SKELETON.encode(), data, level, total)
        top = h5g.open(self._file, name)
        notes = h5py.Group(top).attrs
        for key, note in parts.notes.items():
            if key.encode() != _ATTRIBUTE:
                notes[key] = note
        for labels in parts.labels:
            self._describe_dimensions(name + b"/" + labels.path.encode(), labels, level)
        return Written(parts.size, total.value), b"tree", top

    def _array(self, name: bytes, array: NDArray[Any], level: int, total: Checksum) -> Any:
        return self._dataset(name, array, native_type(array.dtype), level, total)

    def _pickle(self, name: bytes, data: NDArray[np.uint8], level: int, total: Checksum) -> Any:
        return self._dataset(name, data.view("V1"), _PICKLE_TYPE, level, total)

    def _dataset(
        self, name: bytes, data: NDArray[Any], kind: Any, level: int, total: Checksum
    ) -> Any:
        space = h5s.create_simple(data.shape) if data.shape else _SCALAR
        if level and chunks.is_worth_it(data.shape, data.nbytes):
            chunk = chunks.chunk_shape(data.shape, data.itemsize)
            created = _chunked_datasets(chunk, data.itemsize, level)
            dataset = h5d.create(self._file, name, kind, space, created, _LINKS)
            for packed in chunks.pack(data, chunk, level):
                self._place(dataset, packed)
            for piece in pieces(data):
                total.add(piece)
            return dataset
        dataset = h5d.create(self._file, name, kind, space, _DATASETS, _LINKS)
        if data.size:
            offset = dataset.get_offset()
            for piece in pieces(data):
                _write_all(self._descriptor, piece.data, offset)
                total.add(piece)
                offset += piece.size
        return dataset

    def _describe_dimensions(self, name: bytes, labels: Labels, level: int) -> None:
        """Write what other programs need to know of a labelled object; not part of the value."""
        for key, variable in labels.variables.items():
            if variable.copy is not None:
                self._array(name + b"/" + key.encode(), variable.copy, level, Checksum())
        if labels.variables:
            dimensions.describe(h5g.open(self._file, name), labels)

    def _place(self, dataset: Any, packed: chunks.Packed) -> None:
        """Write a chunk where HDF5 has a place for it."""
        data = np.frombuffer(packed.data, np.uint8)
        self._metadata.leave_out(data)
        try:
            dataset.write_direct_chunk(packed.place, data, packed.left_out)
            offset = self._metadata.apart_offset
        finally:
            self._metadata.leave_out(None)
        if offset is not None:
            _write_all(self._descriptor, data.data, offset)

    def _describe(self, top: Any, kind: bytes, written: Written) -> None:
        attribute = h5a.create(top, _ATTRIBUTE, _ATTRIBUTE_TYPE, _SCALAR)
        attribute.write(np.array((kind, *written), _ATTRIBUTE_DTYPE), _ATTRIBUTE_TYPE)

    def copy(self, name: str, source: SealedFile) -> None:
        """Copy the value `name` of another file as it is, unread: damage is copied too.

        Raises
        ------
        StorageError
            The copy cannot be written.
        ResultError
            The other file cannot be read, or has no such value.
        """
        self._check_open()
        encoded = name.encode()
        node, content = source.open(name)
        try:
            top = self._copy(encoded, node, content)
            self._describe(top, *_description(node))
        except EOFError as cause:
            raise _cannot_read(source.path, name, cause) from cause
        except _HDF5_ERRORS as cause:
            raise durable.cannot_write(self.temporary, cause) from cause

    def _copy(self, name: bytes, node: Any, content: _Bytes) -> Any:
        copied = self._copy_data(name, node, content)
        if isinstance(node, h5d.DatasetID) and h5a.exists(node, _ORDER):
            h5a.create(copied, _ORDER, _ORDER_TYPE, _SCALAR).write(_FORTRAN, _ORDER_TYPE)
        return copied

    def _copy_data(self, name: bytes, node: Any, content: _Bytes) -> Any:
        if isinstance(node, h5g.GroupID):
            for child in node:
                self._copy(name + b"/" + child, h5o.open(node, child), content)
            copied = h5g.open(self._file, name)
            dimensions.copy(node, copied)
            return copied
        if (stored := _stored_chunks(node)) is not None:
            created = node.get_create_plist()
            copied = h5d.create(
                self._file, name, node.get_type(), node.get_space(), created, _LINKS
            )
            for packed in stored.read(content):
                self._place(copied, packed)
            return copied
        copied = h5d.create(self._file, name, node.get_type(), node.get_space(), _DATASETS, _LINKS)
        left = node.get_storage_size()
        block = bytearray(min(left, _COPY_BYTES))
        done = 0
        while left:
            piece = memoryview(block)[: min(left, _COPY_BYTES)]
            content.read_into(piece, node.get_offset() + done)
            _write_all(self._descriptor, piece, copied.get_offset() + done)
            done, left = done + len(piece), left - len(piece)
        return copied

    def move(self, temporary: Path, within: Path | None = None) -> None:
        """Go on under another temporary name, maybe on another file system, with all values.

        Raises
        ------
        StorageError
            There is no room there. The file is as it was.
        """
        self._check_open()
        try:
            durable.make_directory(temporary.parent, within)
            descriptor = os.open(
                temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644
            )
            try:
                # The data; the metadata are in memory still, and are written at the end.
                durable.copy_content(self._descriptor, descriptor)
            except BaseException:
                os.close(descriptor)
                temporary.unlink(missing_ok=True)
                raise
        except OSError as cause:
            raise durable.cannot_write(temporary, cause) from cause
        old, self.temporary = self.temporary, temporary
        self._close_descriptor()
        self._descriptor = descriptor
        with contextlib.suppress(OSError):
            old.unlink(missing_ok=True)

    def publish(self, final: Path, *, replaces: bool = False) -> None:
        """Finish the file and give it its name; where it `replaces` another file, that one is
        removed.

        Raises
        ------
        StorageError
            The disk is full, say. While `is_open`, the file still has all its values and
            `publish` may be tried again.
        """
        self._check_open()
        try:
            h5f.flush(self._file)
            patiently(lambda: self._metadata.write_to(self._descriptor))
        except _HDF5_ERRORS as cause:
            raise durable.cannot_write(final, cause) from cause
        try:
            file, self._file = self._file, None
            file.close()
            patiently(lambda: self._metadata.write_to(self._descriptor))
            durable.publish(self._descriptor, self.temporary, final, replaces=replaces)
        except _HDF5_ERRORS as cause:
            self.discard()
            raise durable.cannot_write(final, cause) from cause
        self._close_descriptor()

    @property
    def is_open(self) -> bool:
        """True if values can be added."""
        return self._file is not None and self._descriptor >= 0

    def _check_open(self) -> None:
        if not self.is_open:
            raise StorageError(
                f"{self.temporary} is not open in this process: it was sealed, discarded, or "
                "belongs to the process that this one was forked from"
            )

    def discard(self) -> None:
        """Drop the file and remove it; do nothing if it is not open."""
        if self._descriptor < 0:
            return
        self._close_descriptor()
        self.close()
        with contextlib.suppress(OSError):
            self.temporary.unlink(missing_ok=True)

    def _close_descriptor(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        # It is closed whatever that says, and what is to be kept is on the disk by then.
        with contextlib.suppress(OSError):
            os.close(descriptor)

    def leave_to_parent(self) -> None:
        """Release the file in a forked child: it belongs to the parent.

        HDF5 keeps it open: another thread of the parent may have been inside of it.
        """
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def close(self) -> None:
        """Close the file in HDF5, without changing anything on the disk."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def __del__(self) -> None:
        self.discard()
        self.close()


#: HDF5 closes what is open when the process ends, and would call into a Python that is gone.
_drafts: weakref.WeakSet[Draft] = weakref.WeakSet()
_open_files: weakref.WeakSet[SealedFile] = weakref.WeakSet()


@atexit.register
def _close_files() -> None:
    for draft in list(_drafts):
        draft.discard()
        draft.close()
    for file in list(_open_files):
        file.close()


def _leave_drafts() -> None:
    for draft in list(_drafts):
        draft.leave_to_parent()


os.register_at_fork(after_in_child=_leave_drafts)


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
        self._bytes: _Bytes | None = None
        self._file: Any = None
        try:
            self._bytes = _Bytes(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            self._file = h5f.open(os.fsencode(path), h5f.ACC_RDONLY, _access(self._bytes))
        except _HDF5_ERRORS as cause:
            self.close()
            raise _cannot_read(path, "", cause) from cause
        _open_files.add(self)

    def is_at(self, path: Path) -> bool:
        """Tell whether `path` is still this very file, which may have been deleted or replaced."""
        try:
            status = path.stat()
        except OSError:
            return False
        return self._bytes is not None and self._bytes.identity == _identity(status)

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

    def open(self, name: str) -> tuple[Any, _Bytes]:
        """Return the object `name` in HDF5, and the file that its data are read from.

        Raises
        ------
        ResultError
            The value is not there.
        """
        assert self._bytes is not None
        try:
            return h5o.open(self._file, name.encode()), self._bytes
        except _HDF5_ERRORS as cause:
            raise _cannot_read(self.path, name, cause) from cause

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
        except (*_HDF5_ERRORS, EOFError, struct.error) as cause:
            raise _cannot_read(self.path, name, cause) from cause
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
        except (*_HDF5_ERRORS, EOFError, struct.error) as cause:
            raise _cannot_read(self.path, name, cause) from cause

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
                    if h5a.exists(node, _ATTRIBUTE):
                        found[name.decode()] = _description(node)[1].size
                    elif isinstance(node, h5g.GroupID):
                        groups.append((name, node))
        except _HDF5_ERRORS as cause:
            raise _cannot_read(self.path, "", cause) from cause
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
        kind, written = _description(top)
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
    except (*_HDF5_ERRORS, EOFError, struct.error) as cause:
        raise _cannot_read(path, name, cause) from cause
    found = reading.total.value if reading.total is not None else expected
    if found != expected:
        problem = PilotError(f"its checksum is {found:016x} instead of {expected:016x}")
        raise _cannot_read(path, name, problem)
    return parts


def _description(top: Any) -> tuple[bytes, Written]:
    """Return the kind of a value, and the size and checksum that `Draft.write` returned for it."""
    described = np.empty((), _ATTRIBUTE_DTYPE)
    h5a.open(top, _ATTRIBUTE).read(described, _ATTRIBUTE_TYPE)
    found = Written(described["size"].item(), described["checksum"].item())
    return described["kind"].item(), found


def _read_tree(group: Any, reading: _Reading) -> Parts:
    names, skeleton = _skeleton(group, reading.source)
    arrays = []
    for name in names:
        dataset = h5o.open(group, name.encode())
        arrays.append(reading.take(dataset, h5a.exists(dataset, _ORDER)))
    reading.check(np.frombuffer(skeleton, np.uint8))
    begin = _LENGTH.size + _LENGTH.unpack_from(skeleton)[0]
    return Parts(arrays, names, skeleton[begin:], {})


def _places(top: Any, source: _Bytes) -> list[str]:
    """Return the names of a value's arrays; an empty one if the value is an array itself."""
    if isinstance(top, h5g.GroupID):
        return _skeleton(top, source)[0]
    return [] if isinstance(top.get_type(), h5t.TypeOpaqueID) else [""]


def _skeleton(group: Any, source: _Bytes) -> tuple[list[str], bytes]:
    """Return the names of a value's arrays, and the bytes that have them and the pickle."""
    dataset = h5o.open(group, SKELETON.encode())
    packed = _Reading(source).take(dataset).tobytes()
    names = packed[_LENGTH.size : _LENGTH.size + _LENGTH.unpack_from(packed)[0]]
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

    def __init__(self, source: _Bytes, total: Checksum | None = None, maps: bool = False) -> None:
        self.source = source
        self.total = total
        self._maps = maps

    def check(self, piece: NDArray[np.uint8]) -> None:
        """Add bytes that were read to the checksum."""
        if self.total is not None:
            self.total.add(piece)

    def take(self, dataset: Any, is_fortran: bool = False) -> NDArray[Any]:
        """Read an array, in Fortran's order or C's."""
        if (stored := _stored_chunks(dataset)) is not None:
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


class _Chunks(NamedTuple):
    """The chunks of a data set in a finished file."""

    dataset: Any
    chunk: tuple[int, ...]

    def read(self, source: _Bytes) -> Iterator[chunks.Packed]:
        """Yield the chunks as they are in the file."""
        most = math.prod(self.chunk) * self.dataset.get_type().get_size()
        for place in chunks.places(self.dataset.shape, self.chunk):
            found = self.dataset.get_chunk_info_by_coord(place)
            if found.size > most:
                raise ValueError("a chunk is damaged")
            data = bytearray(found.size)
            source.read_into(memoryview(data), found.byte_offset)
            yield chunks.Packed(place, data, found.filter_mask)


def _stored_chunks(dataset: Any) -> _Chunks | None:
    """Return the chunks of a data set; None if it is contiguous."""
    created = dataset.get_create_plist()
    if created.get_layout() != h5d.CHUNKED:
        return None
    return _Chunks(dataset, created.get_chunk())


class _Bytes:
    """A file for h5py to read from; no state is shared with a forked process."""

    def __init__(self, descriptor: int) -> None:
        self._position = 0
        self._descriptor = descriptor
        status = os.fstat(descriptor)
        self._size = status.st_size
        self.identity = _identity(status)

    def mapped(self, dataset: Any, size: int) -> NDArray[Any]:
        """Return the data of a data set, of this size in bytes, mapped privately."""
        offset: int | None = dataset.get_offset()
        if offset is None:
            raise ValueError("no space was allocated for its data")
        if offset + size > self._size:
            raise EOFError("the file ends before its data")
        begin = offset - offset % mmap.ALLOCATIONGRANULARITY
        memory = mmap.mmap(
            self._descriptor, offset - begin + size, access=mmap.ACCESS_COPY, offset=begin
        )
        data: NDArray[Any] = np.ndarray(dataset.shape, plain(dataset.dtype), memory, offset - begin)
        return data

    def read_into(self, buffer: memoryview, offset: int | None) -> None:
        """Fill `buffer` from `offset` on."""
        if offset is None:
            raise ValueError("no space was allocated for its data")
        while buffer:
            count = os.preadv(self._descriptor, [buffer], offset)
            if not count:
                raise EOFError("the file ends before its data")
            buffer, offset = buffer[count:], offset + count

    def readinto(self, buffer: memoryview) -> int:
        count = os.preadv(self._descriptor, [buffer], self._position)
        self._position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (self._size if whence == os.SEEK_END else 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, _data: object) -> int:
        raise io.UnsupportedOperation("sealed")

    def truncate(self, _size: int | None = None) -> int:
        raise io.UnsupportedOperation("sealed")

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _Metadata:
    """The metadata that HDF5 writes into a draft, kept in memory until `write_to`.

    HDF5 cannot go on after a write has failed: by version, it refuses all that follows or crashes.
    So none fails, and the disk is full only where that can be handled.
    """

    _PAGE = 4096

    def __init__(self) -> None:
        self._pages: defaultdict[int, bytearray] = defaultdict(lambda: bytearray(self._PAGE))
        #: Offset and size of what was written; the rest of a page is data, or nothing.
        self._extents: dict[int, int] = {}
        self._position = 0
        self._size = 0
        #: Data that HDF5 is given meanwhile: where it wants them is noted, and they are not kept.
        self._apart: NDArray[np.uint8] | None = None
        #: Where it wants them; None if it has not said so (then it has a copy, which is kept).
        self.apart_offset: int | None = None

    def leave_out(self, data: NDArray[np.uint8] | None) -> None:
        """Note where these data are to be, instead of keeping them; None: keep all."""
        self._apart, self.apart_offset = data, None

    def write_to(self, descriptor: int) -> None:
        """Write the metadata to the file behind `descriptor`."""
        runs: list[list[int]] = []
        for start, size in sorted(self._extents.items()):
            if runs and start <= runs[-1][1]:
                runs[-1][1] = max(runs[-1][1], start + size)
            else:
                runs.append([start, start + size])
        for start, end in runs:
            content = bytearray(end - start)
            self._copy(start, memoryview(content), into_pages=False)
            _write_all(descriptor, memoryview(content), start)
        os.ftruncate(descriptor, self._size)

    def _copy(self, offset: int, outside: memoryview, *, into_pages: bool) -> None:
        while outside:
            number, first = divmod(offset, self._PAGE)
            count = min(self._PAGE - first, len(outside))
            page = self._pages[number]
            if into_pages:
                page[first : first + count] = outside[:count]
            else:
                outside[:count] = page[first : first + count]
            outside, offset = outside[count:], offset + count

    def readinto(self, buffer: memoryview) -> int:
        self._copy(self._position, memoryview(buffer).cast("B"), into_pages=False)
        self._position += len(buffer)
        return len(buffer)

    def write(self, data: memoryview) -> int:
        size = len(data)
        if self._is_apart(data):
            self.apart_offset = self._position
        else:
            self._copy(self._position, memoryview(data).cast("B"), into_pages=True)
            self._extents[self._position] = max(size, self._extents.get(self._position, 0))
        self._position += size
        self._size = max(self._size, self._position)
        return size

    def _is_apart(self, data: memoryview) -> bool:
        """Tell whether this is what is to be left out: the same memory."""
        apart = self._apart
        if apart is None or len(data) != apart.size:
            return False
        return np.frombuffer(data, np.uint8).ctypes.data == apart.ctypes.data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (self._size if whence == os.SEEK_END else 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def truncate(self, size: int | None = None) -> int:
        self._size = self._position if size is None else size
        return self._size

    def flush(self) -> None:
        pass


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


def _access(file: _Bytes | _Metadata) -> Any:
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    access.set_fileobj_driver(h5fd.fileobj_driver, file)
    return access


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _cannot_read(path: Path, name: str, cause: Exception) -> ResultError:
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
