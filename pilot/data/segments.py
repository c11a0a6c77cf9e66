"""Segments: HDF5 files with the results of many tasks.

Responsible for which file a result goes to, what it is called in it, and for reading it again. A
result is ``/<session>/<task name>/<task id>/<index>`` in ``results/<session>/<owner>-<n>.h5``.

Invariants:

- one writer per file: an owner is one process, and its name is never used again;
- a result has a `Value`, which is what can be announced, only after its segment is sealed;
- a sealed segment is never changed. It may be replaced by one that has fewer of its results, once
  the others were deleted (see `pilot.data.sweeping`): what is in it stays what it was.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from pathlib import Path
from types import TracebackType
from typing import Any

from pilot.data.draft import Draft
from pilot.data.hdf5 import Written
from pilot.data.parts import Parts, component, put_together, take_apart, unique
from pilot.data.patience import is_passing, patiently, when_there
from pilot.data.sealed_file import SealedFile
from pilot.errors import ResultError, StorageError
from pilot.model.values import Value

#: Under the site directory.
RESULTS = "results"


class Unsealed:
    """A result in a segment that is not sealed yet, so that it cannot be announced."""

    __slots__ = ("_problem", "_value", "index", "name", "task_id")

    def __init__(self, task_id: str, index: int, name: str) -> None:
        self.task_id = task_id
        self.index = index
        self.name = name
        self._value: Value | None = None
        self._problem: Exception | None = None

    @property
    def is_sealed(self) -> bool:
        """True once the segment is sealed."""
        return self._value is not None

    @property
    def value(self) -> Value:
        """The reference, once the segment is sealed.

        Raises
        ------
        StorageError
            The result is lost: its segment could not be sealed.
        RuntimeError
            The segment is not sealed; a result that was announced now could be lost.
        """
        if self._problem is not None:
            raise self._problem
        if self._value is None:
            raise RuntimeError(
                f"result {self.index} of task {self.task_id} is in a segment that is not sealed: "
                "call SegmentWriter.seal() first"
            )
        return self._value


class _Segment:
    """An open segment: its file, and what is in it."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.names: set[str] = set()
        self.results: list[tuple[Unsealed, Written]] = []


class SegmentWriter:
    """A writer of results into segments: one open segment per session. Threads may share it.

    As a context manager it seals at the end, or discards what is unsealed after an exception.

    Parameters
    ----------
    site_dir
        The site directory.
    owner
        A name for this process that no other process has or had on this site.
    lost
        The class of the error of results that are lost because their segment cannot be finished.
    """

    def __init__(self, site_dir: Path, owner: str, lost: type[StorageError] = StorageError) -> None:
        self.site_dir = site_dir
        self.owner = owner
        self._lost = lost
        self._open: dict[str, _Segment] = {}
        #: The segments that take no more results and are not sealed yet.
        self._closed: list[_Segment] = []
        self._sealed: list[Value] = []
        self._count = 0
        self._lock = threading.RLock()
        #: Held while files are brought to the disk. So `add` waits for no disk.
        self._sealing = threading.Lock()

    def add(
        self, session: str, task_name: str, task_id: str, index: int, obj: object, level: int = 0
    ) -> Unsealed:
        """Write one result, compressed by `level` (see `Draft.write`); `seal` makes it permanent.

        Raises
        ------
        EncodingError
            The object cannot be pickled.
        StorageError
            The result cannot be written. The results before it are not affected.
        """
        return self.add_parts(session, task_name, task_id, index, take_apart(obj), level)

    def add_parts(
        self,
        session: str,
        task_name: str,
        task_id: str,
        index: int,
        parts: Parts,
        level: int = 0,
    ) -> Unsealed:
        """Write one result that was taken apart already; see `add`."""
        with self._lock:
            segment = patiently(lambda: self._segment(session))
            # A task that was cut off and runs again in this process has the same name again.
            group = f"/{component(session)}/{component(task_name)}/{component(task_id)}"
            name = unique(f"{group}/{index}", segment.names)
            try:
                written = patiently(lambda: segment.draft.write(name, parts, level))
            except BaseException:
                segment.names.discard(name)
                raise
            result = Unsealed(task_id, index, name)
            segment.results.append((result, written))
            return result

    def _segment(self, session: str) -> _Segment:
        if session not in self._open:
            temporary = self._new_name(component(session))
            self._open[session] = _Segment(Draft(temporary, self.site_dir))
        return self._open[session]

    def _new_name(self, session: str) -> Path:
        """Return the temporary name of a new file, in the directory that a session has."""
        directory = self.site_dir / RESULTS / session
        while (directory / _final(self.owner, self._count)).exists():
            self._count += 1
        self._count += 1
        return directory / _temporary(self.owner, self._count - 1)

    @property
    def pending(self) -> list[Unsealed]:
        """The results that are written and not sealed."""
        with self._lock:
            return [result for segment in self._unsealed() for result, _ in segment.results]

    def _unsealed(self) -> list[_Segment]:
        return [*self._closed, *self._open.values()]

    def detach(self) -> None:
        """Close all open segments: results that are added from now on go into new ones."""
        with self._lock:
            self._closed += self._open.values()
            self._open.clear()

    def seal(self) -> list[Value]:
        """Finish all open segments; results that other threads add meanwhile go into new ones.

        Returns
        -------
        list of Value
            The values that can be announced since the last call, segment by segment, each in the
            order of `add`. Each `Unsealed` has its `value` as well.

        Raises
        ------
        StorageError
            The disk is full, say. What is still `pending` can be sealed later; results that are
            neither pending nor have a value are lost, and their tasks must run again.
        """
        with self._sealing:
            self.detach()
            for segment in list(self._closed):
                if not segment.results:  # what was to be in it could not be written
                    self._drop(segment)
                    continue
                try:
                    path = self._publish(segment.draft)
                except BaseException as error:
                    if not segment.draft.is_open:
                        self._drop(segment, self._lost(str(error)))
                    raise
                with self._lock:
                    self._closed.remove(segment)
                    for result, written in segment.results:
                        result._value = Value(
                            written.size, b"", path, result.name, written.checksum
                        )
                        self._sealed.append(result._value)
            sealed, self._sealed = self._sealed, []
            return sealed

    def _publish(self, draft: Draft) -> str:
        final = draft.temporary.with_name(draft.temporary.name[1:].removesuffix(".tmp"))
        try:
            draft.publish(final)
        except StorageError as error:
            if not (draft.is_open and is_passing(error)):
                raise
            draft.publish(final)
        return final.relative_to(self.site_dir).as_posix()

    def hand_over(self, other: SegmentWriter) -> None:
        """Move the segments that could not be sealed to another writer, which seals them.

        Raises
        ------
        StorageError
            There is no room for them there, either. What was not moved is still `pending` here.
        """
        with self._sealing:
            for segment in list(self._closed):
                other._take_in(segment)
                with self._lock:
                    self._closed.remove(segment)

    def _take_in(self, segment: _Segment) -> None:
        with self._lock:
            temporary = self._new_name(segment.draft.temporary.parent.name)
        patiently(lambda: segment.draft.move(temporary, self.site_dir))
        with self._lock:
            self._closed.append(segment)

    def discard(self, reason: Exception | None = None) -> None:
        """Drop the results that are not sealed, and remove their files; where there is a `reason`,
        whoever asks for their values is told it."""
        with self._sealing, self._lock:
            self.detach()
            for segment in list(self._closed):
                self._drop(segment, reason)

    def _drop(self, segment: _Segment, reason: Exception | None = None) -> None:
        segment.draft.discard()
        with self._lock:
            self._closed.remove(segment)
        for result, _ in segment.results:
            result._problem = reason

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.seal()
        else:
            self.discard()


def remove_unsealed(site_dir: Path, owner: str) -> list[Path]:
    """Remove the unfinished segments of an owner that has died.

    Returns
    -------
    list of Path
        The temporary files that are gone now.
    """
    pattern = rf"\.{re.escape(component(owner))}-\d+\.h5\.tmp.*"
    hidden = (site_dir / RESULTS).glob("*/.*")
    gone = sorted(path for path in hidden if re.fullmatch(pattern, path.name))
    for path in gone:
        path.unlink(missing_ok=True)
    return gone


def _final(owner: str, n: object) -> str:
    return f"{component(owner)}-{n}.h5"


def _temporary(owner: str, n: object) -> str:
    return f".{_final(owner, n)}.tmp"


class OpenFiles:
    """A cache of segments that were read lately, kept open. Threads may share it.

    Parameters
    ----------
    most
        How many files are open at most, besides those being read right now.
    """

    def __init__(self, most: int = 16) -> None:
        self._most = most
        self._files: OrderedDict[Path, SealedFile] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path) -> SealedFile:
        """Return the file at `path`, opened if need be.

        Raises
        ------
        ResultError
            The file is missing or damaged.
        """
        with self._lock:
            file = self._files.pop(path, None)
            if file is None or not file.is_at(path):
                file = SealedFile(path)
            self._files[path] = file
            while len(self._files) > self._most:
                # Closed when the last thread that reads it is done with it.
                self._files.popitem(last=False)
            return file

    def __len__(self) -> int:
        return len(self._files)

    def after_fork(self) -> None:
        """Make a new lock in a forked child, since a thread of the parent may have held the old
        one."""
        self._lock = threading.Lock()


_open_files = OpenFiles()
os.register_at_fork(after_in_child=_open_files.after_fork)


def opened(path: Path) -> SealedFile:
    """Return a segment, opened if need be; one that a network file system shows late is waited for.

    Raises
    ------
    ResultError
        The file is missing or damaged.
    """
    return when_there(path, lambda: _open_files.get(path))


def read_mapped(directory: Path, value: Value, *, check: bool) -> Any:
    """Return the object behind a reference whose file is on this machine.

    Large arrays are mapped: nothing is copied but pages that are written to, which nobody else
    sees.

    Parameters
    ----------
    directory, value
        Where the file is, and the reference.
    check
        False if the file is in memory, where nothing damages it.

    Raises
    ------
    ResultError
        The value's file is missing, torn or changed.
    EncodingError
        The value's pickle needs something that is not here, such as a module.
    """
    # Not kept open: the memory of a file that has gone would stay as long.
    file = SealedFile(directory / value.path)
    return put_together(file.read(value.name, value.checksum if check else None, mapped=True))


def read(site_dir: Path, value: Value) -> Any:
    """Return the object behind a reference.

    Raises
    ------
    ResultError
        The value's file is missing, torn or changed.
    EncodingError
        The value's pickle needs something that is not here, such as a module.
    """
    path = site_dir / value.path
    file = opened(path)
    try:
        parts = patiently(lambda: file.read(value.name, value.checksum))
    except ResultError:
        # Network file systems take a file away that is replaced, also while it is open.
        again = opened(path)
        if again is file:
            raise
        parts = again.read(value.name, value.checksum)
    return put_together(parts)
