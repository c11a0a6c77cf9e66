"""Fetching of segments into the store of this node, from that of another one or from the site.

The other node's worker gives a segment away part by part (`sharing`), as it is asked: so what is
under way, and in memory here and there, is bounded. What has come is a copy in the node's store.

Invariants
----------
- A copy has its name once it is whole.
- A node that gives no answer for `STALLED_S` is given up; what could not be fetched is told with
  the reason, and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from pathlib import Path
from typing import NamedTuple

from pilot.wire.channel import Client
from pilot.wire.endpoints import Endpoints
from pilot.wire.keys import Keys
from pilot.wire.messages.store import PART_BYTES, GetPart, Part
from pilot.wire.reaching import find_way
from pilot.worker.errands import Errands

#: So many segments are fetched at a time.
_THREADS = 2
#: So many parts are asked for ahead.
_WINDOW = 4
#: A node that gives nothing for so long is given up, in seconds; how often that is looked at.
STALLED_S = 5.0
_LOOK_S = 0.2
#: So much is copied by one call from the site directory.
_BLOCK_BYTES = 16 * 1024 * 1024


class Fetched(NamedTuple):
    """The end of a fetch."""

    #: The size of the segment in bytes, and how long it took since it was asked for, in seconds.
    size: int = 0
    seconds: float = 0.0
    #: Why it was not fetched; empty: it was.
    problem: str = ""


class Source(NamedTuple):
    """Where a segment is fetched from."""

    #: The worker of the node that has it; None: the site directory.
    giver: Endpoints | None
    #: When it was asked for, by the monotonic clock.
    since: float


class Fetcher(Errands[Source, Fetched]):
    """Threads that fetch segments.

    Parameters
    ----------
    copies, site_dir
        The directories to which, and from which, paths lead.
    keys
        The site's.
    name
        The name of this node among those that fetch.
    """

    def __init__(self, copies: Path, site_dir: Path, keys: Keys, name: str) -> None:
        super().__init__("fetcher", _THREADS)
        self._copies = copies
        self._site_dir = site_dir
        self._keys = keys
        self._name = name
        self._numbers = itertools.count(1)

    def fetch(self, path: str, giver: Endpoints | None) -> None:
        """Have a segment fetched."""
        self.ask({path: Source(giver, time.monotonic())})

    def run(self, path: str, need: Source) -> Fetched:
        """Fetch a segment; called in a thread."""
        copy = self._copies / path
        partial = copy.with_name(f".{copy.name}.partial")
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                if need.giver is None:
                    size = self._copy(path, descriptor)
                else:
                    size = self._get(path, need.giver, descriptor)
            finally:
                os.close(descriptor)
            partial.rename(copy)
        except Exception as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            return Fetched(problem=f"{type(error).__name__}: {error}")
        return Fetched(size, time.monotonic() - need.since)

    def _copy(self, path: str, descriptor: int) -> int:
        """Copy a segment of the site directory; return its size."""
        offset = 0
        with open(self._site_dir / path, "rb") as original:
            while count := os.sendfile(descriptor, original.fileno(), offset, _BLOCK_BYTES):
                offset += count
        return offset

    def _get(self, path: str, giver: Endpoints, descriptor: int) -> int:
        """Get a segment of another node's store; return its size.

        Raises
        ------
        OSError
            The node is not reached, gives no answer, or does not have it.
        """
        way = find_way(giver)
        if not way.is_reached:
            raise ConnectionError(f"its node is not reached: {'; '.join(way.failures)}")
        # A name that another thread's connection has would be taken from that.
        name = f"fetcher:{self._name}:{next(self._numbers)}"
        client: Client[Part] = Client(self._keys, name.encode(), Part)
        client.connect(way.endpoint)
        try:
            return self._get_parts(path, client, descriptor)
        finally:
            client.close(0.0)

    def _get_parts(self, path: str, client: Client[Part], descriptor: int) -> int:
        asked = got = 0
        size: int | None = None  # the first part tells it
        heard = time.monotonic()
        while size is None or got < size:
            while asked < (size or 1) and asked - got < _WINDOW * PART_BYTES:
                client.send(GetPart(path, asked))
                asked += PART_BYTES
            if not client.poll(_LOOK_S):
                if self.is_closed:
                    raise ConnectionError("this node worker ends")
                if client.is_lost or client.is_refused or time.monotonic() - heard > STALLED_S:
                    raise ConnectionError("its node has given no answer")
            for part in client.receive():
                heard = time.monotonic()
                if part.size < 0:
                    raise FileNotFoundError("its node does not have it any more")
                if part.path != path or part.offset != got or size not in (None, part.size):
                    raise ConnectionError("its node has given another part than it was asked for")
                size = part.size
                got += os.pwrite(descriptor, part.data, part.offset)
            if client.take_unreadable():
                raise ConnectionError("its node has given a part that cannot be read")
        return got
