"""Files as HDF5 gets them: objects in place of names, for reading, and for what it writes.

Invariants
----------
- No state is shared with a forked process.
- HDF5 never meets a full disk: what it writes stays in memory until Pilot writes it.
"""

from __future__ import annotations

import io
import mmap
import os
from collections import defaultdict
from typing import Any

import numpy as np
from h5py import h5f, h5fd, h5p
from numpy.typing import NDArray

from pilot.data.dtypes import plain


class FileBytes:
    """A file for h5py to read from; no state is shared with a forked process."""

    def __init__(self, descriptor: int) -> None:
        self._position = 0
        self._descriptor = descriptor
        status = os.fstat(descriptor)
        self._size = status.st_size
        self.identity = identity_of(status)

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


class Metadata:
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
            write_all(descriptor, memoryview(content), start)
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


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of some data at a place in a file."""
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


def access_by(file: FileBytes | Metadata) -> Any:
    """Return how HDF5 opens a file that is this object."""
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    access.set_fileobj_driver(h5fd.fileobj_driver, file)
    return access


def identity_of(status: os.stat_result) -> tuple[int, int, int, int]:
    """Return numbers by which a file differs from those that had its name before."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
