"""Who is head: a file that one process holds, with an epoch that only grows.

`flock` alone cannot guard a site: where Lustre is mounted with ``localflock``, a lock is seen on
one node only. So the lease is a file, taken by making a hard link (which is atomic on every shared
file system), that names its holder and is renewed with a counter.

Invariants
----------
- A holder that could not renew for `expire_s` / 2 stops being head, by its own monotonic clock.
- A holder that is busy for long with one thing (it reads, or cancels, a million tasks) stays head:
  a thread renews. One that does nothing else for `STUCK_S` is taken for hung, and is not kept.
- Others take over only after they have watched the counter stand still for `expire_s`, by their own
  monotonic clock (clocks of two machines are never compared), or where the holder's process is
  known to be dead: same machine, same boot, no such process.
- A silent head of the same machine is killed by who takes over; it has the database locked.
- Each take-over raises the epoch; pilots refuse a head with a lower one.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import msgspec

from pilot.errors import HeadError
from pilot.wire.discovery import process_started
from pilot.wire.endpoints import boot_id

#: Who has not asked for so long whether it still holds its lease is not alive, in seconds.
STUCK_S = 600.0


class Holder(msgspec.Struct, frozen=True):
    """What the lease file says."""

    host: str
    pid: int
    #: When the process started, in clock ticks since the boot: a pid may be used again.
    started: int
    boot: str
    epoch: int
    counter: int

    def is_dead(self) -> bool:
        """Whether the holder surely lives no more; False where that cannot be known from here."""
        if not self.pid:
            return True  # it gave the lease up
        return self.boot == boot_id() and process_started(self.pid) != self.started


class HeadRuns(HeadError):
    """Another head holds the lease."""


def read_lease(path: Path) -> Holder | None:
    """Who holds the lease; None where nobody does, or the file is no lease."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Holder)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


class Lease:
    """The right to be head of a site."""

    def __init__(self, path: Path, renew_s: float, expire_s: float) -> None:
        self._path = path
        self._renew_s = renew_s
        self._expire_s = expire_s
        self._renewed = 0.0
        self._asked = 0.0
        self._lost = False
        self._holder: Holder | None = None
        self._released = threading.Event()
        self._keeper: threading.Thread | None = None

    @property
    def epoch(self) -> int:
        """The epoch of this head."""
        assert self._holder is not None
        return self._holder.epoch

    def acquire(self, least_epoch: int = 0) -> None:
        """Become the holder; waits as long as it takes to know that an old one is dead.

        Raises
        ------
        HeadRuns
            Another head is alive.
        """
        found = self._await_silence()
        self._holder = Holder(
            host=os.uname().nodename,
            pid=os.getpid(),
            started=process_started(os.getpid()),
            boot=boot_id(),
            epoch=max(found.epoch if found else 0, least_epoch) + 1,
            counter=0,
        )
        mine = self._write_aside()
        try:
            if found is not None or self._path.exists():
                # Of several that saw the same silence, one moves the old lease away.
                old = self._path.with_name(f"{self._path.name}.{found.epoch if found else 0}.old")
                try:
                    os.link(self._path, old)
                except FileExistsError:
                    if not _is_stale(old, self._expire_s):
                        raise HeadRuns("another process is just becoming head") from None
                    old.unlink(missing_ok=True)
                    os.link(self._path, old)
                current = read_lease(self._path)
                if current is not None and current != found:
                    old.unlink(missing_ok=True)
                    raise HeadRuns(_runs(current))
                mine.replace(self._path)
                old.unlink(missing_ok=True)
            else:
                try:
                    os.link(mine, self._path)
                except FileExistsError:
                    raise HeadRuns("another process has just become head") from None
        except FileNotFoundError:
            # Its holder gave it up between two looks.
            self.acquire(max(found.epoch if found else 0, least_epoch))
            return
        finally:
            mine.unlink(missing_ok=True)
        self._renewed = time.monotonic()
        if found is not None:
            _end(found)

    def _await_silence(self) -> Holder | None:
        first = read_lease(self._path)
        if first is None or first.is_dead():
            return first
        deadline = time.monotonic() + self._expire_s
        while time.monotonic() < deadline:
            time.sleep(min(0.1, self._renew_s))
            now = read_lease(self._path)
            if now is None or now.is_dead():
                return now
            if now != first:
                raise HeadRuns(_runs(now))
        return first

    def _write_aside(self) -> Path:
        assert self._holder is not None
        path = self._path.with_name(f"{self._path.name}.{os.uname().nodename}.{os.getpid()}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, msgspec.json.encode(self._holder))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return path

    def keep(self) -> None:
        """Have a thread renew from now on, until the lease is lost or given up."""
        self._asked = time.monotonic()
        self._keeper = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._keeper.start()

    def _keep(self) -> None:
        while not self._released.wait(self._renew_s / 2):
            if time.monotonic() - self._asked < STUCK_S and not self.renew():
                self._lost = True
                return

    def is_held(self) -> bool:
        """Whether a lease that is kept is surely still ours; if not, we must stop at once."""
        self._asked = time.monotonic()
        return not self._lost and self._is_fresh(self._asked)

    def _is_fresh(self, now: float) -> bool:
        """Whether nobody can have watched for long enough to take over, nor will soon."""
        return now - self._renewed <= self._expire_s / 2

    def renew(self) -> bool:
        """Renew if it is time. False: the lease is lost."""
        assert self._holder is not None
        now = time.monotonic()
        if now - self._renewed < self._renew_s:
            return True
        if not self._is_fresh(now):
            # We were stopped or the file system hung: somebody may have taken over meanwhile.
            return False
        try:
            if read_lease(self._path) != self._holder:
                return False
            self._holder = msgspec.structs.replace(self._holder, counter=self._holder.counter + 1)
            self._write_aside().replace(self._path)
        except OSError:
            return True  # not renewed: the next calls try again, until half of the time is over
        self._renewed = now
        return True

    def release(self) -> None:
        """Give the lease up, if it is still ours. The file stays: the epoch must go on growing."""
        self._released.set()
        if self._keeper is not None:
            self._keeper.join()
        if self._holder is not None and read_lease(self._path) == self._holder:
            self._holder = msgspec.structs.replace(self._holder, pid=0)
            self._write_aside().replace(self._path)
        self._holder = None


def _runs(holder: Holder) -> str:
    return (
        f"a head of this site runs already: pid {holder.pid} on {holder.host}, epoch "
        f"{holder.epoch}; `pilot head stop` ends it"
    )


def _end(holder: Holder) -> None:
    """End a silent head of this machine: stopped or hung, it still has the database locked."""
    try:
        while holder.boot == boot_id() and not holder.is_dead():
            os.kill(holder.pid, signal.SIGKILL)
            time.sleep(0.01)
    except ProcessLookupError:
        return


def _is_stale(path: Path, age_s: float) -> bool:
    """Whether a left-over of a take-over that died midway is old, by the file system's clock."""
    probe = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime > age_s
    except FileNotFoundError:
        return False
    finally:
        probe.unlink(missing_ok=True)
