"""Patience with file systems that several machines share: files that appear late, and calls that
fail for a moment.

A file that one node has written is on the server; another node that has looked before may be told
for some seconds more that there is none. So a file that is missing is looked for again, for as long
as the site says (`data.patience`), and the directory that it is in is listed: that makes a client
of NFS ask the server. Only then it counts as missing. A file that is there costs nothing more.

The time is that of the process: it is set where a session, or a process of a pilot, knows its site.
Where nobody has set it, a file that is missing is missing at once.

And any call may fail because a server was started again, or a file was replaced while it was read:
`patiently` does again what may be done twice. What may not (a write whose data the kernel forgets
when it has failed, a renaming that may have come about) is done again as a whole, by whoever knows
all of it; `is_passing` tells.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

#: How long is waited before the second look, and at most between two, in seconds.
_FIRST_S = 0.05
_MOST_S = 0.5
_LATE = (errno.ENOENT, errno.ESTALE)
#: The error numbers of calls that may succeed a moment later.
_PASSING = (
    errno.ESTALE,
    errno.EIO,
    errno.EREMOTEIO,
    errno.ENOTCONN,
    errno.ESHUTDOWN,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EAGAIN,
)
#: The pauses before it is tried again, in seconds.
_PAUSES_S = (0.0, 0.1, 0.4)


class _Patience:
    seconds = 0.0


def set_patience(seconds: float) -> None:
    """Set for how long this process looks again for missing files, in seconds."""
    _Patience.seconds = seconds


def when_there(path: Path, look: Callable[[], T]) -> T:
    """Return the result of `look`, repeated until the file is there or patience ends.

    Parameters
    ----------
    path
        The file.
    look
        Raises an `OSError` that says so, or an error with one as its cause, while it is not.

    Raises
    ------
    Exception
        The error of `look`: at once where it says something else, or at the end.
    """
    ends_at = pause_s = 0.0
    while True:
        try:
            return patiently(look)
        except Exception as error:
            now = time.monotonic()
            if not ends_at:
                ends_at, pause_s = now + _Patience.seconds, _FIRST_S
            if now >= ends_at or not _is_late(error):
                raise
        time.sleep(min(pause_s, max(0.0, ends_at - now)))
        pause_s = min(2 * pause_s, _MOST_S)
        _list_directory_of(path)


def patiently(do: Callable[[], T]) -> T:
    """Return the result of `do`, repeated while it fails for a moment.

    Parameters
    ----------
    do
        May be done twice, and raises an `OSError`, or an error with one as its cause.

    Raises
    ------
    Exception
        The error of `do`: at once where it does not pass, or at the end.
    """
    for pause_s in _PAUSES_S:
        try:
            return do()
        except Exception as error:
            if not is_passing(error):
                raise
        time.sleep(pause_s)
    return do()


def patient(function: Callable[P, T]) -> Callable[P, T]:
    """Wrap a function so that calls to it run `patiently`."""

    @functools.wraps(function)
    def again(*args: P.args, **kwargs: P.kwargs) -> T:
        return patiently(lambda: function(*args, **kwargs))

    return again


def is_passing(error: BaseException) -> bool:
    """Tell whether an error, or its cause, is a passing one of a file system."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _PASSING:
            return True
        cause = cause.__cause__
    return False


def is_there(path: Path) -> bool:
    """Tell whether a file is there, with patience for one that should be."""
    try:
        when_there(path, path.stat)
    except OSError:
        return False
    return True


def _is_late(error: BaseException) -> bool:
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in _LATE


def _list_directory_of(path: Path) -> None:
    """List the nearest existing directory above a path."""
    for directory in path.parents:
        with contextlib.suppress(OSError):
            for _ in directory.iterdir():
                break
            return
