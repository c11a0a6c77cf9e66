"""Events: every change of a state, once and in order, as the head has written it down.

An event's number is the cursor: a client that has seen all events up to it asks for those after it,
from the same head, the next one, or the database file. Numbers grow; some are left out where a
session was deleted.

Invariant: only what is committed is told, so no event is ever taken back or told under another
number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from pilot.model.states import EVENT_STATES
from pilot.pickled import public

#: The interval at which a follower asks for new events, in seconds.
POLL_S = 0.3


@public
class Event(NamedTuple):
    """A change of state of a task, a session, a pilot or the head."""

    #: The event's place in the log.
    number: int
    #: The time, in seconds since the epoch.
    at: float
    #: ``task``, ``session``, ``pilot`` or ``head``.
    kind: str
    #: See `EVENT_STATES`.
    state: str
    #: The number of the session; 0: none.
    session: int
    #: Id of the task, such as ``3.17``.
    task: str | None
    #: Why, or where: the pilot, the class of an error, what a pilot's job is.
    detail: str


def read_events(
    ask: Callable[..., Any],
    since: int = 0,
    *,
    session: int | None = None,
    task: str | None = None,
    state: Sequence[str] | None = None,
    follow: bool = False,
) -> Iterator[Event]:
    """Yield the events after number `since`, page by page.

    Parameters
    ----------
    ask
        A function that asks a query of `pilot.head.queries` by name.
    since
        The last number that is known; below 0: begin with the last so many events.
    session, task, state
        Only events of this session, of this task, or with one of these states.
    follow
        Wait for further events, until the session or task has ended.
    """
    while True:
        page = ask("events", since=since, session=session, task=task, state=state)
        for row in page["events"]:
            yield Event(*row)
        since = page["last"]
        if page["more"]:
            continue
        if not follow or page["over"]:
            return
        time.sleep(POLL_S)


__all__ = ["EVENT_STATES", "Event", "read_events"]
