"""Discovery of the head: it writes its address into the site directory, and others read it.

The file is replaced in one step and carries the epoch, so that a reader sees one head or the
other, never half of one; a lower epoch than one that was seen before is an old head's.
"""

# No annotations from the future: msgspec would compile each of them whenever a process starts.

import os
import time
from pathlib import Path

import msgspec

from pilot.model.bounds import UNREADABLE, Epoch, Number
from pilot.regular_files import NotRegularError, read_regular
from pilot.wire.endpoints import Endpoints, boot_id

#: A file that cannot be read is tried again after so many seconds.
_PAUSES_S = (0.01, 0.05, 0.0)
#: More than any address takes.
_MOST_BYTES = 1 << 16


class HeadAddress(msgspec.Struct, frozen=True):
    """The address of a head, with the head's epoch and process."""

    epoch: Epoch
    host: str
    pid: Number
    #: Clock ticks since the boot at which the process started.
    started: int
    endpoints: Endpoints
    version: str
    #: Which processes the pid is one of, where containers count their own; 0: not known.
    space: int = 0
    #: The identity of the database.
    database: str = ""
    #: Path and inode of the site directory: both are others in a copy, the path alone once moved.
    directory: str = ""
    inode: int = 0

    def is_dead(self) -> bool:
        """Tell whether the process has certainly ended; False if that cannot be known from here."""
        return self.is_here() and process_started(self.pid) != self.started

    def is_of(self, directory: Path) -> bool:
        """Tell whether this is the head of a site directory, and not of a directory that it was
        copied from."""
        return is_same_place(directory, self.directory, self.inode)

    def is_here(self) -> bool:
        """Tell whether the process is visible from here: same machine, same process namespace."""
        return self.endpoints.boot == boot_id() and self.space in (0, process_space())


def is_same_place(directory: Path, path: str, inode: int) -> bool:
    """Tell whether `directory` is the one that had this path and inode; True if the path is empty
    (not known).

    A copy has neither. One that was moved has its inode still; and that alone does not tell, since
    some network file systems have others on each machine.
    """
    if not path or path == str(directory):
        return True
    try:
        return directory.stat().st_ino == inode
    except OSError:
        return True  # it is not known now


def process_space() -> int:
    """Return the number of this process namespace, which differs between containers; 0 if
    unknown."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def process_started(pid: int) -> int:
    """Return the start time of a process in clock ticks since the boot; -1 if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return -1
    fields = stat[stat.rindex(")") + 2 :].split()
    # A zombie holds nothing any more.
    return -1 if fields[0] in ("Z", "X") else int(fields[19])


def read_address(path: Path, known: HeadAddress | None = None) -> HeadAddress | None:
    """Return the head's address from the site directory; None if there is none, or none that is
    valid.

    Parameters
    ----------
    path
        The file.
    known
        The address that was read before, which is returned where the file cannot be read now: on a
        network file system, while it is being replaced, or while the server is away.
    """
    for pause_s in _PAUSES_S:
        try:
            address = msgspec.json.decode(read_regular(path, _MOST_BYTES), type=HeadAddress)
        except (FileNotFoundError, NotRegularError):
            return None
        except UNREADABLE:
            return None
        except OSError:
            time.sleep(pause_s)
        else:
            return address if address.endpoints.are_known else None
    return known


def write_address(path: Path, address: HeadAddress) -> os.stat_result:
    """Publish the head's address; return the status of the file that holds it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(address)))
    partial.chmod(0o600)
    if path.is_dir() and not path.is_symlink():
        path.rename(path.with_name(f"{path.name}.{os.getpid()}.moved"))
    written = partial.stat()
    partial.replace(path)
    return written
