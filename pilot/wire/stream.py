"""One end of a connection: frames in both directions, over a Unix socket that does not block.

Invariants
----------
- Nobody waits, but in `drain`: what the kernel does not take is kept, and follows.
- Frames arrive whole and in order.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import struct
import time
from collections import deque

_LENGTH = struct.Struct("<I")
#: So many bytes are read at a time, and so often before others have their turn.
_READ_BYTES, _READS = 1 << 16, 16
#: Frames that the kernel did not take at once follow so many at a time.
_TOGETHER = 64


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
        with contextlib.suppress(OSError):  # somebody else in this process has closed it
            self._epoll.unregister(self._socket)
        self._socket.close()
