"""The files of an open database: whether they are still where they were opened.

Who removes or replaces a database while a head works on it takes nothing from the head: it has the
files open, and writes on into what has no name any more. All of that would be gone with the head.
"""

from __future__ import annotations

import enum
from pathlib import Path


class Where(enum.Enum):
    """Where the file of an open database is."""

    #: Where it was opened, or it cannot be seen now.
    THERE = enum.auto()
    #: Nowhere: there is no file of its name.
    VANISHED = enum.auto()
    #: Another file has its name.
    REPLACED = enum.auto()


class Place:
    """The names of an open database and of its write-ahead log.

    Parameters
    ----------
    path
        The database, as it has just been opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = path.with_name(f"{path.name}-wal")
        self._inode = _inode(path)
        #: The inode of the log; None until it was seen.
        self._log_inode: int | None = None

    def look(self) -> Where:
        """Tell where the database is."""
        found = _inode(self._path)
        if found in (self._inode, None):
            return Where.THERE
        return Where.REPLACED if found else Where.VANISHED

    def is_log_lost(self) -> bool:
        """Return True if the log has been removed or replaced."""
        found = _inode(self._log)
        if self._log_inode is None:
            self._log_inode = found or None
        return found is not None and found != (self._log_inode or 0)

    def remove_log(self) -> None:
        """Remove the log, unless it belongs to a database that has taken the place."""
        if self._log_inode and _inode(self._log) == self._log_inode:
            self._log.unlink(missing_ok=True)


def _inode(path: Path) -> int | None:
    """Return the inode of a file; 0 if there is none, None if that is not known now."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0
    except OSError:
        return None
