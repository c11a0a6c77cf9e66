"""The files of Unix sockets: their paths, and the removal of those that nobody listens at."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

#: The longest path of a socket that the kernel takes, in bytes.
_PATH_BYTES = 107
#: A socket that nobody listens at is left over once it is so old, in seconds.
_NEW_S = 60.0
#: So old is no file that a process passes on to another one, in seconds.
_OLD_S = 86_400.0


@contextlib.contextmanager
def short_address(path: Path) -> Iterator[str]:
    """Give a path that is short enough for the kernel, by way of the open directory."""
    if len(os.fsencode(path)) <= _PATH_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def identity(path: Path) -> tuple[int, int] | None:
    """Return an identity that tells a file from a later one in its place; None if there is none."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def remove_dead(directory: Path) -> None:
    """Remove the sockets that killed processes have left in a directory.

    These are sockets that nobody listens at, and memory of ranks that nobody has taken over.
    """
    now = time.time()
    for path in directory.iterdir():
        with contextlib.suppress(OSError):
            status = path.lstat()
            # One that is new may be about to listen, or to be taken over.
            age_s = now - status.st_mtime
            if stat.S_ISSOCK(status.st_mode) and age_s > _NEW_S:
                _remove_if_dead(path)
            elif path.name.startswith("rank-") and age_s > _OLD_S:
                path.unlink()


def _remove_if_dead(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as asked:
        asked.setblocking(False)
        try:
            with short_address(path) as address:
                asked.connect(address)
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
