"""The end of connections over files that many connect to.

It has the interface of those over Unix sockets (`pilot.wire.unix`) and over TCP.

Invariants
----------
- Its directory is the user's own, no link, and nobody else may enter it; neither are those of
  connections. Whatever is otherwise is left alone.
- What is written or read, is by its thread; no call of the loop waits for a file system but
  `look_after` and `close`.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import shutil
import stat
import time
from collections import deque
from pathlib import Path

from pilot.errors import SiteError
from pilot.wire.endpoints import FILES, is_private
from pilot.wire.files.arrived import Arrived
from pilot.wire.files.connection import SILENT_S, SLOW_S, Connection
from pilot.wire.files.disk import Disk
from pilot.wire.files.helper import Helper

log = logging.getLogger("pilot.wire")

#: A listener looks at no more than so many files in a second.
_LOOKS_PER_S = 500
#: What earlier listeners have left is removed after so long: others may still read it, in seconds.
_LEFT_S = 60.0
#: After closing, the thread may take so much longer than the frames have, in seconds.
_END_S = 0.5


class FileListener:
    """The end that many connect to: a directory on a shared file system.

    Parameters
    ----------
    above
        The directory in which this one's is made; those that others have left there are removed.
    secret
        The key that peers must hold.
    unsent_bytes
        A peer that has not taken so much, and is sent more, is broken off; None: none is.
    disk
        The access to files.

    Raises
    ------
    SiteError
        The directory cannot be made, or is not private.
    """

    def __init__(
        self, above: Path, secret: bytes, unsent_bytes: int | None = None, disk: Disk | None = None
    ) -> None:
        self._above, self._secret, self._unsent_bytes = above, secret, unsent_bytes
        self._disk = disk or Disk()
        self._directory = _make_directory(above)
        #: Those that have said who they are, by name; the loop reads it, the thread changes it.
        self._peers: dict[bytes, Connection] = {}
        self._arrived = Arrived()
        self._ended: deque[bytes] = deque()
        self._gone: list[bytes] = []
        #: Connections that have something to write.
        self._urgent: deque[Connection] = deque()
        # What follows is the thread's alone.
        self._connections: dict[str, Connection] = {}
        #: Connections by the time of their next turn.
        self._turns: list[tuple[float, int, Connection]] = []
        self._order = itertools.count()
        #: The names of connections that have ended, and when; their directories are to go.
        self._over: dict[str, float] = {}
        self._listed = 0.0
        self._sweeps_at = time.monotonic() + _LEFT_S
        self._closes_by = 0.0
        self._helper = Helper(self._turn)
        self._helper.start()

    @property
    def endpoint(self) -> str:
        """The address that others are told."""
        return f"{FILES}{self._directory}"

    @property
    def source(self) -> int:
        """A descriptor that can be read when there is something to `receive`."""
        return self._helper.source

    @property
    def trouble(self) -> str:
        """The fault of the disk, as far as writing to peers shows it; empty: there is none."""
        for connection in list(self._peers.values()):
            if failure := connection.outgoing.failure:
                return (
                    f"what pilots are sent cannot be written into {self._directory}: "
                    f"{failure.strerror or failure}; it is kept, and written when it can be"
                )
        return ""

    @property
    def count(self) -> int:
        """The number of peers that are connected."""
        return len(self._peers)

    def poll(self, timeout_s: float | None) -> bool:
        """Wait until something arrives, for up to `timeout_s` seconds; None: without a limit."""
        return self._helper.poll(timeout_s)

    def receive(self) -> list[tuple[bytes, bytes | memoryview]]:
        """Return the frames that have arrived, with the names of their senders."""
        self._helper.hear()
        self._gone = []
        had_room = self._arrived.has_room
        arrived = self._arrived.take()
        if self._arrived:
            self._helper.tell()
        elif self._ended:
            # Not before what they had said.
            while self._ended:
                self._gone.append(self._ended.popleft())
        if not had_room:
            self._helper.wake()
        return arrived

    def take_gone(self) -> list[bytes]:
        """Return the peers whose connections the last `receive` found ended, once."""
        gone, self._gone = self._gone, []
        return gone

    def has(self, peer: bytes) -> bool:
        """Tell whether a peer is connected."""
        return peer in self._peers

    def send(self, peer: bytes, frame: bytes) -> bool:
        """Send to a peer; return False if it is not connected here."""
        connection = self._peers.get(peer)
        if connection is None:
            return False
        limit, unsent = self._unsent_bytes, connection.outgoing.unsent_bytes
        if limit is not None and unsent > limit and not connection.breaks_off:
            log.warning("broken off: a peer has not taken %d MiB; it may come again", unsent >> 20)
            connection.breaks_off = True
        if not connection.breaks_off:
            connection.outgoing.put(frame)
        self._urgent.append(connection)
        self._helper.wake()
        return True

    def unsent(self, peer: bytes) -> int:
        """Return how many bytes that were sent to a peer it has not taken yet, about."""
        connection = self._peers.get(peer)
        # It tells what it has taken now and then.
        return max(0, connection.outgoing.unsent_bytes - (1 << 20)) if connection else 0

    def look_after(self) -> bool:
        """Make the directory again if it has gone; return True if it is another one now."""
        if is_private(self._directory) or self._closes_by:
            return False
        try:
            self._directory = _make_directory(self._above)
        except SiteError as error:
            log.error("the directory of connections has gone, and cannot be made again: %s", error)
            return False
        log.warning("the directory of connections has gone; another one is %s", self._directory)
        return True

    def close(self, linger_s: float) -> None:
        """Close; sent frames get `linger_s` seconds to be written."""
        deadline = time.monotonic() + linger_s
        self._closes_by = deadline
        self._helper.wake()
        self._helper.close(deadline + _END_S)
        with contextlib.suppress(OSError):  # others remove theirs, and the next listener this one
            self._directory.rmdir()

    # --- the thread

    def _turn(self, now: float) -> float | None:
        had = bool(self._arrived), len(self._ended)
        if self._closes_by:
            for connection in self._connections.values():
                connection.closes = True
                connection.breaks_off |= now >= self._closes_by
                self._urgent.append(connection)
        if now - self._listed >= SLOW_S and not self._closes_by:
            self._listed = now
            self._list(now)
        hurried = [self._urgent.popleft() for _ in range(len(self._urgent))]
        for connection in dict.fromkeys(hurried):
            if connection.hurry(now):
                self._look(connection, now)
            else:
                self._schedule(connection)
        while self._turns and self._turns[0][0] <= now:
            due, _, connection = heapq.heappop(self._turns)
            if due == connection.due:  # it had no other turn meanwhile
                self._look(connection, now)
        if (bool(self._arrived), len(self._ended)) != had or self._arrived:
            self._helper.tell()
        if self._closes_by and not self._connections:
            return None
        next_turn = self._turns[0][0] if self._turns else now + SLOW_S
        return min(next_turn, self._listed + SLOW_S)

    def _look(self, connection: Connection, now: float) -> None:
        if connection.directory.name not in self._connections:
            return
        was_known = bool(connection.name)
        frames = connection.turn(now, self._arrived.has_room, len(self._connections) / _LOOKS_PER_S)
        if connection.name and not was_known:
            self._greet(connection)
        if frames and self._peers.get(connection.name) is connection:
            self._arrived.put(connection.name, frames)
        if connection.is_ended:
            self._end(connection, now)
        else:
            self._schedule(connection)

    def _schedule(self, connection: Connection) -> None:
        heapq.heappush(self._turns, (connection.due, next(self._order), connection))

    def _greet(self, connection: Connection) -> None:
        """Take a peer in that has said its name; one of the same name gives it its place."""
        if before := self._peers.get(connection.name):
            before.breaks_off = True
            self._urgent.append(before)
        self._peers[connection.name] = connection

    def _end(self, connection: Connection, now: float) -> None:
        name = connection.directory.name
        del self._connections[name]
        self._over[name] = now
        if self._peers.get(connection.name) is connection:
            del self._peers[connection.name]
            self._ended.append(connection.name)
        if not connection.has_said_end:
            connection.remove()  # the other end has ended it

    def _list(self, now: float) -> None:
        """Look for new connections, and remove what is left of old ones."""
        try:
            found = {path.name for path in self._directory.iterdir()}
        except OSError as error:
            if not isinstance(error, FileNotFoundError):  # see `look_after`
                log.error("%s cannot be read: %s", self._directory, error)
            return
        names = {name for name in found if not name.startswith(".")}
        for name in names - self._connections.keys() - self._over.keys():
            directory = self._directory / name
            if not is_private(directory):
                log.warning("%s is no directory of this user alone; it is left", directory)
                self._over[name] = float("inf")
                continue
            connection = Connection(self._disk, directory, self._secret, is_listener=True)
            self._connections[name] = connection
            self._urgent.append(connection)
        for name, since in list(self._over.items()):
            if name not in names:
                del self._over[name]
            elif now - since > SILENT_S:
                shutil.rmtree(self._directory / name, ignore_errors=True)
        if now >= self._sweeps_at:
            self._sweeps_at = now + _LEFT_S
            self._sweep()

    def _sweep(self) -> None:
        """Remove what earlier listeners have left, whose peers have found out long since."""
        with contextlib.suppress(OSError):
            for path in self._above.iterdir():
                if path != self._directory and is_private(path):
                    shutil.rmtree(path, ignore_errors=True)


def _make_directory(above: Path) -> Path:
    """Make the directory of a listener.

    Raises
    ------
    SiteError
        It cannot be made, or others may enter it.
    """
    try:
        above.mkdir(mode=0o700, exist_ok=True)
        status = above.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            above.chmod(0o700)  # a copy of a site may be open
        if not is_private(above):
            raise SiteError(
                f"{above} is no directory of yours, or a link: connections over files are made in "
                "it, and others could speak to your pilots there; remove it"
            )
        directory = above / os.urandom(16).hex()
        directory.mkdir(mode=0o700)
    except OSError as error:
        raise SiteError(
            f"the directory for connections over files, in {above}, cannot be made: "
            f"{error.strerror}"
        ) from error
    return directory
