"""Starting a head in the background, on this machine; in a batch job where the site wants that.

A head is a process of its own session, so it outlives the process that started it. Many processes
may find at the same moment that there is none: a file lock lets one of them start it, and the lease
decides in the end.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pilot.data.patience import patient
from pilot.errors import DiskFullError, HeadError, SiteError
from pilot.head import head_jobs
from pilot.head.lease_files import FULL, read_lease
from pilot.head.running import (
    LOCKED,
    LOOK_S,
    TRY_AGAIN,
    DatabaseLocked,
    find_head,
    silence_of,
)
from pilot.interpreter import pilot_command
from pilot.site import Site
from pilot.wire.discovery import HeadAddress, read_address

if TYPE_CHECKING:
    import subprocess

#: The seconds that a starting head may be silent, beyond those that an old lease needs to expire.
START_S = 30.0

#: The pauses before another head is started after a failure of the file system, or after one that
#: was killed, in seconds.
_PAUSES_S = (0.1, 0.5, 1.0)

#: Heads that this process has started. They outlive it; those that ended are reaped here.
_started: list[subprocess.Popen[bytes]] = []


@patient
def ensure_head(
    site: Site,
    dead: int = 0,
    follows: bool = False,
    given_up: Callable[[], bool] = lambda: False,
) -> HeadAddress:
    """Return the address of the site's head, which is started where none runs.

    It is started on this machine, or in a batch job: where the site file says so, where a job is
    to be head (`head_jobs`), and by what ``pilot run`` has started in a job.

    Parameters
    ----------
    site
        The site.
    dead
        The latest epoch whose head is known to be dead; see `find_head`.
    follows
        True if this process had a head before.
    given_up
        Tells whether nobody waits any more for a head in a job, which may take long.

    Raises
    ------
    HeadError
        The head did not start; the message has the end of its log. Or its job was cancelled.
    BatchError
        The job that it was to run in was refused.
    DiskFullError
        The head did not start because the disk is full.
    DatabaseLocked
        The head did not start, since another program has the database locked.
    SiteGone
        The site directory is not there any more.
    """
    address = find_head(site, dead)
    if address is not None:
        return address
    in_job: tuple[str, ...] = ()
    last = head_jobs.newest(site)
    if site.config.head.place == "job" or (
        last is not None and (last.is_open or (follows and last.cancelled))
    ):
        from pilot.client.head_in_job import ensure_head_in_job  # only now: few sites need it

        address = ensure_head_in_job(site, dead, follows, None, given_up)
        if address is not None:
            return address
    if (host := head_jobs.host_here(site)) is not None:
        record = head_jobs.host(site, host)
        if record is None:
            return ensure_head(site, dead, follows, given_up)  # it is to run in another job
        in_job = (str(record.number), host.job, *(("adopts",) if host.adopts else ()))
    from filelock import FileLock, Timeout  # only now: mostly there is a head

    site.prepare()
    patience = _Patience(site)
    lock = FileLock(site.directory / "head.start")
    try:
        while True:
            site.check_there()  # the lock's file would be made with all that is missing above it
            try:
                with lock.acquire(timeout=LOOK_S):
                    address = find_head(site, dead)
                    if address is not None:
                        return address
                    for pause_s in _PAUSES_S:
                        if (address := _start(site, patience, in_job, True)) is not None:
                            return address
                        time.sleep(pause_s)
                    address = _start(site, patience, in_job)
                    assert address is not None
                    return address
            except Timeout:
                address = find_head(site, dead)
                if address is not None:
                    return address
                if patience.is_over():
                    raise HeadError(
                        f"another process has been starting the head of {site.name} for "
                        f"{patience.limit_s:.0f} s and shows no life; see {site.logs / 'head.log'}"
                    ) from None
    except OSError as error:
        if error.errno in FULL:
            raise _no_room(site) from error
        site.check_there()
        raise SiteError(
            f"the site directory {site.directory} cannot be written: {error.strerror}; mend its "
            "permissions, or choose another with $PILOT_HOME or `pilot init`"
        ) from error


def head_command(site: Site, in_job: Sequence[str] = ()) -> list[str]:
    """Return the command that runs a head in the foreground.

    Parameters
    ----------
    site
        The site.
    in_job
        The number of the record of the job that the head runs in, the job's id where the head is
        the child of a program in it, and a word if its nodes are to be the first pilot.
    """
    return pilot_command("head", "run", str(site.directory), *in_job)


class _Patience:
    """The time that a starting head is waited for.

    A head that has the lease and renews it is reading the unfinished tasks, however long
    that takes.
    """

    def __init__(self, site: Site) -> None:
        self._file = site.lease_file
        self.limit_s = START_S + site.config.lease.expire_s
        self._seen = read_lease(self._file)
        self._until = time.monotonic() + self.limit_s

    def is_over(self) -> bool:
        """Tell whether nothing has changed for too long."""
        if time.monotonic() < self._until:
            return False
        before, self._seen = self._seen, read_lease(self._file)
        self._until = time.monotonic() + self.limit_s
        return self._seen == before


def _start(
    site: Site, patience: _Patience, in_job: Sequence[str], again: bool = False
) -> HeadAddress | None:
    """Start a head; with `again`, return None where the file system failed, maybe for a moment, or
    the head was killed."""
    import subprocess  # only now: mostly there is a head

    log = site.logs / "head.log"
    old = read_address(site.address_file)
    with log.open("ab") as output:
        begin = output.tell()
        process = subprocess.Popen(
            head_command(site, in_job),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=site.directory,
            start_new_session=True,
        )
    _started.append(process)
    for child in [*_started]:
        # Each by itself: another thread may be here, too, for another site.
        if child is not process and child.poll() is not None:
            with suppress(ValueError):
                _started.remove(child)
    silence = silence_of(site)
    while not patience.is_over():
        address = read_address(site.address_file)
        if address is not None and address != old and not address.is_dead():
            if address.pid != process.pid:
                process.kill()  # it would follow the other one, whenever that ends
            return address
        silence.look()
        if process.poll() is not None:
            # Another head may have been faster, or the previous one lives after all.
            address = find_head(site)
            if address is not None and (address != old or silence.moved):
                return address
            if process.returncode == DiskFullError.exit_code:
                raise _no_room(site)
            if process.returncode == LOCKED:
                raise DatabaseLocked(_last_words(log, begin))
            if again and (process.returncode == TRY_AGAIN or process.returncode < 0):
                return None
            holder = read_lease(site.lease_file)
            newest = 0 if old is None else old.epoch
            if holder is None or holder.pid in (0, process.pid) or holder.epoch <= newest:
                site.check_there()
                raise HeadError(_why_ended(site, process.returncode, log, begin))
            # Another one has the lease, and does not say yet where it is: it reads what is
            # unfinished.
            time.sleep(LOOK_S)
        time.sleep(0.005)
    if process.poll() is not None:
        raise HeadError(_why_ended(site, process.returncode, log, begin))
    process.kill()
    raise HeadError(f"the head of {site.name} did not start in time; see {log}")


def _no_room(site: Site) -> DiskFullError:
    # The head's own words may have found no room in the log.
    return DiskFullError(
        f"no head can start: the disk of {site.directory} is full; make room there, nothing is lost"
    )


def _why_ended(site: Site, status: int, log: Path, begin: int) -> str:
    """Return the reason why the last head that was started has ended."""
    if status >= 0:
        return _last_words(log, begin)
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    why = " (is the machine out of memory, or does something end long processes here?)"
    return (
        f"the head of {site.name} was killed by {name} while it started, in the last of "
        f"{len(_PAUSES_S) + 1} tries{why if name == 'SIGKILL' else ''}; see {log}"
    )


def _last_words(log: Path, begin: int) -> str:
    with log.open("rb") as output:
        output.seek(begin)
        lines = output.read().decode(errors="replace").strip().splitlines()
    last = next((line for line in reversed(lines) if line.startswith("pilot: ")), None)
    return last.removeprefix("pilot: ") if last else "\n".join(lines[-5:]) or f"see {log}"
