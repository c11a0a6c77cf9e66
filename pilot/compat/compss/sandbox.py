"""Files of a task: what it writes is in a directory beside the target, under the same name, and
takes its place when the task has ended.

So a task that is cut off, or tried again, has changed nothing; and whoever has the earlier file
open reads it to its end.

Invariants
----------
- What a task only writes is not there when it begins. What it changes is a copy.
- A task that fails leaves the files as they were; one that cancels what depends on it, and a
  `COMPSsException`, leave what it has written.
- CONCURRENT is the file itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from pilot.client.context import running_context
from pilot.compat.compss.errors import COMPSsException
from pilot.compat.compss.parameters import WRITES
from pilot.compat.compss.work import FileUse


class Sandbox:
    """The files of a running task.

    Parameters
    ----------
    files
        The files that the task has.
    policy
        What is done about an exception: ``retry``, ``fail``, ``ignore``, ``cancel``.
    defaults
        With ``ignore``: for parameters, the files that are copied then.
    """

    def __init__(
        self, files: Iterable[FileUse], policy: str, defaults: Mapping[str, Any] | None = None
    ) -> None:
        self._files = tuple(files)
        self._policy = policy
        self._defaults = dict(defaults or {})
        context = running_context()
        #: The directory of drafts, beside each target; and those of earlier attempts.
        self._name, self._earlier = f".compss-{os.getpid()}", ""
        if context is not None:
            self._name = f".compss-{context.task_id}-{context.attempt}"
            if context.attempt > 1:
                self._earlier = f".compss-{context.task_id}-*"
        #: What a task sees in place of each file that it writes.
        self._drafts: dict[str, Path] = {}
        self._has_failed = False

    def put_paths(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Put the paths that the task works on into the places of its arguments."""
        for use in self._files:
            holder: Any = args if isinstance(use.at[0], int) else kwargs
            for key in use.at[:-1]:
                holder = holder[key]
            holder[use.at[-1]] = self._path(use)

    def _path(self, use: FileUse) -> str:
        if use.direction not in WRITES:
            return use.path
        if use.path not in self._drafts:
            path = Path(use.path)
            if self._earlier:  # they were cut off, and are to leave nothing behind
                for left in path.parent.glob(self._earlier):
                    _remove(left)
            # The name stays: programs look at it.
            draft = path.parent / self._name / path.name
            draft.parent.mkdir(exist_ok=True)
            self._drafts[use.path] = draft
            if use.direction != "out" and path.exists():
                if path.is_dir():
                    shutil.copytree(path, draft, symlinks=True)
                else:
                    shutil.copy2(path, draft)
        return str(self._drafts[use.path])

    def note_failure(self) -> None:
        """Note that the task has failed, and that this is ignored."""
        self._has_failed = True

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._finish(
            error is None or self._policy == "cancel" or isinstance(error, COMPSsException)
        )

    def _finish(self, keeps: bool) -> None:
        """Have what the task has written take its place, or go."""
        for path, draft in self._drafts.items():
            if keeps and self._has_failed and (default := self._default_of(path)):
                _remove(draft)
                shutil.copy2(default, draft)
            if keeps:
                _replace(draft, Path(path))
        for directory in {draft.parent for draft in self._drafts.values()}:
            _remove(directory)

    def _default_of(self, path: str) -> str:
        use = next(use for use in self._files if use.path == path)
        found = self._defaults.get(use.name)
        return os.fspath(found) if isinstance(found, (str, os.PathLike)) else ""


class RankSandbox(Sandbox):
    """The files of a task on ranks of MPI, which all work on the same: the first rank makes them
    ready, and has them take their places when all ranks have left the function."""

    def put_paths(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Put the paths that the ranks work on into the places of their arguments."""
        from mpi4py import MPI

        # The others wait until what they change is there.
        if MPI.COMM_WORLD.rank == 0:
            super().put_paths(args, kwargs)
        MPI.COMM_WORLD.barrier()
        if MPI.COMM_WORLD.rank:
            super().put_paths(args, kwargs)

    def _path(self, use: FileUse) -> str:
        from mpi4py import MPI

        if MPI.COMM_WORLD.rank == 0 or use.direction not in WRITES:
            return super()._path(use)
        path = Path(use.path)
        return str(path.parent / self._name / path.name)

    def _finish(self, keeps: bool) -> None:
        from mpi4py import MPI

        # It is over for all only when each has ended well.
        super()._finish(bool(MPI.COMM_WORLD.allreduce(keeps, MPI.LAND)))


def make_sandbox(
    files: Iterable[FileUse], policy: str, defaults: Mapping[str, Any] | None
) -> Sandbox:
    """Return the sandbox of the task that runs in this process."""
    context = running_context()
    kind = Sandbox if context is None or context.ranks == 1 else RankSandbox
    return kind(files, policy, defaults)


def _replace(draft: Path, path: Path) -> None:
    """Have a draft take the place of a file or directory; where there is none nothing happens."""
    if not (draft.exists() or draft.is_symlink()):
        return
    if not path.is_dir():
        draft.replace(path)
        return
    # No directory is renamed over one that has something in it.
    path.rename(draft.with_name(f"{draft.name}.old"))
    draft.rename(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
