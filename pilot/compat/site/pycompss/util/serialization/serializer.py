"""Objects as bytes and files, for programs that keep them by themselves."""

from pilot.compat.compss.serializing import (
    deserialize_from_bytes,
    deserialize_from_file,
    serialize_to_bytes,
    serialize_to_file,
)

__all__ = [
    "deserialize_from_bytes",
    "deserialize_from_file",
    "serialize_to_bytes",
    "serialize_to_file",
]
