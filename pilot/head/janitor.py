"""The janitor: removes deleted data from the disk, in a thread of its own.

Garbage is recorded in the table ``garbage`` in the transaction of the deletion itself; so a head
that dies leaves nothing behind that its successor does not find. The head's loop hands rows over
and strikes out those that are done; it never waits for a file system that removes a million files.

Invariants
----------
- Only what is committed as garbage is touched, and of a directory nothing that is borrowed. A value
  is where a pilot has said: what is no file of results stays.
- A row is done only when the disk has nothing of it any more; everything may be done twice.
- Files that are removed together are brought off the disk by one wait for it in each directory.
- A file is not written anew while more and more of its values die: soon none may be left.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import shutil
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path

from pilot.data import durable
from pilot.errors import ResultError, StorageError
from pilot.head.core.state import Task
from pilot.head.store.deletion import Garbage
from pilot.model.bounds import is_segment_path
from pilot.model.ids import Ref
from pilot.model.values import Value

log = logging.getLogger("pilot.head")

#: The time until a refused removal is tried again, in seconds.
RETRY_S = 60.0
#: The time for which no value of a file has died before it is written anew, in seconds.
REST_S = 2.0
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
        #: What is in these files, as far as it was looked at, with sizes in bytes.
        self._contents: dict[str, dict[str, int]] = {}
        #: Files that are worth rewriting, with the times when values of theirs have died last.
        self._resting: dict[str, float] = {}
        #: Directories of files that were removed, and the rows of these files.
        self._unsynced: defaultdict[Path, list[tuple[str, str]]] = defaultdict(list)

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
            wait_s = REST_S if self._resting else RETRY_S if again else None
            rows: list[Garbage] = []
            with contextlib.suppress(queue.Empty):
                rows = self._orders.get(timeout=wait_s)
                while True:
                    rows = [*rows, *self._orders.get_nowait()]
            again = self.clean([*again, *rows, *self._rested()], rests=True)

    def _rested(self) -> list[Garbage]:
        """Return files to be written anew, of which no more values have died for a while."""
        now = time.monotonic()
        rested = [path for path, died in self._resting.items() if now - died >= REST_S]
        for path in rested:
            del self._resting[path]
        return [Garbage(path, next(iter(self._dead[path]))) for path in rested if self._dead[path]]

    def clean(self, rows: Iterable[Garbage], rests: bool = False) -> list[Garbage]:
        """Remove garbage now; return the rows that the file system refuses to remove.

        Parameters
        ----------
        rows
            The garbage.
        rests
            True: leave files in which values have just died, and others live, for later.
        """
        due: dict[str, Garbage] = {}
        died: set[str] = set()
        for row in rows:
            if row.name and not is_segment_path(row.path):
                log.warning("%r is no file of results, and stays", row.path)
                self._note([(row.path, row.name)])
                continue
            due[row.path] = row
            if row.name and row.name not in self._dead[row.path]:
                self._dead[row.path].add(row.name)
                died.add(row.path)
        refused = []
        for path, row in due.items():
            if self._stopping:
                break
            try:
                self._clean(row, rests and path in died)
            except (OSError, StorageError) as error:
                log.warning("%s cannot be removed yet: %s; trying again", path, error)
                refused.append(row)
            except ResultError as error:
                log.warning("results that were deleted stay where they are: %s", error)
            except Exception:
                log.exception("%s is not removed", path)  # one of many; the next head tries again
        return refused + self._sync()

    def _clean(self, row: Garbage, rests: bool) -> None:
        path = self._site_dir / row.path
        if not row.name:
            clean_directory(path, {(self._site_dir / file, name) for file, name in row.kept})
            self._note([] if row.kept else [(row.path, "")])
            return
        dead = self._dead[row.path]
        if rests and not self._is_all_dead(row.path, path, dead):
            self._resting[row.path] = time.monotonic()
        elif _sweep(path, dead.__contains__, remove=self._unlink):
            self._resting.pop(row.path, None)
            self._contents.pop(row.path, None)
            gone = [(row.path, name) for name in self._dead.pop(row.path)]
            if path.parent in self._unsynced:
                self._unsynced[path.parent] += gone
            else:
                self._note(gone)

    def _is_all_dead(self, name: str, path: Path, dead: Collection[str]) -> bool:
        """Tell whether nothing of a file is needed any more; it is opened once for that."""
        if name not in self._contents:
            found = _contents(path)
            if found is None:
                return True
            self._contents[name] = found
        return self._contents[name].keys() <= set(dead)

    def _unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._unsynced[path.parent]  # it has an entry from now on

    def _sync(self) -> list[Garbage]:
        """Bring removals to the disk, and note what is done; return what is to be tried again."""
        refused = []
        unsynced, self._unsynced = self._unsynced, defaultdict(list)
        for directory, rows in unsynced.items():
            try:
                durable.sync_directory(directory)
            except FileNotFoundError:
                pass  # it was removed as well
            except OSError as error:
                log.warning("what was removed in %s may come back: %s", directory, error)
                refused += [Garbage(path, name) for path, name in rows]
                continue
            self._note(rows)
        return refused

    def _note(self, done: list[tuple[str, str]]) -> None:
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
        for source, _ in (*task.inputs, *task.given) if task.parts else task.inputs:
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


def _sweep(
    path: Path,
    is_dead: Callable[[str], bool],
    *,
    always: bool = False,
    remove: Callable[[Path], None] = durable.remove,
) -> bool:
    from pilot.data.sweeping import sweep  # it loads HDF5: only when it is needed

    return sweep(path, is_dead, always=always, remove=remove)


def _contents(path: Path) -> dict[str, int] | None:
    from pilot.data.sweeping import contents

    return contents(path)
