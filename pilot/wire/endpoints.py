"""Where a server can be reached: by a Unix socket on its own machine, and over the network."""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from pathlib import Path

import msgspec

from pilot.errors import SiteError

#: What a Unix socket's path is preceded by.
LOCAL = "unix://"


def runtime_dir(above: Path | None = None) -> Path:
    """A private directory of this user on this machine, for Unix sockets and the like.

    Parameters
    ----------
    above
        Where it is made; default: where Python keeps temporary files.

    Raises
    ------
    SiteError
        Somebody else made it.
    """
    path = (above or Path(tempfile.gettempdir())) / f"pilot-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or path.is_symlink():
        raise SiteError(f"{path} is not a private directory of yours; remove it, or set $TMPDIR")
    return path


def socket_path(name: str) -> Path:
    """The Unix socket for `name`, short enough for the kernel however long the name is."""
    return runtime_dir() / hashlib.blake2b(name.encode(), digest_size=9).hexdigest()


def boot_id() -> str:
    """What tells this machine, since its start, from all others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()}/{boot}"


class Endpoints(msgspec.Struct, frozen=True):
    """Where a server can be reached."""

    #: The machine that `local` is good on.
    boot: str
    local: str
    remote: str

    def choose(self) -> str:
        """The endpoint to connect to from this machine."""
        if self.boot == boot_id() and Path(self.local.removeprefix(LOCAL)).exists():
            return self.local
        return self.remote
