"""A stream of frames in both directions over a Unix socket that does not block.

Invariants
----------
- No call blocks, but `drain`: data that the kernel does not take is kept, and sent later.
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
    """A stream of frames over one connection.

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
        #: The name of the other end, once it has greeted, and whether it is gone.
        self.name = b""
        self.is_lost = False
        epoll.register(connected, select.EPOLLIN)

    @property
    def is_flushed(self) -> bool:
        """True if the kernel has everything that was sent."""
        return not self._unsent

    @property
    def descriptor(self) -> int:
        """The socket's descriptor; -1 if it is closed."""
        return self._socket.fileno()

    def send(self, frame: bytes) -> None:
        """Send a frame; it is dropped if the other end is gone."""
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
        """Send as much of the unsent data as is possible now."""
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
        """Break the connection off and drop unsent data; both ends find it ended."""
        self._lose()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def receive_one(self, limit: int) -> bytes | None:
        """Return the next frame and leave what follows it; None if the frame is not complete yet.

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
        """Return the frames that have arrived."""
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
        """Add to `frames` the frames that `data` completes."""
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
        """Return the length of the frame that has arrived in part; 0 if it is not known yet."""
        known = len(self._partial) >= _LENGTH.size
        return int(_LENGTH.unpack_from(self._partial)[0]) if known else 0

    def drain(self, deadline: float) -> None:
        """Wait until the kernel has everything, the other end is gone, or `deadline`
        (`time.monotonic`) has passed."""
        room = select.poll()
        while self._unsent and (left_s := deadline - time.monotonic()) > 0:
            room.register(self._socket, select.POLLOUT)
            room.poll(min(left_s, 1.0) * 1e3)
            self.flush()

    def close(self) -> None:
        """Close the stream; data that the kernel has still arrives."""
        with contextlib.suppress(OSError):  # somebody else in this process has closed it
            self._epoll.unregister(self._socket)
        self._socket.close()
