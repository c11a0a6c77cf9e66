"""The endpoints of a server: a Unix socket on its own machine, and TCP over the network.

Sockets, and other files that processes of one machine share, are in a directory of the user in the
temporary one: `runtime_dir`. ``$XDG_RUNTIME_DIR`` would be more private, but goes when the user
logs out, and a head stays.

Invariants
----------
- The directory is the user's own, no link, and nobody else may enter it; whatever somebody else
  has put in its place is left alone, and another directory is taken.
- What is connected to is in such a directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import stat
import tempfile
from pathlib import Path

import msgspec

from pilot.errors import SiteError
from pilot.wire.socket_files import identity

#: What a Unix socket's path is preceded by.
LOCAL = "unix://"
#: What is connected to: what comes from a file may be anything.
_LOCAL = re.compile(rf"{LOCAL}/[^\0]{{1,4000}}")
_REMOTE = re.compile(r"(?:tcp://[^\s/:;\0]{1,255}:[0-9]{1,5})?")


def temporary_dir() -> Path:
    """Return the directory for temporary files, or another one if that has gone.

    A process that outlives the login or the job that started it may outlive its ``$TMPDIR``.
    """
    if not Path(tempfile.gettempdir()).is_dir():
        tempfile.tempdir = None  # Python looks again, also for whoever uses `tempfile` itself
    return Path(tempfile.gettempdir())


def runtime_dir(above: Path | None = None) -> Path:
    """Return a private directory of this user on this machine, for Unix sockets and the like.

    Parameters
    ----------
    above
        Where it is made; default: where Python keeps temporary files.

    Raises
    ------
    SiteError
        It cannot be made.
    """
    above = above or temporary_dir()
    path = above / f"pilot-{os.getuid()}"
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        if is_private(path):
            return path
        # Somebody else has the name. Nobody else can have made what is ours.
        for other in sorted(above.glob(f"{path.name}-*")):
            if is_private(other):
                return other
        return Path(tempfile.mkdtemp(prefix=f"{path.name}-", dir=above))
    except OSError as error:
        raise SiteError(
            f"no private directory can be made in {above}: {error.strerror}; set $TMPDIR to one "
            "that you can write"
        ) from error


def is_private(path: Path) -> bool:
    """Tell whether a path is a directory of this user, no link, that nobody else may enter."""
    try:
        status = path.lstat()
    except OSError:
        return False
    own = status.st_uid == os.geteuid() and not status.st_mode & 0o077
    return own and stat.S_ISDIR(status.st_mode)


def socket_path(name: str) -> Path:
    """Return the path of the Unix socket for `name`, short however long the name is."""
    return runtime_dir() / hashlib.blake2b(name.encode(), digest_size=9).hexdigest()


def boot_id() -> str:
    """Return an identifier of this machine since its last boot, unlike that of any other."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()}/{boot}"


class Endpoints(msgspec.Struct, frozen=True):
    """The endpoints of a server, for its own machine and for others."""

    #: The machine that `local` is good on.
    boot: str
    local: str
    #: Empty where the server is reached on its own machine only.
    remote: str

    @property
    def are_known(self) -> bool:
        """Tell whether these are well-formed endpoints of a Pilot server."""
        return all(
            pattern.fullmatch(endpoint)
            for pattern, endpoint in ((_LOCAL, self.local), (_REMOTE, self.remote))
        )

    @property
    def is_reachable(self) -> bool:
        """Tell whether this machine can reach the server."""
        return bool(self.remote) or self.boot == boot_id()

    def choose(self) -> str:
        """Return the endpoint to connect to from this machine."""
        path = Path(self.local.removeprefix(LOCAL))
        if self.boot == boot_id() and is_private(path.parent) and identity(path):
            return self.local
        return self.remote or self.local
