"""The database: what is written is read back by the next head, and nothing is half written."""

from __future__ import annotations

import functools
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.builders import done, spec, template

from pilot.errors import HeadError, PilotError
from pilot.head.core import core as c
from pilot.head.core import events as ev
from pilot.head.running import DatabaseLocked
from pilot.head.store.batch import Batch
from pilot.head.store.statements import QUERIES
from pilot.head.store.store import Store
from pilot.model.ids import NUMBERS
from pilot.model.tasks import Environment, Function, TaskFailure
from pilot.model.values import Value
from pilot.scheduler.resources import NodeShape
from pilot.wire.messages.client import OpenSession

NOW = 100.0
ENVIRONMENT = Environment("/home", ("/a", "/b"), {"X": "1"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(path)
    yield store
    store.close()


def open_session(store: Store, name: str = "mine") -> int:
    return store.add_session(OpenSession(1, name, ENVIRONMENT), NOW)


def write(store: Store, batch: Batch) -> Exception | None:
    """Write and wait for the commit."""
    told: list[Exception | None] = []
    ended = threading.Event()

    def done(error: Exception | None) -> None:
        told.append(error)
        ended.set()

    store.write(batch, done)
    assert ended.wait(20)
    store.join()
    return told[0]


def submitted(session: int, count: int = 3) -> tuple[c.Core, Batch]:
    """A core with tasks, each but the first needing the one before; and the batch of them."""
    core = c.Core()
    tasks = [
        spec(n, 1, (n - 1,) if n > 1 else (), (1,) if n > 2 else ()) for n in range(1, count + 1)
    ]
    known = template(session=session, retries=1)
    effects = core.apply(ev.TasksSubmitted(session, [known], tasks, {}), NOW)
    batch = Batch()
    batch.add_functions(session, [Function(b"f1", b"code")])
    batch.add_templates([known])
    batch.add_tasks(effects.accepted)
    return core, batch


def test_everything_is_read_back(store: Store, path: Path) -> None:
    session = open_session(store)
    _, batch = submitted(session)
    assert batch and write(store, batch) is None
    store.close()
    again = Store(path)
    try:
        (row,) = again.sessions()
        assert (row.id, row.name, row.state, row.environment) == (
            session,
            "mine",
            "OPEN",
            ENVIRONMENT,
        )
        assert again.functions(session) == {b"f1": Function(b"f1", b"code")}
        assert again.templates(session) == [template(session=session, retries=1)]
        assert again.template_of(2) == template(session=session, retries=1)
        found = again.unfinished()[session]
        assert [(item.spec.id, item.spec.inputs) for item in found] == [
            (1, ()),
            (2, ((1, 0),)),
            (3, ((2, 0),)),
        ]
        assert [item.spec.after for item in found] == [(), (), (1,)]
        assert again.payloads([1, 3, 99]) == {1: b"payload", 3: b"payload"}
        assert again.states([1, 99]) == {1: "READY"}
        # And a core goes on from there.
        core = c.Core()
        core.apply(ev.TasksRestored(again.templates(session), found), NOW)
        assert {task.id: task.state for task in core.tasks.values()} == {
            1: "READY",
            2: "PENDING",
            3: "PENDING",
        }
    finally:
        again.close()


def test_ends_and_attempts(store: Store) -> None:
    session = open_session(store)
    core, batch = submitted(session)
    core.apply(ev.PilotJoined("p", "main", NodeShape(4), 1, 0.0, []), NOW)
    core.assign(NOW)
    failed = core.apply(ev.AttemptsEnded("p", [done(1, "error")]), NOW)
    batch.add_attempts(failed.attempts, NOW)
    assert write(store, batch) is None
    (first, *_) = store.unfinished()[session]
    assert (first.attempts, first.errors, first.crashes) == (1, 1, 0)

    core.assign(NOW)
    value = Value(3, b"abc")
    effects = core.apply(ev.AttemptsEnded("p", [done(1, "ok", 2, values=(value,))]), NOW)
    batch = Batch()
    batch.add_attempts(effects.attempts, NOW)
    batch.add_ends(effects.ended)
    assert write(store, batch) is None
    (outcome,) = store.results([1, 2])
    assert (outcome.task, outcome.state, outcome.values) == (1, "COMPLETED", (value,))
    assert [item.spec.id for item in store.unfinished()[session]] == [2, 3]
    rows = store.rows("list_attempts", {"task": 1})
    assert [(row["number"], row["outcome"], row["pilot"]) for row in rows] == [
        (1, "error", "p"),
        (2, "ok", "p"),
    ]


def test_failures_are_read_back(store: Store) -> None:
    session = open_session(store)
    _, batch = submitted(session, 1)
    failure = TaskFailure("ValueError", "no", "trace", b"pickle", ("ValueError",), "n1", 2)
    batch.add_ends([ev.Ended(1, session, "FAILED", NOW, (), failure)])
    assert write(store, batch) is None
    (outcome,) = store.results([1])
    assert (outcome.state, outcome.failure) == ("FAILED", failure)


def test_tasks_that_come_twice_are_there_once(store: Store) -> None:
    session = open_session(store)
    _, batch = submitted(session)
    write(store, batch)
    _, batch = submitted(session)
    assert write(store, batch) is None
    assert len(store.unfinished()[session]) == 3


def test_failed_transaction_leaves_nothing_and_is_written_again(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(store)
    _, batch = submitted(session)
    right = batch.tasks
    batch.tasks = [*right, ("no", "such", "row")]
    error = write(store, batch)
    assert isinstance(error, sqlite3.Error)
    assert store.unfinished() == {} and store.functions(session) == {}
    batch.tasks = right
    assert write(store, batch) is None
    assert len(store.unfinished()[session]) == 3


def test_batches_are_put_together_in_order() -> None:
    first, later = Batch(), Batch()
    first.end_session(1, "CLOSING", None)
    later.end_session(1, "CLOSED", NOW)
    later.after.append(lambda: None)
    first.extend(later)
    assert [row["state"] for row in first.sessions] == ["CLOSING", "CLOSED"]
    assert len(first.after) == 1 and first and not Batch()


def test_no_number_of_a_session_is_given_twice(store: Store, path: Path) -> None:
    mine, other = open_session(store), open_session(store, "other")
    assert mine != other
    assert [store.reserve(mine, count) for count in (1, 10, 5)] == [1, 2, 12]
    assert store.reserve(other, 1) == 1
    store.close()
    again = Store(path)  # as after a kill: nothing waits to be written
    try:
        assert again.reserve(mine, 1) == 17
        left = NUMBERS - 17
        for count in (left + 1, 0, -1):
            with pytest.raises(PilotError, match="numbers left"):
                again.reserve(mine, count)
        assert again.reserve(mine, left) == 18
        with pytest.raises(PilotError, match="open another one"):
            again.reserve(mine, 1)
        with pytest.raises(PilotError, match="there is no session 99"):
            again.reserve(99, 1)
    finally:
        again.close()


def test_only_the_last_numbers_are_taken_back(store: Store) -> None:
    session = open_session(store)
    assert [store.reserve(session, 10) for _ in range(3)] == [1, 11, 21]
    for first, count in ((5, 6), (15, 6), (0, 30), (21, 0), (31, -1), (22, 8)):
        store.release(session, first, count)
    assert store.reserve(session, 1) == 31
    store.release(session, 24, 8)
    store.release(session, 21, 3)
    assert store.reserve(session, 1) == 21
    store.release(99, 1, 1)


def test_no_session_has_the_id_of_one_that_was_deleted(store: Store, path: Path) -> None:
    sessions = [open_session(store) for _ in range(3)]
    store.delete(sessions[-1], ())
    assert open_session(store) == sessions[-1] + 1


def test_the_same_variables_of_programs_are_there_once(store: Store) -> None:
    def opened(variables: dict[str, str]) -> int:
        environment = msgspec.structs.replace(ENVIRONMENT, inherited=variables)
        return store.add_session(OpenSession(1, "mine", environment), NOW)

    def count() -> int:
        rows = store.select("SELECT count(*) FROM inherited", {})
        return int(rows[0][0])

    first, second = opened({"A": "1"}), opened({"A": "1"})
    third, none = opened({"A": "2"}), opened({})
    assert count() == 2
    for session, its in ((second, {"A": "1"}), (third, {"A": "2"}), (none, {})):
        row = store.session(session)
        assert row is not None and row.environment.inherited == its
    for session, left in ((first, 2), (third, 1), (none, 1), (second, 0)):
        store.delete(session, [])
        assert count() == left


def test_closed_sessions_are_not_taken_on(store: Store) -> None:
    session = open_session(store)
    batch = Batch()
    batch.end_session(session, "CLOSED", NOW)
    write(store, batch)
    assert store.sessions() == []
    row = store.session(session)
    assert row is not None and row.state == "CLOSED"
    assert store.session(99) is None


@pytest.mark.parametrize("journal", ["wal", "truncate", "auto"])
def test_journals(tmp_path: Path, journal: str) -> None:
    path = tmp_path / f"{journal}.db"
    store = Store(path, journal)
    session = open_session(store)
    store.close()
    store = Store(path, journal)
    assert [row.id for row in store.sessions()] == [session]
    store.close()


def test_wal_needs_no_shared_memory(store: Store, path: Path) -> None:
    open_session(store)
    assert not path.with_name("tasks.db-shm").exists()


def test_database_of_another_process_is_locked(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_session(store)
    soon = functools.partial(sqlite3.connect, timeout=0.1)
    monkeypatch.setattr(sqlite3, "connect", soon)
    with pytest.raises(DatabaseLocked, match=rf"tasks\.db .* pid {os.getpid()} \(.*\) has it lock"):
        Store(path)


def test_damaged_database(path: Path) -> None:
    store = Store(path)
    session = open_session(store)
    _, batch = submitted(session, 500)
    write(store, batch)
    store.close()
    with path.open("r+b") as file:
        file.write(b"this is no database any more" * 100)
    with pytest.raises(HeadError, match="move it away"):
        Store(path)


def test_database_of_another_release(path: Path) -> None:
    store = Store(path)
    store.set_meta("schema", "999")
    store.close()
    with pytest.raises(HeadError, match="schema version 999"):
        Store(path)


class _Nothing(dict[str, object]):
    """Parameters of any name, all NULL."""

    def __missing__(self, name: str) -> None:
        return None


@pytest.mark.parametrize("name", QUERIES)
def test_every_statement_fits_the_schema(store: Store, name: str) -> None:
    statement = QUERIES[name]
    count = statement.count("?")
    values = (None,) * count if count else _Nothing()
    assert store._db.execute(f"EXPLAIN {statement}", values).fetchall()


class _FailsOnce:
    """A connection of which some statements fail, so many times."""

    def __init__(self, db: sqlite3.Connection, times: int, said: str) -> None:
        self._db, self._left, self._said = db, times, said

    def __getattr__(self, name: str) -> object:
        return getattr(self._db, name)

    def execute(self, statement: str, arguments: Any = ()) -> object:
        if self._left and not statement.startswith(("SELECT", "PRAGMA")):
            self._left -= 1
            raise sqlite3.OperationalError(self._said)
        return self._db.execute(statement, arguments)


@pytest.mark.parametrize(
    ("times", "said", "goes"),
    [(1, "disk I/O error", True), (9, "disk I/O error", False), (1, "no such table", False)],
)
def test_a_file_system_that_fails_for_a_moment_is_asked_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, times: int, said: str, goes: bool
) -> None:
    monkeypatch.setattr("pilot.head.store.writer.PAUSES_S", (0.0, 0.0))
    fails: Any = _FailsOnce(store._db, times, said)
    store._writer.use(fails)
    if goes:
        assert open_session(store) == 1
        return
    with pytest.raises(sqlite3.OperationalError, match=said):
        open_session(store)


class _LosesCommit:
    """A connection whose first COMMIT fails without a word.

    So it is where the loop reads while a commit fails on a full disk: Python asks the connection
    for the error of a statement, which is then that of the other one.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db, self._left = db, 1

    def __getattr__(self, name: str) -> object:
        return getattr(self._db, name)

    def execute(self, statement: str, arguments: Any = ()) -> object:
        if statement == "COMMIT" and self._left:
            self._left = 0
            statement = "ROLLBACK"
        return self._db.execute(statement, arguments)


def test_a_commit_whose_error_was_lost_is_no_commit(store: Store) -> None:
    session = open_session(store)
    _, batch = submitted(session)
    batch.add_changes([ev.Change("session", "OPEN", session, NOW, "", [])], 1)
    loses: Any = _LosesCommit(store._db)
    store._writer.use(loses)
    error = write(store, batch)
    assert isinstance(error, sqlite3.OperationalError) and "did not take" in str(error)
    assert store.next_event() == 1 and not store.unfinished()
    assert write(store, batch) is None, "it is written again"
    assert store.next_event() == 2 and len(store.unfinished()[session]) == 3


#: What a new head reads of what is unfinished, by table and column.
READ = {
    "sessions": ("name", "state", "paused", "weight", "priority", "options", "environment"),
    "functions": ("digest", "payload"),
    "templates": ("name", "kind", "pool", "detail"),
    "tasks": (
        *("template", "created", "payload", "inputs", "digest", "delegated"),
        *("attempts", "errors", "crashes"),
    ),
    "events": ("count", "changes"),
}


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\xff\xfe\x00", b"\x93\x01", bytes(range(256))])
@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table, columns in READ.items() for column in columns]
)
def test_what_is_damaged_of_one_session_harms_no_other(
    store: Store, table: str, column: str, data: bytes
) -> None:
    mine, other = open_session(store), open_session(store, "other")
    _, batch = submitted(mine)
    batch.add_changes([ev.Change("session", "OPEN", mine, NOW, "", [])], 1)
    write(store, batch)
    key = "id" if table == "sessions" else "session"
    store._db.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (data, mine))
    unfinished, rows = store.unfinished(), store.sessions()
    for row in rows:
        with store.reading(row.id, "what its tasks are made of"):
            store.functions(row.id), store.templates(row.id)
    assert other in {row.id for row in rows} and not store.damaged.keys() - {mine}
    assert not unfinished.keys() - {mine}
    assert all(str(mine) in told and "leave-out" in told for told in store.damaged.values())
    ((first, changes),) = store.events(0, None, 10)
    assert first == 1 and changes and store.next_event() == 2
    assert store.rows("list_sessions", _Nothing(limit=10))
    if column in ("environment", "detail") and data != b"":
        assert store.damaged
