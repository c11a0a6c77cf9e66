"""Names of `pycompss.streams.distro_stream`."""

from pilot.compat.compss.streams import (
    AT_LEAST_ONCE,
    AT_MOST_ONCE,
    FILE,
    OBJECT,
    DistroStream,
    FileDistroStream,
    ObjectDistroStream,
    PscoDistroStream,
)

__all__ = [
    "AT_LEAST_ONCE",
    "AT_MOST_ONCE",
    "FILE",
    "OBJECT",
    "DistroStream",
    "FileDistroStream",
    "ObjectDistroStream",
    "PscoDistroStream",
]
