"""The small language inside ``${…}``: references, and no computation.

::

    text       = { characters | "${" reference "}" | "$${" characters "}" }
    reference  = name { "." name | "[" subscript "]" }
    subscript  = integer | quoted | reference | selection
    selection  = name "=" value { "," name "=" value }
    value      = integer | number | quoted | reference

A name is made of letters, digits, ``_`` and ``-``; a quoted text stands in ``'`` or ``"``, without
escapes. ``$${HOME}`` is the text ``${HOME}``; a ``$`` without a ``{`` after it is just itself.

Invariants: parsing runs no code and looks nothing up; whatever the text, it gives pieces or raises
`ExpressionError`; what `str` writes of a piece parses to the same piece.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
#: A number of at most 18 digits and a small exponent, so that the machine has it as one.
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]+)?([eE][-+]?[0-9]{1,2})?(?![0-9])")
_DEEPEST = 16


class ExpressionError(ValueError):
    """A text holds a ``${`` that begins no reference."""


@dataclass(frozen=True)
class Attribute:
    """``.name``"""

    name: str

    def __str__(self) -> str:
        return f".{self.name}"


@dataclass(frozen=True)
class Subscript:
    """``[3]``, ``['key']`` or ``[index]``"""

    key: int | str | Reference

    def __str__(self) -> str:
        return f"[{_value_text(self.key)}]"


@dataclass(frozen=True)
class Selection:
    """``[flux=0.5, run=run]``"""

    where: tuple[tuple[str, Scalar], ...]

    def __str__(self) -> str:
        return f"[{', '.join(f'{name}={_value_text(value)}' for name, value in self.where)}]"


@dataclass(frozen=True)
class Reference:
    """``tasks.simulate[index].error``"""

    name: str
    steps: tuple[Step, ...] = ()

    def __str__(self) -> str:
        return self.name + "".join(map(str, self.steps))


@dataclass(frozen=True)
class Escaped:
    """``$${body}``: stands for ``${body}``."""

    body: str

    @property
    def text(self) -> str:
        """The text that it stands for."""
        return f"${{{self.body}}}"


Step: TypeAlias = Attribute | Subscript | Selection
Scalar: TypeAlias = int | float | str | Reference
Piece: TypeAlias = str | Escaped | Reference


def parse(text: str) -> tuple[Piece, ...]:
    """Return the pieces of a text: one for a text without references, none for an empty one.

    Raises
    ------
    ExpressionError
        A ``${`` begins no reference; the message shows it and says what was expected.
    """
    pieces: list[Piece] = []
    at = 0
    while True:
        found = text.find("${", at)
        if found < 0:
            break
        escaped = found > at and text[found - 1] == "$"
        before = text[at : found - escaped]
        if before:
            pieces.append(before)
        if escaped:
            end = text.find("}", found)
            if end < 0:
                raise ExpressionError(f"{_shown(text[found - 1 :])} is not closed; add '}}'")
            pieces.append(Escaped(text[found + 2 : end]))
            at = end + 1
        else:
            reader = _Reader(text, found + 2)
            pieces.append(reader.reference(0))
            reader.expect("}")
            at = reader.at
    if text[at:]:
        pieces.append(text[at:])
    return tuple(pieces)


def unparse(pieces: tuple[Piece, ...]) -> str:
    """Return the text of pieces, which `parse` takes apart again."""
    return "".join(
        piece
        if isinstance(piece, str)
        else f"${piece.text}"
        if isinstance(piece, Escaped)
        else f"${{{piece}}}"
        for piece in pieces
    )


def parse_reference(text: str) -> Reference:
    """Parse a text that is one reference, without ``${`` and ``}``.

    Raises
    ------
    ExpressionError
        The text is not a reference.
    """
    reader = _Reader(text, 0)
    reference = reader.reference(0)
    if reader.at < len(text):
        reader.fail("'.' or '['" if reader.at else "a name")
    return reference


class _Reader:
    """A reader of one reference at a place in a text."""

    def __init__(self, text: str, at: int) -> None:
        self.text = text
        self.start = at
        self.at = at

    def reference(self, depth: int) -> Reference:
        if depth > _DEEPEST:
            self.fail("fewer brackets inside brackets")
        self.blanks()
        name = self.name()
        steps: list[Step] = []
        while True:
            self.blanks()
            if self.take("."):
                steps.append(Attribute(self.name()))
            elif self.take("["):
                steps.append(self.subscript(depth + 1))
            else:
                return Reference(name, tuple(steps))

    def subscript(self, depth: int) -> Subscript | Selection:
        value = self.value(depth, "a number, a name or a quoted text")
        if isinstance(value, Reference) and not value.steps and self.take("="):
            where = [(value.name, self.value(depth, "a value"))]
            while self.take(","):
                self.blanks()
                name = self.name()
                self.blanks()
                self.expect("=")
                where.append((name, self.value(depth, "a value")))
            self.expect("]")
            return Selection(tuple(where))
        if isinstance(value, float):
            self.fail("a whole number before this")
        self.expect("]")
        return Subscript(value)

    def value(self, depth: int, expected: str) -> Scalar:
        self.blanks()
        value: Scalar
        if number := _NUMBER.match(self.text, self.at):
            self.at = number.end()
            whole = not (number[1] or number[2])
            value = int(number[0]) if whole else float(number[0])
        elif self.text[self.at : self.at + 1] in ("'", '"'):
            end = self.text.find(self.text[self.at], self.at + 1)
            if end < 0:
                self.fail("the closing quote of this text")
            value = self.text[self.at + 1 : end]
            self.at = end + 1
        elif NAME.match(self.text, self.at):
            value = self.reference(depth)
        else:
            self.fail(expected)
        self.blanks()
        return value

    def name(self) -> str:
        found = NAME.match(self.text, self.at)
        if not found:
            self.fail("a name")
        self.at = found.end()
        return found[0]

    def blanks(self) -> None:
        while self.text[self.at : self.at + 1] == " ":
            self.at += 1

    def take(self, character: str) -> bool:
        if self.text[self.at : self.at + 1] != character:
            return False
        self.at += 1
        return True

    def expect(self, character: str) -> None:
        if not self.take(character):
            self.fail(f"{character!r}")

    def fail(self, expected: str) -> NoReturn:
        begin = max(0, self.start - 2)
        read, rest = self.text[begin : self.at], self.text[self.at :]
        where = f"before {_shown(rest)}" if rest else "at its end"
        raise ExpressionError(
            f"{_shown(read + rest)} is no reference: expected {expected} {where}"
            + ("; a shell's own variable is written $${…}" if begin < self.start else "")
        )


def _shown(text: str) -> str:
    line = text.splitlines()[0] if text.splitlines() else text
    return repr(line if len(line) <= 40 else line[:37] + "...")


def _value_text(value: Scalar) -> str:
    if isinstance(value, str):
        return f'"{value}"' if "'" in value else f"'{value}'"
    return str(value)
