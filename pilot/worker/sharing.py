"""The giving away of segments in the store of this node, to other nodes of the pilot.

A thread of the node worker answers requests for parts; the loop of the worker, and the agent, have
nothing to do with it. Who asks holds the site's key, as in every connection.

Invariants
----------
- Nothing but segments of this node's store is given away.
- What is under way is bounded by what is asked for: no part is given unasked.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from pilot.wire.channel import Server
from pilot.wire.endpoints import Endpoints
from pilot.wire.keys import Keys
from pilot.wire.messages.store import PART_BYTES, GetPart, Part
from pilot.wire.polling import poller_of

log = logging.getLogger("pilot.node")

#: The server is looked after so often, in milliseconds.
_LOOK_MS = 1000


class Sharer(threading.Thread):
    """A thread that gives segments away.

    Parameters
    ----------
    store
        The directory of the node's store.
    keys
        The site's.
    name
        The name that tells this server's Unix socket from others on the machine.
    address
        The address that others reach this node by, as for a `Server`; None: others do not.

    Raises
    ------
    SiteError
        This node has no such address.
    """

    def __init__(self, store: Path, keys: Keys, name: str, address: str | None) -> None:
        super().__init__(name="sharer", daemon=True)
        self._store = store
        self._server: Server[GetPart] = Server(
            keys, name, GetPart, address, key="the address of the pool"
        )
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
        self.start()

    @property
    def endpoints(self) -> Endpoints:
        """The addresses at which it is reached."""
        return self._server.endpoints

    def run(self) -> None:
        """Answer until told to end."""
        poller = poller_of(*self._server.sources, self._reader)
        while self._reader not in dict(poller.poll(_LOOK_MS)):
            for peer, message in self._server.receive():
                self._server.send(peer, self._part(message))
            self._server.look_after()
        self._server.close(0.0)
        os.close(self._reader)

    def _part(self, asked: GetPart) -> Part:
        try:
            file = os.open(self._store / asked.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                size = os.fstat(file).st_size
                data = os.pread(file, PART_BYTES, asked.offset)
            finally:
                os.close(file)
        except OSError as error:
            log.info("%s is not given away: %s", asked.path, error)
            return Part(asked.path, asked.offset, -1, b"")
        return Part(asked.path, asked.offset, size, data)

    def close(self) -> None:
        """End the thread, and the connections."""
        os.write(self._writer, b"\0")
        os.close(self._writer)
        self.join(5.0)
