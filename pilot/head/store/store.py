"""The database: every session, task, attempt and pilot in one SQLite file, and one writer.

What the head's loop collects in a turn is written as one `Batch` in one transaction (group commit).
The loop's own thread inserts the rows, because SQLite releases the GIL at every row and two busy
threads would wait for each other there; only COMMIT, which waits for the disk, runs in a thread
of its own. So the loop goes on while the disk works. If commits have recently been
faster than a switch to another thread and back, the loop waits for them.

Invariants
----------
- Nobody else opens the file: the lease comes before, ``locking_mode=EXCLUSIVE`` holds it.
- Nothing in a batch is told to anybody before its commit is done.
- A batch whose commit fails (disk full, I/O error) is rolled back, kept, and written again.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import re
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pilot.data.durable import sync_directory
from pilot.errors import DiskFullError, HeadError, PilotError, StorageError
from pilot.head.core.events import Attempt, Change, Delegated, Ended, Restored
from pilot.head.core.state import Task
from pilot.head.machine import HERE, Machine
from pilot.head.running import DatabaseLocked
from pilot.head.store.database_file import lacks_its_log, lock_holders
from pilot.head.store.place import Place, Where
from pilot.head.store.unfit import NOT_WRITTEN, LeftOut, put_apart
from pilot.model.bounds import UNREADABLE
from pilot.model.ids import NUMBERS, Ref, task_label
from pilot.model.states import (
    FAILED,
    SESSION_STATES,
    FinalState,
    KnownState,
    SessionState,
)
from pilot.model.tasks import (
    Completion,
    Environment,
    FileStamp,
    Function,
    LogSpan,
    TaskFailure,
    TaskOutcome,
    TaskSpec,
    Template,
)
from pilot.model.values import Value
from pilot.wire.messages import OpenSession

log = logging.getLogger("pilot.head")

SCHEMA_VERSION = 5
#: Tells tools such as `file` that this is a database of Pilot ("Pilt").
APPLICATION_ID = 0x50696C74

#: The errors that reading a damaged row raises.
DAMAGED: tuple[type[Exception], ...] = (
    *UNREADABLE,
    sqlite3.OperationalError,
    LookupError,
    TypeError,
)

#: The reason recorded for pilots that a copy of a database gives up.
COPIED = "the database is a copy, to which the pilots of the original do not belong"

#: The longest expected duration of a commit that the loop waits for, in seconds.
QUICK_S = 0.0005
#: The time until a statement that failed for a moment is tried again, in seconds.
PAUSES_S = (0.01, 0.1)
#: The approximate size of a row in memory besides its texts, in bytes.
ROW_BYTES = 500
#: The number of pages of 4 KiB that are freed at a time: less than 0.1 s of work.
SHRINK_PAGES = 1000

_HERE = Path(__file__).parent


def _new_identity() -> str:
    return uuid.uuid4().hex


def _facts() -> str:
    """Return the statements that mark the file as Pilot's, for Pilot and for other tools."""
    return f"""
        INSERT OR IGNORE INTO meta (key, value)
        VALUES ('schema', '{SCHEMA_VERSION}'), ('identity', '{_new_identity()}');
        PRAGMA application_id = {APPLICATION_ID};
        PRAGMA user_version = {SCHEMA_VERSION};
    """


def open_error(path: Path, error: sqlite3.Error) -> HeadError:
    """Return the error of a database that cannot be opened."""
    if "full" in str(error):
        return DiskFullError(
            f"no head can start: the disk of {path} is full ({error}); make room there, nothing is "
            "lost"
        )
    if "locked" in str(error):
        there = " and ".join(lock_holders(path)) or (
            "another program, or an old head that hangs on another machine (head.log says where it "
            "ran),"
        )
        return DatabaseLocked(
            f"the database {path} cannot be opened: {there} has it locked; end that, or wait for it"
        )
    return HeadError(f"the database {path} cannot be opened: {error}; {_advice(error)}")


def may_pass(error: BaseException | None) -> bool:
    """Tell whether the error is the file system's, and may pass."""
    said = str(error)
    return isinstance(error, sqlite3.OperationalError) and (
        "disk I/O error" in said or "unable to open database file" in said
    )


def _advice(error: sqlite3.Error) -> str:
    text = str(error)
    if "I/O" in text:
        return (
            "the disk or the file server fails, or the file system there has no locks (NFS: is "
            "lockd running? Lustre: mount it with flock)"
        )
    if isinstance(error, sqlite3.OperationalError):
        return "see that the file and its directory can be written"
    return "if it is damaged, move it away (keep it) and put a backup in its place"


def _load_queries(text: str) -> dict[str, str]:
    """Split ``-- name: x`` sections into statements."""
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]
    return {name: sql.strip() for name, sql in zip(parts[::2], parts[1::2], strict=True)}


QUERIES = _load_queries((_HERE / "queries.sql").read_text())

_encode = msgspec.msgpack.Encoder().encode
_decode_result = msgspec.msgpack.Decoder(tuple[tuple[Value, ...], TaskFailure | None]).decode
_decode_inputs = msgspec.msgpack.Decoder(tuple[tuple[int, int], ...]).decode
_decode_delegated = msgspec.msgpack.Decoder(tuple[tuple[Value, ...], dict[int, Ref]]).decode
_decode_template = msgspec.msgpack.Decoder(Template).decode
_decode_environment = msgspec.msgpack.Decoder(Environment).decode
_decode_failure = msgspec.msgpack.Decoder(TaskFailure).decode
_decode_files = msgspec.msgpack.Decoder(tuple[FileStamp, ...]).decode
_decode_changes = msgspec.msgpack.Decoder(list[Change]).decode
_decode_logs = msgspec.msgpack.Decoder(tuple[LogSpan, ...]).decode

#: The types of the columns of an unfinished task.
_MAYBE = (bytes, type(None))
_UNFINISHED: tuple[tuple[type, ...], ...] = (
    *((int,), (int,), (int,), (bytes,), _MAYBE, (int,), (int,), (int,)),
    *((float, int), _MAYBE, _MAYBE),
)
#: Most results have no failure and one small value: their encoding without the encoder's set-up.
_NO_VALUES = _encode(((), None))


class SessionRow(NamedTuple):
    """A session as the database has it."""

    id: int
    name: str
    #: OPEN, STOPPED, CLOSING, CLOSED or PURGED.
    state: SessionState
    paused: bool
    weight: float
    priority: int
    options: bytes
    environment: Environment


def _session_row(row: tuple[Any, ...]) -> SessionRow:
    session, name, state, paused, weight, priority, options, environment = row
    for value, wanted in ((weight, float), (priority, int), (options, bytes), (name, str)):
        if not isinstance(value, wanted):
            raise TypeError(f"{type(value).__name__} in place of {wanted.__name__}")
    if state not in SESSION_STATES:
        raise ValueError(f"{state!r:.40} is not a state of a session")
    return SessionRow(
        session,
        name,
        state,
        bool(paused),
        weight,
        priority,
        options,
        _decode_environment(environment),
    )


class Garbage(NamedTuple):
    """A file or directory that was deleted, and is to be removed from the disk."""

    #: A file, or with an empty `name` a directory; relative to the site directory.
    path: str
    #: The value in the file.
    name: str
    #: Values in files of the directory that others still have: path and name.
    kept: frozenset[tuple[str, str]] = frozenset()


class Batch:
    """The changes that one transaction writes."""

    def __init__(self) -> None:
        self.functions: list[tuple[int, bytes, bytes]] = []
        self.templates: list[tuple[int, int, str, str, str, bytes]] = []
        self.tasks: list[tuple[object, ...]] = []
        self.events: list[tuple[int, int, int, bytes]] = []
        self.delegated: list[tuple[bytes, int]] = []
        self.ends: list[tuple[object, ...]] = []
        self.borrowed: list[tuple[str, str, int]] = []
        self.swept: list[dict[str, str]] = []
        self.attempts: list[tuple[object, ...]] = []
        self.counts: list[tuple[int, int, int, int]] = []
        self.late: list[tuple[int, int]] = []
        self.sessions: list[dict[str, object]] = []
        self.paused: list[dict[str, object]] = []
        #: Functions to call once the batch is committed.
        self.after: list[Callable[[], None]] = []

    def __bool__(self) -> bool:
        return bool(
            self.tasks
            or self.ends
            or self.attempts
            or self.sessions
            or self.paused
            or self.functions
            or self.templates
            or self.swept
            or self.after
        )  # what is delegated comes with its attempt; events alone can wait for others

    def size(self, skipped: Sequence[int] = (0, 0, 0, 0)) -> tuple[int, tuple[int, ...]]:
        """Return the approximate size in memory, in bytes, and the numbers of rows counted.

        Parameters
        ----------
        skipped
            The numbers of rows that were looked at before, and are not again.
        """
        size = 0
        lists: tuple[list[Any], ...] = (self.functions, self.tasks, self.ends, self.attempts)
        for rows, first in zip(lists, skipped, strict=True):
            for row in itertools.islice(rows, first, None):
                size += ROW_BYTES
                for value in row:
                    if isinstance(value, bytes | str):
                        size += len(value)
        return size, tuple(map(len, lists))

    def extend(self, later: Batch) -> None:
        """Append a later batch."""
        for name in vars(self):
            getattr(self, name).extend(getattr(later, name))

    def add_functions(self, session: int, functions: Iterable[Function]) -> None:
        """Add functions of a session."""
        self.functions.extend((session, f.digest, f.payload) for f in functions)

    def add_templates(self, templates: Iterable[Template]) -> None:
        """Add templates of a session."""
        self.templates.extend(
            (t.id, t.session, t.name, t.kind, t.pool, _encode(t)) for t in templates
        )

    def add_tasks(self, accepted: Iterable[tuple[TaskSpec, Task, int]]) -> None:
        """Add accepted tasks."""
        self.tasks.extend(
            (
                spec.id,
                task.template.session,
                spec.template,
                parent,
                spec.ordinal,
                task.created_at,
                spec.payload,
                _encode(spec.inputs) if spec.inputs else None,
                spec.digest or None,
                spec.retry_of or None,
            )
            for spec, task, parent in accepted
        )

    def add_swept(self, swept: Iterable[tuple[str, str]]) -> None:
        """Add garbage, as path and name, that was removed from the disk."""
        self.swept.extend({"path": path, "name": name} for path, name in swept)

    def add_ends(self, ended: Sequence[Ended]) -> None:
        """Add final states, with the values or the failure."""
        self.borrowed.extend(
            (value.path, value.name, end.task)
            for end in ended
            for value in end.values
            if value.path and value.owner != end.task
        )
        self.ends.extend(
            (
                end.state,
                end.at,
                _encode((end.values, end.failure)),
                end.failure.type if end.failure else None,
                end.pool or None,
                end.ran_s,
                end.memo or None,
                _encode(end.files) if end.files and end.memo else None,
                end.task,
            )
            for end in ended
        )

    def rows(self) -> tuple[tuple[str, Sequence[Any]], ...]:
        """Return the rows with the names of the statements that write them, in the order of
        writing."""
        return (
            ("add_functions", self.functions),
            ("add_templates", self.templates),
            ("add_tasks", self.tasks),
            ("add_attempts", self.attempts),
            ("count_attempts", self.counts),
            ("count_late_attempts", self.late),
            ("delegate_tasks", self.delegated),
            ("end_tasks", self.ends),
            ("add_borrowed", self.borrowed),
            ("remove_garbage", self.swept),
            ("set_session_state", self.sessions),
            ("pause_session", self.paused),
            ("add_events", self.events),
        )

    def ended_tasks(self) -> Iterable[int]:
        """Return the tasks whose final states are in this batch."""
        return (row[-1] for row in self.ends)  # type: ignore[misc]

    def add_changes(self, changes: Sequence[Change], first: int) -> int:
        """Add events from number `first` on; return the number of the next one."""
        for session, alike in itertools.groupby(changes, lambda change: change.session):
            row = list(alike)
            count = sum(change.count for change in row)
            self.events.append((first, count, session, _encode(row)))
            first += count
        return first

    def add_delegated(self, delegated: Iterable[Delegated]) -> None:
        """Add tasks whose results are to come from children."""
        self.delegated.extend((_encode((d.values, d.refs)), d.task) for d in delegated)

    def add_attempts(self, attempts: Iterable[Attempt], now: float) -> None:
        """Add attempts that ended."""
        for attempt in attempts:
            c = attempt.completion
            times = (attempt.created, attempt.ready, attempt.assigned)
            self.attempts.append(_attempt_row(c, attempt.pilot, times, now))
            self.counts.append((c.attempt, attempt.errors, attempt.crashes, c.task))

    def add_late_attempts(self, late: Iterable[tuple[str, Completion]], now: float) -> None:
        """Add attempts of tasks that had ended before them."""
        for pilot, completion in late:
            row = _attempt_row(completion, pilot, (None, None, None), now)
            self.attempts.append(row)
            self.late.append((completion.attempt, completion.task))

    def end_session(self, session: int, state: SessionState, ended: float | None) -> None:
        """Add a session's new state, and the time of its end."""
        self.sessions.append({"id": session, "state": state, "ended": ended})

    def pause_session(self, session: int, paused: bool) -> None:
        """Add that a session is paused, or resumed."""
        self.paused.append({"id": session, "paused": paused})


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.text_factory = readable
    return database


def readable(text: bytes) -> str:
    """Decode a text of the database; damaged bytes are replaced, so that no row is hidden."""
    return text.decode(errors="replace")


class Store:
    """The open database.

    Parameters
    ----------
    path
        The database file; made where it does not exist.
    journal
        ``wal`` or ``truncate``; ``auto`` takes WAL where SQLite grants it.
    guard
        Called before anything is written; does not return where we may not write any more.
    machine
        Has the thread that commits, and tells the time.
    connect
        Opens the file.
    makes
        True if a file without tables is a new database; otherwise it has lost them.

    Raises
    ------
    HeadError
        The file is damaged, of a newer release, or cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        journal: str = "auto",
        guard: Callable[[], None] = lambda: None,
        machine: Machine = HERE,
        connect: Callable[[Path], sqlite3.Connection] = _connect,
        makes: bool = True,
    ) -> None:
        self._path = path
        self._guard, self._makes = guard, makes
        self._clock, self._sleep = machine.now, machine.sleep
        self._committer = machine.start_thread("commit")
        self._committing: Future[None] | None = None
        #: The recent duration of a commit, in seconds.
        self._commit_s = 1.0
        #: Damaged sessions, with what cannot be read; the others go on without them.
        self.damaged: dict[int, str] = {}
        #: True if there may be free pages to give back.
        self._shrinks = False
        try:
            self._db = connect(path)
            try:
                self._open(journal)
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as error:
            raise open_error(path, error) from error
        self._connect, self._journal = connect, journal
        self._place = Place(path)

    def _open(self, journal: str) -> None:
        execute = self._db.execute
        # Before the first access: then WAL needs no shared memory, which network file systems lack.
        execute("PRAGMA locking_mode = EXCLUSIVE")
        mode = "truncate" if journal == "truncate" else "wal"
        # Only a new file takes this in: what is purged is given back.
        execute("PRAGMA auto_vacuum = INCREMENTAL")
        execute(f"PRAGMA journal_mode = {mode}").fetchone()
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA cache_size = -65536")
        execute("PRAGMA wal_autocheckpoint = 4000")
        tables = execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not tables:
            if not self._makes:
                raise lacks_its_log(self._path)
            self._make()
            return
        verdict = execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        version = self.schema_version()
        if version != SCHEMA_VERSION:
            raise HeadError(
                f"the database {self._path} has schema version {version}, this release of Pilot "
                f"knows {SCHEMA_VERSION}; use the release that wrote it, or another site directory"
            )
        if not self.identity:
            # An earlier release made it, or was killed before it had.
            self._db.executescript(f"BEGIN IMMEDIATE;\n{_facts()}\nCOMMIT;")

    def _make(self) -> None:
        """Create the tables and the marks of the file, in one transaction."""
        schema = (_HERE / "schema.sql").read_text()
        self._db.executescript(f"BEGIN IMMEDIATE;\n{schema}\n{_facts()}\nCOMMIT;")

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

    def begin_epoch(self, epoch: int) -> None:
        """Record that the head of this epoch writes from now on."""
        self.set_meta("epoch", str(epoch))

    def become_another(self, now: float) -> None:
        """Take a new identity, and give up the pilots: the site directory was copied."""
        self.set_meta("identity", _new_identity())
        self.disown_pilots(now, COPIED)

    def disown_pilots(self, now: float, why: str) -> None:
        """Give up all pilots started under previous heads."""
        self._now("disown_pilots", {"now": now, "why": why})

    def back_up(self, target: Path, now: float) -> None:
        """Write a consistent copy of the committed database into a new file.

        The copy has an identity of its own. If it replaces the database, pilots with later tasks
        end.

        Raises
        ------
        PilotError
            There is such a file already, or it cannot be written.
        """
        self.join()
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            if target.exists():
                raise PilotError(f"{target} exists already; give a file that does not")
            partial.unlink(missing_ok=True)
            self._db.execute("VACUUM INTO ?", (str(partial),))
            partial.chmod(0o600)
            copy = sqlite3.connect(partial, isolation_level=None)
            try:
                copy.execute(QUERIES["set_meta"], ("identity", _new_identity()))
                copy.execute(QUERIES["disown_pilots"], {"now": now, "why": COPIED})
            finally:
                copy.close()
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.rename(target)
        except (OSError, sqlite3.Error) as error:
            raise PilotError(f"the backup {target} cannot be written: {error}") from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    # --- its place

    def look(self) -> Where:
        """Tell where the database file is; make the write-ahead log anew if that was removed.

        Raises
        ------
        sqlite3.Error
            The log cannot be made now.
        """
        found = self._place.look()
        if found is Where.THERE and self._place.is_log_lost():
            log.error("the log of %s was removed: it is made anew, and nothing is lost", self._path)
            self.join()
            self._db.execute("PRAGMA journal_mode = TRUNCATE").fetchone()
            self._db.execute("PRAGMA journal_mode = WAL").fetchone()
            self._place = Place(self._path)
        return found

    def write_anew(self) -> None:
        """Write the database, whose file has vanished, to its place, and go on with the new file.

        Raises
        ------
        OSError, sqlite3.Error
            It cannot be written now.
        """
        self.copy_to(self._path)
        self._place.remove_log()
        self._db.close()
        self._db = self._connect(self._path)
        self._open(self._journal)
        self._place = Place(self._path)

    def copy_to(self, target: Path) -> None:
        """Write what is committed to a new file, with the same identity.

        Raises
        ------
        OSError, sqlite3.Error
            It cannot be written, or there is such a file.
        """
        self.join()
        self._guard()
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            partial.unlink(missing_ok=True)
            copy = sqlite3.connect(partial)
            try:
                self._db.backup(copy)
            finally:
                copy.close()
            partial.chmod(0o600)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            os.link(partial, target)  # replaces nothing
            sync_directory(target.parent)
        finally:
            partial.unlink(missing_ok=True)

    def leave_to(self, target: Path) -> None:
        """Write the database elsewhere, and leave its place to the file that was put there.

        Raises
        ------
        OSError, sqlite3.Error
            It cannot be written now.
        """
        self.copy_to(target)
        self._place.remove_log()  # SQLite would take it for that of the other one

    def close(self) -> None:
        """Wait for the commit in progress, and close the file."""
        self.join()
        self._committer.shutdown()
        self._db.close()

    # --- writing

    def write(self, batch: Batch, done: Callable[[Exception | None], None]) -> None:
        """Write a batch in one transaction, then call `done`, maybe from another thread.

        The caller writes no other batch before `done` was called; `done` gets the error where the
        transaction failed and was rolled back.
        """
        self.join()
        self._guard()
        try:
            self._put(batch)
        except NOT_WRITTEN as error:
            self._roll_back()
            done(error)
            return
        if self._commit_s < QUICK_S:
            self._commit(done)
        else:
            self._committing = self._committer.submit(self._commit, done)

    def write_apart(self, batch: Batch) -> LeftOut:
        """Write a batch in one transaction, without the rows that the database cannot store.

        Raises
        ------
        sqlite3.Error
            Nothing can be written now.
        """
        self.join()
        self._guard()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            left_out = put_apart(batch.rows(), lambda name, row: self._execute(QUERIES[name], row))
            self._db.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        return left_out

    def _execute(self, statement: str, row: Any) -> None:
        self._db.execute(statement, row)

    def _put(self, batch: Batch) -> None:
        many = self._db.executemany
        self._db.execute("BEGIN IMMEDIATE")
        for name, rows in batch.rows():
            if rows:
                many(QUERIES[name], rows)

    def _commit(self, done: Callable[[Exception | None], None]) -> None:
        start = self._clock()
        try:
            self._db.execute("COMMIT")
            # A mean of the last few: a hiccup of a quick disk is soon forgotten.
            self._commit_s += 0.2 * (self._clock() - start - self._commit_s)
        except sqlite3.Error as error:
            self._roll_back()
            done(error)
        else:
            done(None)

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def join(self) -> None:
        """Wait for the commit in progress, if there is one."""
        if self._committing is not None:
            self._committing.result()
            self._committing = None

    def _now(self, query: str, arguments: object) -> list[Any]:
        """Run one statement that must be durable when it returns: for rare events, such as pilots.

        A file system that fails for a moment is asked again: what fails has changed nothing.
        """
        self.join()
        for pause_s in PAUSES_S:
            self._guard()
            try:
                return self._db.execute(QUERIES[query], arguments).fetchall()  # type: ignore[arg-type]
            except sqlite3.OperationalError as error:
                if not may_pass(error):
                    raise
                self._roll_back()
                log.warning("the database: %s; trying again", error)
            self._sleep(pause_s)
        self._guard()
        return self._db.execute(QUERIES[query], arguments).fetchall()  # type: ignore[arg-type]

    def reserve(self, session: int, count: int) -> int:
        """Reserve so many numbers of a session for good; return the first.

        Raises
        ------
        PilotError
            There is no such session, or it has no more numbers.
        """
        if count > 0:
            row: dict[str, object] = {"id": session, "count": count, "most": NUMBERS}
            if found := self._now("reserve", row):
                return int(found[0][0])
        if self.session(session) is None:
            raise PilotError(f"there is no session {session}; `pilot session list` shows them")
        raise PilotError(
            f"session {session} has no {count} numbers left for its tasks; open another one"
        )

    def release(self, session: int, first: int, count: int) -> None:
        """Release unused numbers of a session, if they are the last that were reserved."""
        row: dict[str, object] = {"id": session, "first": first, "last": first + count - 1}
        if first > 0 and count > 0:
            self._now("release", row)

    def add_session(self, message: OpenSession, now: float) -> int:
        """Create a session; return its id."""
        row = {
            "name": message.name,
            "weight": message.weight,
            "priority": message.priority,
            "options": message.options,
            "environment": _encode(message.environment),
            "created": now,
        }
        return int(self._now("add_session", row)[0][0])

    def purge(self, session: int, directories: Iterable[str]) -> list[Garbage]:
        """Delete a session's arguments, results and functions; its records stay.

        Parameters
        ----------
        directories
            The contents become garbage, but for values borrowed by tasks of other sessions.

        Returns
        -------
        list of Garbage
            The files and directories to remove from the disk, now or by a later head.
        """
        return self._remove(session, directories, "purge_tasks", "purge_functions", "purge_session")

    def delete(self, session: int, directories: Iterable[str]) -> list[Garbage]:
        """Delete a session with all its records; otherwise as `purge`."""
        return self._remove(
            session,
            directories,
            "delete_attempts",
            "delete_tasks",
            "delete_templates",
            "delete_events",
            "purge_functions",
            "delete_session",
        )

    def _remove(self, session: int, directories: Iterable[str], *queries: str) -> list[Garbage]:
        who = {"id": session}

        def remove() -> list[Garbage]:
            borrowed = self._read("borrowed_by_session", who)
            for query in ("return_of_session", *queries):
                self._db.execute(QUERIES[query], who)
            whole = (Value(0, path=directory) for directory in directories)
            return self._add_garbage(whole) + self._add_garbage(
                Value(0, path=path, name=name) for path, name in borrowed
            )

        return self._in_one(remove)

    def delete_results(self, tasks: Sequence[int]) -> list[Garbage]:
        """Delete the results of the completed ones among the tasks; their records stay.

        Returns
        -------
        list of Garbage
            The files and directories to remove from the disk, now or by a later head.
        """
        these = {"tasks": json.dumps(list(tasks))}

        def remove() -> list[Garbage]:
            values = [value for outcome in self.results(tasks) for value in outcome.values]
            for query in ("return_of_tasks", "delete_results"):
                self._db.execute(QUERIES[query], these)
            return self._add_garbage(value for value in values if value.path)

        return self._in_one(remove)

    def _in_one(self, action: Callable[[], list[Garbage]]) -> list[Garbage]:
        """Run deletions in one transaction."""
        self.join()
        self._guard()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            garbage = action()
            self._db.execute("COMMIT")
        except sqlite3.Error:
            self._roll_back()
            raise
        self._shrinks = True
        return garbage

    def shrink(self) -> None:
        """After a deletion, return some free space to the file system; call it again and again.

        Raises
        ------
        sqlite3.Error
            The file cannot be written now.
        """
        if not self._shrinks:
            return
        self.join()
        self._guard()
        # As a script: of a plain statement Python takes the first step alone, which is one page.
        self._db.executescript(f"PRAGMA incremental_vacuum({SHRINK_PAGES})")
        self._shrinks = self._db.execute("PRAGMA freelist_count").fetchone()[0] > 0
        if not self._shrinks:
            # Only then is the file shorter, and its journal, too.
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _add_garbage(self, values: Iterable[Value]) -> list[Garbage]:
        """Record garbage that no task needs any more; return it."""
        rows: list[tuple[str, str]] = []
        for value in values:
            row = {"path": value.path, "name": value.name, "owner": value.owner}
            rows.extend(self._db.execute(QUERIES["add_garbage"], row).fetchall())
        return self._as_garbage(rows)

    def garbage(self) -> list[Garbage]:
        """Return everything that was deleted, and may still be on the disk."""
        return self._as_garbage(self._read("garbage"))

    def _as_garbage(self, rows: list[tuple[str, str]]) -> list[Garbage]:
        """Make garbage of rows; a file in a directory that is garbage goes with the directory."""
        directories = {path for (path,) in self._read("garbage_directories")}
        due = dict.fromkeys(
            (above, "") if (above := path.rpartition("/")[0]) in directories else (path, name)
            for path, name in rows
        )
        return [
            Garbage(
                path,
                name,
                frozenset() if name else frozenset(self._read("borrowed_below", {"path": path})),
            )
            for path, name in due
        ]

    def add_pilot(self, row: dict[str, object]) -> None:
        """Record the intent to submit a pilot, before it is submitted."""
        self._now("add_pilot", row)

    def set_pilot(self, row: dict[str, object]) -> None:
        """Record a pilot's new state."""
        self._now("set_pilot", row)

    def set_meta(self, key: str, value: str) -> None:
        """Store a fact about the database itself."""
        self._now("set_meta", (key, value))

    # --- reading

    def _read(self, query: str, arguments: object = ()) -> list[Any]:
        return self._db.execute(QUERIES[query], arguments).fetchall()  # type: ignore[arg-type]

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
        rows = self._read("get_meta", (key,))
        return str(rows[0][0]) if rows else None

    def next_event(self) -> int:
        """Return the number of the next event; the first is 1."""
        return int(self._read("next_event")[0][0] or 1)

    def events(self, since: int, session: int | None, rows: int) -> list[tuple[int, list[Change]]]:
        """Return rows of the log, from the one with event `since`: first event, and changes."""
        query = "events" if session is None else "events_of_session"
        found = self._read(query, {"since": since, "session": session, "rows": rows})
        return [(first, _changes(count, of, changes)) for first, count, of, changes in found]

    def detached(self, parent: int, ordinal: int) -> int | None:
        """Return the detached child with this ordinal that a task has submitted, or None."""
        rows = self._read("detached", (parent, ordinal))
        return int(rows[0][0]) if rows else None

    def look_up(self, keys: Iterable[bytes]) -> dict[bytes, int]:
        """Return the tasks that have results under these keys, by key."""
        rows = ((key, self._read("look_up", (key,))) for key in keys)
        return {key: int(found[0][0]) for key, found in rows if found}

    def files(self, tasks: Iterable[int]) -> dict[int, tuple[FileStamp, ...]]:
        """Return the files of the results of these tasks, for those that have any."""
        rows = self._read("files_of", (json.dumps(list(tasks)),))
        return {task: _decode_files(files) for task, files in rows}

    def payloads(self, tasks: Sequence[int]) -> dict[int, bytes]:
        """Return the arguments of tasks."""
        return dict(self._read("payloads", (json.dumps(list(tasks)),)))

    def owing(self) -> list[tuple[int, tuple[Value, ...], dict[int, Ref]]]:
        """Return tasks that wait for results of children: their own values, and the children.

        A child among these may have ended; its value is looked up by a new head.
        """
        return [(task, *_decode_delegated(row)) for task, row in self._read("owing_tasks")]

    def last_sessions(self, limit: int) -> list[tuple[int, float | None]]:
        """List sessions with the times of their ends: open ones, and the last that ended."""
        return self._read("last_sessions", (limit,))

    def created(self, tasks: Iterable[int]) -> dict[int, float]:
        """Return the times at which tasks were created."""
        return dict(self._read("created", (json.dumps(list(tasks)),)))

    def tasks_of(self, session: int, tasks: Iterable[int]) -> set[int]:
        """Return the tasks among these that belong to this session."""
        rows = self._read("tasks_of", {"id": session, "tasks": json.dumps(list(tasks))})
        return {row[0] for row in rows}

    def states(self, tasks: Iterable[int]) -> dict[int, KnownState]:
        """Return the states of the tasks that exist."""
        return dict(self._read("states", (json.dumps(list(tasks)),)))

    def results(self, tasks: Iterable[int]) -> list[TaskOutcome]:
        """Return the outcomes of the tasks that have ended; one with a damaged row has failed."""
        return [
            _outcome(task, state, result)
            for task, state, result in self._read("results", (json.dumps(list(tasks)),))
        ]

    def functions(self, session: int) -> dict[bytes, Function]:
        """Return the functions of a session, by digest."""
        return {
            digest: Function(digest, payload)
            for digest, payload in self._read("functions_of", (session,))
        }

    def templates(self, session: int) -> list[Template]:
        """Return the templates of a session."""
        return [_decode_template(row[0]) for row in self._read("templates_of", (session,))]

    def template_of(self, task: int) -> Template:
        """Return the template of a task."""
        with naming(task):
            return _decode_template(self._read("template_of", (task,))[0][0])

    def sessions(self) -> list[SessionRow]:
        """Return the sessions that have not ended."""
        found = []
        for (session,) in self._read("open_sessions"):
            with self.reading(session, "its row"):
                found += [_session_row(row) for row in self._read("session", (session,))]
        return found

    @contextlib.contextmanager
    def reading(self, session: int, what: str) -> Iterator[None]:
        """Record damage found while reading as damage of this session (see `damaged`)."""
        try:
            yield
        except DAMAGED as error:
            self.damaged.setdefault(session, _damaged_session(session, what, error))

    def leave_out(self, session: int, now: float) -> bool:
        """Close a session, but keep its unfinished tasks as they are; False if it is not open."""
        return bool(self._now("leave_out", {"id": session, "now": now}))

    def session(self, session: int) -> SessionRow | None:
        """Return a session; None if there is none with this id."""
        rows = self._read("session", (session,))
        with naming_session(session, "its row"):
            return _session_row(rows[0]) if rows else None

    def unfinished(self) -> dict[int, list[Restored]]:
        """Return the unfinished tasks by session."""
        found: dict[int, list[Restored]] = {}
        known: set[tuple[type, ...]] = set()
        for row in self._read("unfinished_tasks"):
            task, session, template, payload, inputs, attempts, errors, crashes = row[:8]
            created, delegated, digest = row[8:]
            try:
                if (kinds := tuple(map(type, row))) not in known:
                    _check_kinds(kinds)
                    known.add(kinds)
                refs = _decode_inputs(inputs) if inputs else ()
                owed = _decode_delegated(delegated) if delegated else None
            except DAMAGED:
                with self.reading(session, f"task {task_label(task)}"):
                    raise
                continue
            spec = TaskSpec(task, template, payload, refs, digest=digest or b"")
            found.setdefault(session, []).append(
                Restored(spec, attempts, errors, crashes, created, owed)
            )
        return found


def _check_kinds(kinds: tuple[type, ...]) -> None:
    """Check the types of the columns of an unfinished task's row."""
    for kind, wanted in zip(kinds, _UNFINISHED, strict=True):
        if kind not in wanted:
            raise TypeError(f"{kind.__name__} in place of {wanted[0].__name__}")


def _changes(count: Any, session: int, changes: bytes) -> list[Change]:
    """Decode a row of the log; a damaged one gives as many events without content."""
    if type(count) is not int or count < 1:
        count = 1
    try:
        found = _decode_changes(changes)
        if sum(change.count for change in found) == count:
            return found
        why = "it has another number of events"
    except DAMAGED as error:
        why = str(error)
    told = f"{count} events cannot be read: their row in the database is damaged ({why})"
    return [Change("head", "DAMAGED", session, 0.0, told, []) for _ in range(count)]


def _attempt_row(
    c: Completion, pilot: str, times: tuple[float | None, float | None, float | None], now: float
) -> tuple[object, ...]:
    return (
        c.task,
        c.attempt,
        c.outcome,
        pilot,
        c.node,
        *times,
        c.received,
        c.fetched,
        c.started,
        c.ended,
        c.reported,
        now,
        _encode(c.failure) if c.failure else None,
        _encode(c.logs) if c.logs else None,
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
        raise StorageError(_damaged(task, error)) from error


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
        raise StorageError(_damaged_session(session, what, error)) from error


def _damaged_session(session: int, what: str, error: Exception) -> str:
    return (
        f"session {session} in the database is damaged ({what}: {error}): its tasks do not run, "
        "and nothing of it is deleted. Put a backup in the database's place, or have it count as "
        f"closed: `pilot head stop`, then `pilot site leave-out {session}`"
    )


def _damaged(task: int, error: Exception) -> str:
    label = task_label(task)
    return (
        f"the row of task {label} in the database is damaged ({error}); submit the task anew, or "
        "put a backup in the database's place"
    )


def _outcome(task: int, state: FinalState, result: bytes | None) -> TaskOutcome:
    """Return the outcome of a task; one whose row is damaged has failed."""
    try:
        return TaskOutcome(task, state, *_decode_result(result or _NO_VALUES))
    except UNREADABLE as error:
        failure = TaskFailure("StorageError", _damaged(task, error))
        return TaskOutcome(task, FAILED, (), failure)


def decode_result(result: bytes | None) -> tuple[tuple[Value, ...], TaskFailure | None]:
    """Return the values and the failure in the ``result`` column of a task."""
    return _decode_result(result or _NO_VALUES)


def decode_failure(failure: bytes | None) -> TaskFailure | None:
    """Return the failure in the row of an attempt."""
    return _decode_failure(failure) if failure else None


def decode_logs(logs: bytes | None) -> tuple[LogSpan, ...]:
    """Return the places of the output of an attempt."""
    return _decode_logs(logs) if logs else ()


def decode_template(detail: bytes) -> Template:
    """Return the template in the row of a task."""
    return _decode_template(detail)


def decode_delegated(delegated: bytes | None) -> tuple[tuple[Value, ...], dict[int, Ref]]:
    """Return a delegating task's own values, and the children that have the others."""
    return _decode_delegated(delegated) if delegated else ((), {})


def decode_inputs(inputs: bytes | None) -> tuple[tuple[int, int], ...]:
    """Return the results that a task needs."""
    return _decode_inputs(inputs) if inputs else ()
