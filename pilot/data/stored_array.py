"""Arrays in results, of which parts are read without the rest.

Invariants
----------
- Nothing but what is asked for is read, and nothing is kept. So what is read is not checked: the
  checksum of a value is that of all of it.
- A file that is replaced meanwhile, by one with fewer values, is found again.
- An array that was released or deleted is told as such, at once; no other file is waited for less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from pilot.data import segments
from pilot.data.dtypes import plain, with_plain_type
from pilot.data.parts import no_array, stored_name, take_apart
from pilot.data.patience import patiently
from pilot.data.storing import load
from pilot.errors import ResultError
from pilot.model.values import Value

#: What lies between two parts that are read is read, too, if it is less, in bytes.
RUN_BYTES = 64 * 1024
#: What is read so is read in pieces of so many bytes.
BLOCK_BYTES = 16 * 1024 * 1024


class StoredArray:
    """An array in a result, as its file has it; slices of it are NumPy arrays.

    Parameters
    ----------
    path
        The segment.
    value
        The name of the value in it.
    name
        The name of the array in the value; empty if the value is the array.
    gone
        Returns the error if the value was released or deleted; it is asked where it cannot be read.

    Raises
    ------
    KeyError
        The value has no such array; the message names those that it has.
    ResultError
        The file is missing or damaged.
    """

    def __init__(
        self,
        path: Path,
        value: str,
        name: str = "",
        gone: Callable[[], BaseException | None] | None = None,
    ) -> None:
        self._gone = gone
        self._path = path
        self._value = value
        self._name = name
        dataset = self._dataset()
        #: The size of each dimension.
        self.shape: tuple[int, ...] = dataset.shape
        #: The type of the elements, as HDF5 keeps it: without metadata of the array's.
        self.dtype: np.dtype[Any] = plain(dataset.dtype)

    @property
    def file(self) -> Path:
        """The HDF5 file that has it."""
        return self._path

    @property
    def dataset(self) -> str:
        """The name of its data set in the file."""
        return f"{self._value}/{self._name}" if self._name else self._value

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("an array without dimensions has no length")
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        """Read a part, which is given as h5py takes it: numbers, slices with a positive step, lists
        of numbers, a mask.

        Raises
        ------
        ResultError
            The file is gone or damaged.
        """
        wide = _without_small_steps(key, self.shape, self.dtype.itemsize)
        try:
            dataset = self._dataset()
            if wide is None:
                found = dataset[key]
            else:
                blocks = _blocks(*wide, self.shape, self.dtype.itemsize)
                found = np.concatenate([dataset[block][wide.steps] for block in blocks])
        except OSError as cause:
            raise ResultError(f"{self} cannot be read: {cause}") from cause
        return with_plain_type(found) if isinstance(found, np.ndarray) else found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read all of it."""
        if copy is False:
            raise ValueError(f"{self} is in a file: it cannot be an array without a copy")
        whole: NDArray[Any] = np.asarray(self[()])
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"<StoredArray {self.shape} {self.dtype} {self._path.name}:{self.dataset}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_gone": None}  # where it gets to there is nobody to ask

    def _dataset(self) -> Any:
        if self._gone is not None and not self._path.exists() and (error := self._gone()):
            raise error
        try:
            found = patiently(lambda: segments.opened(self._path).array(self._value, self._name))
        except ResultError as error:
            raise (self._gone and self._gone()) or error from None
        return h5py.Dataset(found)


class _Wide(NamedTuple):
    """The keys to read by in place of a key, and the steps to take of that."""

    keys: tuple[int | slice, ...]
    #: For each slice among the keys.
    steps: tuple[slice, ...]


def _without_small_steps(key: Any, shape: tuple[int, ...], itemsize: int) -> _Wide | None:
    """Return what to read where a key leaves out less than `RUN_BYTES` at a time; None: the key.

    Each run of bytes by itself costs as much as hundreds of kilobytes in one piece.
    """
    keys = list(key) if isinstance(key, tuple) else [key]
    if not all(type(one) in (int, slice) for one in keys) or len(keys) > len(shape):
        return None  # a list of numbers, a mask, an ellipsis: as h5py takes it
    keys += [slice(None)] * (len(shape) - len(keys))
    wide, steps, run = list(keys), [], itemsize
    for axis in reversed(range(len(shape))):
        one = keys[axis]
        if isinstance(one, slice):
            start, stop, step = one.indices(shape[axis])
            is_small = step > 1 and run * step < RUN_BYTES and stop > start
            wide[axis] = slice(start, stop) if is_small else one
            steps.append(slice(None, None, step if is_small else None))
        run *= shape[axis]
    if wide == keys or 0 in _lengths(wide, shape):
        return None
    return _Wide(tuple(wide), tuple(reversed(steps)))


def _lengths(keys: Iterable[int | slice], shape: tuple[int, ...]) -> list[int]:
    """Return how many indices each key has."""
    return [
        len(range(*one.indices(size))) if isinstance(one, slice) else 1
        for one, size in zip(keys, shape, strict=True)
    ]


def _blocks(
    keys: tuple[int | slice, ...], steps: tuple[slice, ...], shape: tuple[int, ...], itemsize: int
) -> Iterator[tuple[int | slice, ...]]:
    """Yield keys that together read what these do, in pieces of `BLOCK_BYTES` or so."""
    lengths = _lengths(keys, shape)
    axis, first = next((n, one) for n, one in enumerate(keys) if isinstance(one, slice))
    start, stop, step = first.indices(shape[axis])
    taken = steps[0].step or 1
    inner = itemsize * math.prod(lengths[axis + 1 :])
    block = step * taken * max(1, BLOCK_BYTES // (inner * taken))
    for begin in range(start, stop, block):
        yield *keys[:axis], slice(begin, min(begin + block, stop), step), *keys[axis + 1 :]


def stored_array(
    directory: Path,
    value: Value,
    name: str = "",
    gone: Callable[[], BaseException | None] | None = None,
) -> StoredArray | NDArray[Any]:
    """Return an array of a value, without reading it where it is in a file.

    Parameters
    ----------
    directory
        The site directory.
    value
        The value.
    name
        The name of the array in the value: ``fields/1``; empty if the value is the array.
    gone
        See `StoredArray`.

    Raises
    ------
    KeyError
        The value has no such array; the message names those that it has.
    ResultError
        The value's file is missing or damaged.
    """
    if value.is_inline:
        return array_in(load(value, directory), name)
    return StoredArray(directory / value.path, value.name, name, gone)


def array_in(obj: Any, name: str) -> NDArray[Any]:
    """Return the array of an object that has this name where the object is stored.

    Raises
    ------
    KeyError
        The object has no such array; the message names those that it has.
    """
    parts = take_apart(obj)
    found = dict(zip(parts.names, parts.arrays, strict=True))
    stored = stored_name(name, parts.names)
    if stored not in found:
        raise no_array(name, parts.names)
    return found[stored]
