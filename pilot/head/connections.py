"""The peers of the head: clients, with the tasks that they want to know of, and pilots.

Nothing here outlives the head: clients and pilots introduce themselves to the next one.

Invariants
----------
- A client is told of the tasks whose ids it was given, of those that it submits, and of those that
  it watches.
- A pilot is sent a session, a function or a template once per introduction, and told to forget them
  when the session has ended, also what it has from earlier heads.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec

from pilot.model.ids import session_of
from pilot.version import __version__
from pilot.wire.messages import PROTOCOL
from pilot.wire.messages.pilot import InputFetch

#: Sends a message to a peer.
Send: TypeAlias = Callable[[bytes, msgspec.Struct], None]
#: Handles a message: its sender, the message, and the time.
Handler: TypeAlias = Callable[[bytes, Any, float], None]


class Sent(NamedTuple):
    """The parts of a session that a pilot has been sent."""

    functions: set[bytes]
    templates: set[int]


class PilotPeer:
    """A pilot's connection, and the parts of each session that it has been sent."""

    def __init__(self, address: bytes) -> None:
        self.address = address
        self.sent: dict[int, Sent] = {}
        #: False until what it said that it holds is taken in.
        self.is_taken_in = False
        #: What its tasks waited for before they could start, when it told its status last.
        self.fetches: Sequence[InputFetch] = ()


class Blocks:
    """The blocks of ids that clients were given in one session; they do not overlap."""

    __slots__ = ("_firsts", "_rows")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        #: The end of each block, and its owner.
        self._rows: list[tuple[int, bytes]] = []

    def add(self, first: int, count: int, peer: bytes) -> None:
        """Record that a client has a block of ids; the same block may be added again."""
        place = bisect_right(self._firsts, first)
        if place and self._firsts[place - 1] == first:
            self._rows[place - 1] = first + count, peer
            return
        self._firsts.insert(place, first)
        self._rows.insert(place, (first + count, peer))

    def owner(self, task: int) -> bytes | None:
        """Return the client that was given this id, or None."""
        place = bisect_right(self._firsts, task)
        if place:
            end, peer = self._rows[place - 1]
            if task < end:
                return peer
        return None


class Peers:
    """The clients and pilots that have introduced themselves."""

    def __init__(self) -> None:
        #: The pilots, by name.
        self.pilots: dict[str, PilotPeer] = {}
        #: The clients that submit tasks.
        self.clients: set[bytes] = set()
        #: Clients of a previous head; they may have sent the same messages before.
        self.resumed: set[bytes] = set()
        #: The time when each client was last heard from.
        self.heard: dict[bytes, float] = {}
        #: The clients of each session.
        self.members: dict[int, set[bytes]] = {}
        #: The blocks of ids, by session.
        self._blocks: dict[int, Blocks] = {}
        #: Clients that want to know of an unfinished task whose id was not given to them.
        self.watchers: dict[int, list[bytes]] = {}

    def add_client(self, peer: bytes, blocks: Iterable[tuple[int, int]]) -> None:
        """Add a client, with the blocks of ids that it got earlier, from this head or another."""
        self.clients.add(peer)
        for first, count in blocks:
            self.resumed.add(peer)
            self.give(peer, first, count)

    def give(self, peer: bytes, first: int, count: int) -> None:
        """Record that a client has a block of ids, and is to be told of these tasks."""
        session = session_of(first)
        self._blocks.setdefault(session, Blocks()).add(first, count, peer)
        self.members.setdefault(session, set()).add(peer)

    def remove_client(self, peer: bytes) -> None:
        """Remove a client that has said good-bye."""
        self.resumed.discard(peer)
        self.clients.discard(peer)
        self.heard.pop(peer, None)
        for members in self.members.values():
            members.discard(peer)
        self.unwatch(peer, list(self.watchers))

    def forget(self, session: int) -> None:
        """Forget a session that has ended: no client is told of its tasks any more."""
        self._blocks.pop(session, None)
        self.members.pop(session, None)

    def watch(self, peer: bytes, task: int) -> None:
        """Tell a client of a task from now on, which may be another client's."""
        if self._owner(task) != peer:
            watchers = self.watchers.setdefault(task, [])
            if peer not in watchers:
                watchers.append(peer)

    def watch_own(self, peer: bytes, tasks: Sequence[int]) -> bool:
        """Tell a client of tasks that it submits; return True if that takes to watch them.

        It does where their ids are not known as its own: their session had ended, and is open
        again, or the client was taken for gone.
        """
        if not tasks or self._owner(tasks[0]) == self._owner(tasks[-1]) == peer:
            return False
        for task in tasks:
            self.watch(peer, task)
        if peer in self.clients:
            self.members.setdefault(session_of(tasks[0]), set()).add(peer)
        return True

    def unwatch(self, peer: bytes, tasks: Iterable[int]) -> None:
        """Tell a client nothing more of these tasks, unless their ids are its own."""
        for task in tasks:
            watchers = self.watchers.get(task, [])
            if peer in watchers:
                watchers.remove(peer)
                if not watchers:
                    del self.watchers[task]

    def audience(self, task: int) -> Iterable[bytes]:
        """Return the clients that are told of a task."""
        owner = self._owner(task)
        watchers = self.watchers.get(task, ()) if self.watchers else ()
        if not watchers:
            return (owner,) if owner is not None else ()
        return {*watchers, owner} if owner is not None else set(watchers)

    def _owner(self, task: int) -> bytes | None:
        blocks = self._blocks.get(session_of(task))
        owner = None if blocks is None else blocks.owner(task)
        return owner if owner in self.clients else None


def refusal(protocol: int, version: str) -> str:
    """Return why a peer with this protocol and version is refused; empty if it is not."""
    if protocol == PROTOCOL:
        return ""
    return (
        f"this head is Pilot {__version__} (protocol {PROTOCOL}), the other side is {version} "
        f"(protocol {protocol}); use the same release on both, after `pilot head stop`"
    )
