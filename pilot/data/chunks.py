"""Compressed arrays: how one is cut into chunks, and the bytes of a chunk. Pure, no files.

A chunk is what HDF5 calls so: a block of the array that is shuffled (first bytes of all elements,
then second ones…) and deflated by itself, so that a part is read without the rest. Pilot does both
by itself: HDF5 would keep the interpreter locked meanwhile, and write to the file.

Invariants
----------
- What lies together in memory (in C's order) is in one chunk: so chunks are taken from an array,
  and put back, in its order, each with a copy of that chunk alone.
- A chunk is never larger in the file than in memory: what cannot be made smaller is kept as it is,
  and its filter mask says so.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Smaller arrays are not worth a chunk, whose index takes 3 KiB.
LEAST_BYTES = 16 * 1024
#: What a chunk has at most in memory; HDF5 keeps one of that size for the next read.
CHUNK_BYTES = 1024 * 1024

Place = tuple[int, ...]


class Packed(NamedTuple):
    """A chunk as it is in the file."""

    #: Where it begins in the array.
    place: Place
    data: Any
    #: HDF5's filter mask: a bit for each filter that was left out.
    left_out: int


def is_worth_it(shape: Place, nbytes: int) -> bool:
    """Tell whether to compress an array."""
    return bool(shape) and nbytes >= LEAST_BYTES


def chunk_shape(shape: Place, itemsize: int, most_bytes: int = CHUNK_BYTES) -> Place:
    """Return the shape of an array's chunks: whole last dimensions, as many as they hold."""
    chunk = [1] * len(shape)
    inner = itemsize
    for axis in reversed(range(len(shape))):
        most = max(1, most_bytes // inner)
        # Chunks of like sizes, so that the last one, which is as large, is not half empty.
        chunk[axis] = math.ceil(shape[axis] / math.ceil(shape[axis] / most))
        if chunk[axis] < shape[axis]:
            break
        inner *= shape[axis]
    return tuple(chunk)


def places(shape: Place, chunk: Place) -> Iterator[Place]:
    """Yield where the chunks of an array begin, in its order."""
    axes = (range(0, size, step) for size, step in zip(shape, chunk, strict=True))
    return itertools.product(*axes)


def blocks(array: NDArray[Any], most_bytes: int) -> Iterator[NDArray[Any]]:
    """Yield an array, which is not empty, in blocks that follow each other in C's order."""
    shape = chunk_shape(array.shape, array.itemsize, most_bytes)
    for place in places(array.shape, shape):
        yield array[_slices(place, shape)]


def pack(array: NDArray[Any], chunk: Place, level: int) -> Iterator[Packed]:
    """Yield the chunks of an array, shuffled and deflated.

    Parameters
    ----------
    array
        The array.
    chunk
        The shape of its chunks.
    level
        1 to 9, zlib's.
    """
    for place in places(array.shape, chunk):
        piece = array[_slices(place, chunk)]
        if piece.shape != chunk:
            whole = np.zeros(chunk, array.dtype)
            whole[tuple(map(slice, piece.shape))] = piece
            piece = whole
        plain = np.ascontiguousarray(piece).reshape(-1).view(np.uint8)
        shuffled = np.ascontiguousarray(plain.reshape(-1, array.itemsize).T)
        data = zlib.compress(shuffled.data, level)
        if len(data) < plain.size:
            yield Packed(place, data, 0)
        else:
            yield Packed(place, plain.data, _all_filters(array.itemsize))


def unpack(packed: Packed, chunk: Place, array: NDArray[Any]) -> None:
    """Put a chunk where it belongs in an array.

    Raises
    ------
    ValueError
        The chunk is damaged.
    """
    itemsize = array.itemsize
    piece = np.empty(chunk, array.dtype)
    items = piece.reshape(-1).view(np.uint8).reshape(-1, itemsize)
    if packed.left_out == _all_filters(itemsize):
        plain = np.frombuffer(packed.data, np.uint8)
        _check(plain.size == items.size)
        items[...] = plain.reshape(-1, itemsize)
    else:
        _check(packed.left_out == 0)
        inflating = zlib.decompressobj()
        try:
            data = inflating.decompress(packed.data, items.size)
        except zlib.error:
            data = b""
        _check(len(data) == items.size)
        items[...] = np.frombuffer(data, np.uint8).reshape(itemsize, -1).T
    target = array[_slices(packed.place, chunk)]
    target[...] = piece[tuple(map(slice, target.shape))]


def _slices(place: Place, chunk: Place) -> tuple[slice, ...]:
    return tuple(slice(begin, begin + size) for begin, size in zip(place, chunk, strict=True))


def _all_filters(itemsize: int) -> int:
    """Return the filter mask of a chunk without shuffle (which bytes do not have) and deflate."""
    return 0b11 if itemsize > 1 else 0b1


def _check(is_right: bool) -> None:
    if not is_right:
        raise ValueError("a chunk is damaged")
