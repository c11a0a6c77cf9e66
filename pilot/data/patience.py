"""Patience with files that a network file system shows late.

A file that one node has written is on the server; another node that has looked before may be told
for some seconds more that there is none. So a file that is missing is looked for again, for as long
as the site says (`data.patience`), and the directory that it is in is listed: that makes a client
of NFS ask the server. Only then it counts as missing. A file that is there costs nothing more.

The time is that of the process: it is set where a session, or a process of a pilot, knows its site.
Where nobody has set it, a file that is missing is missing at once.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

#: How long is waited before the second look, and at most between two, in seconds.
_FIRST_S = 0.05
_MOST_S = 0.5
_LATE = (errno.ENOENT, errno.ESTALE)


class _Patience:
    seconds = 0.0


def set_patience(seconds: float) -> None:
    """Say for how long files are looked for again, in this process."""
    _Patience.seconds = seconds


def when_there(path: Path, look: Callable[[], T]) -> T:
    """Return what a look at a file gives, as soon as the file is there.

    Parameters
    ----------
    path
        The file.
    look
        Raises an `OSError` that says so, or an error with one as its cause, while it is not.

    Raises
    ------
    Exception
        What `look` raises: at once where that is something else, or at the end.
    """
    ends_at = pause_s = 0.0
    while True:
        try:
            return look()
        except Exception as error:
            now = time.monotonic()
            if not ends_at:
                ends_at, pause_s = now + _Patience.seconds, _FIRST_S
            if now >= ends_at or not _is_late(error):
                raise
        time.sleep(min(pause_s, max(0.0, ends_at - now)))
        pause_s = min(2 * pause_s, _MOST_S)
        _list_directory_of(path)


def is_there(path: Path) -> bool:
    """Return whether a file is there, once it should be."""
    try:
        when_there(path, path.stat)
    except OSError:
        return False
    return True


def _is_late(error: BaseException) -> bool:
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in _LATE


def _list_directory_of(path: Path) -> None:
    """List the nearest directory above that is there."""
    for directory in path.parents:
        with contextlib.suppress(OSError):
            for _ in directory.iterdir():
                break
            return
