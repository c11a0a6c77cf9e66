"""Deletion: what nobody has any more leaves the disk, at last, and nothing else does."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from support.builders import spec, template

from pilot.data.segments import SegmentWriter
from pilot.data.storing import load
from pilot.errors import ResultError
from pilot.head import janitor as j
from pilot.head.core import core as c
from pilot.head.core import events as ev
from pilot.head.janitor import Janitor, who_needs
from pilot.head.store.batch import Batch
from pilot.head.store.deletion import Garbage
from pilot.head.store.store import Store
from pilot.model.ids import task_label
from pilot.model.tasks import Environment
from pilot.model.values import Value
from pilot.wire.messages.client import OpenSession

NOW = 100.0
ROW = 10_000


class Site:
    """A database and the files of its results.

    Session 1 has the tasks from 1 on, session 2 those from 101 on.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = Store(directory / "tasks.db")
        for _ in range(2):
            self.store.add_session(OpenSession(1, "s", Environment("/")), NOW)
        core = c.Core()
        for session, first in ((1, 1), (2, 101)):
            known = template(session, session)
            tasks = [spec(first + n, session) for n in range(8)]
            effects = core.apply(ev.TasksSubmitted(session, [known], tasks, {}), NOW)
            batch = Batch()
            batch.add_templates([known])
            batch.add_tasks(effects.accepted)
            self.write(batch)

    def write(self, batch: Batch) -> None:
        errors: list[Exception | None] = []
        self.store.write(batch, errors.append)
        self.store.join()
        assert errors == [None]

    def end(self, task: int, *values: Value) -> None:
        """The task is complete with these values."""
        batch = Batch()
        session = 1 if task < 100 else 2
        batch.add_ends([ev.Ended(task, session, "COMPLETED", NOW, values, None, memo=b"%d" % task)])
        self.write(batch)

    def results(self, *tasks: int) -> list[Value]:
        """Each of the tasks is complete, their results are in one file."""
        session = "1" if tasks[0] < 100 else "2"
        with SegmentWriter(self.directory, f"executor-{tasks[0]}") as writer:
            added = [
                writer.add(session, "f", task_label(n), 0, np.full(ROW, float(n))) for n in tasks
            ]
        for task, unsealed in zip(tasks, added, strict=True):
            self.end(task, unsealed.value)
        return [unsealed.value for unsealed in added]

    def clean(self) -> None:
        """Let the janitor take care of what is in the table, as a new head does."""
        self.add(self.store.garbage())

    def add(self, rows: list[Garbage]) -> None:
        janitor = Janitor(self.directory, lambda: None)
        assert janitor.clean(rows) == []
        batch = Batch()
        batch.add_swept(janitor.take())
        self.write(batch)

    def files(self) -> set[str]:
        """All files with results."""
        found = (self.directory / "results").rglob("*")
        return {p.relative_to(self.directory).as_posix() for p in found if p.is_file()}

    def has(self, value: Value) -> bool:
        """Whether the data of a value are there, and right."""
        try:
            return bool(np.all(load(value, self.directory) == float(value.owner)))
        except ResultError:
            return False


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.store.close()


def test_deleted_results_leave_the_disk(site: Site) -> None:
    first, second, third = site.results(1, 2, 3)
    (alone,) = site.results(4)
    before = (site.directory / first.path).stat().st_size
    rows = site.store.delete_results([1, 2, 4])
    assert {(row.path, row.name) for row in rows} == {
        (first.path, first.name),
        (second.path, second.name),
        (alone.path, alone.name),
    }
    assert site.store.states([1, 2, 3, 4]) == {
        1: "DELETED",
        2: "DELETED",
        3: "COMPLETED",
        4: "DELETED",
    }
    assert [outcome.state for outcome in site.store.results([1])] == ["DELETED"]
    assert site.has(first), "the transaction alone touches no file"
    site.add(rows)
    assert site.has(third) and not site.has(first) and not site.has(second)
    assert (site.directory / first.path).stat().st_size < before / 2
    assert site.files() == {third.path}
    assert site.store.garbage() == []


def test_files_that_are_no_results_stay_whatever_a_pilot_has_said(site: Site) -> None:
    (value,) = site.results(1)
    mine = site.directory / "mine.h5"
    shutil.copy(site.directory / value.path, mine)
    foreign = ["mine.h5", str(mine), "results/../mine.h5", "results/1/../../mine.h5"]
    for task, path in enumerate(foreign, 2):
        site.end(task, msgspec.structs.replace(value, path=path))
    site.add(site.store.delete_results([*range(2, 6)]))
    assert mine.exists() and site.store.garbage() == []


def test_what_a_dead_head_left_the_next_one_takes(site: Site) -> None:
    site.results(1, 2)
    site.store.delete_results([1, 2])  # and no janitor
    site.store.close()
    site.store = Store(site.directory / "tasks.db")
    assert len(site.store.garbage()) == 2
    site.clean()
    assert site.files() == set() and site.store.garbage() == []


def test_little_waits_until_it_is_worth_it(site: Site) -> None:
    first, second, third = site.results(1, 2, 3)
    site.add(site.store.delete_results([1]))
    assert site.has(first) and len(site.store.garbage()) == 1
    site.store.delete_results([2])
    site.clean()
    assert not site.has(first) and not site.has(second) and site.has(third)
    assert site.store.garbage() == []


def test_a_file_rests_before_it_is_written_anew(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = site.results(1, 2, 3)
    (alone,) = site.results(4)
    janitor = Janitor(site.directory, lambda: None)
    assert janitor.clean(site.store.delete_results([1, 2, 4]), rests=True) == []
    assert site.has(first) and site.has(second), "more of its values may die soon"
    assert janitor.take() == [(alone.path, alone.name)]
    assert janitor._rested() == []
    monkeypatch.setattr(j, "REST_S", 0.0)
    assert janitor.clean(janitor._rested(), rests=True) == []
    assert site.has(third) and not site.has(first) and len(janitor.take()) == 2
    assert janitor.clean(site.store.delete_results([3]), rests=True) == []
    assert site.files() == set(), "nothing in it is needed any more"


def test_what_may_come_back_is_not_done(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    (value,) = site.results(1)
    janitor = Janitor(site.directory, lambda: None)

    def fails(_: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("pilot.data.durable.sync_directory", fails)
        again = janitor.clean(site.store.delete_results([1]))
    assert again == [Garbage(value.path, value.name)] and janitor.take() == []
    assert janitor.clean(again) == [] and janitor.take() == [(value.path, value.name)]


def test_borrowed_results_stay_until_the_last_one_goes(site: Site) -> None:
    (value,) = site.results(1)
    site.end(101, value)  # found again by an other session
    site.end(102, value)
    assert site.store.delete_results([1]) == []
    assert site.store.delete_results([101]) == []
    site.clean()
    assert site.has(value)
    site.add(site.store.delete_results([102]))
    assert site.files() == set()


def test_the_borrowers_go_before_the_owner(site: Site) -> None:
    (value,) = site.results(1)
    site.end(2, value)  # a parent that has delegated its result
    assert site.store.delete_results([2]) == []
    assert site.has(value)
    site.add(site.store.delete_results([1]))
    assert site.files() == set()


def test_both_at_once(site: Site) -> None:
    (value,) = site.results(1)
    site.end(2, value)
    site.add(site.store.delete_results([1, 2]))
    assert site.files() == set() and site.store.garbage() == []


@pytest.mark.parametrize("verb", ["purge", "delete"])
def test_a_purged_session_leaves_what_others_borrowed(site: Site, verb: str) -> None:
    first, second, third = site.results(1, 2, 3)
    (alone,) = site.results(4)
    site.end(101, second)
    checkpoints = site.directory / "checkpoints" / "1" / "0.1"
    checkpoints.mkdir(parents=True)
    (checkpoints / "step").write_bytes(b"x")
    remove = getattr(site.store, verb)
    site.add(remove(1, ["results/1", "checkpoints/1"]))
    assert site.has(second)
    assert not any(site.has(value) for value in (first, third, alone))
    assert site.files() == {second.path}
    assert not checkpoints.parent.exists()
    assert site.store.states([1, 101]) == (
        {1: "DELETED", 101: "COMPLETED"} if verb == "purge" else {101: "COMPLETED"}
    )
    # And it goes with its last borrower, whose session is purged; nothing stays behind.
    site.add(site.store.purge(2, ["results/2", "checkpoints/2"]))
    assert not (site.directory / "results" / "1").exists()
    assert site.store.garbage() == []


def test_a_new_head_knows_what_is_borrowed(site: Site) -> None:
    first, second = site.results(1, 2)
    site.end(101, first)
    site.store.purge(1, ["results/1"])  # and the head dies
    site.store.close()
    site.store = Store(site.directory / "tasks.db")
    site.clean()
    assert site.has(first) and not site.has(second)
    assert site.store.garbage() == [Garbage("results/1", "", frozenset([(first.path, first.name)]))]
    site.add(site.store.delete_results([101]))
    assert not (site.directory / "results" / "1").exists()
    assert site.store.garbage() == []


def test_deleted_results_are_not_found_again(site: Site) -> None:
    site.results(1, 2)
    site.store.delete_results([1])
    rows = site.store._db.execute("SELECT id FROM tasks WHERE memo IS NOT NULL").fetchall()
    assert rows == [(2,)]
    site.store.purge(1, [])
    assert site.store._db.execute("SELECT id FROM tasks WHERE memo IS NOT NULL").fetchall() == []


def test_the_database_shrinks(site: Site) -> None:
    size = 1_000_000
    for task in range(1, 9):
        site.end(task, Value(size, b"x" * size))
    site.store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    path = site.directory / "tasks.db"
    before = path.stat().st_size
    assert before > 8 * size
    assert site.store.delete_results(list(range(1, 9))) == []
    for _ in range(4):  # 1000 pages at a time
        site.store.shrink()
    assert path.stat().st_size < before - 8 * size


def test_failures_are_records(site: Site) -> None:
    from pilot.model.tasks import TaskFailure

    batch = Batch()
    failure = TaskFailure("ValueError", "no")
    batch.add_ends([ev.Ended(1, 1, "FAILED", NOW, (), failure)])
    site.write(batch)
    site.store.delete_results([1])
    (outcome,) = site.store.results([1])
    assert (outcome.state, outcome.failure) == ("FAILED", failure)


def test_what_fails_is_tried_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    (value,) = site.results(1)
    monkeypatch.setattr(j, "RETRY_S", 0.01)
    tries: list[Path] = []
    sweep = j._sweep

    def first_fails(path: Path, *arguments: Any, **options: Any) -> bool:
        tries.append(path)
        if len(tries) == 1:
            raise OSError(5, "Input/output error")
        return sweep(path, *arguments, **options)

    monkeypatch.setattr(j, "_sweep", first_fails)
    told = threading.Event()
    janitor = Janitor(site.directory, told.set)
    janitor.add(site.store.delete_results([1]))
    try:
        assert told.wait(20)
        assert janitor.take() == [(value.path, value.name)]
    finally:
        janitor.stop()
    assert len(tries) == 2 and site.files() == set()


def test_a_damaged_file_stays_and_stops_nothing(site: Site) -> None:
    (bad,) = site.results(1)
    (good,) = site.results(2)
    (site.directory / bad.path).write_bytes(b"no HDF5")
    site.add(site.store.delete_results([1, 2]))
    assert site.files() == {bad.path}
    assert [(row.path, row.name) for row in site.store.garbage()] == [(bad.path, bad.name)]
    assert not (site.directory / good.path).exists()


def test_names_tell_the_owner() -> None:
    assert Value(1, path="p", name=f"/1/a~2/{task_label(7 << 32 | 9)}/0~2").owner == 7 << 32 | 9
    assert Value(1, b"x").owner == 0
    assert Value(1, path="p", name="/state").owner == 0


def test_who_needs_what() -> None:
    core = c.Core()
    known = template()
    tasks = [spec(1), spec(2, needs=(1,)), spec(3, needs=(9,))]
    core.apply(ev.TasksSubmitted(1, [known], tasks, {9: "COMPLETED"}), NOW)
    unfinished = core.tasks.values()
    assert who_needs(unfinished, [], {9: ()}) == (3, 9)
    assert who_needs(unfinished, [], {8: ()}) is None
    # A parent waits for one child; another one's value, and where a third one's is, it has.
    given = Value(1, path="results/1/x.h5", name="/1/f/0.8/0")
    owing = [(2, (Value(0), given, Value(0)), {0: (6, 0), 2: (7, 0)})]
    assert who_needs(unfinished, owing, {8: (given,)}) == (2, 8)
    assert who_needs(unfinished, owing, {7: (Value(1, b"x"),)}) == (2, 7)
    assert who_needs(unfinished, owing, {5: (Value(0),)}) is None


def test_a_parent_that_waits_is_found_by_a_new_head(site: Site) -> None:
    batch = Batch()
    batch.add_delegated([ev.Delegated(1, (Value(1, b"x"),), {0: (2, 0)})])
    site.write(batch)
    assert site.store.owing() == [(1, (Value(1, b"x"),), {0: (2, 0)})]
    site.end(1, Value(1, b"x"))
    assert site.store.owing() == []


def test_json_of_many_tasks(site: Site) -> None:
    """More than SQLite takes as parameters."""
    many = list(range(1, 50_000))
    assert site.store.delete_results(many) == []
    assert site.store.tasks_of(1, many) == set(range(1, 9))
    assert len(json.dumps(many)) > 100_000
