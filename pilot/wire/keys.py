"""The keys of a site: whoever holds them is the user, and nobody else is let in.

Every connection is authenticated with them: servers (the head, agents) have the site's server key,
everybody else its client key, and a server admits that one key only. Whoever can read the site
directory's ``keys`` is the user.

Invariants
----------
- The keys of a site are there all together or not at all: they are made aside, and appear in one
  step. A second process that makes keys takes those of the first.
- Pilot never changes them. Where the user does, the head ends, the next one and all clients take
  the new ones, and pilots that hold the old ones end.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from pilot.data.patience import patient
from pilot.errors import SiteError
from pilot.regular_files import read_regular


class Keys(msgspec.Struct, frozen=True):
    """A site's CURVE keys, as ZeroMQ takes them."""

    server_public: bytes
    server_secret: bytes
    client_public: bytes
    client_secret: bytes
    directory: Path


#: More than any key takes.
_MOST_BYTES = 1 << 16
#: The names of the keys: the server's, and everybody else's.
_NAMES = ("server", "client")
#: Advice where keys are missing or damaged.
_AGAIN = (
    "bring it back from a copy, or remove the directory with all keys (new ones are made) and "
    "start again"
)
#: A certificate, as ZeroMQ's own tools write it.
_CERTIFICATE = """\
# A secret key of a site of Pilot: whoever can read this file can run programs as its owner.

metadata
curve
    public-key = "{public}"
    secret-key = "{secret}"
"""


def make_keys(directory: Path) -> None:
    """Make a site's keys, unless they are there already.

    Raises
    ------
    OSError
        The keys cannot be written.
    """
    if _are_there(directory):
        return
    import shutil  # late: keys are made once for a site
    import tempfile

    aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        for name in _NAMES:
            _write_key(aside / _file(name))
        _sync(aside)
        try:
            aside.rename(directory)
        except OSError:
            # Somebody else's were first.
            if not _are_there(directory):
                raise
        _sync(directory.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _file(name: str) -> str:
    return f"{name}.key_secret"


def _are_there(directory: Path) -> bool:
    """Tell whether there are keys; an empty directory counts as none."""
    try:
        return any(directory.iterdir())
    except FileNotFoundError:
        return False


def _write_key(path: Path) -> None:
    import zmq  # late: keys are made once for a site

    public, secret = zmq.curve_keypair()
    text = _CERTIFICATE.format(public=public.decode(), secret=secret.decode())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Flush a directory's list of files to the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@patient
def load_keys(directory: Path) -> Keys:
    """Read a site's keys.

    Raises
    ------
    SiteError
        The keys are missing, damaged, or readable by others.
    """
    pairs = []
    for name in _NAMES:
        path = directory / _file(name)
        try:
            if path.stat().st_mode & 0o077:
                raise SiteError(f"{path} can be read by others; make it private: chmod 600 {path}")
            pairs.append(_read_key(path))
        except OSError as error:
            raise SiteError(f"the key {path} cannot be read: {error.strerror}; {_AGAIN}") from error
        except ValueError as error:
            raise SiteError(f"the key {path} is damaged: {error}; {_AGAIN}") from error
    (server_public, server_secret), (client_public, client_secret) = pairs
    return Keys(server_public, server_secret, client_public, client_secret, directory)


def stamp_of(directory: Path) -> tuple[object, ...]:
    """Return what changes whenever a site's keys do: the inodes and times of their files."""
    found: list[object] = []
    for name in _NAMES:
        try:
            status = (directory / _file(name)).stat()
        except OSError as error:
            found.append(error.errno)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def _read_key(path: Path) -> tuple[bytes, bytes]:
    """Read the public and the secret key in a file, with errors that name the cause."""
    found = {}
    for line in read_regular(path, _MOST_BYTES).splitlines():
        name, is_set, value = line.strip().partition(b"=")
        if is_set:
            found[name.strip()] = value.strip(b" \t'\"")
    if b"public-key" not in found:
        raise ValueError(f"no public key found in {path}")
    return found[b"public-key"], found.get(b"secret-key", b"")
