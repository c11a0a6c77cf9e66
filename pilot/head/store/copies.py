"""The copies of an open database: backups, and files that take or leave its place.

Invariants
----------
- A copy gets its name when it is complete and on the disk, and replaces no file.
- A backup has an identity of its own, and no pilots.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from pilot.data.durable import sync_directory
from pilot.errors import PilotError
from pilot.head.store.opening import new_identity
from pilot.head.store.statements import QUERIES

#: The reason recorded for pilots that a copy of a database gives up.
COPIED = "the database is a copy, to which the pilots of the original do not belong"


def back_up(db: sqlite3.Connection, target: Path, now: float) -> None:
    """Write a consistent copy of the committed database into a new file.

    The copy has an identity of its own. If it replaces the database, pilots with later tasks
    end.

    Raises
    ------
    PilotError
        There is such a file already, or it cannot be written.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if target.exists():
            raise PilotError(f"{target} exists already; give a file that does not")
        partial.unlink(missing_ok=True)
        db.execute("VACUUM INTO ?", (str(partial),))
        partial.chmod(0o600)
        copy = sqlite3.connect(partial, isolation_level=None)
        try:
            copy.execute(QUERIES["set_meta"], ("identity", new_identity()))
            copy.execute(QUERIES["disown_pilots"], {"now": now, "why": COPIED})
        finally:
            copy.close()
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(target)
        sync_directory(target.parent)
    except (OSError, sqlite3.Error) as error:
        raise PilotError(f"the backup {target} cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def copy_to(db: sqlite3.Connection, target: Path) -> None:
    """Write what is committed to a new file, with the same identity.

    Raises
    ------
    OSError, sqlite3.Error
        It cannot be written, or there is such a file.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        partial.unlink(missing_ok=True)
        copy = sqlite3.connect(partial)
        try:
            db.backup(copy)
        finally:
            copy.close()
        partial.chmod(0o600)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.link(partial, target)  # replaces nothing
        sync_directory(target.parent)
    finally:
        partial.unlink(missing_ok=True)
