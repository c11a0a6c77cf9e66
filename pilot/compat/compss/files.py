"""Files and directories of a program, by absolute path: who reads and writes them, in which order.

Unlike objects they have one version at a time: whoever writes comes after all who read or write
before. A reader needs its writer to end well; a writer comes after readers however they end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from pilot.compat.compss.parameters import CONCURRENT, IN, IN_DELETE, OUT
from pilot.compat.compss.tracker import has_failed


class FileEntry:
    """The use that tasks make of a file."""

    __slots__ = ("concurrents", "is_deleted", "readers", "writer")

    def __init__(self) -> None:
        #: The result of its last writer, which is None; None: the program has written it.
        self.writer: Any = None
        #: The ids of tasks since then: that read it, and that have it at the same time.
        self.readers: list[str] = []
        self.concurrents: list[str] = []
        #: True if the program has deleted it.
        self.is_deleted = False

    def need(self) -> Any:
        """Return the result of the last writer; None where there is none, or it has failed."""
        if self.writer is not None and has_failed(self.writer):
            self.writer = None
        return self.writer


def path_of(given: Any) -> str:
    """Return the absolute path of a file."""
    # Links stay: what is written takes the place of a link, too.
    return str(os.path.abspath(os.fspath(given)))  # noqa: PTH100 - it takes ".." out


class Files:
    """The files of a program that tasks got. Not safe for threads: whoever calls has a lock."""

    def __init__(self) -> None:
        self._entries: dict[str, FileEntry] = {}

    def find(self, path: Any) -> FileEntry | None:
        """Return what is known of a file; None: nothing."""
        return self._entries.get(path_of(path))

    def use(self, path: str, direction: str) -> tuple[Any, list[str]]:
        """Return what a task needs, before it may use a file: a result, and tasks that have ended.

        Parameters
        ----------
        path
            The absolute path.
        direction
            What the task does with it.
        """
        entry = self._entries.get(path)
        if entry is None or entry.is_deleted:
            entry = self._entries[path] = FileEntry()
        need = entry.need()
        if direction in (IN, IN_DELETE):
            return need, entry.concurrents
        if direction == CONCURRENT:
            return need, entry.readers
        before = [*entry.readers, *entry.concurrents]
        if direction == OUT and need is not None:
            # It overwrites what comes of the other, and does not need it.
            return None, [*before, need.task_id]
        return need, before

    def used(self, path: str, direction: str, task_id: str, token: Any) -> None:
        """Note that a task, submitted now, uses a file; `token` is its last result."""
        entry = self._entries[path]
        if direction == IN:
            entry.readers.append(task_id)
        elif direction == CONCURRENT:
            entry.concurrents.append(task_id)
        elif direction == IN_DELETE:
            del self._entries[path]
        else:
            entry.writer, entry.readers, entry.concurrents = token, [], []

    def written_here(self, path: Any) -> None:
        """Note that the program itself has written a file."""
        self._entries.pop(path_of(path), None)

    def delete(self, path: Any) -> FileEntry | None:
        """Forget a file, and return what was known of it."""
        return self._entries.pop(path_of(path), None)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._entries))
