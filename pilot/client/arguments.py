"""Encoding of a task's arguments: pickled, with futures as references, at any depth.

A future that is pickled while arguments are being encoded leaves a reference behind (the number of
the input, so that the same call has the same bytes in every run) and is noted as an input; when the
worker unpickles the arguments, the reference becomes the value. So futures may stand anywhere that
pickle reaches (lists, dicts, dataclasses, a user's own classes), and arguments without futures cost
nothing more than their pickle.

Arguments that are too large to travel through the head are written to a segment by whoever
submits; what travels is a pickle of a few bytes that reads them (`spilled`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pilot.data.pickles import are_plain, decode, encode, encode_plain
from pilot.data.storing import load
from pilot.data.unpicklable import argument_error
from pilot.errors import EncodingError, SubmissionError
from pilot.model.ids import task_label
from pilot.model.values import Value
from pilot.pickled import pickled_name

Ref = tuple[int, int]


class Origin(NamedTuple):
    """The site and database to which a task's id belongs: each site counts its own tasks."""

    #: The name of the site.
    site: str
    directory: str
    #: The identity of its database, distinct also from an earlier one in its place; empty: unknown.
    database: str = ""

    def is_that_of(self, other: Origin) -> bool:
        """Tell whether an id names the same task at `other`."""
        if self.database and other.database:
            return self.database == other.database
        return self.directory == other.directory

    def other_than(self, here: Origin) -> str:
        """Return words that name this origin in a message of `here`."""
        if self.site != here.site:
            return f"site {self.site}"
        if self.directory != here.directory:
            return f"another site {self.site}, {self.directory}"
        return f"an earlier database of site {self.site}"


class _Local(threading.local):
    #: Inputs found so far, with their numbers, while arguments are encoded in this thread.
    found: dict[Ref, int] | None = None
    #: The site to which they are to be sent.
    origin: Origin | None = None
    #: The values of the inputs, and the site directory, while arguments are decoded in this thread.
    values: Sequence[Any] | None = None
    directory: Path | None = None
    #: Loads what is in segments, if that is not read from the site directory at once.
    load: Callable[[Value], Any] | None = None
    #: The bytes of the function that were read from a segment.
    read_bytes = 0


_local = _Local()


def encode_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any], origin: Origin | None = None
) -> tuple[bytes, tuple[Ref, ...]]:
    """Return arguments as bytes, and the results that they refer to, each once, in order.

    Parameters
    ----------
    args, kwargs
        The arguments.
    origin
        The place where the task is submitted; futures among the arguments must be from there.

    Raises
    ------
    SubmissionError
        An argument cannot be pickled, or is a future of another site.
    """
    if type(args) is tuple and not kwargs and are_plain(args):
        return encode_plain((args, kwargs)), ()
    found: dict[Ref, int] = {}
    _local.found, _local.origin = found, origin
    try:
        payload = encode((args, kwargs))
    except EncodingError as error:
        if error.__cause__ is None:
            raise
        raise argument_error(args, kwargs, error.__cause__) from error.__cause__
    finally:
        _local.found = _local.origin = None
    return payload, tuple(found)


def decode_arguments(
    payload: bytes,
    values: Sequence[Any],
    directory: Path,
    load_value: Callable[[Value], Any] | None = None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments, with the values of the inputs in the places of the references.

    Parameters
    ----------
    payload
        The bytes that `encode_arguments` or `spilled` returned.
    values
        The values of the inputs, in the order in which `encode_arguments` gave them.
    directory
        The site directory, for what is in segments.
    load_value
        Loads these; None: they are read from that directory.
    """
    _local.values, _local.directory, _local.load = values, directory, load_value
    try:
        args, kwargs = decode(payload)
    finally:
        _local.values = _local.directory = _local.load = None
    return args, kwargs


def spilled_function(value: Value) -> bytes:
    """Return a payload that stands for a function in a segment."""
    return encode(_Spilled(value, is_pickled=False))


def decode_function(payload: bytes, directory: Path) -> tuple[Any, int]:
    """Decode a function; return it with the bytes that were read from a segment (0: none).

    Parameters
    ----------
    payload
        The payload that was sent.
    directory
        The site directory.
    """
    _local.directory, _local.read_bytes = directory, 0
    try:
        return decode(payload), _local.read_bytes
    finally:
        _local.directory = None


class _Spilled:
    def __init__(self, value: Value, is_pickled: bool = True) -> None:
        self._value = value
        self._read = read_spilled if is_pickled else read_stored

    def __reduce__(self) -> tuple[Any, ...]:
        return (self._read, msgspec.structs.astuple(self._value))


def spilled(value: Value) -> bytes:
    """Return a payload that stands for the one in a segment."""
    return encode(_Spilled(value))


@pickled_name
def read_spilled(*fields: Any) -> Any:
    assert _local.directory is not None
    value = Value(*fields)
    return decode(_local.load(value) if _local.load else load(value, _local.directory))


@pickled_name
def read_stored(*fields: Any) -> Any:
    assert _local.directory is not None
    value = Value(*fields)
    _local.read_bytes = value.size
    return load(value, _local.directory)


def refer(
    task: int, indices: tuple[int, ...], whole: bool, origin: Origin | None = None
) -> tuple[Any, ...]:
    """Return a future's reduction: a reference to one result, or to all of them as a tuple.

    Raises
    ------
    TypeError
        No arguments are being encoded: a future means nothing in another process.
    SubmissionError
        The future belongs to another site than the one that they are encoded for.
    """
    found = _local.found
    if found is None:
        raise TypeError(
            "a future can only be pickled as an argument of a task; "
            "to give one to another process, give its task id"
        )
    here = _local.origin
    # The origins of futures of one session are the same object.
    if not (origin is here or origin is None or here is None or origin.is_that_of(here)):
        raise SubmissionError(
            f"the future of task {task_label(task)} is of {origin.other_than(here)}, and means "
            f"nothing at site {here.site}; give its result() in its place"
        )
    if not whole:  # thousands may be in a list
        return resolve, (found.setdefault((task, indices[0]), len(found)),)
    return resolve_all, tuple(found.setdefault((task, index), len(found)) for index in indices)


@pickled_name
def resolve(number: int) -> Any:
    assert _local.values is not None
    return _local.values[number]


@pickled_name
def resolve_all(*numbers: int) -> tuple[Any, ...]:
    return tuple(map(resolve, numbers))
