"""Files that exist already, as values: nothing is copied, and a change does not go unnoticed.

Responsible for what stands in an argument for such a file: its path, size and time of modification.
Wherever it is unpickled it becomes a `pathlib.Path`, after a look whether the file is still the one
that was imported.
"""

from __future__ import annotations

import os
import stat
from datetime import datetime
from pathlib import Path
from typing import Any

from pilot.data.patience import when_there
from pilot.errors import ResultError
from pilot.pickled import pickled_name


class Imported:
    """A file that was imported.

    Raises
    ------
    ResultError
        The path does not exist, is not a file, or cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().absolute()
        try:
            self.size, self.mtime_ns = _look(self.path)  # a mistyped name is told at once
        except OSError as error:
            raise ResultError(
                f"cannot import {self.path}: {_reason(error)}; give a file that can be read here "
                "and on the compute nodes"
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return (checked, (str(self.path), self.size, self.mtime_ns))


@pickled_name
def checked(path: str, size: int, mtime_ns: int) -> Path:
    """Return the path of an imported file. This function's name is part of the format of values.

    Raises
    ------
    ResultError
        The file is not there, or was changed since it was imported.
    """
    where = f"the imported file {path}"
    advice = "Import it again, and submit the tasks that need it again."
    try:
        found_size, found_mtime_ns = when_there(Path(path), lambda: _look(Path(path)))
    except OSError as error:
        raise ResultError(
            f"{where} cannot be read on {os.uname().nodename}: {_reason(error)}. It must lie where "
            "all nodes see it, and stay there."
        ) from error
    if found_size != size:
        raise ResultError(
            f"{where} was changed: it has {found_size} bytes, and had {size} when it was imported. "
            + advice
        )
    if found_mtime_ns != mtime_ns:
        raise ResultError(
            f"{where} was changed: it was written at {_moment(found_mtime_ns)}, and last at "
            f"{_moment(mtime_ns)} when it was imported. " + advice
        )
    return Path(path)


def _look(path: Path) -> tuple[int, int]:
    """Return size and time of modification, by opening the file, since NFS gives old ones
    otherwise."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError("it is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is not a regular file")
    return status.st_size, status.st_mtime_ns


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return error.strerror or str(error)


def _moment(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9).isoformat(" ", "microseconds")
