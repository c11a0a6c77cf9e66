"""The ids of tasks and of their results.

A task id is ``(session << 32) | n``, which people read as ``session.n``. The head gives the numbers
of a session away in blocks, ahead of time, and a client counts within its own: so a future is known
by its id before anything was sent, a frame that is sent twice is recognised, and hardly anybody
waits for a number. A child has the id ``k`` alone, the ``k``-th that its parent has submitted,
until its parent has ended and the head gives it a number: before that it is not a task.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from pilot.model.bounds import Number

#: A session has so many numbers for its tasks, the first of which is 1.
NUMBERS = (1 << 32) - 1
#: The highest number of a session.
SESSIONS = (1 << 31) - 1

#: One result of a task: (task id, index of the result).
Ref: TypeAlias = tuple[Number, Number]


def task_label(task: int) -> str:
    """Return a task id as people read it: ``session.n``."""
    return f"{task >> 32}.{task & NUMBERS}"


def task_id(session: int, number: int) -> int:
    """Return the id of a session's task from its number."""
    return session << 32 | number


def session_of(task: int) -> int:
    """Return the session of a task; 0 for a child that has no number yet."""
    return task >> 32


def parse_task_label(text: str) -> int:
    """Return the task id that `task_label` wrote.

    Raises
    ------
    ValueError
        The text is not a task id.
    """
    if match := re.fullmatch(r"([0-9]{1,10})\.([0-9]{1,10})", text):
        session, number = map(int, match.groups())
        if session <= SESSIONS and number <= NUMBERS:
            return task_id(session, number)
    raise ValueError(
        f"{text[:40]!r} is not a task id; task ids look like 3.17: the session's number, and the "
        "task's in it"
    )
