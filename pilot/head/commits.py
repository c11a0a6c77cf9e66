"""Commits: the changes that the turns of the loop make, one transaction after the other.

Changes are collected in a batch. While one batch is being committed the next is collected, so
the loop goes on while the disk works.

Invariants
----------
- Actions that wait for a commit (`Commits.tell`, `Commits.then`) run when everything collected
  before them is durable, in order, in the loop's own thread.
- One commit at a time. If one fails because of the disk or a lock, its batch goes first in the
  next: nothing is lost. Rows that the database cannot store are left out, by name, and the rest of
  their batch is durable.
- An action that fails does not keep the others from running.
- Events are numbered in the order in which they were made; none is told before it is committed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

import msgspec

from pilot import clock
from pilot.clock import Clock
from pilot.errors import PilotError
from pilot.head.connections import Send
from pilot.head.core.events import Log
from pilot.head.steps import Steps
from pilot.head.store.batch import Batch
from pilot.head.store.store import Store
from pilot.head.store.unfit import UNFIT, LeftOut
from pilot.limits import UNWRITTEN_BYTES

log = logging.getLogger("pilot.head")

#: The time from a failed commit to the next try, in seconds.
RETRY_S = 1.0
_NONE: tuple[int, ...] = (0, 0, 0, 0)


class Commits:
    """The changes to write, the changes being written, and the actions that wait for them.

    Parameters
    ----------
    store
        The database.
    changes
        The log of the core's events.
    send
        Sends a message to a peer.
    notify
        Called from the committing thread when there is something to `finish`.
    done
        Called after each commit, when the actions that waited for it have run.
    left_out
        Called before that, if something could not be written, and is given up.
    steps
        Runs what waited for a commit.
    now
        Tells the time.
    """

    def __init__(
        self,
        store: Store,
        changes: Log,
        send: Send,
        notify: Callable[[], None],
        done: Callable[[], None],
        left_out: Callable[[LeftOut], None] = lambda _: None,
        steps: Steps | None = None,
        now: Clock = clock.now,
    ) -> None:
        self._steps = steps or Steps(now)
        self._now = now
        self._store = store
        self._log = changes
        self._send = send
        self._notify = notify
        self._done = done
        self._left_out = left_out
        self._thread = threading.current_thread()
        #: The changes since the last commit began.
        self.batch = Batch()
        self._committing: Batch | None = None
        self._committed = False
        self._error: Exception | None = None
        self._retry_at = 0.0
        #: The bytes that cannot be written now (0: all can), and the rows counted so far.
        self._unwritten = 0
        self._measured = _NONE
        self._next_event = store.next_event()
        #: The number of the last committed event.
        self.last_event = self._next_event - 1

    @property
    def pending(self) -> bool:
        """True while a change is not durable yet."""
        batch = self.batch
        return bool(batch or batch.events or self._committing or self._log.changes)

    @property
    def trouble(self) -> str:
        """The reason why the last commit failed; empty if it succeeded."""
        if self._error is not None and self.is_full:
            return f"{self._error}; no more work is handed out until the database can be written"
        return str(self._error or "")

    @property
    def is_full(self) -> bool:
        """True when more than `UNWRITTEN_BYTES` wait to be written: produce no more changes."""
        return self._unwritten > UNWRITTEN_BYTES

    def tell(self, peer: bytes, message: msgspec.Struct) -> None:
        """Send a message once everything that has happened so far is committed."""
        self.batch.after.append(partial(self._send, peer, message))

    def then(self, action: Callable[[], None]) -> None:
        """Call a function once everything that has happened so far is committed."""
        self.batch.after.append(action)

    def begin(self, now: float, events_too: bool) -> None:
        """Start writing the changes since the last commit, unless a commit is in progress.

        Events alone, which say where tasks are that have not ended, wait for other changes or for
        a tick of the timers.
        """
        if self._committing is not None or now < self._retry_at:
            return
        batch = self.batch
        changes = self._log.changes
        # Events are in the batch where they could not be written before.
        if not (batch or (events_too and (changes or batch.events))):
            return
        if changes:
            self._next_event = batch.add_changes(self._log.take(), self._next_event)
        self._committing, self.batch = batch, Batch()
        self._committed, self._error = False, None
        try:
            self._store.write(batch, self._written)
        except Exception as error:
            self._written(error)
        self.finish()

    def _written(self, error: Exception | None) -> None:
        """Note the end of a commit, in the committing thread or (fast disk) in the loop's."""
        self._error = error
        self._committed = True
        if threading.current_thread() is not self._thread:
            self._notify()

    def finish(self) -> None:
        """Run the actions that waited for the commit in progress, if it has ended."""
        if not self._committed or self._committing is None:
            return
        batch, self._committing = self._committing, None
        self._committed = False
        if isinstance(self._error, UNFIT):
            self._error = self._write_apart(batch)
        if self._error is not None:
            log.error(
                "the database cannot be written: %s; nothing is lost, trying again", self._error
            )
            self._retry_at = self._now() + RETRY_S
            batch.extend(self.batch)
            self.batch = batch
            more, self._measured = batch.size(self._measured)
            self._unwritten += more
            return
        self._unwritten, self._measured = 0, _NONE
        if batch.events:
            first, count, *_ = batch.events[-1]
            self.last_event = first + count - 1
        attempt = self._steps.attempt
        for tell in batch.after:
            attempt("telling what is committed", tell)
        attempt("after a commit", self._done)

    def _write_apart(self, batch: Batch) -> Exception | None:
        """Write a batch without the rows that the database can never store."""
        try:
            left_out = self._store.write_apart(batch)
        except Exception as error:
            return error
        for words in left_out.words():
            log.error("the database does not take %s; it is given up", words)
        self._steps.attempt("giving up what is not written", self._left_out, left_out)
        return None

    def flush(self, now: float) -> None:
        """Write everything that has happened so far, before it is read or deleted in the database.

        Raises
        ------
        PilotError
            The database cannot be written now.
        """
        for _ in range(2):  # the commit that is under way, and what has come since it began
            self.begin(now, events_too=True)
            self._store.join()
            self.finish()
        if self.batch or self._committing:
            raise PilotError(f"the database cannot be written: {self._error}; nothing was done")
