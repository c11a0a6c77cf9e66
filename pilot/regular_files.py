"""Regular files and nothing else: anything in the place of one is an error, and is not waited for.

To open a FIFO waits for whoever writes to it, a device may have no end, and both can have the name
of a file that somebody keeps settings, keys or a workflow in.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


class NotRegularError(OSError):
    """An error: something else is in the place of a regular file; `strerror` says what."""

    def __init__(self, path: str | os.PathLike[str], mode: int) -> None:
        kind = _KINDS.get(stat.S_IFMT(mode), "thing of another kind")
        super().__init__(errno.EINVAL, f"it is a {kind}, and no regular file", os.fspath(path))


def open_regular(path: str | os.PathLike[str]) -> int:
    """Open a file for reading; return its descriptor.

    Raises
    ------
    NotRegularError
        The path is not a regular file.
    OSError
        The file cannot be opened.
    """
    # A regular file can be read at once, as without O_NONBLOCK.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ENXIO:  # of a socket, or a device that is not there
            raise NotRegularError(path, Path(path).stat().st_mode) from None
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise NotRegularError(path, mode)
    return descriptor


def check_regular(path: str | os.PathLike[str]) -> None:
    """Check that a path is a regular file that can be read.

    Raises
    ------
    OSError
        The file is not a regular one, or cannot be opened.
    """
    os.close(open_regular(path))


def read_regular(path: str | os.PathLike[str], most: int = -1) -> bytes:
    """Return the contents of a file; with `most`, no more bytes than that.

    Raises
    ------
    OSError
        The file is not a regular one, or cannot be opened or read.
    """
    with open(open_regular(path), "rb") as file:
        return file.read(most)


def read_regular_text(path: Path) -> str:
    """Return the text of a file.

    Raises
    ------
    OSError
        The file is not a regular one, or cannot be opened or read.
    UnicodeDecodeError
        The file is not UTF-8.
    """
    with open(open_regular(path), encoding="utf-8") as file:
        return file.read()
