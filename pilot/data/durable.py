"""Names that appear only for files that are whole and on the disk.

Responsible for the order of system calls that a sealed file needs: file contents, then the name,
then the directory that holds the name. Knows nothing of what is in the files.

Where the file system fails for a moment, each step is done again, in a way that is right although
nobody knows how far it came: what could not be written is written once more, since the kernel
forgets it; a name that may have been given is looked at.
"""

from __future__ import annotations

import os
from pathlib import Path

from pilot.data.directories import missing
from pilot.data.patience import is_passing, patient
from pilot.errors import StorageError

#: So much is written again at a time.
_BLOCK_BYTES = 1 << 20
#: So much is copied by one call.
_COPY_BYTES = 16 * 1024 * 1024


def cannot_write(path: Path, cause: Exception) -> StorageError:
    """Return the error of whoever cannot write a file, for this cause."""
    errno = cause.errno if isinstance(cause, OSError) else None
    reason = os.strerror(errno) if errno else str(cause)
    return StorageError(
        f"cannot write {path}: {reason}. Check free space, quota and permissions of this "
        "directory (df -h, lfs quota)."
    )


@patient
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


@patient
def make_directory(directory: Path, within: Path | None = None) -> None:
    """Create `directory` and what is `missing` above it, each durable in its parent.

    Raises
    ------
    OSError
        The directory cannot be created.
    """
    for path in missing(directory, within):
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)


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
    _sync(descriptor)
    _rename(descriptor, temporary, final)
    try:
        sync_directory(final.parent)
    except OSError:
        if not replaces:
            final.unlink(missing_ok=True)
        raise


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not is_passing(error):
            raise
        # The kernel takes the pages for written and does not try again: so they are changed again.
        offset = 0
        while block := os.pread(descriptor, _BLOCK_BYTES, offset):
            done = 0
            while done < len(block):
                done += os.pwrite(descriptor, block[done:], offset + done)
            offset += len(block)
        os.fsync(descriptor)


def _rename(descriptor: int, temporary: Path, final: Path) -> None:
    try:
        temporary.rename(final)
    except OSError as error:
        if not is_passing(error):
            raise
        try:
            is_done = os.path.samestat(final.stat(), os.fstat(descriptor))
        except FileNotFoundError:
            is_done = False
        if not is_done:
            temporary.rename(final)


def copy_content(original: int, copy: int) -> None:
    """Copy all bytes of a file to another one, without taking them into this process.

    Raises
    ------
    OSError
        The file system of the copy is full, say.
    """
    os.lseek(copy, 0, os.SEEK_SET)
    offset = 0
    while count := os.sendfile(copy, original, offset, _COPY_BYTES):
        offset += count


@patient
def remove(path: Path) -> None:
    """Remove a file, if it exists, so that it does not come back after a crash.

    Raises
    ------
    OSError
        The file cannot be removed.
    """
    path.unlink(missing_ok=True)
    sync_directory(path.parent)
