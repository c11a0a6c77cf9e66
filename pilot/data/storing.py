"""Storing and loading of values: inline up to a limit, beyond that in a segment.

Importing it loads neither NumPy nor HDF5: a process with small values only does not wait for them.

Invariants
----------
- A `Value` that is a reference names a sealed file.
- An array larger than the limit is never pickled to find out how large it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pilot.data.pickles import decode, encode
from pilot.errors import StorageError
from pilot.model.values import INLINE_LIMIT_BYTES, Value

if TYPE_CHECKING:
    from pilot.data.parts import Parts
    from pilot.data.segments import SegmentWriter, Unsealed

#: The types of objects that are always small.
_SMALL = frozenset({float, bool, type(None)})
#: How many nested objects are counted before the answer is "maybe not".
_COUNTED = 10_000


class ResultWriter(Protocol):
    """A writer of results that are too large to travel."""

    def add(
        self, session: str, task_name: str, task_id: str, index: int, obj: object, level: int = 0
    ) -> Unsealed:
        """Write one result; see `SegmentWriter.add`."""


def store(
    obj: object,
    *,
    writer: ResultWriter,
    session: str,
    task_name: str,
    task_id: str,
    index: int = 0,
    inline_limit: int = INLINE_LIMIT_BYTES,
    level: int = 0,
) -> Value | Unsealed:
    """Encode `obj` inline, or write it into the open segment of `session`, compressed by `level`
    (1 to 9; 0: not).

    Returns
    -------
    Value or Unsealed
        See `announceable`. An `Unsealed` becomes a `Value` by `writer.seal()`.

    Raises
    ------
    EncodingError
        The object cannot be pickled.
    StorageError
        The object cannot be written.
    """
    if type(obj) in _SMALL or not _surely_larger(obj, inline_limit):
        payload = encode(obj)
        if len(payload) <= inline_limit:
            return Value(len(payload), payload)
    return writer.add(session, task_name, task_id, index, obj, level)


def _surely_larger(obj: object, limit: int) -> bool:
    """Tell whether `obj` holds more than `limit` bytes in arrays and strings, without pickling it.

    What is in two places counts twice: then a value goes into a segment that might have been
    inline, which is harmless.
    """
    numpy = sys.modules.get("numpy")  # Where it is not loaded, there are no arrays.
    size = 0
    left = _COUNTED
    stack: list[Iterable[object]] = [(obj,)]
    while stack:
        for item in stack.pop():
            kind = type(item)
            if kind in (bytes, bytearray, str):
                size += len(item)  # type: ignore[arg-type]  # by its exact type
            elif kind in (list, tuple):
                stack.append(item)  # type: ignore[arg-type]  # by its exact type
            elif kind is dict:
                stack.append(item.values())  # type: ignore[attr-defined]  # by its exact type
            elif numpy is not None and kind is numpy.ndarray:
                size += 0 if item.dtype.hasobject else item.nbytes  # type: ignore[attr-defined]  # by its exact type
            left -= 1
            if size > limit:
                return True
            if not left:
                return False
    return False


def announceable(stored: Value | Unsealed) -> Value:
    """Return the result of `store` as a value that may be told to others.

    Raises
    ------
    StorageError, RuntimeError
        The segment of the value could not be sealed, or is not sealed yet.
    """
    return stored if isinstance(stored, Value) else stored.value


def load(value: Value, site_dir: Path) -> Any:
    """Return the object behind a value.

    Raises
    ------
    ResultError
        The value's file is missing, torn or changed.
    EncodingError
        The value's pickle needs something that is not here, such as a module.
    """
    if value.is_inline:
        return decode(value.payload)
    from pilot.data import segments

    return segments.read(site_dir, value)


class LazyWriter:
    """A segment writer that loads HDF5 when the first large value comes."""

    def __init__(self, site_dir: Path, owner: str, lost: type[StorageError] = StorageError) -> None:
        self._arguments = (site_dir, owner, lost)
        self._writer: SegmentWriter | None = None

    def add(
        self, session: str, task_name: str, task_id: str, index: int, obj: object, level: int = 0
    ) -> Unsealed:
        """Write one result; see `SegmentWriter.add`."""
        return self._opened().add(session, task_name, task_id, index, obj, level)

    def add_parts(
        self,
        session: str,
        task_name: str,
        task_id: str,
        index: int,
        parts: Parts,
        level: int = 0,
    ) -> Unsealed:
        """Write one result that was taken apart; see `SegmentWriter.add_parts`."""
        return self._opened().add_parts(session, task_name, task_id, index, parts, level)

    def _opened(self) -> SegmentWriter:
        if self._writer is None:
            from pilot.data.segments import SegmentWriter

            self._writer = SegmentWriter(*self._arguments)
        return self._writer

    def detach(self) -> None:
        """Close all open segments; see `SegmentWriter.detach`."""
        if self._writer is not None:
            self._writer.detach()

    def seal(self) -> list[Value]:
        """Finish all open segments; see `SegmentWriter.seal`."""
        return self._writer.seal() if self._writer is not None else []

    def hand_over(self, other: LazyWriter) -> None:
        """Move what could not be sealed to another writer; see `SegmentWriter.hand_over`."""
        if self._writer is not None:
            self._writer.hand_over(other._opened())

    def discard(self, reason: Exception | None = None) -> None:
        """Drop the results that are not sealed; see `SegmentWriter.discard`."""
        if self._writer is not None:
            self._writer.discard(reason)
