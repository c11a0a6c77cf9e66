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
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pilot.data import durable
from pilot.data.patience import is_passing, patiently
from pilot.worker.errands import Errands

#: So many files are copied at a time: the disk is waited for most of the time.
_THREADS = 2
#: The reason why a file is not copied that is not in the store any more.
GONE = "gone"


class Written(NamedTuple):
    """The end of a copy."""

    #: Why it could not be made; empty: it was.
    problem: str = ""
    #: The size of the file in bytes, and how long it took since it was asked for, in seconds.
    size: int = 0
    seconds: float = 0.0
    #: True if the reason is one that passes.
    passes: bool = False


class Persister(Errands[float, Written]):
    """Threads that copy files.

    Parameters
    ----------
    store, site_dir
        The directories from which and to which paths lead.
    """

    def __init__(self, store: Path, site_dir: Path) -> None:
        super().__init__("persister", _THREADS)
        self._store = store
        self._site_dir = site_dir

    def add(self, paths: Iterable[str]) -> None:
        """Have files copied, in this order, after those that were given before."""
        self.ask(dict.fromkeys(paths, time.monotonic()))

    def run(self, path: str, need: float) -> Written:
        """Copy a file that was asked for at that time; called in a thread."""
        try:
            if not (self._site_dir / path).exists():
                persist(self._store / path, self._site_dir / path, self._site_dir)
            size = (self._site_dir / path).stat().st_size
        except Exception as error:
            if not (self._store / path).exists():
                return Written(GONE)
            problem = str(durable.cannot_write(self._site_dir / path, error))
            return Written(problem, passes=is_passing(error))
        return Written("", size, time.monotonic() - need)


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
            patiently(lambda: durable.copy_content(original, copy))
        finally:
            os.close(original)
        durable.publish(copy, temporary, final)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(copy)
