"""Starting a head in the background, and ending a silent one.

A head is a process of its own session, so it outlives the process that started it. Many processes
may find at the same moment that there is none: a file lock lets one of them start it, and the lease
decides in the end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from pilot.data.patience import patient
from pilot.errors import DiskFullError, HeadError, SiteError
from pilot.head.lease import KILL_S, read_lease
from pilot.head.lease_files import FULL
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

#: The seconds that a starting head may be silent, beyond those that an old lease needs to expire.
START_S = 30.0

#: The pauses before another head is started after a failure of the file system, in seconds.
_PAUSES_S = (0.1, 0.5)

#: Heads that this process has started. They outlive it; those that ended are reaped here.
_started: list[subprocess.Popen[bytes]] = []


@patient
def ensure_head(site: Site, adopt_job: str = "", dead: int = 0) -> HeadAddress:
    """Return the address of the site's head, which is started where none runs.

    Parameters
    ----------
    site
        The site.
    adopt_job
        The batch job that this process runs in, if a head that is started here is to use its
        nodes as the first pilot.
    dead
        The latest epoch whose head is known to be dead; see `find_head`.

    Raises
    ------
    HeadError
        The head did not start; the message has the end of its log.
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
                        if (address := _start(site, patience, adopt_job, True)) is not None:
                            return address
                        time.sleep(pause_s)
                    address = _start(site, patience, adopt_job)
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


def head_command(site: Site, adopt_job: str = "") -> list[str]:
    """Return the command that runs a head in the foreground."""
    job = (adopt_job,) if adopt_job else ()
    return pilot_command("head", "run", str(site.directory), *job)


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
    site: Site, patience: _Patience, adopt_job: str, again: bool = False
) -> HeadAddress | None:
    """Start a head; with `again`, return None where the file system failed, maybe for a moment."""
    log = site.logs / "head.log"
    old = read_address(site.address_file)
    with log.open("ab") as output:
        begin = output.tell()
        process = subprocess.Popen(
            head_command(site, adopt_job),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=site.directory,
            start_new_session=True,
        )
    _started[:] = [*(child for child in _started if child.poll() is None), process]
    silence = silence_of(site)
    while not patience.is_over():
        address = read_address(site.address_file)
        if address is not None and address != old and not address.is_dead():
            return address
        silence.look()
        if process.poll() is not None:
            # Another one may have been faster, or the one of before lives after all.
            address = find_head(site)
            if address is not None and (address != old or silence.moved):
                return address
            if process.returncode == DiskFullError.exit_code:
                raise _no_room(site)
            if process.returncode == LOCKED:
                raise DatabaseLocked(_last_words(log, begin))
            if again and process.returncode == TRY_AGAIN:
                return None
            holder = read_lease(site.lease_file)
            newest = 0 if old is None else old.epoch
            if holder is None or holder.pid in (0, process.pid) or holder.epoch <= newest:
                site.check_there()
                raise HeadError(_last_words(log, begin))
            # Another one has the lease, and does not say yet where it is: it reads what is
            # unfinished.
            time.sleep(LOOK_S)
        time.sleep(0.005)
    if process.poll() is not None:
        raise HeadError(_last_words(log, begin))
    process.kill()
    raise HeadError(f"the head of {site.name} did not start in time; see {log}")


def _no_room(site: Site) -> DiskFullError:
    # Its own words may have found no room in the log.
    return DiskFullError(
        f"no head can start: the disk of {site.directory} is full; make room there, nothing is lost"
    )


def _last_words(log: Path, begin: int) -> str:
    with log.open("rb") as output:
        output.seek(begin)
        lines = output.read().decode(errors="replace").strip().splitlines()
    last = next((line for line in reversed(lines) if line.startswith("pilot: ")), None)
    return last.removeprefix("pilot: ") if last else "\n".join(lines[-5:]) or f"see {log}"


def end_silent(site: Site, address: HeadAddress) -> bool:
    """Kill a head that is silent, and whose lease has run out; False: it is on another node.

    Raises
    ------
    HeadError
        The process does not end.
    """
    if not address.is_here():
        return False
    deadline = time.monotonic() + KILL_S
    while not address.is_dead():
        with contextlib.suppress(ProcessLookupError):
            os.kill(address.pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise HeadError(
                f"the head of {site.name} (pid {address.pid}) hangs in the kernel: killed "
                f"{KILL_S:.0f} s ago, it has not ended. Does the file system answer?"
            )
        time.sleep(0.01)
    return True
