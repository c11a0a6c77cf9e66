"""The files of leases: how they are made and written, and which one counts.

A lease is a file ``head.lease.EPOCH`` in the site directory; the one of the highest epoch counts.
It is made whole, by a hard link, which is atomic on every shared file system: of several that want
the same epoch one gets it. From then on it is written by its holder alone, in place: a record of a
fixed length, for which no space on the disk is needed. A spare file is kept for a successor that
finds the disk full.

Invariants
----------
- The name has the epoch: a file that is damaged, empty, or no file at all still counts.
- Nobody writes to another's file, however late a write arrives; no file is used for another epoch.
- The errors of system calls are raised here too; the call has changed nothing, or what it was to
  change.
"""

# No annotations from the future: msgspec would compile each of them whenever a process starts.

import contextlib
import errno
import os
import re
import threading
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from pilot.errors import HeadError
from pilot.model.bounds import UNREADABLE
from pilot.wire.discovery import is_same_place, process_space, process_started
from pilot.wire.endpoints import boot_id

#: The length of a record with its padding, which is written in one piece.
RECORD_BYTES = 1024
#: The counter of a new lease whose holder has not checked yet that the previous one stood still.
UNSURE = -1
#: The errors of a full disk, or a full quota.
FULL = (errno.ENOSPC, errno.EDQUOT)
#: The errors of something in the place of a file that can never be read as one.
_NO_FILE = (errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ESPIPE)
#: The tries to read a lease: a file that vanishes meanwhile has a successor of a higher epoch.
_LOOKS = 10


class Holder(msgspec.Struct, frozen=True):
    """The holder of a lease, as its file describes it."""

    host: str
    pid: int
    #: The start of the process, in clock ticks since the boot: a pid may be used again.
    started: int
    boot: str
    epoch: int
    counter: int
    #: The pid namespace, where containers count their own processes; 0: unknown.
    space: int = 0
    #: The identity of the database that the holder has opened; empty: none yet.
    database: str = ""
    #: True if an earlier head, not seen to die, may still write to the database in its place.
    unfenced: bool = False
    #: Path and inode of the site directory.
    directory: str = ""
    inode: int = 0
    #: True while the database is open: its last changes may be in the write-ahead log then.
    unclosed: bool = False
    #: The number of an event that the database has at least.
    events: int = 0

    def is_dead(self) -> bool:
        """Tell whether the holder is certainly dead; False if that cannot be seen from here."""
        if not self.pid:
            return True  # it gave the lease up
        return self.is_here() and process_started(self.pid) != self.started

    def is_here(self) -> bool:
        """Tell whether the holder's process can be seen from here: same boot and pid namespace."""
        return self.boot == boot_id() and self.space in (0, process_space())


class Found(NamedTuple):
    """A lease as it was found."""

    epoch: int
    #: The holder; None if the file does not name one.
    holder: Holder | None
    #: A value that changes whenever the file does: content, time of the write, inode.
    stamp: tuple[bytes, int, int]
    #: True if the file was copied with the site directory: its holder is the original's.
    copied: bool = False

    @property
    def is_dead(self) -> bool:
        """True if the lease may be taken over at once: it was held, and its holder is dead."""
        holder = self.holder
        return self.copied or (holder is not None and holder.counter != UNSURE and holder.is_dead())

    @property
    def written(self) -> float:
        """The time of the last write, by the clock of the file system."""
        return self.stamp[1] / 1e9


class LeaseFiles:
    """The leases of a site.

    Parameters
    ----------
    path
        The path that the names of the files begin with.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._name = re.compile(re.escape(path.name) + r"\.([0-9]{1,18})")
        self._aside = path.with_name(f"{path.name}.new.{os.uname().nodename}.{os.getpid()}")
        self._spare = path.with_name(f"{path.name}.spare")

    def of(self, epoch: int) -> Path:
        """Return the path of the file of an epoch."""
        return self.path.with_name(f"{self.path.name}.{epoch}")

    def newest(self) -> Found | None:
        """Return the lease that counts; None if there never was one."""
        for _ in range(_LOOKS):
            known = self._epochs()
            if not known:
                return self._first_kind()
            try:
                found = _read(self.of(max(known)), max(known))
            except FileNotFoundError:
                continue
            old = self._first_kind()
            return old if old is not None and old.epoch > found.epoch else found
        raise OSError(errno.EAGAIN, "the leases change all the time")

    def look(self, epoch: int) -> Found | None:
        """Return the lease of an epoch; None if its file is gone."""
        for path in (self.of(epoch), self.path):
            try:
                found = _read(path, epoch)
            except FileNotFoundError:
                continue
            return found
        return None

    def _epochs(self) -> list[int]:
        names = (self._name.fullmatch(path.name) for path in self.path.parent.iterdir())
        return [int(name[1]) for name in names if name]

    def _first_kind(self) -> Found | None:
        """Return the lease in the single file of earlier releases, with its epoch, or None."""
        try:
            found = _read(self.path, 0)
        except FileNotFoundError:
            return None
        return found._replace(epoch=found.holder.epoch) if found.holder is not None else None

    def prepare(self, record: bytes) -> int:
        """Write a record into a file that is no lease yet; return its descriptor.

        Raises
        ------
        OSError
            It cannot be written, or the disk is full and there is no spare.
        """
        self._aside.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return self._written(os.open(self._aside, flags, 0o600), record)
        except OSError as error:
            self.discard()
            if error.errno not in FULL:
                raise
            try:
                self._spare.rename(self._aside)
            except OSError:
                raise error from None
        # What has the spare's name may be anything: a FIFO would wait for a reader.
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
        return self._written(os.open(self._aside, flags), record)

    def _written(self, descriptor: int, record: bytes) -> int:
        try:
            self.write(descriptor, record)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def link(self, descriptor: int, epoch: int) -> bool:
        """Make the prepared file the lease of an epoch; return False if another file is."""
        try:
            os.link(self._aside, self.of(epoch))
        except (FileExistsError, FileNotFoundError):
            # Over a network the answer to a link that was made may have been lost.
            return self.is_at(descriptor, epoch)
        return True

    def is_at(self, descriptor: int, epoch: int) -> bool:
        """Tell whether an open file is the lease of an epoch."""
        try:
            return os.path.samestat(os.fstat(descriptor), self.of(epoch).lstat())
        except FileNotFoundError:
            return False

    def write(self, descriptor: int, record: bytes) -> None:
        """Overwrite the record in an open file, and sync it to the disk."""
        os.pwrite(descriptor, record.ljust(RECORD_BYTES), 0)
        os.fsync(descriptor)

    def touch(self, descriptor: int) -> None:
        """Update the modification time of an open file, and sync that to the disk."""
        os.utime(descriptor)
        os.fsync(descriptor)

    def sync(self) -> None:
        """Sync the names of the files to the disk."""
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def withdraw(self, descriptor: int, epoch: int) -> None:
        """Remove the lease of an epoch, if it is this open file."""
        if self.is_at(descriptor, epoch):
            self.of(epoch).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the prepared file."""
        with contextlib.suppress(OSError):
            self._aside.unlink(missing_ok=True)

    def tidy(self, epoch: int) -> None:
        """Remove files older than the lease of an epoch, and make a spare; ignore failures."""
        with contextlib.suppress(OSError):
            old = [self.of(known) for known in self._epochs() if known < epoch]
            old += self.path.parent.glob(f"{self.path.name}.new.*")
            for path in [*old, self.path]:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            self.keep_spare()

    def keep_spare(self) -> None:
        """Make a spare file if there is none and the disk has room for it."""
        if self._spare.exists():
            return
        descriptor = os.open(
            self._spare, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        try:
            os.pwrite(descriptor, b"-" * RECORD_BYTES, 0)
            os.fsync(descriptor)
        except OSError:
            self._spare.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)


def _read(path: Path, epoch: int) -> Found:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            text = os.pread(descriptor, 2 * RECORD_BYTES, 0)
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        return Found(epoch, None, (b"", 0, 0))
    try:
        holder = msgspec.json.decode(text, type=Holder)
    except UNREADABLE:
        holder = None
    if holder is not None and epoch and holder.epoch != epoch:
        holder = None
    copied = holder is not None and not is_same_place(path.parent, holder.directory, holder.inode)
    return Found(epoch, holder, (text, status.st_mtime_ns, status.st_ino), copied)


def read_newest(path: Path) -> Found | None:
    """Return the lease that counts; None if there never was one.

    Raises
    ------
    HeadError
        It cannot be read, and neither at the second try: a network file system may fail once.
    """
    for again in (True, False):
        try:
            return LeaseFiles(path).newest()
        except FileNotFoundError:
            return None  # not even the site's directory
        except OSError as error:
            if not again:
                raise HeadError(
                    f"the lease of the head in {path.parent} cannot be read: {error.strerror}; "
                    "mend that, and try again"
                ) from error
    raise AssertionError("unreachable")


def read_lease(path: Path) -> Holder | None:
    """Return the holder of the lease; None if there is none, or the file is damaged."""
    found = read_newest(path)
    return found.holder if found is not None and not found.copied else None


def file_system_now(directory: Path) -> float | None:
    """Return the time by the clock that stamps files in a directory; None if it is unknown.

    This is not the clock of this machine if the file system is on another one.
    """
    probe = directory / f".clock.{os.uname().nodename}.{os.getpid()}.{threading.get_ident()}"
    try:
        probe.touch(mode=0o600)
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)
    except OSError:
        return None


def has_run_out(path: Path, expire_s: float) -> bool:
    """Tell from a single look whether a lease has certainly run out: its holder is dead, or has not
    renewed it for longer than `expire_s`, by the clock of the file system.

    Raises
    ------
    HeadError
        It cannot be read.
    """
    found = read_newest(path)
    if found is None:
        return False  # nobody knows
    if found.is_dead:
        return True
    if time.time() - found.written <= expire_s:
        return False  # most likely; a process that looks for longer finds out
    now = file_system_now(path.parent)
    return now is not None and now - found.written > expire_s
