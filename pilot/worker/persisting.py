"""Copying of files from the node's store to the site directory, behind the tasks that go on.

Invariants
----------
- A file is told as written once it has its name in the site directory and is on the disk.
- A file that is not wanted any more, and whose copy has not begun, is not written.
- A file is copied once, however often it is asked for.
- Where the site directory fails for a moment, the copy is tried again, as everything is that is
  written there; a file that cannot be written is told with the reason.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from pilot.data import durable
from pilot.data.patience import patiently

#: So many files are copied at a time: the disk is waited for most of the time.
_THREADS = 2
#: The reason why a file is not copied that is not in the store any more.
GONE = "gone"
#: So much is copied by one call.
_BLOCK_BYTES = 16 * 1024 * 1024


class Persister:
    """Threads that copy files, started with the first of them.

    Parameters
    ----------
    store, site_dir
        The directories from which and to which paths lead.
    """

    def __init__(self, store: Path, site_dir: Path) -> None:
        self._store = store
        self._site_dir = site_dir
        reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        #: A descriptor that is readable while `take` has something.
        self.sentinel = reader
        self._lock = threading.Condition()
        self._wanted: deque[str] = deque()
        #: Those that were asked for, and are not told yet.
        self._asked: set[str] = set()
        self._ended: list[tuple[str, str]] = []
        self._threads: list[threading.Thread] = []
        self._closed = False

    def add(self, paths: Iterable[str]) -> None:
        """Have files copied, in this order, after those that were given before."""
        with self._lock:
            new = [path for path in dict.fromkeys(paths) if path not in self._asked]
            self._wanted.extend(new)
            self._asked.update(new)
            if len(self._threads) < min(_THREADS, len(self._wanted)):
                thread = threading.Thread(target=self._run, name="persister", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._lock.notify_all()

    def withdraw(self, paths: Iterable[str]) -> None:
        """Have files not copied whose copies have not begun."""
        unwanted = set(paths)
        with self._lock:
            self._asked -= unwanted.intersection(self._wanted)
            self._wanted = deque(path for path in self._wanted if path not in unwanted)

    def take(self) -> list[tuple[str, str]]:
        """Return the files that have been copied since the last call, each with the reason why it
        could not be; empty: it was."""
        with self._lock:
            ended, self._ended = self._ended, []
            if ended:
                os.read(self.sentinel, len(ended))
            return ended

    def close(self) -> None:
        """Begin with no other file, and wait for those that are being copied."""
        with self._lock:
            self._closed = True
            self._wanted.clear()
            self._lock.notify_all()
        for thread in self._threads:
            thread.join(5.0)
            if thread.is_alive():
                return  # the disk stands still; the descriptors go with the process
        os.close(self.sentinel)
        os.close(self._writer)

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._wanted and not self._closed:
                    self._lock.wait()
                if self._closed:
                    return
                path = self._wanted.popleft()
            problem = ""
            try:
                if not (self._site_dir / path).exists():
                    persist(self._store / path, self._site_dir / path, self._site_dir)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
                if not (self._store / path).exists():
                    problem = GONE
            with self._lock:
                self._asked.discard(path)
                self._ended.append((path, problem))
                os.write(self._writer, b"\0")


def persist(source: Path, final: Path, within: Path) -> None:
    """Copy a file to a name that it gets once it is whole and on the disk.

    Parameters
    ----------
    source, final
        The file, and what the copy is to be called.
    within
        A directory above `final`, which is not made.

    Raises
    ------
    OSError
        It cannot be copied; nothing is left of the copy.
    """
    temporary = final.with_name(f".{final.name}.copy")
    durable.make_directory(final.parent, within)
    copy = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        original = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            patiently(lambda: _copy(original, copy))
        finally:
            os.close(original)
        durable.publish(copy, temporary, final)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(copy)


def _copy(original: int, copy: int) -> None:
    """Copy all bytes, without taking them into this process."""
    os.lseek(copy, 0, os.SEEK_SET)
    offset = 0
    while count := os.sendfile(copy, original, offset, _BLOCK_BYTES):
        offset += count
