"""The end of connections over files that connects to a listener.

It has the interface of those over Unix sockets (`pilot.wire.unix`) and over TCP.

Invariants
----------
- A connection appears with both of its files, in one step, in a directory that is the user's own.
- All system calls on files are those of its thread.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections import deque
from pathlib import Path

from pilot.wire.endpoints import is_private
from pilot.wire.files import records as r
from pilot.wire.files.arrived import Arrived
from pilot.wire.files.connection import Connection
from pilot.wire.files.disk import Disk
from pilot.wire.files.helper import Helper

log = logging.getLogger("pilot.wire")

#: After closing, the thread may take so much longer than the frames have, in seconds.
_END_S = 0.5


class FileLine:
    """The end that connects to a listener. If there is none, nothing is sent or arrives.

    Parameters
    ----------
    directory
        The listener's.
    name
        The name of this peer at the listener; one that comes with the same name takes its place.
    secret
        The key.
    disk
        The access to files.
    """

    def __init__(
        self, directory: str, name: bytes, secret: bytes, disk: Disk | None = None
    ) -> None:
        self._listener, self._name, self._secret = Path(directory), name, secret
        self._disk = disk or Disk()
        self._connection: Connection | None = None
        #: Frames that came before the connection was made.
        self._waiting: deque[bytes] = deque()
        self._arrived = Arrived()
        self._is_over = False
        #: True if the next turn is not to wait until it is due.
        self._is_hurried = False
        self._closes_by = 0.0
        self._helper = Helper(self._turn)
        self._helper.start()

    @property
    def source(self) -> int:
        """A descriptor that can be read when there is something to `receive`."""
        return self._helper.source

    @property
    def is_lost(self) -> bool:
        """True if there is no listener at the other end (any more), as far as was received."""
        return self._is_over and not self._arrived

    @property
    def refused(self) -> bool:
        """True if the listener holds another key."""
        return self._connection is not None and self._connection.refused

    def poll(self, timeout_s: float | None) -> bool:
        """Wait until something arrives; None: until something arrives or nothing can any more."""
        return (timeout_s is None and self.is_lost) or self._helper.poll(timeout_s)

    def send(self, frame: bytes) -> None:
        """Send to the listener."""
        if not self._is_over:
            self._waiting.append(frame)
            self._helper.wake()

    def receive(self) -> list[bytes | memoryview]:
        """Return the frames that have arrived."""
        self._helper.hear()
        had_room = self._arrived.has_room
        arrived = [frame for _, frame in self._arrived.take()]
        if self._arrived:
            self._helper.tell()
        if not had_room:
            self._is_hurried = True
            self._helper.wake()
        return arrived

    def drain(self, deadline: float = float("inf")) -> None:
        """Wait until everything is written, or `deadline` (`time.monotonic`) has passed."""
        self._helper.wake()
        self._helper.wait_until(self._is_drained, deadline)

    def _is_drained(self) -> bool:
        connection = self._connection
        is_written = connection is not None and connection.outgoing.is_flushed
        return self._is_over or (is_written and not self._waiting)

    def close(self, linger_s: float) -> None:
        """Close; sent frames get `linger_s` seconds to be written."""
        deadline = time.monotonic() + linger_s
        self._closes_by = deadline
        self._helper.close(deadline + _END_S)

    # --- the thread

    def _turn(self, now: float) -> float | None:
        connection = self._connection
        if connection is None:
            if self._closes_by and not self._waiting:
                self._end()
                return None
            try:
                connection = self._connect()
            except OSError as error:
                log.info("nobody listens in %s: %s", self._listener, error.strerror or error)
                self._end()
                return None
        while self._waiting:
            self._is_hurried = True
            connection.outgoing.put(self._waiting.popleft())
        if self._closes_by:
            self._is_hurried = connection.closes = True
            connection.breaks_off |= now >= self._closes_by
        if now < connection.due and not (self._is_hurried and connection.hurry(now)):
            return connection.due
        self._is_hurried = False
        frames = connection.turn(now, self._arrived.has_room or bool(self._closes_by), 0.0)
        self._arrived.put(b"", frames)
        if connection.is_ended:
            if not connection.has_said_end or not is_private(self._listener):
                connection.remove()  # the listener has ended it, or is gone itself
            self._end()
            return None
        if frames:
            self._helper.tell()
        return connection.due

    def _connect(self) -> Connection:
        """Make the directory of the connection, which the listener finds.

        Raises
        ------
        OSError
            There is no listener, or the disk is full.
        """
        if not is_private(self._listener):
            raise FileNotFoundError(f"{self._listener} is no directory of this user alone")
        name = os.urandom(16).hex()
        directory, aside = self._listener / name, self._listener / f".{name}"
        aside.mkdir(mode=0o700)
        try:
            for way in ("up", "down"):
                self._disk.create(aside / f"{way}.1", bytes(r.STATE_BYTES))
            aside.rename(directory)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        connection = Connection(self._disk, directory, self._secret, is_listener=False)
        connection.outgoing.say_name(self._name)
        self._connection = connection
        return connection

    def _end(self) -> None:
        self._is_over = True
        self._helper.tell()
