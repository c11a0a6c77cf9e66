"""Polling of several sources at once: descriptors, and ZeroMQ sockets where there are any."""

from __future__ import annotations

import select
from typing import Any, Protocol


class Poller(Protocol):
    """The common interface of `select.poll` and ZeroMQ's poller."""

    def register(self, source: Any, events: int, /) -> object:
        """Start watching a source."""

    def unregister(self, source: Any, /) -> object:
        """Stop watching a source."""

    def poll(self, timeout_ms: int | None = None, /) -> list[tuple[Any, int]]:
        """Wait for up to `timeout_ms` milliseconds; return the ready sources, descriptors as
        numbers."""


def poller_of(*sources: Any) -> Poller:
    """Return a poller of these sources, at which more can be registered.

    Parameters
    ----------
    sources
        Descriptors as numbers, and sockets of ZeroMQ.
    """
    poller: Poller
    if all(isinstance(source, int) for source in sources):
        poller = select.poll()
    else:
        import zmq  # late: processes that speak with their own machine only start faster without

        poller = zmq.Poller()
    for source in sources:
        poller.register(source, select.POLLIN)
    return poller
