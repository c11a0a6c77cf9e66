"""The system calls on the files of a connection.

What all shared file systems promise is that whoever opens a file sees what others had written and
closed before. So each look opens the file, and each write closes it. Nothing is synced to the disk:
as on a network, what is said is lost with the machine that has said it.

Invariants
----------
- Only regular files of this user are read and written, and no link is followed.
- A write that fails may have come about in part; it is done again at the same place.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pilot.wire.files.records import STATE_BYTES

_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Disk:
    """The access to the files of connections; tests put others in its place."""

    def look(self, path: Path, position: int, most: int) -> tuple[bytes, bytes]:
        """Return the state's bytes of a file, and those from a position on.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        OSError
            It cannot be read, or is no file of this user.
        """
        descriptor = _open(path, os.O_RDONLY)
        try:
            return os.pread(descriptor, STATE_BYTES, 0), os.pread(descriptor, most, position)
        finally:
            os.close(descriptor)

    def write(self, path: Path, position: int, data: bytes, state: bytes) -> None:
        """Write at a position, and then the state; either may be empty.

        Raises
        ------
        OSError
            Both may have been written, in part or not at all.
        """
        descriptor = _open(path, os.O_WRONLY)
        try:
            _write_all(descriptor, data, position)
            _write_all(descriptor, state, 0)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # which is where network file systems tell that it failed

    def create(self, path: Path, data: bytes) -> None:
        """Make a file, or empty one that is left of an earlier try.

        Raises
        ------
        OSError
            It cannot be made or written.
        """
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FLAGS, 0o600)
        try:
            _write_all(descriptor, data, 0)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there.

        Raises
        ------
        OSError
            It cannot be removed.
        """
        path.unlink(missing_ok=True)


def _open(path: Path, flags: int) -> int:
    descriptor = os.open(path, flags | _FLAGS)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        os.close(descriptor)
        raise PermissionError(f"{path} is no regular file of this user")
    return descriptor


def _write_all(descriptor: int, data: bytes, position: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, position)
        rest, position = rest[written:], position + written
