"""The opening of the database: settings, tables, and the errors of a file that cannot be opened.

Invariants
----------
- Nobody else opens the file: the lease comes before, ``locking_mode=EXCLUSIVE`` holds it.
- The tables and the marks of the file are made in one transaction: a crash leaves no half of them.
- A database of an earlier schema version is brought up to date in one transaction. One of a version
  that is not known here is refused, and nothing in it is changed.
"""

from __future__ import annotations

import sqlite3
import uuid
from pathlib import Path

from pilot.errors import DiskFullError, HeadError
from pilot.head.running import DatabaseLocked
from pilot.head.store.database_file import lacks_its_log, lock_holders
from pilot.head.store.reader import Reader
from pilot.head.store.statements import APPLICATION_ID, SCHEMA_VERSION, tables, upgrades


def connect(path: Path) -> sqlite3.Connection:
    """Open a database file."""
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.text_factory = readable
    return database


def readable(text: bytes) -> str:
    """Decode a text of the database; damaged bytes are replaced, so that no row is hidden."""
    return text.decode(errors="replace")


def prepare(db: sqlite3.Connection, path: Path, journal: str, makes: bool) -> None:
    """Set up a database that was just opened; make its tables if it is new.

    Parameters
    ----------
    db
        The database.
    path
        Its file.
    journal
        As `Store` takes it.
    makes
        True if a file without tables is a new database; otherwise it has lost them.

    Raises
    ------
    HeadError
        It is of another release, or has lost its tables.
    sqlite3.Error
        It is damaged, or cannot be used now.
    """
    execute = db.execute
    # Before the first access: then WAL needs no shared memory, which network file systems lack.
    execute("PRAGMA locking_mode = EXCLUSIVE")
    mode = "truncate" if journal == "truncate" else "wal"
    # Only a new file takes this in: what is purged is given back.
    execute("PRAGMA auto_vacuum = INCREMENTAL")
    execute(f"PRAGMA journal_mode = {mode}").fetchone()
    execute("PRAGMA synchronous = FULL")
    execute("PRAGMA cache_size = -65536")
    execute("PRAGMA wal_autocheckpoint = 4000")
    count = execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not count:
        if not makes:
            raise lacks_its_log(path)
        db.executescript(f"BEGIN IMMEDIATE;\n{tables()}\n{_facts()}\nCOMMIT;")
        return
    verdict = execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    reader = Reader(db)
    version = reader.schema_version()
    steps = "" if version == SCHEMA_VERSION else upgrades(version)
    if steps is None or version > SCHEMA_VERSION:
        raise HeadError(
            f"the database {path} has schema version {version}, this release of Pilot "
            f"knows {SCHEMA_VERSION}; use the release that wrote it, or another site directory"
        )
    if steps:
        db.executescript(
            f"""
            BEGIN IMMEDIATE;
            {steps}
            UPDATE meta SET value = '{SCHEMA_VERSION}' WHERE key = 'schema';
            PRAGMA user_version = {SCHEMA_VERSION};
            COMMIT;
            """
        )
    if not reader.identity:
        # An earlier release made it, or was killed before it had.
        db.executescript(f"BEGIN IMMEDIATE;\n{_facts()}\nCOMMIT;")


def new_identity() -> str:
    """Return the identity of a new database."""
    return uuid.uuid4().hex


def _facts() -> str:
    """Return the statements that mark the file as Pilot's, for Pilot and for other tools."""
    return f"""
        INSERT OR IGNORE INTO meta (key, value)
        VALUES ('schema', '{SCHEMA_VERSION}'), ('identity', '{new_identity()}');
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
