"""Directories of a site: made if they are missing, but never in place of the site itself.

A site directory may be moved, or its file system be away, while its processes run. Whoever then
made what it misses would leave a new and empty site there: the right one, when it comes back, would
be put into it, and not in its place.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path


def missing(directory: Path, within: Path | None = None) -> list[Path]:
    """Return the directories to make for a directory to exist, the outermost first.

    Parameters
    ----------
    directory
        The directory.
    within
        A directory that must be there already, such as that of the site; None: none must.

    Raises
    ------
    FileNotFoundError
        `within` is not there.
    """
    found: list[Path] = []
    while not directory.is_dir():
        if directory == within:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(within))
        found.insert(0, directory)
        directory = directory.parent
    return found


def make_private(directory: Path, within: Path | None = None) -> None:
    """Make a directory that only its owner can enter, and everything `missing` above it.

    Raises
    ------
    OSError
        The directory cannot be made.
    """
    for path in missing(directory, within):
        path.mkdir(mode=0o700, exist_ok=True)
