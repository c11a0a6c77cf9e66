"""Storing and loading of values: inline up to a limit, beyond that in a segment.

Importing it loads neither NumPy nor HDF5: a process with small values only does not wait for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilot.data.values import SMALL, decode, encode, surely_larger
from pilot.model.values import INLINE_LIMIT_BYTES, Value

if TYPE_CHECKING:
    from pilot.data.parts import Parts
    from pilot.data.segments import SegmentWriter, Unsealed


def store(
    obj: object,
    *,
    writer: SegmentWriter | LazyWriter,
    session: str,
    task_name: str,
    task_id: str,
    index: int = 0,
    inline_limit: int = INLINE_LIMIT_BYTES,
) -> Value | Unsealed:
    """Encode `obj` inline, or write it into the open segment of `session`.

    Returns
    -------
    Value or Unsealed
        See `announceable`. An `Unsealed` becomes a `Value` by `writer.seal()`.

    Raises
    ------
    EncodingError
        It cannot be pickled.
    StorageError
        It cannot be written.
    """
    if type(obj) in SMALL or not surely_larger(obj, inline_limit):
        payload = encode(obj)
        if len(payload) <= inline_limit:
            return Value(len(payload), payload)
    return writer.add(session, task_name, task_id, index, obj)


def announceable(stored: Value | Unsealed) -> Value:
    """Return the result of `store` as a value that may be told to others.

    Raises
    ------
    RuntimeError
        Its segment is not sealed.
    """
    return stored if isinstance(stored, Value) else stored.value


def load(value: Value, site_dir: Path) -> Any:
    """Return the object behind a value.

    Raises
    ------
    ResultError
        Its file is missing, torn or changed.
    EncodingError
        Its pickle needs something that is not here, such as a module.
    """
    if value.is_inline:
        return decode(value.payload)
    from pilot.data import segments

    return segments.read(site_dir, value)


class LazyWriter:
    """A segment writer that loads HDF5 when the first large value comes."""

    def __init__(self, site_dir: Path, owner: str) -> None:
        self._arguments = (site_dir, owner)
        self._writer: SegmentWriter | None = None

    def add(self, session: str, task_name: str, task_id: str, index: int, obj: object) -> Unsealed:
        """Write one result; see `SegmentWriter.add`."""
        return self._opened().add(session, task_name, task_id, index, obj)

    def add_parts(
        self, session: str, task_name: str, task_id: str, index: int, parts: Parts
    ) -> Unsealed:
        """Write one result that was taken apart; see `SegmentWriter.add_parts`."""
        return self._opened().add_parts(session, task_name, task_id, index, parts)

    def _opened(self) -> SegmentWriter:
        if self._writer is None:
            from pilot.data.segments import SegmentWriter

            self._writer = SegmentWriter(*self._arguments)
        return self._writer

    def seal(self) -> list[Value]:
        """Finish all open segments; see `SegmentWriter.seal`."""
        return self._writer.seal() if self._writer is not None else []

    def discard(self) -> None:
        """Drop the results that are not sealed; see `SegmentWriter.discard`."""
        if self._writer is not None:
            self._writer.discard()
