"""The deletion of results and sessions: the rows that go, their order, and the garbage.

Each function makes the statements of one transaction, which the caller begins and commits. Records
of results stay; files and directories are removed from the disk later (`pilot.head.janitor`).

Invariants
----------
- What may be on the disk is recorded as garbage in the transaction that deletes its owner: a later
  head finds it.
- A value that tasks of other sessions have borrowed stays as long as they do.
- A task whose result is a version of a named object keeps its results until that is removed, also
  where its session is purged or deleted: it is noted as a borrower of what it has.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pilot.head.store.reader import Reader
from pilot.head.store.statements import QUERIES
from pilot.model.values import Value


class Garbage(NamedTuple):
    """A file or directory that was deleted, and is to be removed from the disk."""

    #: A file, or with an empty `name` a directory; relative to the site directory.
    path: str
    #: The value in the file.
    name: str
    #: Values in files of the directory that others still have: path and name.
    kept: frozenset[tuple[str, str]] = frozenset()


def purge(db: sqlite3.Connection, session: int, directories: Iterable[str]) -> list[Garbage]:
    """Delete a session's arguments, results and functions; return the garbage."""
    return _remove(
        db,
        session,
        directories,
        "purge_tasks",
        "delete_released",
        "purge_functions",
        "delete_versions",
        "purge_session",
    )


def delete(db: sqlite3.Connection, session: int, directories: Iterable[str]) -> list[Garbage]:
    """Delete a session with all its records; return the garbage."""
    return _remove(
        db,
        session,
        directories,
        "delete_attempts",
        "delete_tasks",
        "delete_released",
        "purge_kept",
        "delete_templates",
        "delete_events",
        "purge_functions",
        "delete_usage",
        "delete_versions",
        "delete_inherited",
        "delete_session",
    )


def _remove(
    db: sqlite3.Connection, session: int, directories: Iterable[str], *queries: str
) -> list[Garbage]:
    who = {"id": session}
    borrowed = db.execute(QUERIES["borrowed_by_session"], who).fetchall()
    for query in ("return_of_session", *queries):
        db.execute(QUERIES[query], who)
    whole = (Value(0, path=directory) for directory in directories)
    return _add_garbage(db, whole) + _add_garbage(
        db, (Value(0, path=path, name=name) for path, name in borrowed)
    )


def delete_results(db: sqlite3.Connection, tasks: Sequence[int]) -> list[Garbage]:
    """Delete the results of the completed ones among the tasks; return the garbage."""
    these = {"tasks": json.dumps(list(tasks))}
    values = [value for outcome in Reader(db).results(tasks) for value in outcome.values]
    for query in ("return_of_tasks", "delete_results"):
        db.execute(QUERIES[query], these)
    return _add_garbage(db, (value for value in values if value.path))


def remove_objects(
    db: sqlite3.Connection, versions: Iterable[tuple[str, int]], now: float
) -> list[Garbage]:
    """Remove versions of named objects, and what nothing else keeps; return the garbage."""
    tasks: set[int] = set()
    for name, version in versions:
        row = {"name": name, "version": version, "now": now}
        tasks.update(task for (task,) in db.execute(QUERIES["remove_object"], row).fetchall())
    these = {"tasks": json.dumps(sorted(tasks))}
    released = [task for (task,) in db.execute(QUERIES["released_tasks"], these).fetchall()]
    garbage = delete_results(db, released)
    these = {"tasks": json.dumps(released)}
    for query in ("delete_forgotten_templates", "delete_forgotten_tasks"):
        db.execute(QUERIES[query], these)
    return garbage


def all_garbage(db: sqlite3.Connection) -> list[Garbage]:
    """Return everything that was deleted, and may still be on the disk."""
    return _as_garbage(db, db.execute(QUERIES["garbage"]).fetchall())


def _add_garbage(db: sqlite3.Connection, values: Iterable[Value]) -> list[Garbage]:
    """Record garbage that no task needs any more; return it."""
    rows: list[tuple[str, str]] = []
    for value in values:
        if not _is_kept_by_owner(db, value):
            row = {"path": value.path, "name": value.name}
            rows.extend(db.execute(QUERIES["add_garbage"], row).fetchall())
    return _as_garbage(db, rows)


def _is_kept_by_owner(db: sqlite3.Connection, value: Value) -> bool:
    """Tell whether the task that has written a value still has it among its results."""
    if not value.name or not (owner := value.owner):
        return False
    return any(
        (mine.path, mine.name) == (value.path, value.name)
        for outcome in Reader(db).results([owner])
        for mine in outcome.values
    )


def garbage_among(db: sqlite3.Connection, places: Iterable[tuple[str, str]]) -> list[Garbage]:
    """Return those of these values, by path and name, that are garbage."""
    rows = db.execute(QUERIES["garbage_among"], (json.dumps(list(places)),)).fetchall()
    return _as_garbage(db, rows)


def _as_garbage(db: sqlite3.Connection, rows: list[tuple[str, str]]) -> list[Garbage]:
    """Make garbage of rows; a file in a directory that is garbage goes with the directory."""
    directories = {path for (path,) in db.execute(QUERIES["garbage_directories"]).fetchall()}
    due = dict.fromkeys(
        (above, "") if (above := path.rpartition("/")[0]) in directories else (path, name)
        for path, name in rows
    )
    return [Garbage(path, name, _kept(db, path) if not name else frozenset()) for path, name in due]


def _kept(db: sqlite3.Connection, directory: str) -> frozenset[tuple[str, str]]:
    """Return the values in files of a directory that tasks have borrowed: path and name."""
    return frozenset(db.execute(QUERIES["borrowed_below"], {"path": directory}).fetchall())
