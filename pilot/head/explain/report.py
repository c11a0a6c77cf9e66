"""The parts of an answer to "why": nested causes, and the facts that they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from pilot.head.outlook import ProvisioningView
from pilot.head.store.store import Store
from pilot.wire.messages import RunningTask

if TYPE_CHECKING:
    from pilot.head.core.core import Core

#: Of things that are alike, so many are told one by one.
SHOWN = 3
#: Characters of a message that are shown among others.
LINE = 400


class Cause(msgspec.Struct, frozen=True):
    """The reason for a state, with the reasons behind it."""

    #: One word for programs, such as ``paused``; the documentation lists them.
    kind: str
    text: str
    #: The task that this is about.
    task: str | None = None
    #: What there is in numbers: times in seconds since the epoch, jobs, counts.
    facts: Mapping[str, Any] = {}
    because: tuple[Cause, ...] = ()


class Answer(msgspec.Struct, frozen=True):
    """The answer to why something is as it is."""

    #: As it was asked for.
    subject: str
    state: str
    #: Of the first cause.
    kind: str
    #: All in one sentence.
    answer: str
    #: Of the first cause.
    facts: Mapping[str, Any] = {}
    because: tuple[Cause, ...] = ()
    #: What can be done.
    advice: tuple[str, ...] = ()


class Snapshot(NamedTuple):
    """The state of the head and the database that an answer is made from."""

    now: float
    core: Core
    #: What pilots have told of attempts that run for a while.
    running: Mapping[int, RunningTask]
    outlook: ProvisioningView
    store: Store
    #: What the head says of itself, as the query ``head``.
    head: Mapping[str, Any]


class Finding(NamedTuple):
    """The reason for the state of one task, or of tasks that are alike."""

    kind: str
    #: Follows "which", or the task.
    clause: str
    because: tuple[Cause, ...] = ()
    advice: tuple[str, ...] = ()
    facts: Mapping[str, Any] = {}


class Explanation(NamedTuple):
    """The findings on a task, a result or a session; an `Answer` is made of it."""

    #: As it is asked for.
    subject: str
    state: str
    sentence: str
    finding: Finding


def first_line(text: str) -> str:
    """Return the first line of a message, or its beginning."""
    line = text.strip().partition("\n")[0]
    return line if len(line) <= LINE else f"{line[:LINE]}…"
