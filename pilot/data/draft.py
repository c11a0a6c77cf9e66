"""An HDF5 file while it is written: a `Draft`, until it has its final name.

Invariants
----------
- A file has its final name only when it is whole and on the disk.
- Data are written without HDF5, which only says where; it never meets a full disk itself.
- A draft that is not published leaves no file behind; a forked process leaves it to its parent.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import weakref
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5g, h5o, h5p, h5s, h5t
from numpy.typing import NDArray

from pilot.data import chunks, dimensions, durable
from pilot.data.checksum import Checksum
from pilot.data.hdf5 import (
    ATTRIBUTE,
    ATTRIBUTE_DTYPE,
    ATTRIBUTE_TYPE,
    HDF5_ERRORS,
    LENGTH,
    ORDER,
    PICKLE_TYPE,
    Written,
    cannot_read,
    description,
    stored_chunks,
)
from pilot.data.hdf5_files import FileBytes, Metadata, access_by, write_all
from pilot.data.labelled import Labels
from pilot.data.parts import (
    PIECE_BYTES,
    SKELETON,
    Parts,
    is_fortran,
    native_type,
    pieces,
)
from pilot.data.patience import patiently
from pilot.data.sealed_file import SealedFile
from pilot.errors import StorageError

_SCALAR = h5s.create(h5s.SCALAR)

_FORTRAN = np.array(b"fortran")
_ORDER_TYPE = h5t.py_create(_FORTRAN.dtype, logical=True)
#: Arrays begin at such an offset in the file, so that they are aligned in memory when it is mapped.
_ALIGNMENT = 64
#: Smaller data sets need none.
_ALIGNED_BYTES = 4096
#: So much is copied at a time from file to file.
_COPY_BYTES = 4 * 1024 * 1024

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
        self._metadata = Metadata()
        try:
            durable.make_directory(temporary.parent, within)
            self._descriptor = os.open(
                temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644
            )
            access = access_by(self._metadata)
            # As old a format as has checksums on all metadata: readable from HDF5 1.8 on.
            access.set_libver_bounds(h5f.LIBVER_V18, getattr(h5f, "LIBVER_V110", h5f.LIBVER_LATEST))
            access.set_alignment(_ALIGNED_BYTES, _ALIGNMENT)
            self._file = h5f.create(os.fsencode(temporary), h5f.ACC_TRUNC, fapl=access)
            _drafts.add(self)
        except HDF5_ERRORS as cause:
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
            with contextlib.suppress(*HDF5_ERRORS):  # It may not be linked yet.
                h5g.open(self._file, b"/").unlink(encoded)
            if isinstance(cause, HDF5_ERRORS):
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
                h5a.create(dataset, ORDER, _ORDER_TYPE, _SCALAR).write(_FORTRAN, _ORDER_TYPE)
        names = "\0".join(parts.names).encode()
        data = np.frombuffer(LENGTH.pack(len(names)) + names + parts.skeleton, np.uint8)
        self._pickle(name + b"/" + SKELETON.encode(), data, level, total)
        top = h5g.open(self._file, name)
        notes = h5py.Group(top).attrs
        for key, note in parts.notes.items():
            if key.encode() != ATTRIBUTE:
                notes[key] = note
        for labels in parts.labels:
            self._describe_dimensions(name + b"/" + labels.path.encode(), labels, level)
        return Written(parts.size, total.value), b"tree", top

    def _array(self, name: bytes, array: NDArray[Any], level: int, total: Checksum) -> Any:
        return self._dataset(name, array, native_type(array.dtype), level, total)

    def _pickle(self, name: bytes, data: NDArray[np.uint8], level: int, total: Checksum) -> Any:
        return self._dataset(name, data.view("V1"), PICKLE_TYPE, level, total)

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
                write_all(self._descriptor, piece.data, offset)
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
            write_all(self._descriptor, data.data, offset)

    def _describe(self, top: Any, kind: bytes, written: Written) -> None:
        attribute = h5a.create(top, ATTRIBUTE, ATTRIBUTE_TYPE, _SCALAR)
        attribute.write(np.array((kind, *written), ATTRIBUTE_DTYPE), ATTRIBUTE_TYPE)

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
            self._describe(top, *description(node))
        except EOFError as cause:
            raise cannot_read(source.path, name, cause) from cause
        except HDF5_ERRORS as cause:
            raise durable.cannot_write(self.temporary, cause) from cause

    def _copy(self, name: bytes, node: Any, content: FileBytes) -> Any:
        copied = self._copy_data(name, node, content)
        if isinstance(node, h5d.DatasetID) and h5a.exists(node, ORDER):
            h5a.create(copied, ORDER, _ORDER_TYPE, _SCALAR).write(_FORTRAN, _ORDER_TYPE)
        return copied

    def _copy_data(self, name: bytes, node: Any, content: FileBytes) -> Any:
        if isinstance(node, h5g.GroupID):
            for child in node:
                self._copy(name + b"/" + child, h5o.open(node, child), content)
            copied = h5g.open(self._file, name)
            dimensions.copy(node, copied)
            return copied
        if (stored := stored_chunks(node)) is not None:
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
            write_all(self._descriptor, piece, copied.get_offset() + done)
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
        except HDF5_ERRORS as cause:
            raise durable.cannot_write(final, cause) from cause
        try:
            file, self._file = self._file, None
            file.close()
            patiently(lambda: self._metadata.write_to(self._descriptor))
            durable.publish(self._descriptor, self.temporary, final, replaces=replaces)
        except HDF5_ERRORS as cause:
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


@atexit.register
def _close_drafts() -> None:
    for draft in list(_drafts):
        draft.discard()
        draft.close()


def _leave_drafts() -> None:
    for draft in list(_drafts):
        draft.leave_to_parent()


os.register_at_fork(after_in_child=_leave_drafts)
