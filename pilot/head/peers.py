"""Who speaks with the head: clients, with what they want to know of, and pilots.

Nothing here outlives the head: clients and pilots introduce themselves to the next one.

Invariants
----------
- A stream of task ids has one client at a time, the last one that named it.
- A pilot is sent a session, a function or a template once per introduction, and told to forget them
  when the session has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import msgspec

from pilot.version import __version__
from pilot.wire import messages as m

#: Sends a message to a peer.
Send: TypeAlias = Callable[[bytes, msgspec.Struct], None]
#: Takes in a message: from whom, what, and when.
Handler: TypeAlias = Callable[[bytes, Any, float], None]


class Sent(NamedTuple):
    """What a pilot has been sent of a session."""

    functions: set[bytes]
    templates: set[int]


class PilotPeer:
    """A pilot's connection, and what it has been sent already, by session."""

    def __init__(self, address: bytes) -> None:
        self.address = address
        self.sent: dict[int, Sent] = {}


class Peers:
    """The clients and pilots that have introduced themselves."""

    def __init__(self) -> None:
        #: By name.
        self.pilots: dict[str, PilotPeer] = {}
        #: By stream.
        self.clients: dict[int, bytes] = {}
        #: Clients that were there before this head; what they send may have been sent before.
        self.resumed: set[bytes] = set()
        self._streams: dict[bytes, int] = {}
        #: Clients that want to know of an unfinished task that is not of their stream.
        self.watchers: dict[int, list[bytes]] = {}

    def add_client(self, peer: bytes, stream: int) -> None:
        """A client counts the tasks of a stream."""
        self.clients[stream] = peer
        self._streams[peer] = stream

    def remove_client(self, peer: bytes) -> None:
        """A client has said good-bye."""
        self.resumed.discard(peer)
        stream = self._streams.pop(peer, 0)
        if self.clients.get(stream) == peer:
            del self.clients[stream]

    def watch(self, peer: bytes, task: int) -> None:
        """A client wants to know of a task, which may be another's."""
        if self.clients.get(task >> 32) != peer:
            self.watchers.setdefault(task, []).append(peer)

    def audience(self, task: int) -> Iterable[bytes]:
        """The clients that want to know of a task."""
        owner = self.clients.get(task >> 32)
        watchers = self.watchers.get(task, ()) if self.watchers else ()
        if not watchers:
            return (owner,) if owner is not None else ()
        return {*watchers, owner} if owner is not None else set(watchers)


def refusal(protocol: int, version: str) -> str:
    """Why a peer of this protocol and version is not spoken with; empty: it is."""
    if protocol == m.PROTOCOL:
        return ""
    return (
        f"this head is Pilot {__version__} (protocol {m.PROTOCOL}), the other side is {version} "
        f"(protocol {protocol}); use the same release on both, after `pilot head stop`"
    )
