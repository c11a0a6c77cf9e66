"""Objects as bytes and files, for programs that keep them by themselves:
`pycompss.util.serialization.serializer`.

What follows the arguments that mean something, such as a logger, is ignored.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cloudpickle


def serialize_to_bytes(obj: Any, *_: Any) -> bytes:
    """Return an object as bytes; functions and classes of the program itself may be in it."""
    return bytes(cloudpickle.dumps(obj, protocol=pickle.HIGHEST_PROTOCOL))


def serialize_to_file(obj: Any, file_name: str, *_: Any) -> None:
    """Write an object to a file."""
    Path(file_name).write_bytes(serialize_to_bytes(obj))


def deserialize_from_bytes(serialized_content_bytes: bytes, *_: Any) -> Any:
    """Return the object that was made bytes; run nothing of others by it, as with any pickle."""
    return pickle.loads(serialized_content_bytes)


def deserialize_from_file(file_name: str, *_: Any) -> Any:
    """Return the object that was written to a file; see `deserialize_from_bytes`."""
    return deserialize_from_bytes(Path(file_name).read_bytes())
