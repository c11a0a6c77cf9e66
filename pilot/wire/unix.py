"""Frames between processes of one machine: Unix sockets, with no thread between them.

Where two processes share a machine, most of a message's time with ZeroMQ is the way to the thread
that writes it and from the thread that reads it. Here whoever sends writes, and whoever receives
reads. All that makes ZeroMQ worth that elsewhere is the kernel's here: connections do not break
while both ends live, and nobody else sees what is said.

Invariants
----------
- Nobody waits, but in `drain` and `close`: what the kernel does not take is kept, and follows.
- Frames arrive whole and in order.
- Both ends are processes of one user, as the kernel says, and each has proved to the other that it
  holds the key, before anything else is said: by a keyed hash over two random numbers, one of each
  end, so that no proof is good twice, or in the other direction.
- Who has not proved that holds a connection and a few hundred bytes here, for some seconds.
- What a peer of a listener does not read is kept up to a limit; beyond it the connection is broken
  off, and the peer finds out and comes again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import itertools
import logging
import os
import resource
import select
import socket
import stat
import struct
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from pilot.wire.refusals import refused

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
_NONCE_BYTES = _PROOF_BYTES = 32
#: The longest name of a peer, and with it the longest frame of a greeting.
_NAME_BYTES = 256
_GREETING_BYTES = _NONCE_BYTES + _NAME_BYTES
#: So long may a greeting take once the listener has taken the connection, in seconds.
_GREETING_S = 10.0
#: Where so large a part of the descriptors that a process may have are connections, there are no
#: more: the rest is for files.
_DESCRIPTORS = 0.8
#: What either end says to one that does not hold its key.
_REFUSED = b""
#: As the kernel writes the credentials of the other end: its process, user and group.
_CREDENTIALS = struct.Struct("3i")
#: A socket that nobody listens at is left over once it is so old, in seconds.
_NEW_S = 60.0
#: So old is no file that a process passes on to another one, in seconds.
_OLD_S = 86_400.0
#: What the kernel takes as the path of a socket.
_PATH_BYTES = 107


def _proof(side: bytes, nonces: bytes, name: bytes, secret: bytes) -> bytes:
    """Return what only who holds the key can say, of this connection and on this side of it."""
    words = side + nonces + name
    return hashlib.blake2b(words, key=secret, digest_size=_PROOF_BYTES).digest()


def _user(connected: socket.socket) -> int:
    """Return the user whose process has the other end: a listener's as it was made."""
    packed = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(packed)[1])


def _is_ours(connected: socket.socket, where: str) -> bool:
    """Tell whether the other end belongs to the user of this process; log where it does not."""
    user = _user(connected)
    if user != os.geteuid():
        refused(f"a process of user {user}, not of yours, at {where}")
    return user == os.geteuid()


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """Give the path in the length that the kernel takes: by way of the directory, held open."""
    if len(os.fsencode(path)) <= _PATH_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


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
        #: How much of what was sent the kernel does not have yet.
        self.unsent_bytes = 0
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
            self.unsent_bytes += len(rest)
        elif (rest := rest[self._write([rest]) :]) and not self.is_lost:
            self._unsent.append(rest)
            self.unsent_bytes = len(rest)
            self._epoll.modify(self._socket, select.EPOLLIN | select.EPOLLOUT)

    def flush(self) -> None:
        """Send of what could not be sent as much as is possible now."""
        if not self._unsent:
            return
        while self._unsent:
            written = self._write(list(itertools.islice(self._unsent, _TOGETHER)))
            if not written:
                return
            self.unsent_bytes -= written
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
            self._lose()
            return 0

    def _lose(self) -> None:
        self.is_lost = True
        self._unsent.clear()
        self.unsent_bytes = 0

    def break_off(self) -> None:
        """Give the connection up, with what was not sent; both ends find it ended."""
        self._lose()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def receive_one(self, limit: int) -> bytes | None:
        """Return the next frame, and leave what follows it; None: it is not whole yet.

        One that is longer than `limit` ends the connection before it is read.
        """
        while not self.is_lost:
            length = self._awaited()
            missing = _LENGTH.size + length - len(self._partial)
            if length > limit:
                self._lose()
            elif missing:
                try:
                    data = self._socket.recv(missing)
                except BlockingIOError:
                    return None
                except OSError:
                    data = b""
                self._partial += data
                if not data:
                    self._lose()
            else:
                frame, self._partial = bytes(self._partial[_LENGTH.size :]), bytearray()
                return frame
        return None

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


class _Greeting:
    """What is known of a connection before its other end has proved to hold the key."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.since = time.monotonic()
        self.name = b""
        #: What proves it; empty until it has said its name.
        self.proof = b""


class Listener:
    """The end that many connect to, on a Unix socket.

    Parameters
    ----------
    path
        Of the socket, in a private directory; what is there is replaced.
    secret
        The key that peers must hold.
    unsent_bytes
        A peer that has not read so much, and is sent more, is broken off; None: none is.
    """

    def __init__(self, path: Path, secret: bytes, unsent_bytes: int | None = None) -> None:
        self._secret = secret
        self._unsent_bytes = unsent_bytes
        self._epoll = select.epoll()
        #: By descriptor: those who are known, and those who have still to greet, oldest first.
        self._streams: dict[int, Stream] = {}
        self._greetings: dict[int, _Greeting] = {}
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
        with _address(path) as address:
            self._socket.bind(address)
        self._bound = _identity(path)
        self._socket.listen(_BACKLOG)
        self._set_accepting(True)

    @property
    def is_there(self) -> bool:
        """Whether the socket can still be found where it was made."""
        return _identity(self._path) == self._bound

    def move(self, path: Path) -> None:
        """Listen at another path, or anew at the same; connections that there are stay."""
        self._accept()  # who has found it at the old one
        self._set_accepting(False)
        self._socket.close()
        self._bind(path)

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
                name = stream.name or self._greet(self._greetings[descriptor])
                if name:
                    arrived += [(name, frame) for frame in stream.receive()]
                if stream.is_lost:
                    self._forget(stream)
        if self._greetings:
            self._end_slow_greetings()
        return arrived

    def send(self, peer: bytes, frame: bytes) -> bool:
        """Send to a peer; False where it is not connected here."""
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

    def unsent(self, peer: bytes) -> int:
        """How many bytes that were sent to a peer it has not taken yet."""
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
            if not _is_ours(connected, str(self._path)):
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
        """Go on with a greeting; returns the name of the peer where it has proved itself."""
        stream = greeting.stream
        if not greeting.proof:
            said = stream.receive_one(_GREETING_BYTES)
            if said is None:
                return b""
            theirs, greeting.name = said[:_NONCE_BYTES], said[_NONCE_BYTES:]
            if not greeting.name:
                self._refuse(stream)
                return b""
            ours = os.urandom(_NONCE_BYTES)
            nonces = theirs + ours
            greeting.proof = _proof(b"peer", nonces, greeting.name, self._secret)
            stream.send(ours + _proof(b"listener", nonces, greeting.name, self._secret))
        proof = stream.receive_one(_PROOF_BYTES)
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
        stream.send(_REFUSED)
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
        stream.close()
        self._set_accepting(True)

    def close(self, linger_s: float) -> None:
        """Close; what was sent has so long to leave."""
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


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from one that is put in its place later; None: there is none."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Line:
    """The end that connects to a listener. Where there is none, nothing is sent or arrives.

    What is sent before the listener has proved itself leaves after that: nothing is said to a
    stranger but a name and a random number.

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
        self._name, self._secret = name, secret
        self._nonce = os.urandom(_NONCE_BYTES)
        #: What is to be sent when the listener has proved itself; None: it has.
        self._held: list[bytes] | None = []
        #: Whether the listener holds another key, as far as was received.
        self.refused = False
        connected = socket.socket(socket.AF_UNIX)
        # Where the backlog is full this waits, a socket that does not block would give up.
        limit = struct.pack("ll", _CONNECT_S, 0)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        try:
            with _address(Path(path)) as address:
                connected.connect(address)
        except OSError as error:
            log.info("nobody listens at %s: %s", path, error.strerror)
            connected.close()
            return
        if not _is_ours(connected, path):
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
        """Whether there is no listener at the other end (any more), as far as was received."""
        return self._stream is None

    def poll(self, timeout_s: float | None) -> bool:
        """Wait until something arrives; None: for ever."""
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
        """What has arrived; also sees that what is kept follows."""
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
        """Answer the listener's word, once it is here, if it proves that it holds the key."""
        said = stream.receive_one(_NONCE_BYTES + _PROOF_BYTES)
        if said is None:
            return
        nonces = self._nonce + said[:_NONCE_BYTES]
        expected = _proof(b"listener", nonces, self._name, self._secret)
        if not hmac.compare_digest(said[_NONCE_BYTES:], expected):
            # It is told, so that it can log that.
            stream.send(_REFUSED)
            self.refused = stream.is_lost = True
            return
        stream.send(_proof(b"peer", nonces, self._name, self._secret))
        held, self._held = self._held or [], None
        for frame in held:
            stream.send(frame)

    def drain(self, deadline: float = float("inf")) -> None:
        """Wait until all is on its way, or `time.monotonic` has come."""
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
        """Close; what was sent has so long to leave."""
        self.drain(time.monotonic() + linger_s)
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._epoll.close()


def remove_dead(directory: Path) -> None:
    """Remove from a directory of sockets what killed processes leave in it.

    These are sockets that nobody listens at, and memory of ranks that no node worker has taken over.
    """
    now = time.time()
    for path in directory.iterdir():
        with contextlib.suppress(OSError):
            status = path.lstat()
            # One that is new may be about to listen, or to be taken over.
            age_s = now - status.st_mtime
            if stat.S_ISSOCK(status.st_mode) and age_s > _NEW_S:
                _remove_if_dead(path)
            elif path.name.startswith("rank-") and age_s > _OLD_S:
                path.unlink()


def _remove_if_dead(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as asked:
        asked.setblocking(False)
        try:
            with _address(path) as address:
                asked.connect(address)
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
