"""The pickles of users' objects: encoded, within bounds, and decoded again.

Reads and writes no files, and loads neither NumPy nor HDF5: a process with small values only does
not wait for them.

Invariants:

- pickles refer to nothing that is defined in a user's script: a worker could not import it;
- an error says in a user's words which part of an object is at fault (`unpicklable`).
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from pilot.data.pickling_by_value import PROTOCOL, dumps, pickler
from pilot.data.unpicklable import decoding_error, encoding_error
from pilot.errors import PilotError

#: The types of objects that refer to nothing, and are pickled by C alone.
_PLAIN = frozenset({int, float, bool, type(None), str, bytes})


def are_plain(objects: Iterable[object]) -> bool:
    """Tell whether all objects are plain: numbers, text and the like, which refer to nothing."""
    return _PLAIN.issuperset(map(type, objects))


def encode_plain(obj: object) -> bytes:
    """Pickle an object that is plain, or made of tuples and dicts of plain ones; faster than
    `encode`."""
    return pickle.dumps(obj, PROTOCOL)


def encode(obj: object) -> bytes:
    """Pickle `obj`; what only the user's script defines is pickled by value.

    Raises
    ------
    EncodingError
        The object, or something in it, cannot be pickled.
    PilotError
        Something in it is Pilot's, and refuses, such as a future of another site.
    """
    if type(obj) in _PLAIN:
        return encode_plain(obj)
    try:
        payload = pickle.dumps(obj, PROTOCOL)
        if not needs_cloudpickle(payload):
            return payload
    except (MemoryError, PilotError):
        raise
    except Exception:
        pass  # Lambdas and local classes; for the rest, cloudpickle's error is the one to show.
    try:
        return dumps(obj)
    except (MemoryError, PilotError):
        raise
    except Exception as cause:
        raise encoding_error(obj, cause) from cause


def encode_within(obj: object, limit: int) -> bytes:
    """Pickle `obj` as `encode` does, up to `limit` bytes; larger data is not even copied.

    Raises
    ------
    TooLargeError
        The pickle has more bytes.
    EncodingError
        The object, or something in it, cannot be pickled.
    """
    file = BoundedFile(limit)
    try:
        pickle.Pickler(file, PROTOCOL).dump(obj)
        if not needs_cloudpickle(file.getvalue()):
            return file.getvalue()
    except (MemoryError, TooLargeError, PilotError):
        raise
    except Exception:
        pass  # as in `encode`
    file = BoundedFile(limit)
    try:
        pickler()(file).dump(obj)
    except (MemoryError, TooLargeError, PilotError):
        raise
    except Exception as cause:
        raise encoding_error(obj, cause) from cause
    return file.getvalue()


def decode(payload: bytes) -> Any:
    """Return the object that `encode` was given.

    Raises
    ------
    EncodingError
        The pickle needs something that is not here, such as a module.
    PilotError
        Whatever it stands for is not what it was, such as a file that was imported.
    """
    try:
        return unpickled(payload)
    except (MemoryError, PilotError):
        raise
    except Exception as cause:
        raise decoding_error(cause) from cause


def unpickled(payload: bytes, buffers: Iterable[Any] | None = None) -> Any:
    """Unpickle an object; its arrays are writable, also those that were read-only.

    A task's arguments are its own, and what it may do with them must not depend on their size, nor
    on the way that they took.
    """
    if b"_frombuffer" in payload:
        return _ArrayUnpickler(io.BytesIO(payload), buffers=buffers).load()
    return pickle.loads(payload) if buffers is None else pickle.loads(payload, buffers=buffers)


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that makes writable arrays: pickles hold read-only arrays as immutable bytes."""

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        return partial(_writable, found) if name == "_frombuffer" else found


def _writable(make: Callable[..., Any], *arguments: Any) -> Any:
    array = make(*arguments)
    return array if array.flags.writeable else array.copy(order="K")


class TooLargeError(Exception):
    """An error of a `BoundedFile`: the pickle is larger than the file may be."""


class BoundedFile(io.BytesIO):
    """A file in memory that takes up to a number of bytes, and refuses the rest.

    Parameters
    ----------
    limit
        The bytes.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._left = limit

    def write(self, data: Any) -> int:
        """Add data to the file.

        Raises
        ------
        TooLargeError
            The data are more than the file may take.
        """
        self._left -= memoryview(data).nbytes
        if self._left < 0:
            raise TooLargeError
        return super().write(data)


def needs_cloudpickle(payload: bytes) -> bool:
    """Tell whether a pickle made by reference may refer to something that a worker cannot
    import."""
    if b"__main__" in payload:
        return True
    cloudpickle = sys.modules.get("cloudpickle")
    return cloudpickle is not None and bool(cloudpickle.list_registry_pickle_by_value())
