"""A connection over files: both directions, when to look at them, and whom to take for gone.

No kernel tells that there is something to read, or that the other end has died. So each end looks:
often while there is traffic, twice a second while there is none. And each writes a sign of life
every few seconds, in place, for which no room on the disk is needed.

Invariants
----------
- Silence is counted by looks, not by clocks: an end that stood still itself, or whose file system
  did, has not seen the other one be silent.
- An end that closes has said so in its state once everything it had to say is in the files; the
  other one reads all of it first.
"""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path

from pilot.wire.files import records as r
from pilot.wire.files.disk import Disk
from pilot.wire.files.incoming import Incoming
from pilot.wire.files.outgoing import Outgoing
from pilot.wire.refusals import refused

log = logging.getLogger("pilot.wire")

#: The shortest and the longest time between two looks, in seconds.
FAST_S, SLOW_S = 0.004, 0.5
#: An end that gives no sign of life for so long, as seen in looks, is gone, in seconds.
SILENT_S = 30.0
#: Traffic is forgotten with this time constant, in seconds.
_TRAFFIC_S = 1.0
#: The traffic, in records, up to which it is looked slowly, and from which on at the fastest.
_LITTLE, _MUCH = 2.0, math.sqrt(SLOW_S / FAST_S)
#: So many looks follow one another before other connections have their turn.
_LOOKS = 4


class Connection:
    """One connection, for one of its ends; `turn` is called by a thread, the rest by any.

    Parameters
    ----------
    disk
        The access to files.
    directory
        The directory of the connection, in that of the listener.
    secret
        The key that both ends must hold.
    is_listener
        Which end this is.
    """

    def __init__(self, disk: Disk, directory: Path, secret: bytes, *, is_listener: bool) -> None:
        self.directory = directory
        mine, theirs = ("down", "up") if is_listener else ("up", "down")
        keys = {
            way: r.direction_key(secret, directory.parent.name, directory.name, way)
            for way in (mine, theirs)
        }
        self.outgoing = Outgoing(disk, directory, mine, keys[mine])
        self._incoming = Incoming(disk, directory, theirs, keys[theirs])
        self._frames = r.Frames()
        #: The name of the other end, once it has said it.
        self.name = b""
        #: True if nothing more comes, and True if that is because it holds another key.
        self.is_ended = self.refused = False
        #: True once this end is to say all that it has, and then close; or is to close at once.
        self.closes = self.breaks_off = False
        #: The times of the next turn and of the last one.
        self.due = self._looked = 0.0
        self._silent_s = self._stuck_s = 0.0
        # Whoever has just come has something to say.
        self._traffic = _MUCH
        self._failure: OSError | None = None

    def turn(self, now: float, has_room: bool, least_s: float) -> list[bytes | memoryview]:
        """Write what there is, and return the frames that have arrived.

        Parameters
        ----------
        now
            The time, in seconds, by a monotonic clock.
        has_room
            False if nothing more can be taken at the moment.
        least_s
            The shortest time to the next turn.
        """
        frames: list[bytes | memoryview] = []
        passed_s, self._looked = now - (self._looked or now), now
        count = 0
        try:
            if has_room:
                count = self._look(frames, min(passed_s, 2 * SLOW_S))
            if not self.is_ended:
                count += self._write()
        except FileNotFoundError:
            self.is_ended = True  # the other end has ended it
        except r.ForeignKeyError:
            self._refuse()
        self._traffic = min(_MUCH, self._traffic * math.exp(-passed_s / _TRAFFIC_S) + count)
        slow = self._traffic < _LITTLE
        pause_s = SLOW_S if slow else max(FAST_S, SLOW_S / self._traffic**2)
        self.due = now + max(pause_s, least_s)
        return frames

    def hurry(self, now: float) -> bool:
        """Have the next turn as soon as may be; return True if that is now."""
        self.due = now if self.closes or self.breaks_off else max(now, self._looked + FAST_S)
        return self.due <= now

    @property
    def has_said_end(self) -> bool:
        """True if the other end can read that this one has ended it."""
        return self.outgoing.kind in (r.CLOSED, r.REFUSED)

    def _look(self, frames: list[bytes | memoryview], passed_s: float) -> int:
        incoming = self._incoming
        count, before = 0, (incoming.state, incoming.taken)
        try:
            for _ in range(_LOOKS):
                taken = incoming.taken
                for record in incoming.look():
                    count += 1
                    self._take(record, frames)
                if incoming.taken == taken:
                    break
            self._failure = None
        except FileNotFoundError:
            raise
        except OSError as error:
            if self._failure is None:
                log.error("%s cannot be read: %s; trying again", self.directory, error)
            self._failure = error
        if (state := incoming.state) is not None:
            self.outgoing.acknowledged = state.taken
            if state.kind == r.REFUSED:
                self.refused = self.is_ended = True
            elif state.kind == r.CLOSED and not incoming.is_behind:
                self.is_ended = True
        moved = (incoming.state, incoming.taken) != before
        self._silent_s = 0.0 if moved else self._silent_s + passed_s
        is_stuck = incoming.is_behind and incoming.taken == before[1]
        self._stuck_s = self._stuck_s + passed_s if is_stuck else 0.0
        if self._silent_s > SILENT_S:
            log.warning("no sign of life for %.0f s in %s", SILENT_S, self.directory)
            self.breaks_off = True
        elif self._stuck_s > SILENT_S:
            log.error("what was written into %s cannot be read: it is damaged", self.directory)
            self.breaks_off = True
        return count

    def _take(self, record: r.Record, frames: list[bytes | memoryview]) -> None:
        if record.kind == r.NAME:
            self.name = self.name or bytes(record.payload)
            return
        if (frame := self._frames.join(record)) is not None:
            frames.append(frame)

    def _write(self) -> int:
        outgoing = self.outgoing
        if self.breaks_off:
            outgoing.drop()
        kind = r.CLOSED if self.breaks_off or (self.closes and outgoing.is_flushed) else r.OPEN
        failed = outgoing.failure
        count = outgoing.write(self._incoming.taken, kind)
        if self.closes and kind == r.OPEN and outgoing.is_flushed:
            outgoing.write(self._incoming.taken, r.CLOSED)
        if outgoing.failure is not None and failed is None:
            log.error("%s cannot be written: %s; trying again", self.directory, outgoing.failure)
        elif outgoing.failure is None and failed is not None:
            log.info("%s can be written again", self.directory)
        if self.breaks_off or outgoing.kind == r.CLOSED:
            self.is_ended = True
        return int(count)

    def _refuse(self) -> None:
        """End the connection of an end with another key, and tell it."""
        refused(f"a key of another site, in {self.directory}")
        self.refused = self.is_ended = True
        try:
            self.outgoing.write(0, r.REFUSED)
        except OSError:
            return  # it finds out by itself

    def remove(self) -> None:
        """Remove the directory, which both ends have done with."""
        shutil.rmtree(self.directory, ignore_errors=True)
