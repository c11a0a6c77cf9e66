"""Frames between processes of one machine: Unix sockets, with no thread between them.

Where two processes share a machine, most of a message's time with ZeroMQ is the way to the thread
that writes it and from the thread that reads it. Here whoever sends writes, and whoever receives
reads. All that makes ZeroMQ worth that elsewhere is the kernel's here: connections do not break
while both ends live, and nobody else sees what is said.

Invariants
----------
- Nobody waits, but in `drain` and `close`: what the kernel does not take is kept, and follows.
- Frames arrive whole and in order.
- A listener hears who has proved to hold its key, and nobody else.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import itertools
import logging
import select
import socket
import struct
import time
from collections import deque
from pathlib import Path

log = logging.getLogger("pilot.wire")

_LENGTH = struct.Struct("<I")
#: So many bytes are read at a time, and so often before others have their turn.
_READ_BYTES, _READS = 1 << 16, 16
#: Frames that the kernel did not take at once follow so many at a time.
_TOGETHER = 64
#: Connections that may wait for a listener that is busy; the kernel may allow fewer.
_BACKLOG = 4096
#: So long may a listener be too busy to take a connection, in seconds.
_CONNECT_S = 20
_PROOF_BYTES = 32
#: What a listener says to one that does not hold its key.
_REFUSED = b""


def _proof(name: bytes, secret: bytes) -> bytes:
    """What `name` greets with: only who holds the key can make it, and nobody else sees it."""
    return hashlib.blake2b(name, key=secret, digest_size=_PROOF_BYTES).digest()


class Stream:
    """One end of a connection.

    Parameters
    ----------
    connected
        The socket; it is closed with the stream.
    epoll
        Is told when there is something to receive, or room for what could not be sent.
    """

    def __init__(self, connected: socket.socket, epoll: select.epoll) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._epoll = epoll
        self._partial = bytearray()
        self._unsent: deque[memoryview] = deque()
        #: What is known of the other end: its name, once it has greeted, and whether it is gone.
        self.name = b""
        self.is_lost = False
        epoll.register(connected, select.EPOLLIN)

    @property
    def is_flushed(self) -> bool:
        """Whether the kernel has all that was sent."""
        return not self._unsent

    @property
    def descriptor(self) -> int:
        """The socket's; -1 where it is closed."""
        return self._socket.fileno()

    def send(self, frame: bytes) -> None:
        """Send a frame; nobody gets it if the other end is gone."""
        if self.is_lost:
            return
        rest = memoryview(_LENGTH.pack(len(frame)) + frame)
        if self._unsent:
            self._unsent.append(rest)
        elif (rest := rest[self._write([rest]) :]) and not self.is_lost:
            self._unsent.append(rest)
            self._epoll.modify(self._socket, select.EPOLLIN | select.EPOLLOUT)

    def flush(self) -> None:
        """Send of what could not be sent as much as is possible now."""
        if not self._unsent:
            return
        while self._unsent:
            written = self._write(list(itertools.islice(self._unsent, _TOGETHER)))
            if not written:
                return
            while written:
                first = self._unsent.popleft()
                if written < len(first):
                    self._unsent.appendleft(first[written:])
                written -= min(written, len(first))
        self._epoll.modify(self._socket, select.EPOLLIN)

    def _write(self, pieces: list[memoryview]) -> int:
        try:
            return self._socket.sendmsg(pieces)
        except BlockingIOError:
            return 0
        except OSError:
            self.is_lost = True
            self._unsent.clear()
            return 0

    def receive(self) -> list[memoryview]:
        """The frames that have arrived."""
        frames: list[memoryview] = []
        for _ in range(_READS):
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.is_lost = True
                break
            self._split(data, frames)
            if len(data) < _READ_BYTES:
                break
        return frames

    def _split(self, data: bytes | bytearray, frames: list[memoryview]) -> None:
        """Add to `frames` those that `data` makes whole."""
        if self._partial:
            self._partial += data
            if len(self._partial) < _LENGTH.size + self._awaited():
                return
            data, self._partial = self._partial, bytearray()
        view = memoryview(data)
        while len(view) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(view)[0]
            if len(view) < end:
                break
            frames.append(view[_LENGTH.size : end])
            view = view[end:]
        self._partial += view

    def _awaited(self) -> int:
        """The length of the frame that has come in part, once that is known."""
        known = len(self._partial) >= _LENGTH.size
        return int(_LENGTH.unpack_from(self._partial)[0]) if known else 0

    def drain(self, deadline: float) -> None:
        """Wait until the kernel has all, the other end is gone, or `time.monotonic` has come."""
        room = select.poll()
        while self._unsent and (left_s := deadline - time.monotonic()) > 0:
            room.register(self._socket, select.POLLOUT)
            room.poll(min(left_s, 1.0) * 1e3)
            self.flush()

    def close(self) -> None:
        """Close; what the kernel has still arrives."""
        self._epoll.unregister(self._socket)
        self._socket.close()


class Listener:
    """The end that many connect to, on a Unix socket.

    Parameters
    ----------
    path
        Of the socket, in a private directory; what is there is replaced.
    secret
        The key that peers must hold.
    """

    def __init__(self, path: Path, secret: bytes) -> None:
        self._path = path
        self._secret = secret
        self._epoll = select.epoll()
        self._streams: dict[int, Stream] = {}
        self._peers: dict[bytes, Stream] = {}
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setblocking(False)
        self._socket.bind(str(path))
        self._socket.listen(_BACKLOG)
        self._accepts = False
        self._set_accepting(True)

    @property
    def source(self) -> int:
        """A descriptor that can be read when there is something to `receive`."""
        return self._epoll.fileno()

    def receive(self) -> list[tuple[bytes, memoryview]]:
        """What has arrived, with the name of who sent it; also sees that what is kept follows."""
        arrived: list[tuple[bytes, memoryview]] = []
        for descriptor, _ in self._epoll.poll(0):
            if descriptor == self._socket.fileno():
                self._accept()
            elif stream := self._streams.get(descriptor):
                stream.flush()
                for frame in stream.receive():
                    if stream.name:
                        arrived.append((stream.name, frame))
                    elif not self._greet(stream, bytes(frame)):
                        break
                if stream.is_lost:
                    self._forget(stream)
        return arrived

    def send(self, peer: bytes, frame: bytes) -> bool:
        """Send to a peer; False where it is not connected here."""
        stream = self._peers.get(peer)
        if stream is None:
            return False
        stream.send(frame)
        return True

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    log.error("no more connections, until others end: %s", error)
                    self._set_accepting(False)
                return
            self._streams[connected.fileno()] = Stream(connected, self._epoll)

    def _set_accepting(self, accepts: bool) -> None:
        if accepts and not self._accepts:
            self._epoll.register(self._socket, select.EPOLLIN)
        elif self._accepts and not accepts:
            self._epoll.unregister(self._socket)
        self._accepts = accepts

    def _greet(self, stream: Stream, greeting: bytes) -> bool:
        """Take in a peer by its first frame; False: it is refused."""
        proof, name = greeting[:_PROOF_BYTES], greeting[_PROOF_BYTES:]
        if not (name and hmac.compare_digest(proof, _proof(name, self._secret))):
            logging.getLogger("pilot.auth").warning("refused: a key of another site, on this host")
            stream.send(_REFUSED)
            stream.is_lost = True
            return False
        if before := self._peers.get(name):
            self._forget(before)
        stream.name = name
        self._peers[name] = stream
        return True

    def _forget(self, stream: Stream) -> None:
        del self._streams[stream.descriptor]
        if stream.name:
            del self._peers[stream.name]
        stream.close()
        self._set_accepting(True)

    def close(self, linger_s: float) -> None:
        """Close; what was sent has so long to leave."""
        deadline = time.monotonic() + linger_s
        for stream in self._streams.values():
            stream.drain(deadline)
            stream.close()
        self._streams.clear()
        self._path.unlink(missing_ok=True)
        self._socket.close()
        self._epoll.close()


class Line:
    """The end that connects to a listener. Where there is none, nothing is sent or arrives.

    Parameters
    ----------
    path
        Of the listener's socket.
    name
        What the listener knows this peer by; one that comes with the same name takes its place.
    secret
        The key.
    """

    def __init__(self, path: str, name: bytes, secret: bytes) -> None:
        self._epoll = select.epoll()
        self._stream: Stream | None = None
        #: Whether the listener holds another key, as far as was received.
        self.refused = False
        connected = socket.socket(socket.AF_UNIX)
        # Where the backlog is full this waits, a socket that does not block would give up.
        limit = struct.pack("ll", _CONNECT_S, 0)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        try:
            connected.connect(path)
        except OSError as error:
            log.info("nobody listens at %s: %s", path, error.strerror)
            connected.close()
            return
        self._stream = Stream(connected, self._epoll)
        self._stream.send(_proof(name, secret) + name)

    @property
    def source(self) -> int:
        """A descriptor that can be read when there is something to `receive`."""
        return self._epoll.fileno()

    def poll(self, timeout_s: float | None) -> bool:
        """Wait until something arrives; None: for ever."""
        return bool(self._epoll.poll(timeout_s, 1))

    def send(self, frame: bytes) -> None:
        """Send to the listener."""
        if self._stream is not None:
            self._stream.send(frame)

    def receive(self) -> list[memoryview]:
        """What has arrived; also sees that what is kept follows."""
        stream = self._stream
        if stream is None:
            return []
        stream.flush()
        frames = stream.receive()
        if stream.is_lost:
            stream.close()
            self._stream = None
        if not all(map(len, frames)):
            self.refused = True
            frames = []
        return frames

    def drain(self) -> None:
        """Wait until all is on its way."""
        if self._stream is not None and not self._stream.is_flushed:
            self._stream.drain(float("inf"))

    def close(self, linger_s: float) -> None:
        """Close; what was sent has so long to leave."""
        if self._stream is not None:
            self._stream.drain(time.monotonic() + linger_s)
            self._stream.close()
            self._stream = None
        self._epoll.close()
