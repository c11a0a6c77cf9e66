"""The janitor: removes deleted data from the disk, in a thread of its own.

Garbage is recorded in the table ``garbage`` in the transaction of the deletion itself; so a head
that dies leaves nothing behind that its successor does not find. The head's loop hands rows over
and strikes out those that are done; it never waits for a file system that removes a million files.

Invariants
----------
- Only what is committed as garbage is touched, and of a directory nothing that is borrowed.
- A row is done only when the disk has nothing of it any more; everything may be done twice.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import shutil
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path

from pilot.errors import ResultError, StorageError
from pilot.head.core.state import Task
from pilot.head.store.deletion import Garbage
from pilot.model.ids import Ref
from pilot.model.values import Value

log = logging.getLogger("pilot.head")

#: The time until a refused removal is tried again, in seconds.
RETRY_S = 60.0
#: The time that a head that ends waits for the file being written, in seconds.
STOP_S = 5.0


class Janitor:
    """Removes garbage.

    Parameters
    ----------
    site_dir
        The site directory.
    notify
        Called from the janitor's thread when there is something to `take`.
    """

    def __init__(self, site_dir: Path, notify: Callable[[], None]) -> None:
        self._site_dir = site_dir
        self._notify = notify
        self._orders: queue.SimpleQueue[list[Garbage]] = queue.SimpleQueue()
        self._done: deque[tuple[str, str]] = deque()
        self._thread: threading.Thread | None = None
        self._stopping = False
        #: Dead values by file, for files not worth rewriting yet, or impossible to write.
        self._dead: defaultdict[str, set[str]] = defaultdict(set)

    def add(self, rows: list[Garbage]) -> None:
        """Queue garbage for removal."""
        if not rows:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)
            self._thread.start()
        self._orders.put(rows)

    def take(self) -> list[tuple[str, str]]:
        """Return path and name of each row that was completed since the last call."""
        return [self._done.popleft() for _ in range(len(self._done))]

    def stop(self) -> None:
        """End the thread, after the file being written if that does not take long."""
        self._stopping = True
        if self._thread is not None:
            self._orders.put([])
            self._thread.join(STOP_S)

    def _run(self) -> None:
        again: list[Garbage] = []
        while not self._stopping:
            try:
                rows = self._orders.get(timeout=RETRY_S if again else None)
            except queue.Empty:
                rows = []
            again = self.clean([*again, *rows])

    def clean(self, rows: Iterable[Garbage]) -> list[Garbage]:
        """Remove garbage now; return the rows that the file system refuses to remove."""
        due: dict[str, Garbage] = {}
        for row in rows:
            due[row.path] = row
            if row.name:
                self._dead[row.path].add(row.name)
        refused = []
        for path, row in due.items():
            if self._stopping:
                break
            try:
                self._clean(row)
            except (OSError, StorageError) as error:
                log.warning("%s cannot be removed yet: %s; trying again", path, error)
                refused.append(row)
            except ResultError as error:
                log.warning("results that were deleted stay where they are: %s", error)
            except Exception:
                log.exception("%s is not removed", path)  # one of many; the next head tries again
        return refused

    def _clean(self, row: Garbage) -> None:
        path = self._site_dir / row.path
        if not row.name:
            clean_directory(path, {(self._site_dir / file, name) for file, name in row.kept})
            done = [] if row.kept else [(row.path, "")]
        elif _sweep(path, self._dead[row.path].__contains__):
            done = [(row.path, name) for name in self._dead.pop(row.path)]
        else:
            done = []
        if done:
            self._done.extend(done)
            self._notify()


def clean_directory(directory: Path, kept: Collection[tuple[Path, str]]) -> None:
    """Empty a directory but for these values in its files; remove it if nothing is left.

    Raises
    ------
    ResultError
        A file that holds something to be kept is damaged.
    StorageError, OSError
        The file system refuses.
    """
    if not kept:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)
        return
    files = {file for file, _ in kept}
    for file in directory.iterdir() if directory.is_dir() else ():
        if file in files:
            _sweep(file, partial(_is_not_in, kept, file), always=True)
        elif file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        else:
            file.unlink(missing_ok=True)


def _is_not_in(kept: Collection[tuple[Path, str]], file: Path, name: str) -> bool:
    return (file, name) not in kept


def who_needs(
    tasks: Iterable[Task],
    owing: Iterable[tuple[int, tuple[Value, ...], Mapping[int, Ref]]],
    deleted: Mapping[int, Collection[Value]],
) -> tuple[int, int] | None:
    """Return an unfinished task and a task whose result it needs; None if no task needs one.

    Parameters
    ----------
    tasks
        The unfinished tasks.
    owing
        The unfinished tasks that wait for children, as `Store.owing` gives them.
    deleted
        The tasks that are to lose their results, with these results.
    """
    for task in tasks:
        for source, _ in task.inputs:
            if source in deleted:
                return task.id, source
    owner = {value: task for task, values in deleted.items() for value in values if value.path}
    for number, given, refs in owing:
        for source, _ in refs.values():
            if source in deleted:
                return number, source
        for value in given:
            if value in owner:
                return number, owner[value]
    return None


def _sweep(path: Path, is_dead: Callable[[str], bool], *, always: bool = False) -> bool:
    from pilot.data.sweeping import sweep  # it loads HDF5: only when it is needed

    return sweep(path, is_dead, always=always)
