"""How the arguments of a task travel: pickled, with futures as references, at any depth.

A future that is pickled while arguments are being encoded leaves a reference behind and is noted as
an input; when the worker unpickles the arguments, the reference becomes the value. So futures may
stand anywhere that pickle reaches (lists, dicts, dataclasses, a user's own classes), and arguments
without futures cost nothing more than their pickle.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from pilot.data.values import decode, encode

Ref = tuple[int, int]


class _Local(threading.local):
    #: Inputs found so far, while arguments are encoded in this thread.
    found: dict[Ref, None] | None = None
    #: The values of the inputs, while arguments are decoded in this thread.
    values: Mapping[Ref, Any] | None = None


_local = _Local()


def encode_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[bytes, tuple[Ref, ...]]:
    """Arguments as bytes, and the results that they refer to, each once, in order.

    Raises
    ------
    SubmissionError
        An argument cannot be pickled.
    """
    found: dict[Ref, None] = {}
    _local.found = found
    try:
        payload = encode((args, kwargs))
    finally:
        _local.found = None
    return payload, tuple(found)


def decode_arguments(
    payload: bytes, values: Mapping[Ref, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments, with the values of the inputs in their places."""
    _local.values = values
    try:
        args, kwargs = decode(payload)
    finally:
        _local.values = None
    return args, kwargs


def refer(task: int, indices: tuple[int, ...], whole: bool) -> tuple[Any, ...]:
    """What a future's ``__reduce__`` gives: a reference to one result, or to all as a tuple.

    Raises
    ------
    TypeError
        No arguments are being encoded: a future means nothing in another process.
    """
    if _local.found is None:
        raise TypeError(
            "a future can only be pickled as an argument of a task; "
            "to give one to another process, give its task id"
        )
    refs = [(task, index) for index in indices]
    _local.found.update(dict.fromkeys(refs))
    return (_resolve_all, (refs,)) if whole else (_resolve, refs[0])


def _resolve(task: int, index: int) -> Any:
    assert _local.values is not None
    return _local.values[(task, index)]


def _resolve_all(refs: list[Ref]) -> tuple[Any, ...]:
    return tuple(_resolve(*ref) for ref in refs)
