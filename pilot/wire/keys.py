"""A site's keys: who holds them is the user, and nobody else is let in.

Every connection is authenticated with them: servers (the head, agents) have the site's server key,
everybody else its client key, and a server admits that one key only. Whoever can read the site
directory's ``keys`` is the user.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import zmq.auth

from pilot.errors import SiteError


class Keys(msgspec.Struct, frozen=True):
    """A site's CURVE keys, as ZeroMQ takes them."""

    server_public: bytes
    server_secret: bytes
    client_public: bytes
    client_secret: bytes
    directory: Path


def load_keys(directory: Path) -> Keys:
    """Read a site's keys.

    Raises
    ------
    SiteError
        They are missing, damaged, or readable by others.
    """
    pairs = []
    for name in ("server", "client"):
        path = directory / f"{name}.key_secret"
        try:
            if path.stat().st_mode & 0o077:
                raise SiteError(f"{path} can be read by others; make it private: chmod 600 {path}")
            pairs.append(zmq.auth.load_certificate(path))
        except OSError as error:
            raise SiteError(f"the key {path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise SiteError(f"the key {path} is damaged: {error}") from error
    (server_public, server_secret), (client_public, client_secret) = pairs
    return Keys(server_public, server_secret or b"", client_public, client_secret or b"", directory)
