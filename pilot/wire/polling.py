"""Waiting for several sources at once: descriptors, and sockets of ZeroMQ where there are any."""

from __future__ import annotations

import select
from typing import Any, Protocol


class Poller(Protocol):
    """The part of `select.poll` that ZeroMQ's poller has as well."""

    def register(self, source: Any, events: int, /) -> object:
        """Wait for a source, too."""

    def unregister(self, source: Any, /) -> object:
        """Wait for a source no more."""

    def poll(self, timeout_ms: int | None = None, /) -> list[tuple[Any, int]]:
        """Wait, so long at most; returns what is ready: descriptors as numbers."""


def poller_of(*sources: Any) -> Poller:
    """Return what waits until one of these can be read, and for more that are registered there.

    Parameters
    ----------
    sources
        Descriptors as numbers, and sockets of ZeroMQ.
    """
    poller: Poller
    if all(isinstance(source, int) for source in sources):
        poller = select.poll()
    else:
        import zmq  # late: who speaks with its own machine only does without, and starts faster

        poller = zmq.Poller()
    for source in sources:
        poller.register(source, select.POLLIN)
    return poller
