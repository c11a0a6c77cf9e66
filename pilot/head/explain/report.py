"""The parts of an answer to "why": nested causes, and the facts that they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from pilot.head.outlook import ProvisioningView
from pilot.head.store.reader import Reader
from pilot.wire.messages.pilot import InputFetch, RunningTask

if TYPE_CHECKING:
    from pilot.head.core.core import Core

#: The number of like things that are named one by one.
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
    #: The facts in numbers: times in seconds since the epoch, jobs, counts.
    facts: Mapping[str, Any] = {}
    because: tuple[Cause, ...] = ()


class Answer(msgspec.Struct, frozen=True):
    """The answer to why something is as it is."""

    #: The subject, as it was asked for.
    subject: str
    state: str
    #: The kind of the first cause.
    kind: str
    #: The whole answer in one sentence.
    answer: str
    #: The facts of the first cause.
    facts: Mapping[str, Any] = {}
    because: tuple[Cause, ...] = ()
    #: Advice: what can be done.
    advice: tuple[str, ...] = ()


class Snapshot(NamedTuple):
    """The state of the head and the database that an answer is made from."""

    now: float
    core: Core
    #: The last reports of pilots on attempts that have run for a while.
    running: Mapping[int, RunningTask]
    outlook: ProvisioningView
    store: Reader
    #: The head's own status, as the query ``head`` gives it.
    head: Mapping[str, Any]
    #: The large inputs for which tasks of pilots wait before they can start, by the pilots' names.
    fetches: Mapping[str, Sequence[InputFetch]] = {}


class Finding(NamedTuple):
    """The reason for the state of one task, or of tasks that are alike."""

    kind: str
    #: The clause that follows "which", or the task's name.
    clause: str
    because: tuple[Cause, ...] = ()
    advice: tuple[str, ...] = ()
    facts: Mapping[str, Any] = {}


class Explanation(NamedTuple):
    """The findings on a task, a result or a session; an `Answer` is made of it."""

    #: The subject, as one asks for it.
    subject: str
    state: str
    sentence: str
    finding: Finding


def first_line(text: str) -> str:
    """Return the first line of a message, or its beginning."""
    line = text.strip().partition("\n")[0]
    return line if len(line) <= LINE else f"{line[:LINE]}…"
