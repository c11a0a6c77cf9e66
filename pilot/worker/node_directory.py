"""Directories on a node that go with the node workers that use them.

Invariants
----------
- Node workers hold a directory by a lock on a file in it; nobody does after they have ended in
  whatever way. Then it goes: at the end of the last one, or at the start of another.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pilot.site import Site

if TYPE_CHECKING:
    from filelock import FileLock

log = logging.getLogger("pilot.node")

#: How long a node worker waits for another one to make or remove a directory, in seconds.
LOCK_S = 10.0
#: The file in the directory that is locked.
USERS = "users"


def name_of(site: Site, *parts: str) -> str:
    """Return the name of a directory of this site, for a pilot or node, among others."""
    mark = hashlib.blake2b(str(site.directory).encode(), digest_size=6).hexdigest()
    return "-".join((mark, *parts))


class NodeDirectory:
    """A directory that is held by this process; it is made if it is missing, with the one above.

    Directories beside it that nobody holds are removed.

    Parameters
    ----------
    path
        The directory.

    Raises
    ------
    OSError
        It cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._alone():
            remove_stale(path.parent)
            path.mkdir(mode=0o700, exist_ok=True)
            self._users = _hold(path, fcntl.LOCK_SH)

    def close(self) -> None:
        """Release the directory; the last holder removes it."""
        if self._users < 0:
            return
        try:
            with self._alone():
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(self.path)
        except BlockingIOError:
            pass  # another node worker of the pilot, on the same machine, has it still
        except OSError as error:
            log.warning("%s is not removed: %s", self.path, error)
        os.close(self._users)
        self._users = -1

    def _alone(self) -> FileLock:
        above = self.path.parent
        above.mkdir(mode=0o700, exist_ok=True)
        return _alone(above)


def _alone(above: Path) -> FileLock:
    """Return the lock that lets one process of this machine at a time make, remove or look at the
    directories in this one."""
    from filelock import FileLock

    return FileLock(above / ".lock", timeout=LOCK_S)


def _hold(directory: Path, how: int) -> int:
    """Lock a directory; return the descriptor that holds the lock.

    Raises
    ------
    BlockingIOError
        Somebody else holds it, and not in common.
    """
    users = os.open(directory / USERS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(users, how | fcntl.LOCK_NB)
    except BaseException:
        os.close(users)
        raise
    return users


def left_over(above: Path) -> list[Path]:
    """List the directories that nobody holds any more, and that are still there."""
    found = []
    with _alone(above):
        for directory in [path for path in above.iterdir() if path.is_dir()]:
            with contextlib.suppress(BlockingIOError):
                os.close(_hold(directory, fcntl.LOCK_EX))
                found.append(directory)
    return found


def remove_stale(above: Path) -> None:
    """Remove the directories that nobody holds any more."""
    for directory in [path for path in above.iterdir() if path.is_dir()] if above.is_dir() else ():
        with contextlib.suppress(OSError):
            users = _hold(directory, fcntl.LOCK_EX)
            try:
                shutil.rmtree(directory)
            finally:
                os.close(users)
