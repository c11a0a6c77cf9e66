"""The endpoints of a server: a Unix socket on its own machine, TCP over the network, and a
directory on a shared file system for those who reach neither.

Sockets, and other files that processes of one machine share, are in a directory of the user in the
temporary one: `runtime_dir`. ``$XDG_RUNTIME_DIR`` would be more private, but goes when the user
logs out, and a head stays.

Invariants
----------
- The directory is the user's own, no link, and nobody else may enter it; whatever somebody else
  has put in its place is left alone, and another directory is taken.
- What is connected to is in such a directory.
"""

# No annotations from the future: msgspec would compile each of them whenever a process starts.

import contextlib
import hashlib
import os
import re
import socket
import stat
from pathlib import Path

import msgspec

from pilot.errors import SiteError
from pilot.texts import encodable
from pilot.wire.socket_files import identity

#: The prefix of a Unix socket's path.
LOCAL = "unix://"
#: The prefix of the path of a directory in which connections are made over files.
FILES = "files://"
#: The addresses that are connected to: a file may hold anything.
_LOCAL = re.compile(rf"{LOCAL}/[^\0]{{1,4000}}")
_FILES = re.compile(rf"(?:{FILES}/[^\0]{{1,4000}})?")
_REMOTE = re.compile(r"(?:tcp://[^\s/:;\0]{1,255}:[0-9]{1,5})?")
#: No more addresses than these are tried beside the first.
_MOST_OTHERS = 8


def temporary_dir() -> Path:
    """Return the directory for temporary files, or another one if that has gone.

    A process that outlives the login or the job that started it may outlive its ``$TMPDIR``.
    """
    import tempfile  # late: only servers need it, and clients start faster

    if not Path(tempfile.gettempdir()).is_dir():
        tempfile.tempdir = None  # Python looks again, also for whoever uses `tempfile` itself
    # Where no other directory can be written Python takes the working directory, and each process
    # has its own. And a path that is not UTF-8 cannot be told to other processes.
    path = Path(tempfile.gettempdir()).absolute()
    return path if encodable(str(path)) == str(path) else Path("/tmp")


def runtime_dir(above: Path | None = None) -> Path:
    """Return a private directory of this user on this machine, for Unix sockets and the like.

    Parameters
    ----------
    above
        The directory to make it in; default: that of Python's temporary files.

    Raises
    ------
    SiteError
        The directory cannot be made.
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
        import tempfile  # late, as in `temporary_dir`

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
    #: More of that kind, for those who do not reach the server there.
    others: tuple[str, ...] = ()
    #: Empty where the server takes no connections over files.
    files: str = ""

    @property
    def are_known(self) -> bool:
        """Tell whether these are well-formed endpoints of a Pilot server."""
        return all(
            pattern.fullmatch(endpoint)
            for pattern, endpoint in (
                (_LOCAL, self.local),
                (_FILES, self.files),
                *((_REMOTE, remote) for remote in (self.remote, *self.others)),
            )
        )

    @property
    def is_reachable(self) -> bool:
        """Tell whether this machine can reach the server."""
        return bool(self.remote or self.files) or self.boot == boot_id()

    @property
    def ways_for_others(self) -> tuple[str, ...]:
        """The endpoints that other machines try: those over the network, and the files last."""
        found = (self.remote, *self.others[:_MOST_OTHERS], self.files)
        return tuple(endpoint for endpoint in found if endpoint)

    @property
    def ways(self) -> tuple[str, ...]:
        """The endpoints to try from this machine, one after the other; there is one at least."""
        path = Path(self.local.removeprefix(LOCAL))
        if self.boot == boot_id() and is_private(path.parent) and identity(path):
            return (self.local,)
        return self.ways_for_others or (self.local,)

    def choose(self) -> str:
        """Return the endpoint to connect to from this machine: the first one of `ways`."""
        return self.ways[0]
