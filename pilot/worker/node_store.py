"""The node store, in which large results are on their node before they are on the disk.

A result is written into a segment in the node's memory. Tasks on the node read it there; the node
worker copies it to the site directory meanwhile, and keeps it here as long as there is room. Copies
of what other nodes have made are beside them (`fetching`).

Invariants
----------
- A file has the path here that it has, or will have, under the site directory: a reference to a
  result is the same before and after.
- A file has its name once it is whole, and is never changed after that.
- The files take no more than the budget. What finds no room is written to the site directory.
- A copy goes, before its session ends or it is dropped, only once the original is on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilot.data.storing import LazyWriter
from pilot.errors import ResultError, SiteError, StorageError
from pilot.model.values import Value
from pilot.site import Site
from pilot.wire.endpoints import is_private, runtime_dir
from pilot.worker.node_directory import NodeDirectory, name_of

if TYPE_CHECKING:
    from pilot.data.segments import Unsealed

log = logging.getLogger("pilot.node")

#: A file system in memory, as Linux has it; in this user's directory there stores are in that.
MEMORY = Path("/dev/shm")
_STORES = "store"
#: By itself a store takes such a part of the memory of the node or job, and of what is free there.
_OF_MEMORY = 8
_OF_FREE = 2
#: A value of so many bytes has a segment of its own, so that other nodes can fetch it alone.
OWN_BYTES = 4 * 1024 * 1024
#: What a segment has besides the data of a value, at most, in bytes.
_EXTRA_BYTES = 16 * 1024
#: Copies of the segments of other nodes, by the same paths, are in this directory.
COPIES = "copies"
#: In the directory: how many bytes the files may take, and how many they do.
_ACCOUNT = "account"
_AMOUNTS = struct.Struct("=qq")


def store_dir(site: Site, pilot: str, node: str) -> Path:
    """Return the directory of a pilot's store on a node.

    Raises
    ------
    SiteError
        Somebody else has a directory in its place.
    """
    return runtime_dir(MEMORY) / _STORES / name_of(site, pilot, node)


def places() -> list[Path]:
    """List the directories on this machine in which this user's stores are; none is made."""
    above = MEMORY.glob(f"pilot-{os.getuid()}*")
    return [path / _STORES for path in above if is_private(path) and (path / _STORES).is_dir()]


def budget_bytes(site: Site) -> int:
    """Return how many bytes the store of this node may take."""
    wanted = site.config.data.node_store_mib
    if wanted is not None:
        return wanted * 1024 * 1024
    free = shutil.disk_usage(MEMORY).free if MEMORY.is_dir() else 0
    return min(memory_bytes() // _OF_MEMORY, free // _OF_FREE)


def memory_bytes() -> int:
    """Return how much memory this job may use, as far as its control groups or the machine say."""
    amounts = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if "memory" in controllers.split(","):
                root, limit = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
            elif not controllers:
                root, limit = Path("/sys/fs/cgroup"), "memory.max"
            else:
                continue
            place = root / group.lstrip("/")
            for directory in (place, *place.parents):
                if not directory.is_relative_to(root):
                    break
                with contextlib.suppress(OSError, ValueError):
                    amounts.append(int((directory / limit).read_text()))
    return min(amounts)


class _Account:
    """The bytes that a store may take and does, shared by the processes of a node.

    Parameters
    ----------
    directory
        The store's.
    budget
        How many bytes it may take, of a store that is made now; None: it is there.

    Raises
    ------
    OSError
        The account is not there, or cannot be written: its file system is full.
    """

    def __init__(self, directory: Path, budget: int | None = None) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if budget is not None else 0)
        self._path = directory / _ACCOUNT
        self._descriptor = os.open(self._path, flags, 0o600)
        try:
            if budget is not None:
                self._write(budget, 0)
        except OSError:
            os.close(self._descriptor)
            raise

    def add(self, size: int, *, always: bool = False) -> bool:
        """Add bytes, which may be negative; return False, and add none, if that is too many."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            budget, used = self.amounts()
            if used + size > budget and not always:
                return False
            self._write(budget, max(0, used + size))
            return True
        except OSError as error:
            log.warning("no room is set aside in the memory of this node: %s", error)
            return False
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def amounts(self) -> tuple[int, int]:
        """Return how many bytes the store may take, and how many it does; none (0) where its file
        is not whole."""
        content = os.pread(self._descriptor, _AMOUNTS.size, 0)
        if len(content) < _AMOUNTS.size:
            return 0, 0
        budget, used = _AMOUNTS.unpack(content)
        return budget, used

    def _write(self, budget: int, used: int) -> None:
        content = _AMOUNTS.pack(budget, used)
        number = errno.ENOSPC  # what a write that was cut short would be told next
        try:
            if os.pwrite(self._descriptor, content, 0) == len(content):
                return
        except OSError as error:
            number = error.errno or number
        raise OSError(number, os.strerror(number), str(self._path))

    def close(self) -> None:
        os.close(self._descriptor)


class NodeStore:
    """The store of this node, as executors use it.

    Parameters
    ----------
    site
        The site.
    pilot, node
        The pilot that this process belongs to, and the node.
    """

    def __init__(self, site: Site, pilot: str, node: str) -> None:
        #: None where the node has no store.
        self.directory: Path | None = None
        self._account: _Account | None = None
        with contextlib.suppress(SiteError, OSError):
            directory = store_dir(site, pilot, node)
            self._account = _Account(directory)
            self.directory = directory

    def holds(self, value: Value) -> bool:
        """Tell whether the file of a value is here."""
        return bool(
            self.directory is not None
            and value.path
            and (
                (self.directory / value.path).exists()
                or (self.directory / COPIES / value.path).exists()
            )
        )

    def load(self, value: Value) -> Any:
        """Load a value that is here; its arrays share their memory with others until written to.

        Raises
        ------
        ResultError
            It is not here any more.
        """
        from pilot.data.segments import read_mapped

        if self.directory is None:
            raise ResultError("this node has no store")
        if (self.directory / value.path).exists():
            return read_mapped(self.directory, value, check=False)
        # It has come a long way.
        return read_mapped(self.directory / COPIES, value, check=True)

    def reserve(self, size: int) -> bool:
        """Set room aside for a value of so many bytes; return False if there is none."""
        return self._account is not None and self._account.add(size + _EXTRA_BYTES)

    def settle(self, sizes: Iterable[int], paths: Iterable[str]) -> None:
        """Replace what was reserved for values of these sizes by what their files take."""
        if self._account is not None and self.directory is not None:
            reserved = sum(size + _EXTRA_BYTES for size in sizes)
            self._account.add(_sizes(self.directory, paths) - reserved, always=True)


def _sizes(directory: Path, paths: Iterable[str]) -> int:
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):
            total += (directory / path).stat().st_size
    return total


class StoreLostError(StorageError):
    """The error of a result that was in a node's store alone, and is lost: no fault of its task."""


class StoreWriter:
    """A writer of results into the node's store, and into the site directory where that is full,
    or its file system is.

    Parameters
    ----------
    site_dir
        The site directory.
    owner
        A name for this process that no other process has or had on this site.
    store
        The node's store; None: there is none.
    """

    def __init__(self, site_dir: Path, owner: str, store: NodeStore | None) -> None:
        self._site = LazyWriter(site_dir, owner)
        #: True if results are written into the store, where there is room.
        self.keeps = True
        self._owner = kept_owner(owner)
        self._kept: LazyWriter | None = None
        if store is not None and store.directory is not None:
            self._store = store
            # A name of its own: the same path must not come of both.
            self._kept = LazyWriter(store.directory, self._owner, StoreLostError)
        #: The sizes of the values that were written into the store and are not sealed yet.
        self._reserved: list[int] = []

    def add(
        self, session: str, task_name: str, task_id: str, index: int, obj: object, level: int = 0
    ) -> Unsealed:
        """Write one result; see `SegmentWriter.add`."""
        from pilot.data.parts import take_apart

        parts = take_apart(obj)
        if self._kept is None or not self.keeps or not self._store.reserve(parts.size):
            return self._site.add_parts(session, task_name, task_id, index, parts, level)
        self._reserved.append(parts.size)
        try:
            if parts.size < OWN_BYTES:
                return self._kept.add_parts(session, task_name, task_id, index, parts, level)
            self._kept.detach()
            stored = self._kept.add_parts(session, task_name, task_id, index, parts, level)
            self._kept.detach()
            return stored
        except StorageError as error:
            # Others have filled the memory's file system.
            log.warning("%s", error)
            return self._site.add_parts(session, task_name, task_id, index, parts, level)

    def detach(self) -> None:
        """Close all open segments; see `SegmentWriter.detach`."""
        self._site.detach()
        if self._kept is not None:
            self._kept.detach()

    def seal(self) -> None:
        """Finish all open segments.

        Raises
        ------
        StorageError
            See `SegmentWriter.seal`.
        """
        if self._kept is not None:
            sizes, self._reserved = self._reserved, []
            paths: set[str] = set()
            try:
                paths = self._seal_kept(self._kept)
            finally:
                if sizes:
                    self._store.settle(sizes, paths)
        self._site.seal()

    def _seal_kept(self, kept: LazyWriter) -> set[str]:
        """Finish the open segments in the store; have the site directory take what finds no room.

        Returns
        -------
        set of str
            The paths of those that are in the store.
        """
        while True:
            try:
                return {value.path for value in kept.seal()}
            except StorageError as error:
                # Others have filled the memory's file system: no segment stays for another try.
                log.warning("%s", error)
                kept.hand_over(self._site)

    def is_kept(self, value: Value) -> bool:
        """Tell whether a value of this writer was written into the store."""
        if self._kept is None or not value.path:
            return False
        from pilot.data.parts import component  # loaded by now

        return value.path.rpartition("/")[2].startswith(f"{component(self._owner)}-")

    def discard(self, reason: Exception | None = None) -> None:
        """Drop the results that are not sealed; see `SegmentWriter.discard`."""
        self._site.discard(reason)
        if self._kept is not None:
            self._kept.discard(reason)
            sizes, self._reserved = self._reserved, []
            self._store.settle(sizes, ())


def kept_owner(owner: str) -> str:
    """Return the name that an owner's segments bear in the store."""
    return f"{owner}-kept"


class StoreHolder:
    """The store of this node, as its node worker keeps it: made at its start, and removed at its
    end.

    Parameters
    ----------
    site
        The site.
    pilot, node
        The pilot, and the node.

    Raises
    ------
    OSError, SiteError
        It cannot be made.
    """

    def __init__(self, site: Site, pilot: str, node: str) -> None:
        self._held = NodeDirectory(store_dir(site, pilot, node))
        self.directory = self._held.path
        try:
            self._account = _Account(self.directory, budget_bytes(site))
        except OSError:
            # Executors shall not take what is there for a store.
            self._held.close()
            raise
        #: The files that are in the site directory, too: path → bytes, the oldest first.
        self._durable: dict[str, int] = {}
        self._durable_bytes = 0
        #: Copies, in the directory `copies`: path → bytes, the oldest first.
        self.copies = self.directory / COPIES
        self._copies: dict[str, int] = {}
        self._copy_bytes = 0
        #: Those that are expected, and the room that is set aside for them.
        self._expected: dict[str, int] = {}

    def note_durable(self, path: str) -> None:
        """Note that a file is in the site directory, too; where such files take more than half of
        the room, the oldest go."""
        with contextlib.suppress(OSError):
            size = (self.directory / path).stat().st_size
            # It may have been noted before: then it is the newest again.
            self._durable_bytes += size - self._durable.pop(path, 0)
            self._durable[path] = size
        self._keep_to_half(0)

    def _keep_to_half(self, more: int) -> bool:
        """Drop what is on the disk, too, the oldest first, while it and the copies would take more
        than half of the room with so many bytes more; return False if that is not enough."""
        half = self._account.amounts()[0] // 2
        while self._durable_bytes + self._copy_bytes + more > half:
            if not self._durable:
                return False
            self.drop([next(iter(self._durable))])
        return True

    # --- copies

    def has(self, path: str) -> bool:
        """Tell whether a segment is here, as an original or a copy."""
        return (self.directory / path).exists() or (self.copies / path).exists()

    def expect(self, path: str, size: int, site_dir: Path) -> bool:
        """Set room aside for a copy of so many bytes; return False if there is none.

        Older copies make room if their originals are in the site directory.
        """
        size += _EXTRA_BYTES
        if path in self._expected or size > self._account.amounts()[0] // 2:
            return False
        for old in list(self._copies):
            if self._keep_to_half(size):
                break
            if (site_dir / old).exists():
                self.drop([old])
        if not self._keep_to_half(size) or not self._account.add(size):
            return False
        self._expected[path] = size
        self._copy_bytes += size
        return True

    def arrived(self, path: str, size: int) -> bool:
        """Note that a copy of so many bytes has come, or none (0); return False, and remove it, if
        nobody expects it any more."""
        reserved = self._expected.pop(path, None)
        if reserved is None:
            with contextlib.suppress(OSError):
                (self.copies / path).unlink()
            return False
        if size:
            self._copies[path] = size
        self._copy_bytes += size - reserved
        self._account.add(size - reserved, always=True)
        return True

    # --- what goes

    def drop(self, paths: Iterable[str]) -> None:
        """Remove files, and copies. Who has mapped one keeps its data."""
        freed = 0
        for path in paths:
            self._durable_bytes -= self._durable.pop(path, 0)
            if expected := self._expected.pop(path, 0):
                self._copy_bytes -= expected
                freed += expected
            for directory in (self.directory, *((self.copies,) if path in self._copies else ())):
                with contextlib.suppress(OSError):
                    file = directory / path
                    size = file.stat().st_size
                    file.unlink()
                    freed += size
            self._copy_bytes -= self._copies.pop(path, 0)
        if freed:
            self._account.add(-freed, always=True)

    def drop_session(self, session: int) -> None:
        """Remove all files of a session."""
        from pilot.data.segments import RESULTS

        within = f"{RESULTS}/{session}/"
        copies = [*self._copies, *self._expected]
        self.drop(path for path in copies if path.startswith(within))
        above = self.directory / RESULTS / str(session)
        if above.is_dir():
            self.drop(within + file.name for file in list(above.iterdir()))
            with contextlib.suppress(OSError):
                above.rmdir()

    def drop_unsealed(self, owner: str) -> None:
        """Remove the unfinished files of an executor that died, and count anew what there is."""
        from pilot.data.segments import RESULTS, remove_unsealed

        remove_unsealed(self.directory, kept_owner(owner))
        files = (self.directory / RESULTS).glob("*/*")
        _, used = self._account.amounts()
        there = sum(file.stat().st_size for file in files) + self._copy_bytes
        self._account.add(there - used, always=True)

    def close(self) -> None:
        """Remove the store."""
        self._account.close()
        self._held.close()
