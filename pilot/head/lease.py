"""The lease: the right to be head, which one process holds, with an epoch that only grows.

`flock` alone cannot guard a site: where Lustre is mounted with ``localflock``, a lock is seen on
one node only. So the lease is a file (`lease_files`) that names its holder, and that the holder
renews with a counter. Whoever takes over makes a file of its own, of the next epoch.

Invariants
----------
- A holder that could not renew for `expire_s` / 2 stops being head, by its own monotonic clock.
  A renewal that fails is tried again until then; one that hangs takes nothing back.
- A holder that is busy for long with one thing (it reads, or cancels, a million tasks) stays head:
  a thread renews. One that does nothing else for `STUCK_S` is taken for hung, and is not kept.
- Others take over only after they have watched the lease stand still for `expire_s`, by their own
  monotonic clock (clocks of two machines are never compared), or where the holder's process is
  known to be dead: same machine, same boot, no such process. A process that was slow gives
  way: it looks again when its own file is there.
- A silent head of the same machine is killed by its successor, since it has the database locked. A
  head of another machine may still write: that is recorded until the database is safe from it.
- Each take-over raises the epoch; pilots refuse a head with a lower one.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from pilot.errors import DiskFullError, HeadError
from pilot.head.killing import kill_head
from pilot.head.lease_files import FULL, UNSURE, Found, Holder, LeaseFiles, read_lease
from pilot.head.silence import Silence
from pilot.wire.discovery import process_space, process_started
from pilot.wire.endpoints import boot_id

__all__ = ["HeadRuns", "Holder", "Lease", "read_lease"]

log = logging.getLogger("pilot.head")

#: The time, in seconds, after which a holder that has not asked for its lease counts as hung.
STUCK_S = 600.0
#: The identity in a lease that knows only that there was a database.
UNKNOWN = "unknown"


class HeadRuns(HeadError):
    """The error that another head holds the lease."""


class Lease:
    """The right to be head of a site.

    Parameters
    ----------
    path
        The path that the names of its files begin with.
    renew_s
        The time between two renewals, in seconds.
    expire_s
        The time that others watch it without a renewal before they take over, in seconds.
    files
        The files; default: those at `path`.
    """

    def __init__(
        self, path: Path, renew_s: float, expire_s: float, files: LeaseFiles | None = None
    ) -> None:
        self._files = files or LeaseFiles(path)
        self._renew_s = renew_s
        self._expire_s = expire_s
        self._renewed = 0.0
        self._asked = 0.0
        self._lost = False
        #: Returns the number of the last event in the database.
        self.progress: Callable[[], int] = lambda: self.events
        self._holder: Holder | None = None
        #: True if the site directory is a copy of another one, which has its own head.
        self.copied = False
        #: True if the site directory had another path when the previous head ran.
        self.moved = False
        self._descriptor = -1
        #: Held while writing, by the keeper or the holder's own thread.
        self._writing = threading.Lock()
        self._released = threading.Event()
        self._keeper: threading.Thread | None = None

    @property
    def epoch(self) -> int:
        """The epoch of this head."""
        return self._held.epoch

    @property
    def unfenced(self) -> bool:
        """True if an earlier head may still live, and write to the database in its place."""
        return self._held.unfenced

    @property
    def unclosed(self) -> bool:
        """True if the database is open, or was left open by the previous head."""
        return self._held.unclosed

    @property
    def events(self) -> int:
        """The number of an event that the database has at least."""
        return self._held.events

    @property
    def database(self) -> str:
        """The identity of the database of this head, or of the previous one; empty if unknown."""
        return self._held.database

    @property
    def _held(self) -> Holder:
        assert self._holder is not None
        return self._holder

    # --- taking over

    def acquire(self, least_epoch: int = 0) -> None:
        """Become the holder; wait as long as it takes to know that the previous one is dead.

        Parameters
        ----------
        least_epoch
            The highest epoch that is known from elsewhere.

        Raises
        ------
        HeadRuns
            Another head is alive.
        HeadError
            The lease cannot be read or written.
        """
        found = self._await_silence()
        before = found.holder if found is not None else None
        if found is not None and found.copied:
            before = None
        is_here = before is not None and before.is_here()
        self._take(
            Holder(
                host=os.uname().nodename,
                pid=os.getpid(),
                started=process_started(os.getpid()),
                boot=boot_id(),
                epoch=max(found.epoch if found is not None else 0, least_epoch) + 1,
                counter=UNSURE,
                space=process_space(),
                database=_database_before(found),
                unfenced=(before is not None and before.unfenced)
                or (found is not None and not found.is_dead and not is_here),
                unclosed=before is not None and before.unclosed,
                events=0 if before is None else before.events,
                directory=str(self._files.path.parent),
                inode=_inode(self._files.path.parent),
            ),
            found,
        )
        if before is not None:
            try:
                kill_head(before, "the previous head")
            except HeadError:
                self.release()
                raise
        self.copied = found is not None and found.copied
        self.moved = before is not None and before.directory not in ("", self._held.directory)
        self._files.tidy(self.epoch)

    def raise_above(self, epoch: int) -> None:
        """Take a lease with an epoch above this one, which the database has recorded.

        Raises
        ------
        HeadError
            As `acquire`.
        """
        if epoch < self.epoch:
            return
        with self._writing:
            old = self._descriptor
            self._take(msgspec.structs.replace(self._held, epoch=epoch + 1, counter=UNSURE), None)
            os.close(old)
        self._files.tidy(self.epoch)

    def _take(self, holder: Holder, found: Found | None) -> None:
        """Make the file of a new epoch, if nothing has happened since the last look."""
        since = time.monotonic()
        try:
            descriptor = self._files.prepare(_record(holder))
        except OSError as error:
            raise _cannot("written", self._files, error) from error
        try:
            self._link(descriptor, holder, found)
            holder = msgspec.structs.replace(holder, counter=0)
            if time.monotonic() - since > self._expire_s / 2:
                self._files.write(descriptor, _record(msgspec.structs.replace(holder, pid=0)))
                raise HeadError(
                    f"the file system of {self._files.path.parent} is too slow to become head: "
                    f"half of lease.expire ({self._expire_s:g} s) went by; try again"
                )
            self._files.write(descriptor, _record(holder))
        except OSError as error:
            # If the file is there it stays: a holder of the lease sees it and ends, and after its
            # time it is followed. No epoch is given again.
            os.close(descriptor)
            raise _cannot("written", self._files, error) from error
        except BaseException:
            os.close(descriptor)
            raise
        finally:
            self._files.discard()
        self._holder, self._descriptor, self._renewed = holder, descriptor, since

    def _link(self, descriptor: int, holder: Holder, found: Found | None) -> None:
        if not self._files.link(descriptor, holder.epoch):
            raise HeadRuns("another process has just become head")
        self._files.sync()
        # Of the time since the last look nobody knows how long it was.
        current = self._files.newest()
        if current is None or not self._files.is_at(descriptor, current.epoch):
            raise HeadRuns("another process has just become head")
        if found is None or found.is_dead:
            return
        again = self._files.look(found.epoch)
        if again is None or (again.stamp != found.stamp and not again.is_dead):
            # It lives, and may not have seen that it was to be followed.
            self._files.withdraw(descriptor, holder.epoch)
            raise HeadRuns(_runs(again or found))

    def _await_silence(self) -> Found | None:
        """Wait until the current lease may be succeeded; return it, or None if there is none."""
        silence = Silence(self._files.path, self._expire_s)
        while True:
            try:
                found = self._files.newest()
            except PermissionError as error:
                raise _cannot("read", self._files, error) from error
            except OSError as error:
                # A network file system may fail for a moment.
                if silence.lasts_s > self._expire_s:
                    raise _cannot("read", self._files, error) from error
            else:
                if found is None or found.is_dead or silence.note(found):
                    return found
                if silence.moved:
                    raise HeadRuns(_runs(found))
            time.sleep(min(0.1, self._renew_s))

    # --- holding

    def keep(self) -> None:
        """Start a thread that renews the lease until it is lost or released."""
        self._asked = time.monotonic()
        self._keeper = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._keeper.start()

    def _keep(self) -> None:
        while not self._released.wait(self._renew_s / 2):
            if time.monotonic() - self._asked < STUCK_S and not self.renew():
                self._lost = True
                return

    def is_held(self) -> bool:
        """Tell whether the lease is certainly still held; if not, the process must stop at once."""
        self._asked = time.monotonic()
        return not self._lost and self._is_fresh(self._asked)

    def _is_fresh(self, now: float) -> bool:
        """Tell whether the lease is so fresh that nobody can take it over now or soon."""
        return now - self._renewed <= self._expire_s / 2

    def renew(self) -> bool:
        """Renew the lease if it is time; return False if it is lost."""
        now = time.monotonic()
        if now - self._renewed < self._renew_s:
            return True
        if not self._is_fresh(now):
            # We were stopped or the file system hung: somebody may have taken over meanwhile.
            return False
        with self._writing:
            try:
                held = self._is_renewed(self._held)
            except OSError as error:
                # The next calls try again, until half of the time is over.
                log.warning("the lease could not be renewed: %s; trying again", error)
                return True
            if held and self._is_fresh(time.monotonic()):
                self._renewed = now
                return True
        return False

    def _is_renewed(self, holder: Holder) -> bool:
        """Write the lease's file, and tell whether it is still the lease."""
        counter, events = holder.counter + 1, self.progress()
        holder = msgspec.structs.replace(holder, counter=counter, events=events)
        try:
            self._files.write(self._descriptor, _record(holder))
            self._holder = holder
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._files.touch(self._descriptor)  # some file systems write nothing in place
        current = self._files.newest()
        if current is None or not self._files.is_at(self._descriptor, current.epoch):
            return False
        try:
            self._files.keep_spare()
        except OSError:
            return True  # it is for others, and can wait
        return True

    def note(self, *, unclosed: bool, database: str | None = None) -> None:
        """Record in the lease how the database is left if this process ends now.

        Parameters
        ----------
        unclosed
            True if its last changes may be in the log beside it then.
        database
            Its identity, once it is safe from earlier heads; None keeps the recorded one.

        Raises
        ------
        HeadError
            The lease cannot be written.
        """
        with self._writing:
            holder = msgspec.structs.replace(self._held, unclosed=unclosed, events=self.progress())
            if database is not None:
                holder = msgspec.structs.replace(holder, database=database, unfenced=False)
            try:
                self._files.write(self._descriptor, _record(holder))
            except OSError as error:
                raise _cannot("written", self._files, error) from error
            self._holder = holder

    def release(self) -> None:
        """Give the lease up. The file stays, because the epoch must go on growing."""
        self._released.set()
        if self._keeper is not None:
            self._keeper.join()
        if self._holder is None:
            return
        try:
            given_up = msgspec.structs.replace(self._holder, pid=0)
            self._files.write(self._descriptor, _record(given_up))
        except OSError as error:
            log.warning("the lease could not be given up: %s; it will run out", error)
        os.close(self._descriptor)
        self._holder = None


def _inode(directory: Path) -> int:
    try:
        return directory.stat().st_ino
    except OSError:
        return 0


def _database_before(found: Found | None) -> str:
    """Return the identity of the previous head's database; `UNKNOWN` if the lease has none."""
    if found is None:
        return ""
    before = found.holder
    if before is None or not before.space:
        return UNKNOWN  # the lease is damaged, or of an earlier release
    return before.database


def _record(holder: Holder) -> bytes:
    return msgspec.json.encode(holder)


def _runs(found: Found) -> str:
    holder = found.holder
    who = f"pid {holder.pid} on {holder.host}, " if holder is not None else ""
    return f"a head of this site runs already: {who}epoch {found.epoch}; `pilot head stop` ends it"


def _cannot(what: str, files: LeaseFiles, error: OSError) -> HeadError:
    if error.errno in FULL:
        return DiskFullError(
            f"no head can start: the disk of {files.path.parent} is full ({error.strerror}); make "
            "room there, nothing is lost"
        )
    return HeadError(
        f"no head can start: its lease in {files.path.parent} cannot be {what}: {error.strerror}"
    )
