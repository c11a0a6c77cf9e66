"""The greeting on a Unix socket, by which both ends prove their identity.

The kernel says whose process it is. Then each sends a random number, and proves that it holds the
key by a keyed hash over both numbers, and over the name that the one who connects is to have:

    connects → listens   random number, name
    listens → connects   random number, proof
    connects → listens   proof

Invariants
----------
- Whatever was said before proves nothing: neither end chooses both numbers.
- The proof of one side is not valid for the other side.
- No frame of this is longer than `GREETING_BYTES`.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct

from pilot.wire.refusals import refused

NONCE_BYTES = PROOF_BYTES = 32
#: The longest name of a peer, and with it the longest frame of a greeting.
_NAME_BYTES = 256
GREETING_BYTES = NONCE_BYTES + _NAME_BYTES
#: The answer of either end to one that does not hold its key.
REFUSED = b""
#: The credentials of the other end, as the kernel writes them: process, user and group.
_CREDENTIALS = struct.Struct("3i")


def proof_of(side: bytes, nonces: bytes, name: bytes, secret: bytes) -> bytes:
    """Return the proof of holding the key, for this connection and this side of it."""
    words = side + nonces + name
    return hashlib.blake2b(words, key=secret, digest_size=PROOF_BYTES).digest()


def user_of(connected: socket.socket) -> int:
    """Return the user id of the process at the other end; for a listener, of the process that made
    it."""
    packed = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(packed)[1])


def is_ours(connected: socket.socket, where: str) -> bool:
    """Tell whether the other end belongs to this process's user; log if it does not."""
    user = user_of(connected)
    if user != os.geteuid():
        refused(f"a process of user {user}, not of yours, at {where}")
    return user == os.geteuid()
