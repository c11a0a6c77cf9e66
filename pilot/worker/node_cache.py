"""The node cache, by which values that many tasks share are brought to each node once.

A large value that was `put` is copied into a directory on the node's own disk by the first process
of the pilot that needs it; others wait for that, and all read the copy, checked as the original is.

Invariants:

- the cache saves time and changes nothing else: whatever is wrong with it, the original is read;
- it never takes more than is left free on its disk, nor more than the site allows;
- what was released, or is of a session that has ended, goes; whoever has mapped it keeps its data;
- its directory goes with the node workers that hold it: see `node_directory`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pilot.data.storing import load
from pilot.errors import ResultError, SiteError
from pilot.model.values import Value
from pilot.site import Site
from pilot.wire.endpoints import runtime_dir
from pilot.worker.node_directory import NodeDirectory, name_of, remove_stale

log = logging.getLogger("pilot.node")

#: Smaller ones are read from where they are.
LEAST_BYTES = 1024 * 1024
#: A file that has more than so many times the value, of other tasks, is not copied for ranks.
MOST_TIMES = 2
#: In the directory: one line for each value that was brought here; and the copies, by their paths.
RECORD = "fetched"
RESULTS = "results"


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
    return runtime_dir(temporary) / "cache" / name_of(site, pilot)


class NodeCache:
    """A reader of values that takes shared ones from the node's own disk.

    Parameters
    ----------
    site
        The site.
    pilot
        The pilot that this process belongs to.
    is_shared
        True if other processes of this node read the same values at the same time, as ranks do:
        then all large ones are taken from the node's disk.
    """

    def __init__(self, site: Site, pilot: str, is_shared: bool = False) -> None:
        self._site_dir = site.directory
        self._is_shared = is_shared
        self._limit_bytes = site.config.data.node_cache_mib * 1024 * 1024
        self._directory: Path | None = None
        with contextlib.suppress(SiteError, OSError):
            self._directory = cache_dir(site, pilot)

    @property
    def directory(self) -> Path | None:
        """The directory on the node's disk that goes with the node workers; None: there is none."""
        return self._directory if self._directory is not None and self._directory.is_dir() else None

    def load(self, value: Value) -> Any:
        """Load a value as `pilot.data.storing.load` does, by the node's copy where there is one."""
        # A node worker has made the directory, and removes it; where none has, nobody would.
        shared = value.shared or self._is_shared
        if value.path and shared and value.size >= LEAST_BYTES:
            cache = self._directory
            if cache is not None and cache.is_dir():
                try:
                    if self._fetch(value, cache):
                        return _mapped(value, cache)
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
            if not value.shared and size > MOST_TIMES * value.size:
                return False
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


def _mapped(value: Value, cache: Path) -> Any:
    from pilot.data.segments import read_mapped  # most tasks need none

    return read_mapped(cache, value, check=True)


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
        self._held: NodeDirectory | None = None
        try:
            if site.config.data.node_cache_mib:
                self._held = NodeDirectory(cache_dir(site, pilot))
            else:
                remove_stale(cache_dir(site, pilot).parent)
        except (OSError, SiteError) as error:
            log.warning("no values are kept on this node: %s", error)

    def drop(self, paths: Iterable[str], sessions: Iterable[int] = ()) -> None:
        """Remove the copies of segments that nobody needs any more, and all of sessions."""
        if self._held is None:
            return
        for path in paths:
            with contextlib.suppress(OSError):
                (self._held.path / path).unlink()
        for session in sessions:
            shutil.rmtree(self._held.path / RESULTS / str(session), ignore_errors=True)

    def close(self) -> None:
        """Release the directory; the last holder removes it."""
        if self._held is not None:
            self._held.close()
