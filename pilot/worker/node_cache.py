"""The node cache, by which values that many tasks share are brought to each node once.

A large value that was `put` is copied into a directory on the node's own disk by the first process
of the pilot that needs it; others wait for that, and all read the copy, checked as the original is.

Invariants:

- the cache saves time and changes nothing else: whatever is wrong with it, the original is read;
- it never takes more than is left free on its disk, nor more than the site allows;
- node workers hold its directory by a lock on a file in it; nobody does after they have ended in
  whatever way, and then the directory goes: at the end of the last one, or at the start of another.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilot.data.storing import load
from pilot.errors import ResultError, SiteError
from pilot.model.values import Value
from pilot.site import Site
from pilot.wire.endpoints import runtime_dir

if TYPE_CHECKING:
    from filelock import FileLock

log = logging.getLogger("pilot.node")

#: Smaller ones are read from where they are.
LEAST_BYTES = 1024 * 1024
#: How long a node worker waits for another one to make or remove its cache, in seconds.
LOCK_S = 10.0
#: In the directory: held by node workers, and one line for each value that was brought here.
USERS = "users"
RECORD = "fetched"


def cache_dir(site: Site, pilot: str) -> Path:
    """Return the directory of a pilot's cache on this node.

    Raises
    ------
    SiteError
        Somebody else has a directory in its place.
    """
    # Not `tempfile`, which would remember the place: a session may have another for its tasks.
    # And the login node's, which a job may have been given, need not be here.
    wanted = Path(os.environ.get("TMPDIR") or "/tmp")
    temporary = wanted if wanted.is_dir() else Path("/tmp")
    mark = hashlib.blake2b(str(site.directory).encode(), digest_size=6).hexdigest()
    return runtime_dir(temporary) / "cache" / f"{mark}-{pilot}"


class NodeCache:
    """A reader of values that takes shared ones from the node's own disk.

    Parameters
    ----------
    site
        The site.
    pilot
        The pilot that this process belongs to.
    """

    def __init__(self, site: Site, pilot: str) -> None:
        self._site_dir = site.directory
        self._limit_bytes = site.config.data.node_cache_mib * 1024 * 1024
        self._directory: Path | None = None
        with contextlib.suppress(SiteError, OSError):
            self._directory = cache_dir(site, pilot)

    def load(self, value: Value) -> Any:
        """Load a value as `pilot.data.storing.load` does, by the node's copy where there is one."""
        # A node worker has made the directory, and removes it; where none has, nobody would.
        if value.path and value.shared and value.size >= LEAST_BYTES:
            cache = self._directory
            if cache is not None and cache.is_dir():
                try:
                    if self._fetch(value, cache):
                        return load(value, cache)
                except ResultError:
                    # The copy is damaged; if the original is, too, that is told below.
                    with contextlib.suppress(OSError):
                        (cache / value.path).unlink()
                except OSError:
                    pass  # such as a disk that has become full meanwhile
        return load(value, self._site_dir)

    def _fetch(self, value: Value, cache: Path) -> bool:
        """Make sure that this node has a copy of the value's file; return False if there is no
        room."""
        copy = cache / value.path
        if copy.exists():
            return True
        copy.parent.mkdir(parents=True, exist_ok=True)
        from filelock import FileLock  # most tasks need none

        with FileLock(copy.with_name(f".{copy.name}.lock")).acquire(poll_interval=0.01):
            if copy.exists():
                return True
            original = self._site_dir / value.path
            size = original.stat().st_size
            if not self._has_room(size, cache):
                return False
            partial = copy.with_name(f".{copy.name}.partial")
            try:
                shutil.copyfile(original, partial)
                partial.rename(copy)
            finally:
                partial.unlink(missing_ok=True)
            with (cache / RECORD).open("a", encoding="utf-8") as record:
                record.write(f"{value.path} {size}\n")
        return True

    def _has_room(self, size: int, cache: Path) -> bool:
        taken = size + sum(copy.stat().st_size for copy in cache.rglob("*.h5"))
        free = shutil.disk_usage(cache).free - size
        return taken <= min(free, self._limit_bytes)


class CacheHolder:
    """A holder of the cache's directory, for node workers: makes it, and removes it at the end.

    Parameters
    ----------
    site
        The site.
    pilot
        The pilot.
    """

    def __init__(self, site: Site, pilot: str) -> None:
        self._users = -1
        try:
            self._directory = cache_dir(site, pilot)
            with self._alone():
                _remove_stale(self._directory.parent)
                if site.config.data.node_cache_mib:
                    self._directory.mkdir(mode=0o700, exist_ok=True)
                    self._users = _hold(self._directory, fcntl.LOCK_SH)
        except (OSError, SiteError) as error:
            log.warning("no values are kept on this node: %s", error)

    def close(self) -> None:
        """Release the directory; the last holder removes it."""
        if self._users < 0:
            return
        try:
            with self._alone():
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(self._directory)
        except BlockingIOError:
            pass  # another node worker of the pilot, on the same machine, has it still
        except OSError as error:
            log.warning("%s is not removed: %s", self._directory, error)
        os.close(self._users)
        self._users = -1

    def _alone(self) -> FileLock:
        """Return the lock that lets one node worker of this machine at a time make or remove a
        cache."""
        from filelock import FileLock

        caches = self._directory.parent
        caches.mkdir(mode=0o700, exist_ok=True)
        return FileLock(caches / ".lock", timeout=LOCK_S)


def _hold(directory: Path, how: int) -> int:
    """Lock a cache's directory; return the descriptor that holds the lock.

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


def _remove_stale(caches: Path) -> None:
    """Remove the caches of pilots that have ended."""
    for directory in [path for path in caches.iterdir() if path.is_dir()]:
        with contextlib.suppress(OSError):
            users = _hold(directory, fcntl.LOCK_EX)
            try:
                shutil.rmtree(directory)
            finally:
                os.close(users)
