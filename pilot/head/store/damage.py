"""Damaged rows: the errors that tell of them, and the words for their owners.

Invariants
----------
- What cannot be read of one task or session keeps no other from being read.
- A message names what is damaged, and says what to do.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from pilot.errors import StorageError
from pilot.model.bounds import UNREADABLE
from pilot.model.ids import task_label

#: The errors that reading a damaged row raises.
DAMAGED: tuple[type[Exception], ...] = (
    *UNREADABLE,
    sqlite3.OperationalError,
    LookupError,
    TypeError,
)


@contextlib.contextmanager
def naming(task: int) -> Iterator[None]:
    """Name the task in the error if its row is damaged.

    Raises
    ------
    StorageError
        The row is damaged; the message says what to do.
    """
    try:
        yield
    except UNREADABLE as error:
        raise StorageError(damaged_task(task, error)) from error


@contextlib.contextmanager
def naming_session(session: int, what: str) -> Iterator[None]:
    """Name the session in the error if its row is damaged.

    Raises
    ------
    StorageError
        The row is damaged; the message says what to do.
    """
    try:
        yield
    except DAMAGED as error:
        raise StorageError(damaged_session(session, what, error)) from error


def damaged_session(session: int, what: str, error: Exception) -> str:
    """Describe the damage of a session, and say what to do."""
    return (
        f"session {session} in the database is damaged ({what}: {error}): its tasks do not run, "
        "and nothing of it is deleted. Put a backup in the database's place, or have it count as "
        f"closed: `pilot head stop`, then `pilot site leave-out {session}`"
    )


def damaged_task(task: int, error: Exception) -> str:
    """Describe the damage of a task, and say what to do."""
    label = task_label(task)
    return (
        f"the row of task {label} in the database is damaged ({error}); submit the task anew, or "
        "put a backup in the database's place"
    )
