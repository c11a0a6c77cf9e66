"""Parameters of tasks: what kind of thing each is, and what the task does with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pilot.compat.compss.errors import PyCOMPSsException

OBJECT: Final = "object"
FILE: Final = "file"
DIRECTORY: Final = "directory"
COLLECTION: Final = "collection"
COLLECTION_FILE: Final = "collection of files"
DICTIONARY: Final = "dictionary"
STREAM: Final = "stream"

IN: Final = "in"
OUT: Final = "out"
INOUT: Final = "inout"
CONCURRENT: Final = "concurrent"
COMMUTATIVE: Final = "commutative"
IN_DELETE: Final = "in, and delete"

#: The directions of which a task makes a new version.
WRITES: Final = frozenset({OUT, INOUT, COMMUTATIVE})

#: The keys of a parameter that is described by a dict.
TYPE: Final = "type"
DIRECTION: Final = "direction"
STDIO: Final = "stdIOStream"
PREFIX: Final = "prefix"
DEPTH: Final = "depth"
WEIGHT: Final = "weight"
KEEP_RENAME: Final = "keep_rename"
CACHE: Final = "cache"
_KEYS: Final = (TYPE, DIRECTION, STDIO, PREFIX, DEPTH, WEIGHT, KEEP_RENAME, CACHE)


class Parameter(NamedTuple):
    """The kind of a parameter, and the use that a task makes of it."""

    kind: str = OBJECT
    direction: str = IN
    #: How far into containers its leaves are; None: all the way.
    depth: int | None = None
    #: ``stdin``, ``stdout`` or ``stderr`` of a program; empty: none of them.
    stream: str = ""
    #: The text before the value among the words of a program.
    prefix: str = ""

    @property
    def writes(self) -> bool:
        """True if the task makes a new version."""
        return self.direction in WRITES

    @property
    def is_file(self) -> bool:
        """True for files and directories."""
        return self.kind in (FILE, DIRECTORY)

    @property
    def is_collection(self) -> bool:
        """True if each leaf counts for itself."""
        return self.kind in (COLLECTION, COLLECTION_FILE, DICTIONARY)


PLAIN: Final = Parameter()
_STREAMS = ("stdin", "stdout", "stderr")


def _named() -> dict[str, Any]:
    """Return the constants that programs import, by their names."""
    short = {"IN": IN, "OUT": OUT, "INOUT": INOUT, "CONCURRENT": CONCURRENT}
    short |= {"COMMUTATIVE": COMMUTATIVE, "IN_DELETE": IN_DELETE}
    found: dict[str, Any] = {n: Parameter(OBJECT, d) for n, d in short.items()}
    kinds = {"FILE": FILE, "DIRECTORY": DIRECTORY, "COLLECTION": COLLECTION}
    kinds |= {"COLLECTION_FILE": COLLECTION_FILE, "DICTIONARY": DICTIONARY, "STREAM": STREAM}
    for name, kind in kinds.items():
        found[name] = Parameter(kind, IN)
        found |= {f"{name}_{n}": Parameter(kind, d) for n, d in short.items()}
    for name, made in list(found.items()):
        if made.kind == FILE:
            found |= {f"{name}_{s.upper()}": made._replace(stream=s) for s in _STREAMS}
    found |= {stream.upper(): stream for stream in _STREAMS}
    keys = {"Type": TYPE, "Direction": DIRECTION, "StdIOStream": STDIO, "Prefix": PREFIX}
    keys |= {"Depth": DEPTH, "Weight": WEIGHT, "Keep_rename": KEEP_RENAME, "Cache": CACHE}
    keys |= {key: key for key in ("block_count", "block_length", "stride")}
    return found | keys | {"TYPE": TYPE, "DIRECTION": DIRECTION, "DEPTH": DEPTH}


#: The constants that programs import of ``pycompss.api.parameter``.
NAMED: Final = _named()


def parameter_of(name: str, given: Any, function: str) -> Parameter:
    """Return what a decorator says of a parameter.

    Parameters
    ----------
    name
        The parameter.
    given
        A constant such as ``INOUT``, or a dict with ``Type`` and others.
    function
        The function's name, for messages.

    Raises
    ------
    PyCOMPSsException
        It means nothing, or is not supported.
    """
    where = f"@task of {function}: {name}"
    if isinstance(given, Mapping):
        unknown = [key for key in given if key not in _KEYS]
        if unknown:
            raise PyCOMPSsException(
                f"{where}: {unknown[0]!r} means nothing; there are Type, Direction, StdIOStream, "
                "Prefix, Depth, Weight, Keep_rename and Cache"
            )
        made = given.get(TYPE, PLAIN)
        if not isinstance(made, Parameter):
            raise PyCOMPSsException(f"{where}: Type is a constant such as FILE_INOUT, not {made!r}")
        if DIRECTION in given:
            direction = given[DIRECTION]
            if not isinstance(direction, Parameter):
                raise PyCOMPSsException(f"{where}: Direction is IN, OUT or another, not {given!r}")
            made = made._replace(direction=direction.direction)
        if DEPTH in given:
            made = made._replace(depth=int(given[DEPTH]))
        if STDIO in given:
            if given[STDIO] not in _STREAMS:
                raise PyCOMPSsException(
                    f"{where}: StdIOStream is STDIN, STDOUT or STDERR, not {given[STDIO]!r}"
                )
            made = made._replace(stream=given[STDIO])
        if PREFIX in given:
            made = made._replace(prefix=str(given[PREFIX]))
    elif isinstance(given, Parameter):
        made = given
    else:
        raise PyCOMPSsException(f"{where}: give a direction such as INOUT, not {given!r:.60}")
    if made.kind == STREAM and made.direction not in (IN, OUT):
        raise PyCOMPSsException(f"{where}: of streams there are STREAM_IN and STREAM_OUT")
    return made
