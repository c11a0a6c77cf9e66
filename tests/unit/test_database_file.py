"""The database as a file: one that has vanished, one half made, and a head that writes too late."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest

from pilot.errors import HeadError, PilotError
from pilot.head.lease import UNKNOWN
from pilot.head.store import database_file
from pilot.head.store.database_file import SUFFIXES, fence, refuse_if_missing
from pilot.head.store.place import Where
from pilot.head.store.statements import APPLICATION_ID, SCHEMA_VERSION
from pilot.head.store.store import Store
from pilot.model.tasks import Environment
from pilot.site import Site, create_site
from pilot.wire.discovery import HeadAddress, write_address
from pilot.wire.endpoints import Endpoints
from pilot.wire.messages.client import OpenSession


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return create_site(tmp_path / "site", "local")


def fact(path: Path, key: str) -> str:
    store = Store(path)
    try:
        return store.meta(key) or ""
    finally:
        store.close()


def add(store: Store) -> int:
    """Write something that counts: a session, whose number grows by one each time."""
    return store.add_session(OpenSession(1, "mine", Environment("/home")), 0.0)


# --- it is there


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
@pytest.mark.parametrize("shown_by", ["the lease", "the lease of before", "results", "head.json"])
def test_database_that_has_vanished_is_not_made_anew(site: Site, left: str, shown_by: str) -> None:
    known = {"the lease": "abc", "the lease of before": UNKNOWN}.get(shown_by, "")
    if left == "an empty file":
        site.database.touch()
    if shown_by == "results":
        (site.results / "1").mkdir(parents=True)
    if shown_by == "head.json":
        here = Endpoints("boot", "unix:///nowhere", "tcp://host:1")
        write_address(site.address_file, HeadAddress(3, "host", 1, 1, here, "1", database="abc"))
    with pytest.raises(HeadError, match=r"tasks.db is (missing|empty).*pilot site reset"):
        refuse_if_missing(site, known)


def test_first_database_is_made(site: Site) -> None:
    refuse_if_missing(site, "")
    site.database.touch()
    refuse_if_missing(site, "")


def test_database_that_is_there_is_taken(site: Site) -> None:
    Store(site.database).close()
    refuse_if_missing(site, "abc")


# --- it stays there


def opened_with_sessions(site: Site, count: int) -> Store:
    store = Store(site.database)
    for _ in range(count):
        add(store)
    assert store.look() is Where.THERE
    return store


def sessions_in(path: Path) -> int:
    """How many there are in the files as they are now: as if who has them open was killed."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "tasks.db"
        for suffix in SUFFIXES:
            if path.with_name(path.name + suffix).exists():
                shutil.copy(path.with_name(path.name + suffix), copy.with_name(copy.name + suffix))
        store = Store(copy)
        try:
            return len(store.sessions())
        finally:
            store.close()


def test_database_that_has_vanished_is_written_anew(site: Site) -> None:
    store = opened_with_sessions(site, 2)
    identity = store.identity
    for path in site.directory.glob("tasks.db*"):
        path.unlink()
    add(store)
    assert store.look() is Where.VANISHED
    store.write_anew()
    assert store.look() is Where.THERE and store.identity == identity
    assert sessions_in(site.database) == 3
    add(store)
    assert sessions_in(site.database) == 4
    store.close()
    assert sessions_in(site.database) == 4
    assert [path.name for path in site.directory.glob("*tasks.db*")] == ["tasks.db"]


def test_database_that_is_put_back_is_the_same(site: Site) -> None:
    store = opened_with_sessions(site, 1)
    site.database.rename(site.directory / "away")
    assert store.look() is Where.VANISHED
    add(store)
    (site.directory / "away").rename(site.database)
    assert store.look() is Where.THERE
    store.close()
    assert sessions_in(site.database) == 2


def test_log_that_was_removed_is_made_anew(site: Site) -> None:
    store = opened_with_sessions(site, 2)
    site.database.with_name("tasks.db-wal").unlink()
    add(store)
    assert store.look() is Where.THERE
    assert sessions_in(site.database) == 3
    add(store)
    assert store.look() is Where.THERE
    assert sessions_in(site.database) == 4
    store.close()


def test_database_that_is_put_in_the_place_of_an_open_one_is_left_alone(site: Site) -> None:
    store = opened_with_sessions(site, 1)
    other = site.directory / "other.db"
    store.back_up(other, 0.0)
    before = other.read_bytes()
    add(store)
    other.replace(site.database)
    assert store.look() is Where.REPLACED
    store.leave_to(site.directory / "aside.db")
    with pytest.raises(FileExistsError):
        store.leave_to(site.directory / "aside.db")
    store.close()
    assert site.database.read_bytes() == before
    assert not site.database.with_name("tasks.db-wal").exists(), "it would be taken for its own"
    assert sessions_in(site.directory / "aside.db") == 2
    assert sessions_in(site.database) == 1


# --- what it says of itself


def test_each_database_has_an_identity_of_its_own(tmp_path: Path) -> None:
    one, other = fact(tmp_path / "1.db", "identity"), fact(tmp_path / "2.db", "identity")
    assert one and other and one != other
    assert fact(tmp_path / "1.db", "identity") == one


def test_other_tools_know_what_the_file_is(tmp_path: Path) -> None:
    Store(tmp_path / "tasks.db").close()
    file = sqlite3.connect(tmp_path / "tasks.db")
    assert file.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert file.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    file.close()


def test_tables_without_a_version_are_completed(tmp_path: Path) -> None:
    """Whoever made them was killed in between, in a release that made them in two steps."""
    path = tmp_path / "tasks.db"
    Store(path).close()
    file = sqlite3.connect(path)
    file.execute("DELETE FROM meta")
    file.commit()
    file.close()
    assert fact(path, "schema") == str(SCHEMA_VERSION)
    assert fact(path, "identity")


def made_by(path: Path) -> dict[str, object]:
    """What the tables of a database are made of, its indices and views, by their names."""
    file = sqlite3.connect(path)
    found: dict[str, object] = {}
    for name, kind, sql in file.execute("SELECT name, type, sql FROM sqlite_master").fetchall():
        columns = file.execute(f"PRAGMA table_info({name})").fetchall()
        found[name] = columns if kind == "table" else " ".join((sql or "").split())
    file.close()
    return found


def make_old(path: Path) -> None:
    """Make the database what the first version that can be brought up to date had."""
    Store(path).close()
    file = sqlite3.connect(path)
    file.executescript(
        """
        DROP TABLE decisions;
        DROP TABLE orders;
        DROP TABLE usage;
        DROP TABLE objects;
        DROP TABLE aliases;
        DROP TABLE released;
        DROP TABLE inherited;
        DROP TABLE sessions;
        CREATE TABLE sessions (
            id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, state TEXT NOT NULL,
            paused INTEGER NOT NULL DEFAULT 0, weight REAL NOT NULL, priority INTEGER NOT NULL,
            options BLOB NOT NULL, environment BLOB NOT NULL, created REAL NOT NULL, ended REAL,
            numbers INTEGER NOT NULL DEFAULT 0
        );
        ALTER TABLE pilots DROP COLUMN used;
        ALTER TABLE pilots DROP COLUMN counted;
        ALTER TABLE pilots DROP COLUMN own;
        ALTER TABLE tasks DROP COLUMN after;
        ALTER TABLE tasks DROP COLUMN commutative;
        ALTER TABLE attempts DROP COLUMN cpu;
        ALTER TABLE attempts DROP COLUMN memory;
        ALTER TABLE attempts DROP COLUMN placement;
        ALTER TABLE attempts DROP COLUMN version;
        DROP TABLE turns;
        INSERT INTO pilots (name, pool, nodes, walltime, state, job, reason, created)
        VALUES ('a', 'main', 1, 60.0, 'RUNNING', '1', 'an allocation that was adopted', 0.0),
               ('b', 'main', 1, 60.0, 'RUNNING', '2', 'work for 1 node', 0.0);
        UPDATE meta SET value = '5' WHERE key = 'schema';
        """
    )
    file.close()


def test_database_of_an_earlier_version_is_brought_up_to_date(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    Store(new).close()
    make_old(old)
    file = sqlite3.connect(old)
    ((identity,),) = file.execute("SELECT value FROM meta WHERE key = 'identity'").fetchall()
    file.close()
    assert made_by(old) != made_by(new)
    assert fact(old, "identity") == identity, "it is the same database"
    assert made_by(old) == made_by(new)
    assert fact(old, "schema") == str(SCHEMA_VERSION)
    file = sqlite3.connect(old)
    assert file.execute("SELECT name, own FROM pilots").fetchall() == [("a", 1), ("b", 0)]
    file.close()


def test_upgrade_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tasks.db"
    make_old(path)
    before = made_by(path)
    with monkeypatch.context() as patch:
        steps = "CREATE TABLE half (id INTEGER); INSERT INTO nowhere VALUES (1);"
        patch.setattr("pilot.head.store.opening.upgrades", lambda version: steps)
        with pytest.raises(HeadError):
            Store(path)
    assert made_by(path) == before
    assert fact(path, "schema") == str(SCHEMA_VERSION)


def test_no_half_of_the_tables_is_left_by_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tasks.db"
    with monkeypatch.context() as patch:
        patch.setattr("pilot.head.store.opening._facts", lambda: "INSERT INTO nowhere VALUES (1);")
        with pytest.raises(HeadError):
            Store(path)
    assert fact(path, "schema") == str(SCHEMA_VERSION)


def test_epoch_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "tasks.db")
    assert store.epoch == 0
    store.begin_epoch(7)
    store.close()
    store = Store(tmp_path / "tasks.db")
    assert store.epoch == 7
    store.close()


def test_nothing_is_written_by_who_may_not(tmp_path: Path) -> None:
    class NotHeld(Exception):
        pass

    def guard() -> None:
        if lost:
            raise NotHeld

    lost = False
    store = Store(tmp_path / "tasks.db", guard=guard)
    lost = True
    for write in (
        lambda: store.begin_epoch(3),
        lambda: add(store),
        lambda: store.delete_results([1]),
    ):
        with pytest.raises(NotHeld):
            write()
    assert store.epoch == 0
    store.close()


# --- copies


def test_backup_is_whole_and_another_database(tmp_path: Path) -> None:
    store = Store(tmp_path / "tasks.db")
    first = [add(store) for _ in range(5)][-1]
    store.back_up(tmp_path / "copy.db", 0.0)
    assert (tmp_path / "copy.db").stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(PilotError, match=r"copy\.db exists already"):
        store.back_up(tmp_path / "copy.db", 0.0)
    identity = store.identity
    store.close()
    copy = Store(tmp_path / "copy.db")
    assert copy.identity not in ("", identity)
    assert add(copy) == first + 1
    copy.close()


def test_backup_that_cannot_be_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "tasks.db")
    with pytest.raises(PilotError, match=r"the backup .* cannot be written"):
        store.back_up(tmp_path / "nowhere" / "copy.db", 0.0)
    store.close()


@pytest.mark.parametrize("journal", ["wal", "truncate"])
def test_who_writes_too_late_does_not_reach_the_next_head(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "tasks.db"
    old = Store(path, journal)
    add(old)
    fence(path)
    new = Store(path, journal)
    assert add(new) == 2
    for _ in range(50):
        add(old)
    old._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert add(new) == 3
    new.close()
    new = Store(path, journal)
    assert add(new) == 4
    assert new._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    new.close()
    old._db.close()
    assert not list(tmp_path.glob(".*"))


def test_copy_is_made_again_where_somebody_wrote_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tasks.db"
    old = Store(path)
    copies = []

    def copy(source: Path, target: Path) -> None:
        shutil.copy(source, target)
        copies.append(source)
        if len(copies) == 1:
            add(old)

    monkeypatch.setattr(database_file, "_copy", copy)
    fence(path)
    assert copies.count(path) == 2
    new = Store(path)
    assert add(new) == 2
    new.close()
    old._db.close()


def test_database_that_is_written_to_all_the_time_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tasks.db"
    old = Store(path)

    def copy(source: Path, target: Path) -> None:
        add(old)
        target.touch()

    monkeypatch.setattr(database_file, "_copy", copy)
    with pytest.raises(HeadError, match="is that head alive on another machine"):
        fence(path)
    old.close()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["tasks.db"]


def test_copy_without_space_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tasks.db"
    Store(path).close()
    before = path.stat().st_ino

    def copy(source: Path, target: Path) -> None:
        target.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(database_file, "_copy", copy)
    with pytest.raises(HeadError, match=r"has to be copied.*No space left.*nothing is lost"):
        fence(path)
    assert path.stat().st_ino == before
    assert {f"tasks.db{suffix}" for suffix in SUFFIXES} >= {p.name for p in tmp_path.iterdir()}
