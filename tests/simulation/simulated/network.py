"""Connections to heads: what is sent arrives in order, late, or never once an end is gone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from pilot.limits import TOLD_BYTES
from pilot.wire.messages import client as m
from pilot.wire.messages.head import ToHead
from pilot.wire.messages.pilot import ToPilot
from simulated.clock import Clock

_encode = msgspec.msgpack.Encoder().encode
_to_head: Callable[[bytes], Any] = msgspec.msgpack.Decoder(ToHead).decode
_to_client: Callable[[bytes], Any] = msgspec.msgpack.Decoder(m.ToClient).decode
_to_pilot: Callable[[bytes], Any] = msgspec.msgpack.Decoder(ToPilot).decode


class Server:
    """The connections of one head, as its service sees them (`pilot.head.service.Connections`).

    Parameters
    ----------
    clock
        The time.
    chance
        Leaves a connection to chance, by its name.
    wake
        Called when something has arrived.
    touch
        Called before something is sent, with it; it may raise.
    """

    def __init__(
        self,
        clock: Clock,
        chance: Callable[[str, bytes], Random],
        wake: Callable[[], None],
        touch: Callable[[bytes, Any], None],
    ) -> None:
        self.clock, self.chance = clock, chance
        self._wake = wake
        self._touch = touch
        self.links: dict[bytes, Link] = {}
        self._arrived: list[tuple[bytes, Any]] = []
        self._gone: list[bytes] = []
        self.is_alive = True

    def arrive(self, link: Link, frame: bytes) -> None:
        """Take in what a peer has sent."""
        if self.is_alive:
            self._arrived.append((link.name, _to_head(frame)))
            self._wake()

    def end(self, link: Link) -> None:
        """Notice that a connection has ended."""
        if self.links.pop(link.name, None) is not None and link.is_here and self.is_alive:
            self._gone.append(link.name)
            self._wake()

    def die(self) -> None:
        """End with the head."""
        self.is_alive = False
        for link in list(self.links.values()):
            link.break_off()

    def receive(self) -> list[tuple[bytes, Any]]:
        """Return what has arrived."""
        arrived, self._arrived = self._arrived, []
        return arrived

    def take_unreadable(self) -> list[Any]:
        """Return nothing: all can be read."""
        return []

    trouble = ""

    def is_over_files(self, peer: bytes) -> bool:
        """Tell that nobody is."""
        return False

    def take_gone(self) -> list[bytes]:
        """Return the peers of this machine that have gone."""
        gone, self._gone = self._gone, []
        return gone

    def is_here(self, peer: bytes) -> bool:
        """Tell whether a peer is on this machine."""
        link = self.links.get(peer)
        return link is not None and link.is_here

    def send(self, peer: bytes, message: msgspec.Struct) -> None:
        """Send to a peer."""
        self._touch(peer, message)
        if link := self.links.get(peer):
            link.to_peer(_encode(message))

    def unsent(self, peer: bytes) -> int:
        """Tell what a peer has not read; one that reads slowly has always too much."""
        link = self.links.get(peer)
        return TOLD_BYTES + 1 if link is not None and link.is_slow and link.unread else 0


class Link:
    """One connection of a client or pilot.

    Parameters
    ----------
    server
        The head's side.
    name
        What tells it from all others.
    take
        Takes in what the head sends.
    is_here
        Whether both are on one machine, whose kernel tells when an end is gone.
    """

    def __init__(
        self, server: Server, name: bytes, take: Callable[[Any], None], is_here: bool
    ) -> None:
        self._server = server
        self._clock, self._rng = server.clock, server.chance("link", name)
        self.name = name
        self._take = take
        self._decode = _to_client if name.startswith(b"client:") else _to_pilot
        self.is_here = is_here
        self.is_slow = self._rng.random() < 0.1
        self.is_alive = server.is_alive
        #: Nothing gets through before.
        self.cut_until = 0.0
        self._last = [0.0, 0.0]
        self._ways: tuple[deque[bytes], deque[bytes]] = (deque(), deque())
        if server.is_alive:
            server.links[name] = self

    def _put(self, way: int, frame: bytes, reach: Callable[[], None]) -> None:
        """Have a frame arrive after all that was sent before."""
        self._ways[way].append(frame)
        late = self._rng.expovariate(5.0 if way and self.is_slow else 100.0)
        self._last[way] = max(self._last[way], self._clock.now) + late
        self._clock.at(self._last[way], reach)

    def send(self, message: msgspec.Struct) -> None:
        """Send to the head."""
        if self.is_alive:
            self._put(0, _encode(message), self._reach_head)

    def _reach_head(self) -> None:
        if self._is_cut(self._reach_head):
            return
        frame = self._ways[0].popleft()
        if self.is_alive:
            self._server.arrive(self, frame)

    def to_peer(self, frame: bytes) -> None:
        """Send to the peer."""
        self._put(1, frame, self._reach_peer)

    @property
    def unread(self) -> int:
        """The number of messages on their way to the peer."""
        return len(self._ways[1])

    def coming(self) -> list[Any]:
        """Return the messages on their way to the peer."""
        return [self._decode(frame) for frame in self._ways[1]] if self.is_alive else []

    def _reach_peer(self) -> None:
        if self._is_cut(self._reach_peer):
            return
        frame = self._ways[1].popleft()
        if self.is_alive:
            self._take(self._decode(frame))

    def _is_cut(self, again: Callable[[], None]) -> bool:
        if self._clock.now < self.cut_until:
            self._clock.at(self.cut_until, again)
            return True
        return False

    def break_off(self) -> None:
        """Lose what is on its way, in both directions; the head may be told."""
        if self.is_alive:
            self.is_alive = False
            self._server.end(self)

    def hang_up(self) -> None:
        """End after what was sent has arrived."""
        self._clock.at(max(self._last[0], self.cut_until), self.break_off)
