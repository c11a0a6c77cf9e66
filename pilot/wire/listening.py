"""A TCP port that can turn newcomers away for a while, and keeps existing connections.

ZeroMQ takes connections by itself, as many as there are descriptors for, and cannot be told to
stop: to unbind its socket ends all connections that came through it. So the port is made here, and
handed to it; and when there are too many connections the kernel drops what newcomers send to it
(the socket asks for a TTL that no packet has), so that they wait, or give up. A filter on the
socket would do the same, but some kernels refuse it to users.

Invariants
----------
- At the moment in which newcomers are turned away there are descriptors left, though those that
  the kernel has let in already still come: more are held in reserve than there can be of these.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
import time
from pathlib import Path

log = logging.getLogger("pilot.wire")

#: How often the descriptors of the process are counted, in seconds; at which part of those that it
#: may have newcomers are turned away, and at which they are let in again.
_COUNT_S = 1.0
_FULL, _ROOM = 0.8, 0.7
#: That part of the descriptors is held in reserve, but no more than so many.
_RESERVE_PART, _RESERVE_MOST = 1 / 8, 256
#: The socket option for the least TTL of what is taken (``linux/in.h``), and the largest TTL: Linux
#: sends with 64, and each router on the way takes one off. 0: any.
_IP_MINTTL, _NONE_HAS, _ANY = 21, 255, 0


class Port:
    """A listening TCP port.

    Parameters
    ----------
    address
        The address to listen at; ``*``: all.
    number
        The port; 0: any that is free.

    Raises
    ------
    OSError
        The port cannot be had.
    """

    def __init__(self, address: str, number: int) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = min(int(soft * _RESERVE_PART), _RESERVE_MOST)
        self._socket = _bind(address, number)
        self._socket.listen(max(1, self._most // 2))
        self.number: int = self._socket.getsockname()[1]
        self._reserve: list[int] = []
        self._hold_reserve()
        self._is_open = True
        self._counted = 0.0

    def share(self) -> int:
        """Return a descriptor of the socket for a user of the port, who has to close it."""
        return os.dup(self._socket.fileno())

    def look_after(self) -> None:
        """Turn newcomers away while few descriptors are left."""
        now = time.monotonic()
        if now - self._counted < _COUNT_S:
            return
        self._counted = now
        used = _descriptors_used()
        if self._is_open and used > _FULL:
            log.error("there are too many open connections: no more over TCP until others end")
            self._take_from(_NONE_HAS)
            self._is_open = False
            self._release()
        elif not self._is_open and used < _ROOM:
            # First: who is let in takes descriptors at once.
            try:
                self._hold_reserve()
            except OSError:
                self._release()
                return
            self._take_from(_ANY)
            self._is_open = True

    def _take_from(self, least_ttl: int) -> None:
        self._socket.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, least_ttl)

    def _hold_reserve(self) -> None:
        for _ in range(self._most):
            self._reserve.append(os.open(os.devnull, os.O_RDONLY))

    def _release(self) -> None:
        while self._reserve:
            os.close(self._reserve.pop())

    def close(self) -> None:
        """Stop listening; existing connections stay."""
        self._release()
        self._socket.close()


def _bind(address: str, number: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(("" if address == "*" else address, number))
    except OSError as error:
        listener.close()
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        # So it is where a port is forwarded to this machine.
        log.warning("%s is not an address of this machine; listening at all its addresses", address)
        return _bind("*", number)
    return listener


def _descriptors_used() -> float:
    """Return the fraction of this process's descriptors that is in use."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir()) / soft
    except OSError:
        return 1.0  # there is not even one left to look
