"""Fetches between the nodes of a pilot, as the agent has them carried out.

A node gives segments away once it is asked to: with the first that another one is to fetch from it.
Until it has said where, what is to be fetched waits here.

Invariants
----------
- Each fetch is sent to its node, or told as one that has failed.
- The segments themselves never pass through the agent.
"""

from __future__ import annotations

from collections.abc import Callable, Container

import msgspec

from pilot.agent.rules import actions as a
from pilot.wire.endpoints import Endpoints
from pilot.wire.messages import worker as m


class Fetching:
    """The fetches of a pilot.

    Parameters
    ----------
    address
        The address that nodes are reached by, as the site file has it; None: all are here.
    nodes
        The nodes that are there.
    send
        Sends a node worker a message.
    fail
        Takes a fetch that is not possible, and why.
    """

    def __init__(
        self,
        address: str | None,
        nodes: Container[str],
        send: Callable[[str, msgspec.Struct], None],
        fail: Callable[[a.Fetch, str], None],
    ) -> None:
        self._address = address
        self._nodes = nodes
        self._send = send
        self._fail = fail
        #: Where nodes give their segments away.
        self._open: dict[str, Endpoints] = {}
        #: What is to be fetched from nodes that have not said that yet.
        self._waiting: dict[str, list[a.Fetch]] = {}

    def fetch(self, action: a.Fetch) -> None:
        """Have a node fetch a segment."""
        source = action.source
        if not source:
            self._send(action.node, m.Fetch(action.path, action.size))
        elif source in self._open:
            self._send(action.node, m.Fetch(action.path, action.size, self._open[source]))
        elif source not in self._nodes:
            self._fail(action, "its node is gone")
        else:
            if source not in self._waiting:
                self._send(source, m.OpenStore(self._address))
            self._waiting.setdefault(source, []).append(action)

    def opened(self, message: m.StoreOpened) -> None:
        """Note where a node gives its segments away, or why it does not."""
        waiting = self._waiting.pop(message.node, [])
        if message.endpoints is not None and message.node in self._nodes:
            self._open[message.node] = message.endpoints
        for action in waiting:
            if message.endpoints is None:
                self._fail(action, message.problem)
            else:
                self.fetch(action)

    def lose_node(self, node: str) -> None:
        """Forget a node that is gone."""
        self._open.pop(node, None)
        for action in self._waiting.pop(node, ()):
            self._fail(action, "its node is gone")
