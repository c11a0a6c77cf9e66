"""Names that appear only for files that are whole and on the disk.

Responsible for the order of system calls that a sealed file needs: file contents, then the name,
then the directory that holds the name. Knows nothing of what is in the files.
"""

from __future__ import annotations

import os
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` survive a crash of the machine.

    Raises
    ------
    OSError
        The directory is missing, or its file system reports a failed write.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Create `directory` and what is missing above it, each durable in its parent.

    Raises
    ------
    OSError
        It cannot be created.
    """
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    sync_directory(directory.parent)


def publish(descriptor: int, temporary: Path, final: Path, *, replaces: bool = False) -> None:
    """Give the file behind `descriptor` its `final` name, once its contents are on the disk.

    Parameters
    ----------
    replaces
        There is a file of this name, and either of the two may be found after a crash.

    Raises
    ------
    OSError
        A write to the disk failed. Where that was found after the name had been given, the name
        is taken back.
    """
    os.fsync(descriptor)
    temporary.rename(final)
    try:
        sync_directory(final.parent)
    except OSError:
        if not replaces:
            final.unlink(missing_ok=True)
        raise


def remove(path: Path) -> None:
    """Remove a file, if it is there, so that it does not come back after a crash.

    Raises
    ------
    OSError
        It cannot be removed.
    """
    path.unlink(missing_ok=True)
    sync_directory(path.parent)
