"""Gathering with a time limit: in a process of its own, which can be left behind.

Invariants
----------
- Nothing that is gathered can stop the process that asks for it: not by hanging in the kernel, as
  calls on a file system do whose server is away, and not by dying.
- What a gathering process has started ends with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from typing import TypeVar

import msgspec

from pilot.findings import Check
from pilot.texts import printable, said, shortened

F = TypeVar("F")

#: So long a process that was killed is waited for, in seconds: it may be stuck in the kernel.
_KILLED_S = 0.5
#: The most bytes of an error that are told.
_ERROR_BYTES = 600


class NotGathered(Exception):
    """The error that facts could not be gathered; the message says why."""


class _Told(msgspec.Struct):
    """The word of a gathering process."""

    facts: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""


def gathered(check: Check[F]) -> F:
    """Gather the facts of a check, within its limit.

    Raises
    ------
    NotGathered
        It failed, or has not ended in time.
    """
    return msgspec.json.decode(gathered_json(check), type=check.facts)


def gathered_json(check: Check[F]) -> bytes:
    """Gather the facts of a check, within its limit; return them as JSON.

    Raises
    ------
    NotGathered
        It failed, or has not ended in time.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        _gather(check, writer)
    os.close(writer)
    try:
        text = _read(reader, time.monotonic() + check.limit_s)
    finally:
        os.close(reader)
        _end(pid)
    if text is None:
        raise NotGathered(f"no answer within {check.limit_s:g} s")
    try:
        told = msgspec.json.decode(text, type=_Told)
    except msgspec.DecodeError:
        raise NotGathered("the process that looked died") from None
    if told.error:
        raise NotGathered(told.error)
    return bytes(told.facts)


def _gather(check: Check[F], writer: int) -> None:
    """Gather, tell the result, and end this process."""
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        try:
            told = _Told(msgspec.Raw(msgspec.json.encode(check.gather())))
        except Exception as error:
            told = _Told(error=printable(shortened(said(error), _ERROR_BYTES)))
        text = msgspec.json.encode(told)
        while text:
            text = text[os.write(writer, text) :]
        status = 0
    finally:
        os._exit(status)


def _read(reader: int, deadline: float) -> bytes | None:
    """Read until the other end is closed; None: it is not in time."""
    text = b""
    while (left_s := deadline - time.monotonic()) > 0:
        if select.select([reader], [], [], left_s)[0]:
            part = os.read(reader, 1 << 16)
            if not part:
                return text
            text += part
            # What it has started may hold the pipe for longer.
            with contextlib.suppress(msgspec.DecodeError):
                msgspec.json.decode(text, type=_Told)
                return text
    return None


def _end(pid: int) -> None:
    """Kill a process with all that it has started, and collect it if that ends it."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _KILLED_S
    while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.002)
