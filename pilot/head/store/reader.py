"""The queries of the database, and what a new head takes over from it.

Invariants
----------
- Nothing is written. Rows of a batch are seen before its commit is done, since there is one
  connection.
- Damage of one session is noted in `Reader.damaged`, and the others are read.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from pilot.head.core.events import Change, Ended, Restored
from pilot.head.store.damage import DAMAGED, damaged_session, naming, naming_session
from pilot.head.store.rows import (
    SessionRow,
    changes_of,
    check_unfinished,
    decode_after,
    decode_commutative,
    decode_files,
    decode_inputs,
    decode_owed,
    decode_template,
    outcome_of,
    session_row,
)
from pilot.head.store.statements import QUERIES, SCHEMA_VERSION
from pilot.model.ids import Ref, task_label
from pilot.model.states import KnownState
from pilot.model.tasks import (
    FileStamp,
    Function,
    TaskFailure,
    TaskOutcome,
    TaskSpec,
    Template,
)
from pilot.model.values import Value


class Reader:
    """An open database to read from.

    Parameters
    ----------
    db
        The open database.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        #: Damaged sessions, with what cannot be read; the others go on without them.
        self.damaged: dict[int, str] = {}

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def read(self, query: str, arguments: object = ()) -> list[Any]:
        """Return the rows of a statement of ``queries.sql``."""
        return self._db.execute(QUERIES[query], arguments).fetchall()  # type: ignore[arg-type]  # a row or a mapping

    def rows(self, query: str, arguments: dict[str, object]) -> list[dict[str, Any]]:
        """Return the rows of a query as dictionaries, for `pilot.head.queries`."""
        cursor = self._db.execute(QUERIES[query], arguments)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def select(self, statement: str, arguments: dict[str, object]) -> list[Any]:
        """Return the rows of a statement that `search` has composed."""
        return self._db.execute(statement, arguments).fetchall()

    def meta(self, key: str) -> str | None:
        """Return a fact about the database itself, or None."""
        rows = self.read("get_meta", (key,))
        return str(rows[0][0]) if rows else None

    def next_event(self) -> int:
        """Return the number of the next event; the first is 1."""
        return int(self.read("next_event")[0][0] or 1)

    def events(self, since: int, session: int | None, rows: int) -> list[tuple[int, list[Change]]]:
        """Return rows of the log, from the one with event `since`: first event, and changes."""
        query = "events" if session is None else "events_of_session"
        found = self.read(query, {"since": since, "session": session, "rows": rows})
        return [(first, changes_of(count, of, changes)) for first, count, of, changes in found]

    def detached(self, parent: int, ordinal: int) -> int | None:
        """Return the detached child with this ordinal that a task has submitted, or None."""
        rows = self.read("detached", (parent, ordinal))
        return int(rows[0][0]) if rows else None

    def look_up(self, keys: Iterable[bytes]) -> dict[bytes, int]:
        """Return the tasks that have results under these keys, by key."""
        rows = ((key, self.read("look_up", (key,))) for key in keys)
        return {key: int(found[0][0]) for key, found in rows if found}

    def files(self, tasks: Iterable[int]) -> dict[int, tuple[FileStamp, ...]]:
        """Return the files of the results of these tasks, for those that have any."""
        rows = self.read("files_of", (json.dumps(list(tasks)),))
        return {task: decode_files(files) for task, files in rows}

    def payloads(self, tasks: Sequence[int]) -> dict[int, bytes]:
        """Return the arguments of tasks."""
        return dict(self.read("payloads", (json.dumps(list(tasks)),)))

    def owing(self) -> list[tuple[int, tuple[Value, ...], dict[int, Ref]]]:
        """Return tasks that wait for results of children: their own values, and the children.

        A child among these may have ended; its value is looked up by a new head.
        """
        return [(task, *decode_owed(row)) for task, row in self.read("owing_tasks")]

    def last_sessions(self, limit: int) -> list[tuple[int, float | None]]:
        """List sessions with the times of their ends: open ones, and the last that ended."""
        return self.read("last_sessions", (limit,))

    def created(self, tasks: Iterable[int]) -> dict[int, float]:
        """Return the times at which tasks were created."""
        return dict(self.read("created", (json.dumps(list(tasks)),)))

    def tasks_of(self, session: int, tasks: Iterable[int]) -> set[int]:
        """Return the tasks among these that belong to this session."""
        rows = self.read("tasks_of", {"id": session, "tasks": json.dumps(list(tasks))})
        return {row[0] for row in rows}

    def objects_of(self, tasks: Iterable[int]) -> list[tuple[int, str, int]]:
        """Return the versions that results of these tasks are: task, name and number."""
        return self.read("objects_of_tasks", (json.dumps(list(tasks)),))

    def claims(self) -> list[Ref]:
        """Return the results that were released, and that an unfinished task still needed."""
        return [(task, place) for task, place in self.read("claims")]

    def released_places(self, tasks: Iterable[int]) -> dict[int, set[int]]:
        """Return which results of these tasks were released and are gone, by task."""
        found: dict[int, set[int]] = {}
        for task, place in self.read("released_places", (json.dumps(list(tasks)),)):
            found.setdefault(task, set()).add(place)
        return found

    @property
    def any_released(self) -> bool:
        """True if a result was ever released."""
        return bool(self.read("any_released")[0][0])

    def kept(self, tasks: Collection[int]) -> set[int]:
        """Return the tasks among these of which a result is found by a name, or by its key."""
        memoised = {row[0] for row in self.read("memoised", (json.dumps(list(tasks)),))}
        return memoised | {task for task, *_ in self.objects_of(tasks)}

    def completed_of(self, session: int, after: int, limit: int) -> list[int]:
        """Return the next completed tasks of a session after this one."""
        page = {"session": session, "after": after, "limit": limit}
        return [row[0] for row in self.read("completed_of", page)]

    def states(self, tasks: Iterable[int]) -> dict[int, KnownState]:
        """Return the states of the tasks that exist."""
        return dict(self.read("states", (json.dumps(list(tasks)),)))

    def results(self, tasks: Iterable[int]) -> list[TaskOutcome]:
        """Return the outcomes of the tasks that have ended; one with a damaged row has failed."""
        return [
            outcome_of(task, state, result)
            for task, state, result in self.read("results", (json.dumps(list(tasks)),))
        ]

    def lost(self, tasks: Iterable[int]) -> dict[int, Ended]:
        """Return the ends of tasks that have no results, as far as their dependents need them."""
        found = {}
        for task, session, state, at, result, error, detail in self.read(
            "lost", (json.dumps(list(tasks)),)
        ):
            with naming(task):
                template = decode_template(detail)
            failure = outcome_of(task, state, result).failure
            if failure is None and error is not None:
                told = f"its input, task {task_label(task)}, is {state}, and its error was deleted"
                failure = TaskFailure(error, told)
            found[task] = Ended(task, session, state, at or 0.0, (), failure, lost=template)
        return found

    def functions(self, session: int) -> dict[bytes, Function]:
        """Return the functions of a session, by digest."""
        return {
            digest: Function(digest, payload)
            for digest, payload in self.read("functions_of", (session,))
        }

    def templates(self, session: int) -> list[Template]:
        """Return the templates of a session."""
        return [decode_template(row[0]) for row in self.read("templates_of", (session,))]

    def template_of(self, task: int) -> Template:
        """Return the template of a task."""
        with naming(task):
            return decode_template(self.read("template_of", (task,))[0][0])

    def sessions(self) -> list[SessionRow]:
        """Return the sessions that have not ended."""
        found = []
        for (session,) in self.read("open_sessions"):
            with self.reading(session, "its row"):
                found += [session_row(row) for row in self.read("session", (session,))]
        return found

    @contextlib.contextmanager
    def reading(self, session: int, what: str) -> Iterator[None]:
        """Record damage found while reading as damage of this session (see `damaged`)."""
        try:
            yield
        except DAMAGED as error:
            self.damaged.setdefault(session, damaged_session(session, what, error))

    def session(self, session: int) -> SessionRow | None:
        """Return a session; None if there is none with this id."""
        rows = self.read("session", (session,))
        with naming_session(session, "its row"):
            return session_row(rows[0]) if rows else None

    def unfinished(self) -> dict[int, list[Restored]]:
        """Return the unfinished tasks by session."""
        found: dict[int, list[Restored]] = {}
        known: set[tuple[type, ...]] = set()
        for row in self.read("unfinished_tasks"):
            task, session, template, payload, inputs, attempts, errors, crashes = row[:8]
            created, delegated, digest, after, commutative = row[8:]
            try:
                if (kinds := tuple(map(type, row))) not in known:
                    check_unfinished(kinds)
                    known.add(kinds)
                refs = decode_inputs(inputs) if inputs else ()
                owed = decode_owed(delegated) if delegated else None
                before, turns = decode_after(after), decode_commutative(commutative)
            except DAMAGED:
                with self.reading(session, f"task {task_label(task)}"):
                    raise
                continue
            spec = TaskSpec(
                task,
                template,
                payload,
                refs,
                digest=digest or b"",
                after=before,
                commutative=turns,
            )
            found.setdefault(session, []).append(
                Restored(spec, attempts, errors, crashes, created, owed)
            )
        return found

    def versions(self, session: int) -> dict[Ref, Ref]:
        """Return the latest versions of results that tasks of a session take by turns, by the first
        ones."""
        rows = self.read("versions", {"id": session})
        return {(row[0], row[1]): (row[2], row[3]) for row in rows}

    def schema_version(self) -> int:
        """Return the version of the tables; 0: unknown."""
        version = int(self.meta("schema") or 0)
        if not version and not self._db.execute("SELECT count(*) FROM sessions").fetchone()[0]:
            return SCHEMA_VERSION  # whoever made the tables was killed before it could say so
        return version

    @property
    def identity(self) -> str:
        """The id of this database, unique among all, also those made in its place."""
        return self.meta("identity") or ""

    @property
    def epoch(self) -> int:
        """The highest epoch of a head that has opened the database."""
        return int(self.meta("epoch") or 0)
