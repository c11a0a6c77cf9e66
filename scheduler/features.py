"""Features of nodes, and constraints on them, as ``a100&nvme`` or ``(a100|h100)&nvme``. Pure.

A constraint is written as Slurm's ``--constraint`` is, without counts: ``&`` is and, ``|`` is or.
Square brackets, by which Slurm wants all nodes alike, are brackets: the nodes of a pool are alike.
Slurm reads ``a&b|c`` from left to right, people do not always: such a text needs brackets.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection

_TOKEN = r"\s*([&|()\[\]]|[A-Za-z0-9_.:=+-]+)"
_CLOSED_BY = {"(": ")", "[": "]"}
#: The longest constraint, and the deepest brackets.
_LENGTH, _DEPTH = 1000, 20


def check_constraint(text: str) -> str:
    """Return a constraint without spaces.

    Raises
    ------
    ValueError
        It cannot be read; the message says why.
    """
    tokens = _tokens(text)
    _ = _read(text, tokens, frozenset())
    return "".join(tokens)


@functools.lru_cache(maxsize=1024)
def satisfies(features: tuple[str, ...], constraint: str) -> bool:
    """Tell whether a node with these features is what a constraint asks for."""
    return _read(constraint, _tokens(constraint), frozenset(features))


def required(constraint: str) -> tuple[str, ...]:
    """Return the features that each node has which a constraint allows, where that is plain: only
    features, joined by ``&``."""
    names = [name.strip() for name in constraint.split("&")]
    plain = all(re.fullmatch(r"[A-Za-z0-9_.:=+-]+", name) for name in names)
    return tuple(names) if plain else ()


def _tokens(text: str) -> list[str]:
    if "*" in text:
        raise ValueError(
            f"{text!r:.80}: leave counts of nodes (*) out; a task says how many it needs by ranks "
            "and ranks_per_node, or nodes"
        )
    found = re.findall(_TOKEN, text)
    if "".join(found) != re.sub(r"\s", "", text) or len(text) > _LENGTH:
        raise ValueError(f"{text!r:.80}: give features with & and |, as in 'a100&nvme'")
    return found


def _read(text: str, tokens: list[str], features: Collection[str]) -> bool:
    value, end = _expression(text, tokens, 0, features, 0)
    if end < len(tokens):
        raise ValueError(f"{text!r:.80}: there is one {tokens[end]!r} too many")
    return value


def _expression(
    text: str, tokens: list[str], at: int, features: Collection[str], depth: int
) -> tuple[bool, int]:
    """Return whether what begins at a token holds, and where it ends."""
    value, at = _term(text, tokens, at, features, depth)
    first = ""
    while at < len(tokens) and tokens[at] in "&|":
        operator = tokens[at]
        if first and operator != first:
            raise ValueError(f"{text!r:.80}: say by brackets what belongs together, as in (a|b)&c")
        first = operator
        other, at = _term(text, tokens, at + 1, features, depth)
        value = value and other if operator == "&" else value or other
    return value, at


def _term(
    text: str, tokens: list[str], at: int, features: Collection[str], depth: int
) -> tuple[bool, int]:
    if at >= len(tokens) or tokens[at] in "&|)]":
        raise ValueError(f"{text!r:.80}: a feature is missing, as in 'a100&nvme'")
    token = tokens[at]
    if token not in _CLOSED_BY:
        return token in features, at + 1
    if depth >= _DEPTH:
        raise ValueError(f"{text!r:.80}: at most {_DEPTH} brackets may be one in another")
    value, at = _expression(text, tokens, at + 1, features, depth + 1)
    if at >= len(tokens) or tokens[at] != _CLOSED_BY[token]:
        raise ValueError(f"{text!r:.80}: a {_CLOSED_BY[token]!r} is missing")
    return value, at + 1
