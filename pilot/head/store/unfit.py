"""Row-by-row writing of a batch that the database does not take as a whole.

A row may be larger than SQLite takes, or hold a value that it cannot store. The owner of that row
is told so; all other rows become durable.

Invariants
----------
- Only what SQLite refuses by itself is left out. Want of space, or of a lock, refuses everything,
  and nothing is left out for it.
- A task is left out together with what it cannot be without: its template, its function.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from pilot.model.states import COMPLETED, FAILED
from pilot.model.tasks import TaskFailure, TaskOutcome, Template
from pilot.texts import shortened

#: Errors that refuse one row, and not because of the disk or of locks.
UNFIT: tuple[type[Exception], ...] = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    ValueError,
    TypeError,
)

#: The errors that writing may raise.
NOT_WRITTEN: tuple[type[Exception], ...] = (sqlite3.Error, MemoryError, *UNFIT)

#: Puts one row into the database, by the name of a statement.
Put = Callable[[str, Any], None]

_encode = msgspec.msgpack.Encoder().encode
#: The length to which texts that do not fit are cut.
_TEXT_BYTES, _DETAIL_BYTES = 1 << 12, 1 << 9


class LeftOut:
    """The rows that were not written, and the reasons."""

    def __init__(self) -> None:
        #: Templates left out, by id; their tasks are left out, too.
        self.templates: dict[int, str] = {}
        self.tasks: dict[int, str] = {}
        #: Functions left out: (session, digest).
        self.functions: dict[tuple[int, bytes], str] = {}
        #: Ends that the database records differently from what was reported.
        self.ends: dict[int, TaskOutcome] = {}
        #: Everything else, in words.
        self.others: list[str] = []

    def words(self) -> Iterable[str]:
        """Return a line for each thing left out."""
        for (session, digest), why in self.functions.items():
            yield f"a function of session {session} ({digest.hex()[:8]}): {why}"
        for template, why in self.templates.items():
            yield f"the template {template}: {why}"
        for task, why in self.tasks.items():
            yield f"task {task}: {why}"
        for task, outcome in self.ends.items():
            why = shortened(outcome.failure.message, _DETAIL_BYTES) if outcome.failure else ""
            yield f"the end of task {task}: {why}"
        yield from self.others


def put_apart(rows: Iterable[tuple[str, Sequence[Any]]], put: Put) -> LeftOut:
    """Write the rows of a batch one by one; return those that were left out.

    Parameters
    ----------
    rows
        The rows with the names of their statements, in the order of writing.
    put
        Writes one row.
    """
    left = LeftOut()
    for name, alike in rows:
        write = _OTHERWISE.get(name)
        for row in alike:
            if write is None:
                _note(left, put, name, row)
            else:
                write(left, put, row)
    return left


def _put_function(left: LeftOut, put: Put, row: tuple[Any, ...]) -> None:
    if why := _refused(put, "add_functions", row):
        left.functions[row[0], row[1]] = f"its function cannot be stored: {why}"


def _put_template(left: LeftOut, put: Put, row: tuple[Any, ...]) -> None:
    why = _lost_function(row, left) or _refused(put, "add_templates", row)
    if why:
        left.templates[row[0]] = why if "function" in why else f"it cannot be stored: {why}"


def _put_task(left: LeftOut, put: Put, row: tuple[Any, ...]) -> None:
    why = left.templates.get(row[2], "")
    if not why and (refused := _refused(put, "add_tasks", row)):
        why = f"it cannot be stored: {refused}"
    if why:
        left.tasks[row[0]] = why


def _put_attempt(left: LeftOut, put: Put, row: tuple[Any, ...]) -> None:
    """Write an attempt, with a short failure where the whole one cannot be stored."""
    if why := _refused(put, "add_attempts", row):
        *first, failure, _, cpu, memory = row
        shorter = (*first, _shortened(failure, why), None, cpu, memory)
        _note(left, put, "add_attempts", shorter)


def _put_end(left: LeftOut, put: Put, row: tuple[Any, ...]) -> None:
    """Write the end of a task; one whose result or error cannot be stored has failed."""
    if why := _refused(put, "end_tasks", row):
        _put_otherwise(row, why, put, left)


def _put_events(left: LeftOut, put: Put, row: tuple[Any, ...]) -> None:
    """Write events, with short details where the whole ones cannot be stored."""
    if _refused(put, "add_events", row):
        *first, changes = row
        _note(left, put, "add_events", (*first, _without_details(changes)))


def _refused(put: Put, name: str, row: Any) -> str:
    try:
        put(name, row)
    except UNFIT as error:
        size = sum(len(value) for value in row if isinstance(value, bytes | str))
        return f"{error} ({size / 2**20:.1f} MiB)"
    return ""


def _note(left: LeftOut, put: Put, name: str, row: Any) -> None:
    if why := _refused(put, name, row):
        left.others.append(f"a row of {name}: {why}")


def _lost_function(row: tuple[Any, ...], left: LeftOut) -> str:
    if not left.functions:
        return ""
    template = msgspec.msgpack.decode(row[5], type=Template)
    return left.functions.get((template.session, template.function), "")


def _put_otherwise(row: tuple[Any, ...], why: str, put: Put, left: LeftOut) -> None:
    """End a task, whose result or error cannot be stored, as failed."""
    state, at, result, kind, pool, ran_s, _, _, task = row
    failure = None
    if state != COMPLETED and result:
        _, failure = msgspec.msgpack.decode(result, type=tuple[Any, TaskFailure | None])
    if failure is None:
        failure = TaskFailure("StorageError", f"its result cannot be stored: {why}")
        state = FAILED if state == COMPLETED else state
    failure = _short(failure)
    kind = shortened(failure.type, _DETAIL_BYTES) if kind else failure.type
    _note(
        left,
        put,
        "end_tasks",
        (state, at, _encode(((), failure)), kind, pool, ran_s, None, None, task),
    )
    left.ends[task] = TaskOutcome(task, state, (), failure)


def _shortened(failure: bytes | None, why: str) -> bytes:
    if failure is None:
        return _encode(TaskFailure("StorageError", f"its record cannot be stored: {why}"))
    return _encode(_short(msgspec.msgpack.decode(failure, type=TaskFailure)))


def _short(failure: TaskFailure) -> TaskFailure:
    return msgspec.structs.replace(
        failure,
        type=shortened(failure.type, _DETAIL_BYTES),
        message=shortened(failure.message, _TEXT_BYTES),
        detail=shortened(failure.detail, _TEXT_BYTES),
        exception=b"",
        bases=tuple(shortened(base, _DETAIL_BYTES) for base in failure.bases[:10]),
        node=shortened(failure.node, _DETAIL_BYTES),
    )


def _without_details(changes: bytes) -> bytes:
    """Return changes of the log with short details, and the same number of events."""
    rows = msgspec.msgpack.decode(changes)
    for row in rows:
        row[4] = shortened(row[4], _DETAIL_BYTES)
    return _encode(rows)


#: What is written in another way where the database does not take it; of all else it is noted.
_OTHERWISE: dict[str, Callable[[LeftOut, Put, Any], None]] = {
    "add_functions": _put_function,
    "add_templates": _put_template,
    "add_tasks": _put_task,
    "add_attempts": _put_attempt,
    "end_tasks": _put_end,
    "add_events": _put_events,
}
