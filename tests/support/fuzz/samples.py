"""What is sent: messages of every kind with random contents, and what is left of them when bits are
flipped, parts are missing, or others are in their place."""

from __future__ import annotations

import random
import types
import typing
from typing import Any

import msgspec

from pilot.wire.messages import PROTOCOL
from pilot.wire.messages import pilot as m
from pilot.wire.messages.client import ClientHello

INTS = (0, 1, 2, 3, 5, 127, 255, 2**31, 2**32 + 1, (1 << 32) | 1, (5 << 32) | 1, 2**53, 2**63 - 1)
BAD_INTS = (-1, -(2**63), 2**63, 2**64 - 1)
FLOATS = (0.0, 1.0, 1e9, float("nan"), float("inf"), -float("inf"), 1e308, 5e-324, -1.0)
# No pool of the site under test: a pilot of it would be given tasks.
TEXTS = (
    *("", "a", "local", "pause", "resume", "close", "stop", "purge", "delete", "ok", "error"),
    *("crash", "cancelled", "interrupted", "timeout", "python", "mpi", "command", "value"),
    *("../../x", "/etc/passwd", "a\0b", "\x1b[31m", "x" * 5000, "caf\udce9", "\ud800", "€"),
    *("tasks", "sessions", "head", "events", "why", "status", "pilots", "task", "session"),
)
BYTES = (b"", b"\0", b"d" * 16, b"x" * 70_000, b"\x80\x05N.", b"\xff" * 9)
SMALL = ("retries", "max_crashes", "priority")
ANYTHING: tuple[Any, ...] = (
    None,
    1,
    -1,
    "x",
    b"y",
    [1],
    {"a": 1},
    [[[[]]]],
    1.5,
    True,
    2**64 - 1,
    {"limit": -1},
)


class Samples:
    """Makes samples from a source of random numbers."""

    def __init__(self, source: random.Random) -> None:
        self.random = source
        self._hints: dict[type, dict[str, Any]] = {}
        #: Whether a pilot may greet as it should.
        self.pilots = True

    def frame(self, union: Any) -> bytes:
        """One that is sent to whoever takes the messages of this union, or this message alone."""
        kind = self.random.choice(typing.get_args(union) or (union,))
        packed = self._packed(self.value(kind))
        roll = self.random.random()
        if roll < 0.15:
            return self.damaged(packed)
        if roll < 0.18:
            return self.noise(200)
        if roll < 0.20:
            return packed[:-1] + b"\x91" * self.random.randrange(2000) + b"\xc0"
        return packed

    def _packed(self, data: Any) -> bytes:
        try:
            return msgspec.msgpack.encode(data)
        except UnicodeEncodeError:
            # As whoever does not care for UTF-8 would send it.
            packed = msgspec.msgpack.encode(_with_latin(data))
            return packed.replace(b"caf_", b"caf\xe9")

    def damaged(self, data: bytes) -> bytes:
        """Some bytes are others, are missing, or are there twice."""
        changed = bytearray(data)
        for _ in range(self.random.randrange(1, 4)):
            if not changed:
                break
            at = self.random.randrange(len(changed))
            match self.random.randrange(4):
                case 0:
                    changed[at] = self.random.randrange(256)
                case 1:
                    changed[at] ^= 1 << self.random.randrange(8)
                case 2:
                    del changed[at : at + self.random.randrange(1, 20)]
                case _:
                    changed[at:at] = changed[: self.random.randrange(40)]
        return bytes(changed)

    def noise(self, most: int) -> bytes:
        """No more than so many random bytes."""
        return self.random.randbytes(self.random.randrange(most + 1))

    def value(self, kind: Any, depth: int = 0) -> Any:
        """Data that would mostly be taken for one of this type."""
        choice, roll = self.random.choice, self.random.random()
        if roll < 0.01:
            return choice(ANYTHING)
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        few = self.random.randrange(3) if depth < 4 else 0
        if kind is bool:
            return roll < 0.5
        if kind is int:
            return choice(BAD_INTS) if roll > 0.97 else choice(INTS)
        if kind is float:
            return choice(FLOATS) if roll < 0.1 else 1e9 * roll
        if kind is str:
            return choice(TEXTS)
        if kind is bytes:
            return choice(BYTES)
        if origin in (typing.Union, types.UnionType):
            return self.value(choice(arguments), depth)
        if origin is list or (origin is tuple and arguments[1:] == (...,)):
            return [self.value(arguments[0], depth + 1) for _ in range(few)]
        if origin is tuple:
            return [self.value(argument, depth + 1) for argument in arguments]
        if origin is dict:
            key, value = arguments
            keys = [self.value(key, depth + 1) for _ in range(few)]
            names = [one if isinstance(one, (int, str)) else str(one) for one in keys]
            return {name: self.value(value, depth + 1) for name in names}
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self._struct(kind, depth)
        return choice(ANYTHING)

    def _struct(self, kind: type[msgspec.Struct], depth: int) -> Any:
        if kind not in self._hints:
            self._hints[kind] = typing.get_type_hints(kind)
        hints, names = self._hints[kind], kind.__struct_fields__
        fields = [self.value(hints[name], depth + 1) for name in names]
        for at, name in enumerate(names):
            if name in SMALL:  # otherwise what fails runs again for ever, before all others
                fields[at] = self.random.randrange(3)
        if kind is ClientHello or (kind is m.PilotHello and self.pilots):
            fields[0] = PROTOCOL if self.random.random() < 0.9 else fields[0]
        elif kind is m.PilotHello:
            fields[0] = PROTOCOL + 1
        if self.random.random() < 0.04:
            fields = fields[: self.random.randrange(len(fields) + 1)]
        if self.random.random() < 0.04:
            fields.append(self.random.choice(ANYTHING))
        if not kind.__struct_config__.array_like:
            return dict(zip(names, fields, strict=False))
        tag = kind.__struct_config__.tag
        return [tag, *fields] if tag is not None else fields


def _with_latin(data: Any) -> Any:
    """The same, with letters of one byte in place of lone surrogates."""
    if isinstance(data, str):
        return data.encode("utf-8", "replace").decode().replace("caf?", "caf_")
    if isinstance(data, list):
        return [_with_latin(item) for item in data]
    if isinstance(data, dict):
        return {_with_latin(key): _with_latin(item) for key, item in data.items()}
    return data
