"""The database as a file of the site: whether it exists, and is safe from an earlier head.

Invariants
----------
- A site that had a database does not get an empty one without being told: acknowledged tasks would
  be gone without a word, and their numbers be given again.
- A head that follows one that it has not seen die works on a copy of its files. Where locks are not
  seen between nodes, what the other one still writes then goes into files that have no name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from shlex import quote

from pilot.data.durable import sync_directory
from pilot.errors import DiskFullError, HeadError
from pilot.head.lease_files import FULL
from pilot.site import Site
from pilot.texts import printable
from pilot.wire.discovery import read_address

#: The suffixes of the database's files: SQLite keeps some beside it.
SUFFIXES = ("", "-wal", "-journal")
#: The number of times that a copy is repeated if its source was written to meanwhile.
_TRIES = 5
_COPIED_AT_ONCE = 1 << 28
#: Errors that mean that the kernel cannot copy by itself.
_NOT_SO = (errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


def refuse_if_missing(site: Site, known: str) -> None:
    """Raise an error rather than make a new database if the site had one.

    Parameters
    ----------
    site
        The site.
    known
        The identity of its database, as the lease has it; empty: the lease has none.

    Raises
    ------
    HeadError
        The file is missing, or empty, and something shows that there was one.
    """
    path = site.database
    if _size(path):
        return
    address = read_address(site.address_file)
    if known or (address is not None and address.database):
        shown = "a head of this site had one"
    elif _has_entries(site.results):
        shown = f"there are results in {site.results}"
    else:
        return
    raise HeadError(
        f"the database {path} is {'empty' if path.exists() else 'missing'}, but {shown}: was it "
        "deleted? Put it back, or a copy made by `pilot site backup`; or have `pilot site reset` "
        "move aside what is left, and begin anew"
    )


def log_of(path: Path) -> Path:
    """Return the write-ahead log of a database."""
    return path.with_name(f"{path.name}-wal")


def lacks_its_log(path: Path) -> HeadError:
    """Return the error for a database whose write-ahead log is missing, with the last changes."""
    log = log_of(path)
    return HeadError(
        f"{log} is missing, and with it the last changes of the database: the previous head, which "
        "was killed, left them there. Put it back; or, to go on without the tasks and results "
        f"that are in it alone, make an empty one: touch {quote(str(log))}"
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _has_entries(directory: Path) -> bool:
    try:
        return any(directory.iterdir())
    except FileNotFoundError:
        return False


def lock_holders(path: Path) -> list[str]:
    """Return the processes of this machine that lock the database, in words."""
    try:
        inode = path.stat().st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    found = {}
    for fields in map(str.split, lines):
        # 1: POSIX  ADVISORY  WRITE 1234 fe:00:5745628 128 128
        if len(fields) > 5 and fields[5].endswith(f":{inode}") and int(fields[4]) > 0:
            with contextlib.suppress(OSError):
                name = Path(f"/proc/{fields[4]}/comm").read_text().strip()
                found[fields[4]] = f"pid {fields[4]} ({printable(name)})"
    return list(found.values())


def fence(path: Path) -> None:
    """Replace the database by a copy, so that an earlier head that has it open writes elsewhere.

    The copy costs time and space, unless the file system shares blocks.

    Raises
    ------
    HeadError
        It cannot be copied, or somebody writes to it all the time.
    """
    files = [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    copies = {file: file.with_name(f".{file.name}.copy") for file in files}
    try:
        for _ in range(_TRIES):
            before = [_stamp(file) for file in files]
            there = [file for file, stamp in zip(files, before, strict=True) if stamp is not None]
            for file in there:
                _copy(file, copies[file])
            if [_stamp(file) for file in files] == before:
                break
        else:
            raise HeadError(
                f"the database {path} is written to, though its head's lease has run out: is that "
                "head alive on another machine? head.log says where it ran: end it there"
            )
        # All are alike, so it does not matter which of them a crash leaves in place. The lease
        # says that it has to be done again.
        for file in there:
            copies[file].rename(file)
        sync_directory(path.parent)
    except OSError as error:
        kind = DiskFullError if error.errno in FULL else HeadError
        raise kind(
            f"the database {path} has to be copied, since the previous head was not seen to die, "
            f"and cannot be: {error.strerror}; nothing is lost. Make room for it once more there, "
            "then try again"
        ) from error
    finally:
        for copy in copies.values():
            with contextlib.suppress(OSError):
                copy.unlink(missing_ok=True)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as old, target.open("wb") as new:
        os.fchmod(new.fileno(), 0o600)
        try:
            while os.copy_file_range(old.fileno(), new.fileno(), _COPIED_AT_ONCE):
                pass
        except OSError as error:
            if error.errno not in _NOT_SO:
                raise
            shutil.copyfileobj(old, new, 1 << 20)
        new.flush()
        os.fsync(new.fileno())
