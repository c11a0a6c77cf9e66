"""The writer of the database: its transactions, and the moment when they are durable.

What the head's loop collects in a turn is written as one `Batch` in one transaction (group commit).
The loop's own thread inserts the rows, because SQLite releases the GIL at every row and two busy
threads would wait for each other there; only COMMIT, which waits for the disk, runs in a thread
of its own. So the loop goes on while the disk works. If commits have recently been
faster than a switch to another thread and back, the loop waits for them.

Invariants
----------
- One transaction at a time: whoever writes waits first for the commit in progress.
- Before each one the guard is asked, which does not return where we may not write any more.
- A transaction that fails (disk full, I/O error) is rolled back as a whole, and can be written
  again. It counts as committed only when what it wrote is seen to be there.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from pilot.head.machine import Machine
from pilot.head.store.batch import Batch
from pilot.head.store.statements import QUERIES
from pilot.head.store.unfit import NOT_WRITTEN, LeftOut, put_apart

log = logging.getLogger("pilot.head")

T = TypeVar("T")

#: The longest expected duration of a commit that the loop waits for, in seconds.
QUICK_S = 0.0005
#: The time until a statement that failed for a moment is tried again, in seconds.
PAUSES_S = (0.01, 0.1)


class Writer:
    """An open database to write to.

    Parameters
    ----------
    db
        The open database.
    guard
        Called before anything is written; does not return where we may not write any more.
    machine
        Has the thread that commits, and tells the time.
    """

    def __init__(self, db: sqlite3.Connection, guard: Callable[[], None], machine: Machine) -> None:
        self._db = db
        self._guard = guard
        self._clock, self._sleep = machine.now, machine.sleep
        self._committer = machine.start_thread("commit")
        self._committing: Future[None] | None = None
        #: The recent duration of a commit, in seconds.
        self._commit_s = 1.0

    def use(self, db: sqlite3.Connection) -> None:
        """Write to another connection from now on."""
        self._db = db

    def ready(self) -> None:
        """Wait for the commit in progress, and see that we may still write."""
        self.join()
        self._guard()

    def join(self) -> None:
        """Wait for the commit in progress, if there is one."""
        if self._committing is not None:
            self._committing.result()
            self._committing = None

    def close(self) -> None:
        """Wait for the commit in progress, and end the thread."""
        self.join()
        self._committer.shutdown()

    def write(self, batch: Batch, done: Callable[[Exception | None], None]) -> None:
        """Write a batch in one transaction, then call `done`, maybe from another thread.

        The caller writes no other batch before `done` was called; `done` gets the error where the
        transaction failed and was rolled back.
        """
        self.ready()
        try:
            self._put(batch)
        except NOT_WRITTEN as error:
            self._roll_back()
            done(error)
            return
        except BaseException:
            self._roll_back()
            raise
        if self._commit_s < QUICK_S:
            self._commit(done)
        else:
            # What clients are told of has events; the few other rows are not looked for.
            first_event = batch.events[-1][0] if batch.events else None
            self._committing = self._committer.submit(self._commit, done, first_event)

    def write_apart(self, batch: Batch) -> LeftOut:
        """Write a batch in one transaction, without the rows that the database cannot store.

        Raises
        ------
        sqlite3.Error
            Nothing can be written now.
        """
        self.ready()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            left_out = put_apart(batch.rows(), lambda name, row: self._execute(QUERIES[name], row))
            self._db.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        return left_out

    def in_one(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Run an action's statements in one transaction, durable when it returns.

        Raises
        ------
        sqlite3.Error
            It cannot be written now, and nothing of it was.
        """
        self.ready()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            result = action(self._db)
            self._db.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        return result

    def at_once(self, query: str, arguments: object) -> list[Any]:
        """Run one statement that must be durable when it returns: for rare events, such as pilots.

        A file system that fails for a moment is asked again: what fails has changed nothing.

        Raises
        ------
        sqlite3.Error
            It cannot be written now.
        """
        self.join()
        for pause_s in PAUSES_S:
            self._guard()
            try:
                return self._db.execute(QUERIES[query], arguments).fetchall()  # type: ignore[arg-type]  # a row or a mapping
            except sqlite3.OperationalError as error:
                if not may_pass(error):
                    raise
                self._roll_back()
                log.warning("the database: %s; trying again", error)
            self._sleep(pause_s)
        self._guard()
        return self._db.execute(QUERIES[query], arguments).fetchall()  # type: ignore[arg-type]  # a row or a mapping

    def _execute(self, statement: str, row: Any) -> None:
        self._db.execute(statement, row)

    def _put(self, batch: Batch) -> None:
        many = self._db.executemany
        self._db.execute("BEGIN IMMEDIATE")
        for name, rows in batch.rows():
            if rows:
                many(QUERIES[name], rows)

    def _commit(
        self, done: Callable[[Exception | None], None], first_event: int | None = None
    ) -> None:
        """Commit, then call `done`; beside the loop, look for an event that was written.

        Python asks the connection for the error of a statement, and what the loop reads at the same
        time wipes it out: a COMMIT that failed on a full disk then looks as if all were well.
        """
        start = self._clock()
        try:
            self._db.execute("COMMIT")
            if first_event is not None:
                self._check_written(first_event)
            # A mean of the last few: a hiccup of a quick disk is soon forgotten.
            self._commit_s += 0.2 * (self._clock() - start - self._commit_s)
        except sqlite3.Error as error:
            self._roll_back()
            done(error)
        else:
            done(None)

    def _check_written(self, first_event: int) -> None:
        found = self._db.execute(QUERIES["is_written"], (first_event,)).fetchone()
        if found is None or self._db.in_transaction:
            raise sqlite3.OperationalError("the database did not take the last commit")

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")


def may_pass(error: BaseException | None) -> bool:
    """Tell whether the error is the file system's, and may pass."""
    said = str(error)
    return isinstance(error, sqlite3.OperationalError) and (
        "disk I/O error" in said or "unable to open database file" in said
    )
