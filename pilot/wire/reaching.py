"""The search for an address at which a server is reached, among all that it has told.

Who listens where does not say that it is the server: only its welcome does. So this finds out where
nobody is, and why, and which address is worth the next try. Files come last: they are slower, and
anybody who sees them reaches them.
"""

from __future__ import annotations

import logging
import socket
import threading
from pathlib import Path
from typing import NamedTuple

from pilot.wire.endpoints import FILES, LOCAL, Endpoints, is_private

log = logging.getLogger("pilot.wire")

#: So long it is waited for one address, in seconds.
CONNECT_S = 3.0
#: A server that has not welcomed a peer after so long may be at another address, in seconds.
WELCOME_S = 4.0


class Way(NamedTuple):
    """The result of a search."""

    #: The endpoint to connect to: the first at which somebody listens, or else the first of all.
    endpoint: str
    #: What is wrong with those that were tried in vain, in words.
    failures: tuple[str, ...] = ()
    #: False if nobody listens at any.
    is_reached: bool = True


def find_way(endpoints: Endpoints, after: str = "") -> Way:
    """Search for the address of a server, at which this machine reaches somebody.

    Parameters
    ----------
    endpoints
        The server's.
    after
        The endpoint that was tried before, in vain: it comes last of those over the network.
    """
    ways = endpoints.ways
    if ways[0].startswith(LOCAL):
        return Way(ways[0])
    if after in ways:
        index = ways.index(after) + 1
        ways = (*ways[index:], *ways[:index])
        ways = tuple(sorted(ways, key=lambda way: way.startswith(FILES)))
    failures: list[str] = []
    for endpoint in ways:
        if not (failure := why_unreached(endpoint)):
            return Way(endpoint, tuple(failures))
        failures.append(failure)
    return Way(endpoints.choose(), tuple(failures), is_reached=False)


def why_unreached(endpoint: str) -> str:
    """Return the reason why nobody is reached at an endpoint over TCP or files; empty: somebody
    is."""
    if endpoint.startswith(FILES):
        path = endpoint.removeprefix(FILES)
        return "" if is_private(Path(path)) else f"{path}: no such directory of this user alone"
    address = endpoint.removeprefix("tcp://")
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), CONNECT_S):
            return ""
    except socket.gaierror:
        return f"{address}: the name is not known there"
    except TimeoutError:
        return f"{address}: no answer"
    except (OSError, UnicodeError, ValueError, OverflowError) as error:
        return f"{address}: {getattr(error, 'strerror', None) or error}"


class Search:
    """A search in a thread of its own: names may take long to resolve.

    Parameters
    ----------
    endpoints, after
        As for `find_way`.
    """

    def __init__(self, endpoints: Endpoints, after: str) -> None:
        #: The result; None while there is none.
        self.way: Way | None = None
        self._endpoints = endpoints
        self._after = after
        threading.Thread(target=self._run, name="search", daemon=True).start()

    def _run(self) -> None:
        self.way = find_way(self._endpoints, self._after)
