"""The database: every session, task, attempt and pilot in one SQLite file, open for the head.

The store joins the other modules of this package (its `__init__` lists them). Here are the rare
changes, each durable when its method returns: sessions, numbers and pilots.

Invariants
----------
- A number that was given to a client is not given again, whatever becomes of the head.
- The intent to submit a pilot is durable before the pilot is submitted.
- A copied database has another identity before anything else is written to it.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

import msgspec

from pilot.errors import PilotError
from pilot.head.machine import HERE, Machine
from pilot.head.store import copies, deletion
from pilot.head.store.batch import Batch
from pilot.head.store.copies import COPIED
from pilot.head.store.deletion import Garbage
from pilot.head.store.opening import connect as connect_to
from pilot.head.store.opening import new_identity, open_error, prepare
from pilot.head.store.place import Place, Where
from pilot.head.store.reader import Reader
from pilot.head.store.rows import encode
from pilot.head.store.statements import QUERIES
from pilot.head.store.unfit import LeftOut
from pilot.head.store.writer import Writer
from pilot.model.ids import NUMBERS
from pilot.model.values import Value
from pilot.wire.messages.client import OpenSession

log = logging.getLogger("pilot.head")

#: The number of pages of 4 KiB that are freed at a time: less than 0.1 s of work.
SHRINK_PAGES = 1000


class Store(Reader):
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
        connect: Callable[[Path], sqlite3.Connection] = connect_to,
        makes: bool = True,
    ) -> None:
        self._path, self._journal, self._makes = path, journal, makes
        self._connect = connect
        #: True if there may be free pages to give back.
        self._shrinks = False
        try:
            db = connect(path)
            try:
                prepare(db, path, journal, makes)
            except BaseException:
                db.close()
                raise
        except sqlite3.Error as error:
            raise open_error(path, error) from error
        super().__init__(db)
        self._writer = Writer(db, guard, machine)
        self._place = Place(path)

    def close(self) -> None:
        """Wait for the commit in progress, and close the file."""
        self._writer.close()
        super().close()

    # --- batches

    def write(self, batch: Batch, done: Callable[[Exception | None], None]) -> None:
        """Write a batch in one transaction, then call `done` (see `Writer.write`)."""
        self._writer.write(batch, done)

    def write_apart(self, batch: Batch) -> LeftOut:
        """Write a batch without the rows that cannot be stored (see `Writer.write_apart`)."""
        return self._writer.write_apart(batch)

    def join(self) -> None:
        """Wait for the commit in progress, if there is one."""
        self._writer.join()

    # --- its identity

    def begin_epoch(self, epoch: int) -> None:
        """Record that the head of this epoch writes from now on."""
        self.set_meta("epoch", str(epoch))

    def become_another(self, now: float) -> None:
        """Take a new identity, and give up the pilots: the site directory was copied."""
        self.set_meta("identity", new_identity())
        self.disown_pilots(now, COPIED)

    def disown_pilots(self, now: float, why: str) -> None:
        """Give up all pilots started under previous heads."""
        self._writer.at_once("disown_pilots", {"now": now, "why": why})

    def set_meta(self, key: str, value: str) -> None:
        """Store a fact about the database itself."""
        self._writer.at_once("set_meta", (key, value))

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
        self._writer.use(self._db)
        prepare(self._db, self._path, self._journal, self._makes)
        self._place = Place(self._path)

    def copy_to(self, target: Path) -> None:
        """Write what is committed to a new file, with the same identity (see `copies.copy_to`)."""
        self._writer.ready()
        copies.copy_to(self._db, target)

    def leave_to(self, target: Path) -> None:
        """Write the database elsewhere, and leave its place to the file that was put there.

        Raises
        ------
        OSError, sqlite3.Error
            It cannot be written now.
        """
        self.copy_to(target)
        self._place.remove_log()  # SQLite would take it for that of the other one

    def back_up(self, target: Path, now: float) -> None:
        """Write a consistent copy of the committed database (see `copies.back_up`)."""
        self.join()
        copies.back_up(self._db, target, now)

    # --- sessions, their numbers, and pilots

    def reserve(self, session: int, count: int) -> int:
        """Reserve so many numbers of a session for good; return the first.

        Raises
        ------
        PilotError
            There is no such session, or it has no more numbers.
        """
        if count > 0:
            row: dict[str, object] = {"id": session, "count": count, "most": NUMBERS}
            if found := self._writer.at_once("reserve", row):
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
            self._writer.at_once("release", row)

    def add_session(self, message: OpenSession, now: float) -> int:
        """Create a session; return its id."""
        environment = message.environment
        digest: bytes | None = None
        if environment.inherited:
            variables = encode(environment.inherited)
            digest = blake2b(variables, digest_size=16).digest()
            self._writer.at_once("add_inherited", {"digest": digest, "variables": variables})
            environment = msgspec.structs.replace(environment, inherited={})
        row: dict[str, object] = {
            "name": message.name,
            "weight": message.weight,
            "priority": message.priority,
            "options": message.options,
            "environment": encode(environment),
            "inherited": digest,
            "created": now,
            "budget": message.budget or None,
            "grace": message.grace_s or None,
        }
        return int(self._writer.at_once("add_session", row)[0][0])

    def set_session_budget(self, session: int, node_s: float) -> None:
        """Set the budget of a session in node-seconds; 0: it has none."""
        self._writer.at_once("set_session_budget", {"id": session, "budget": node_s or None})

    def unbind_session(self, session: int) -> None:
        """Record that a session no longer ends with its clients."""
        self._writer.at_once("unbind_session", {"id": session})

    def leave_out(self, session: int, now: float) -> bool:
        """Close a session, but keep its unfinished tasks as they are; False if it is not open."""
        return bool(self._writer.at_once("leave_out", {"id": session, "now": now}))

    def add_pilot(self, row: dict[str, object]) -> bool:
        """Record the intent to submit a pilot, before it is submitted, or that one is there which
        had ended; return True if it is, or was, in an allocation of a user's."""
        return bool(self._writer.at_once("add_pilot", row)[0][0])

    def set_pilot(self, row: dict[str, object]) -> None:
        """Record a pilot's new state."""
        self._writer.at_once("set_pilot", row)

    # --- decisions, orders and budgets

    def add_decisions(self, rows: Sequence[tuple[float, str, str, str, str]]) -> None:
        """Record decisions: the time, the pool, the pilot or nothing, the kind, and the detail."""
        self._writer.in_one(lambda db: db.executemany(QUERIES["add_decisions"], rows))

    def prune_decisions(self, before: float, most: int) -> None:
        """Delete the decisions made before that time, and all but the last so many."""
        self._writer.at_once("prune_decisions", {"before": before, "most": most})

    def add_usage(
        self,
        usage: Sequence[tuple[str, str, int, float]],
        pilots: Sequence[tuple[float, float | None, str]],
    ) -> None:
        """Add node-seconds to accounts, by kind, name and day, and note what is counted of pilots:
        node-seconds, up to which time, and the name."""

        def add(db: sqlite3.Connection) -> None:
            db.executemany(QUERIES["add_usage"], usage)
            db.executemany(QUERIES["set_counted"], pilots)

        self._writer.in_one(add)

    def set_order(self, row: dict[str, object]) -> None:
        """Record an order of a user for a pool or pilot."""
        self._writer.at_once("set_order", row)

    def remove_orders(self, verb: str, subject: str) -> None:
        """Delete an order."""
        self._writer.at_once("remove_orders", {"verb": verb, "subject": subject})

    # --- named objects

    def add_object(self, row: dict[str, object], values: Iterable[Value]) -> int:
        """Make a result that is there the next version of an object, and return its number; where
        it is one of that name already, that number. 0: it is not there.

        Parameters
        ----------
        row
            The version, as `object_row` gives it.
        values
            All the results of the task: they are kept with the version.
        """

        def add(db: sqlite3.Connection) -> int:
            batch = Batch()
            batch.add_object(row, values)
            db.executemany(QUERIES["add_borrowed"], batch.borrowed)
            db.executemany(QUERIES["add_objects"], batch.objects)
            found = db.execute(QUERIES["object_of_result"], row).fetchone()
            return int(found[0]) if found else 0

        return self._writer.in_one(add)

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Have an alias of a name stand for a version, if that is there."""
        self._writer.at_once("set_alias", {"name": name, "alias": alias, "version": version})

    def keep_object(self, name: str, version: int, expires: object) -> None:
        """Keep a version until this time, in seconds since the epoch."""
        row = {"name": name, "version": version, "expires": expires}
        self._writer.at_once("keep_object", row)

    def remove_alias(self, name: str, alias: str) -> bool:
        """Remove an alias; return False if there is none."""
        return bool(self._writer.at_once("remove_alias", {"name": name, "alias": alias}))

    # --- deletion

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
        return self._deleted(lambda db: deletion.purge(db, session, directories))

    def delete(self, session: int, directories: Iterable[str]) -> list[Garbage]:
        """Delete a session with all its records; otherwise as `purge`."""
        return self._deleted(lambda db: deletion.delete(db, session, directories))

    def delete_results(self, tasks: Sequence[int]) -> list[Garbage]:
        """Delete the results of the completed ones among the tasks; their records stay.

        Returns
        -------
        list of Garbage
            The files and directories to remove from the disk, now or by a later head.
        """
        return self._deleted(lambda db: deletion.delete_results(db, tasks))

    def remove_objects(self, versions: Iterable[tuple[str, int]], now: float) -> list[Garbage]:
        """Remove versions of named objects, and the values that nothing else keeps.

        Returns
        -------
        list of Garbage
            The files to remove from the disk, now or by a later head.
        """
        return self._deleted(lambda db: deletion.remove_objects(db, versions, now))

    def _deleted(self, action: Callable[[sqlite3.Connection], list[Garbage]]) -> list[Garbage]:
        garbage = self._writer.in_one(action)
        self._shrinks = True
        return garbage

    def garbage_among(self, places: Iterable[tuple[str, str]]) -> list[Garbage]:
        """Return those of these values, by path and name, that are garbage."""
        return deletion.garbage_among(self._db, places)

    def garbage(self) -> list[Garbage]:
        """Return everything that was deleted, and may still be on the disk."""
        return deletion.all_garbage(self._db)

    def shrink(self) -> None:
        """After a deletion, return some free space to the file system; call it again and again.

        Raises
        ------
        sqlite3.Error
            The file cannot be written now.
        """
        if not self._shrinks:
            return
        self._writer.ready()
        # As a script: of a plain statement Python takes the first step alone, which is one page.
        self._db.executescript(f"PRAGMA incremental_vacuum({SHRINK_PAGES})")
        self._shrinks = self._db.execute("PRAGMA freelist_count").fetchone()[0] > 0
        if not self._shrinks:
            # Only then is the file shorter, and its journal, too.
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
