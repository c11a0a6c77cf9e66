"""Frames between processes of one machine: Unix sockets, with no thread between them.

Where two processes share a machine, most of a message's time with ZeroMQ is the way to the thread
that writes it and from the thread that reads it. Here whoever sends writes, and whoever receives
reads. All that makes ZeroMQ worth that elsewhere is the kernel's here: connections do not break
while both ends live, and nobody else sees what is said.

Invariants
----------
- No call blocks, but `poll`, `drain` and `close`.
- Both ends are processes of one user, and each has proved to the other that it holds the key,
  before anything else is said (`greeting`).
- A peer that has not proved that holds a connection and a few hundred bytes here, for some seconds.
- Data that a peer of a listener does not read is kept up to a limit; beyond it the connection is
  broken off, and the peer finds out and connects again.
"""

from __future__ import annotations

import errno
import hmac
import logging
import os
import resource
import select
import socket
import struct
import time
from pathlib import Path

from pilot.wire.greeting import (
    GREETING_BYTES,
    NONCE_BYTES,
    PROOF_BYTES,
    REFUSED,
    is_ours,
    proof_of,
)
from pilot.wire.refusals import refused
from pilot.wire.socket_files import identity, short_address
from pilot.wire.stream import Stream

log = logging.getLogger("pilot.wire")

#: Connections that may wait for a listener that is busy; the kernel may allow fewer.
_BACKLOG = 4096
#: So long may a listener be too busy to take a connection, in seconds.
_CONNECT_S = 20
#: So long may a greeting take once the listener has taken the connection, in seconds.
_GREETING_S = 10.0
#: Where so large a part of the descriptors that a process may have are connections, there are no
#: more: the rest is for files.
_DESCRIPTORS = 0.8


class _Greeting:
    """A connection whose other end has not yet proved to hold the key."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.since = time.monotonic()
        self.name = b""
        #: The proof of the peer; empty until it has said its name.
        self.proof = b""


class Listener:
    """The end that many connect to, on a Unix socket.

    Parameters
    ----------
    path
        The path of the socket, in a private directory; a file that is there is replaced.
    secret
        The key that peers must hold.
    unsent_bytes
        A peer that has not read so much, and is sent more, is broken off; None: none is.
    """

    def __init__(self, path: Path, secret: bytes, unsent_bytes: int | None = None) -> None:
        self._secret = secret
        self._unsent_bytes = unsent_bytes
        self._epoll = select.epoll()
        #: By descriptor: peers that are known, and those that have to greet, the oldest first.
        self._streams: dict[int, Stream] = {}
        self._greetings: dict[int, _Greeting] = {}
        self._gone: list[bytes] = []
        self._peers: dict[bytes, Stream] = {}
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = int(soft * _DESCRIPTORS)
        self._accepts = False
        self._bind(path)

    def _bind(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setblocking(False)
        with short_address(path) as address:
            self._socket.bind(address)
        self._bound = identity(path)
        self._socket.listen(_BACKLOG)
        self._set_accepting(True)

    @property
    def is_there(self) -> bool:
        """True if the socket can still be found where it was made."""
        return identity(self._path) == self._bound

    def move(self, path: Path) -> None:
        """Listen at another path, or again at the same; existing connections stay."""
        self._accept()  # peers that have found it at the old one
        self._set_accepting(False)
        self._socket.close()
        self._bind(path)

    @property
    def source(self) -> int:
        """A descriptor that can be read when there is something to `receive`."""
        return self._epoll.fileno()

    def receive(self) -> list[tuple[bytes, memoryview]]:
        """Return the frames that have arrived, with the names of their senders; also flush what is
        unsent."""
        self._gone = []
        arrived: list[tuple[bytes, memoryview]] = []
        for descriptor, _ in self._epoll.poll(0):
            if descriptor == self._socket.fileno():
                self._accept()
            elif stream := self._streams.get(descriptor):
                stream.flush()
                name = stream.name or self._greet(self._greetings[descriptor])
                if name:
                    arrived += [(name, frame) for frame in stream.receive()]
                if stream.is_lost:
                    self._forget(stream)
        if self._greetings:
            self._end_slow_greetings()
        return arrived

    def send(self, peer: bytes, frame: bytes) -> bool:
        """Send to a peer; return False if it is not connected here."""
        stream = self._peers.get(peer)
        if stream is None:
            return False
        limit = self._unsent_bytes
        if limit is not None and stream.unsent_bytes > limit:
            log.warning(
                "broken off: a peer has not read %d MiB; it may come again",
                stream.unsent_bytes >> 20,
            )
            stream.break_off()
        stream.send(frame)
        return True

    def has(self, peer: bytes) -> bool:
        """Tell whether a peer is connected."""
        return peer in self._peers

    def unsent(self, peer: bytes) -> int:
        """Return how many bytes that were sent to a peer are still untaken."""
        stream = self._peers.get(peer)
        return stream.unsent_bytes if stream is not None else 0

    def _accept(self) -> None:
        while True:
            if len(self._streams) >= self._most:
                log.error("no more connections than %d, until others end", self._most)
                self._set_accepting(False)
                return
            try:
                connected, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    log.error("no more connections, until others end: %s", error)
                    self._set_accepting(False)
                return
            if not is_ours(connected, str(self._path)):
                connected.close()
                continue
            stream = Stream(connected, self._epoll)
            self._streams[stream.descriptor] = stream
            self._greetings[stream.descriptor] = _Greeting(stream)

    def _set_accepting(self, accepts: bool) -> None:
        if accepts and not self._accepts:
            self._epoll.register(self._socket, select.EPOLLIN)
        elif self._accepts and not accepts:
            self._epoll.unregister(self._socket)
        self._accepts = accepts

    def _greet(self, greeting: _Greeting) -> bytes:
        """Continue a greeting; return the name of the peer once it has proved to hold the key."""
        stream = greeting.stream
        if not greeting.proof:
            said = stream.receive_one(GREETING_BYTES)
            if said is None:
                return b""
            theirs, greeting.name = said[:NONCE_BYTES], said[NONCE_BYTES:]
            if not greeting.name:
                self._refuse(stream)
                return b""
            ours = os.urandom(NONCE_BYTES)
            nonces = theirs + ours
            greeting.proof = proof_of(b"peer", nonces, greeting.name, self._secret)
            stream.send(ours + proof_of(b"listener", nonces, greeting.name, self._secret))
        proof = stream.receive_one(PROOF_BYTES)
        if proof is None:
            return b""
        if not hmac.compare_digest(proof, greeting.proof):
            self._refuse(stream)
            return b""
        del self._greetings[stream.descriptor]
        if before := self._peers.get(greeting.name):
            self._forget(before)
        stream.name = greeting.name
        self._peers[stream.name] = stream
        return stream.name

    def _refuse(self, stream: Stream) -> None:
        refused("a key of another site, on this host")
        stream.send(REFUSED)
        stream.is_lost = True

    def _end_slow_greetings(self) -> None:
        latest = time.monotonic() - _GREETING_S
        while self._greetings:
            oldest = next(iter(self._greetings.values()))
            if oldest.since > latest:
                return
            self._forget(oldest.stream)

    def _forget(self, stream: Stream) -> None:
        del self._streams[stream.descriptor]
        self._greetings.pop(stream.descriptor, None)
        if stream.name:
            del self._peers[stream.name]
            self._gone.append(stream.name)
        stream.close()
        self._set_accepting(True)

    def take_gone(self) -> list[bytes]:
        """Return the peers whose connections the last `receive` found ended, once.

        A caller that does not ask before the next `receive` is not told of them: nothing here grows
        with the peers that went.
        """
        gone, self._gone = self._gone, []
        return gone

    def close(self, linger_s: float) -> None:
        """Close; sent frames get `linger_s` seconds to leave."""
        deadline = time.monotonic() + linger_s
        for stream in self._streams.values():
            stream.drain(deadline)
            stream.close()
        self._streams.clear()
        self._greetings.clear()
        self._peers.clear()
        if self.is_there:
            self._path.unlink(missing_ok=True)
        self._socket.close()
        self._epoll.close()


class Line:
    """The end that connects to a listener. If there is none, nothing is sent or arrives.

    What is sent before the listener has proved itself leaves after that: nothing is said to a
    stranger but a name and a random number.

    Parameters
    ----------
    path
        The path of the listener's socket.
    name
        The name of this peer at the listener; one that comes with the same name takes its place.
    secret
        The key.
    """

    def __init__(self, path: str, name: bytes, secret: bytes) -> None:
        self._epoll = select.epoll()
        self._stream: Stream | None = None
        self._name, self._secret = name, secret
        self._nonce = os.urandom(NONCE_BYTES)
        #: The messages to send when the listener has proved itself; None: it has.
        self._held: list[bytes] | None = []
        #: True if the listener holds another key, as far as was received.
        self.refused = False
        connected = socket.socket(socket.AF_UNIX)
        # Where the backlog is full a blocking socket waits; another one would give up.
        limit = struct.pack("ll", _CONNECT_S, 0)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        try:
            with short_address(Path(path)) as address:
                connected.connect(address)
        except OSError as error:
            log.info("nobody listens at %s: %s", path, error.strerror)
            connected.close()
            return
        if not is_ours(connected, path):
            connected.close()
            return
        self._stream = Stream(connected, self._epoll)
        self._stream.send(self._nonce + name)

    @property
    def source(self) -> int:
        """A descriptor that can be read when there is something to `receive`."""
        return self._epoll.fileno()

    @property
    def is_lost(self) -> bool:
        """True if there is no listener at the other end (any more), as far as was received."""
        return self._stream is None

    def poll(self, timeout_s: float | None) -> bool:
        """Wait until something arrives; None: until something arrives or nothing can any more."""
        # A descriptor that somebody else in this process has closed wakes nobody.
        if timeout_s is None and (self._stream is None or self._stream.is_lost):
            return True
        return bool(self._epoll.poll(timeout_s, 1))

    def send(self, frame: bytes) -> None:
        """Send to the listener."""
        if self._stream is None:
            return
        if self._held is not None:
            self._held.append(frame)
        else:
            self._stream.send(frame)

    def receive(self) -> list[memoryview]:
        """Return the frames that have arrived; also flush what is unsent."""
        stream = self._stream
        if stream is None:
            return []
        stream.flush()
        if self._held is not None:
            self._greet(stream)
        frames = stream.receive() if self._held is None else []
        if stream.is_lost:
            stream.close()
            self._stream = None
        return frames

    def _greet(self, stream: Stream) -> None:
        """Answer the listener's greeting, once it has arrived, if it proves to hold the key."""
        said = stream.receive_one(NONCE_BYTES + PROOF_BYTES)
        if said is None:
            return
        nonces = self._nonce + said[:NONCE_BYTES]
        expected = proof_of(b"listener", nonces, self._name, self._secret)
        if not hmac.compare_digest(said[NONCE_BYTES:], expected):
            # The listener is told, so that it can log that.
            stream.send(REFUSED)
            self.refused = stream.is_lost = True
            return
        stream.send(proof_of(b"peer", nonces, self._name, self._secret))
        held, self._held = self._held or [], None
        for frame in held:
            stream.send(frame)

    def drain(self, deadline: float = float("inf")) -> None:
        """Wait until everything is sent, or `deadline` (`time.monotonic`) has passed."""
        while (stream := self._stream) is not None and self._held:
            left_s = deadline - time.monotonic()
            if left_s <= 0.0:
                return
            self.poll(min(left_s, 1.0))
            self._greet(stream)
            if stream.is_lost:
                stream.close()
                self._stream = None
        if self._stream is not None and not self._stream.is_flushed:
            self._stream.drain(deadline)

    def close(self, linger_s: float) -> None:
        """Close; sent frames get `linger_s` seconds to leave."""
        self.drain(time.monotonic() + linger_s)
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._epoll.close()
