"""Checks of a site and their findings: the form that all have, whoever makes them.

A check gathers facts and judges them. Gathering touches the machine, may fail, and may hang, so
whoever runs it does so with a time limit; judging is pure.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

F = TypeVar("F")


class Level(str, enum.Enum):
    """The levels of a finding."""

    #: All is as it should be.
    OK = "ok"
    #: Something will not work in some cases, or was not found out.
    WARNING = "warning"
    #: Something keeps Pilot from working here.
    PROBLEM = "problem"


class Finding(NamedTuple):
    """A finding of a check."""

    level: Level
    #: A sentence without its full stop.
    found: str
    #: What to do about it; empty: nothing.
    todo: str = ""


def ok(found: str, todo: str = "") -> Finding:
    """Return the finding that something is as it should be."""
    return Finding(Level.OK, found, todo)


def warning(found: str, todo: str) -> Finding:
    """Return the finding that something may not work."""
    return Finding(Level.WARNING, found, todo)


def problem(found: str, todo: str) -> Finding:
    """Return the finding that something does not work."""
    return Finding(Level.PROBLEM, found, todo)


@dataclass(frozen=True)
class Check(Generic[F]):
    """A check: how its facts are gathered, and how they are judged."""

    #: The name in a report.
    name: str
    #: The type of the facts, which can be sent as JSON.
    facts: type[F]
    #: Gathers the facts; what it raises is told as the failure of the check.
    gather: Callable[[], F]
    #: Judges the facts. Pure.
    judge: Callable[[F], Iterable[Finding]]
    #: Gathering is given up after this time, in seconds.
    limit_s: float = 10.0


#: A check of any facts.
AnyCheck = Check[Any]
