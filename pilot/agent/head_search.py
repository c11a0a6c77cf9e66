"""The search of a pilot for the address at which it reaches its head.

A head tells several addresses. One after the other is tried until the head has welcomed the pilot,
and in the end the directory in which it takes connections over files;
what is tried in vain is written into the site directory, where the head finds it: it is the only
way to tell somebody who is not reached.

Invariants
----------
- Nothing here waits: names are looked for, and connections tried, in a thread.
- The file is there only while no address leads to the head.
"""

from __future__ import annotations

import logging
import socket
from pathlib import Path

from msgspec.structs import replace

from pilot.wire.discovery import HeadAddress
from pilot.wire.endpoints import FILES, LOCAL
from pilot.wire.reaching import WELCOME_S, Search, Way

log = logging.getLogger("pilot.agent")

#: After so long without a welcome over the network the files are tried, though somebody listens
#: there, in seconds: it may be something between here and there.
FILES_S = 40.0


class HeadSearch:
    """The search of one pilot.

    Parameters
    ----------
    file
        What it writes while it reaches no head: `Site.unreached`.
    by_files
        True if the site says that its pilots reach the head over files.
    """

    def __init__(self, file: Path, by_files: bool = False) -> None:
        self._file = file
        self._by_files = by_files
        self._begun = 0.0
        self._address: HeadAddress | None = None
        self._endpoint = ""
        self._since = 0.0
        self._search: Search | None = None
        self._is_told = False
        #: The host name or address by which a head was reached before.
        self._good = ""

    def begin(self, address: HeadAddress, now: float) -> str:
        """Begin with a head; return the endpoint to connect to."""
        if self._by_files and address.endpoints.files:
            # As if there were no other way, also on the head's own machine.
            only = replace(address.endpoints, boot="", remote="", others=())
            address = replace(address, endpoints=only)
        ways = address.endpoints.ways
        self._address, self._search, self._since = address, None, now
        self._begun = now
        self._endpoint = next((way for way in ways if _host(way) == self._good), ways[0])
        return self._endpoint

    def look(self, is_welcomed: bool, now: float) -> str:
        """Return another endpoint to connect to, if there is one; otherwise an empty text.

        Parameters
        ----------
        is_welcomed
            True if the head has welcomed the pilot, and has been heard lately.
        now
            The time, in seconds.
        """
        if self._address is None or self._endpoint.startswith(LOCAL):
            return ""
        if is_welcomed:
            # Where the head falls silent it has the time again that it had at first.
            self._since = self._begun = now
            self._search, self._good = None, _host(self._endpoint)
            self._untell()
            return ""
        files = self._address.endpoints.files
        if files and now - self._begun >= FILES_S and not self._endpoint.startswith(FILES):
            return self._go_to(files)
        if self._search is None:
            if now - self._since >= WELCOME_S:
                self._search = Search(self._address.endpoints, self._endpoint)
            return ""
        way = self._search.way
        if way is None:
            return ""
        self._search, self._since = None, now
        if not way.is_reached:
            self._tell(way)
        if not way.is_reached or way.endpoint == self._endpoint:
            return ""  # the connection that is there goes on trying
        self._untell()
        for failure in way.failures:
            log.warning("the head is not reached at %s", failure)
        return self._go_to(way.endpoint)

    def _go_to(self, endpoint: str) -> str:
        log.warning("no head at %s, trying %s", self._endpoint, endpoint)
        self._search, self._endpoint = None, endpoint
        return endpoint

    def _tell(self, way: Way) -> None:
        text = f"from {socket.gethostname()}: {'; '.join(way.failures)}"
        if not self._is_told:
            log.error(
                "the head is reached at none of its addresses, %s; set head.address in site.yaml "
                "to a name, address or network interface of its machine that faces the nodes",
                text,
            )
        partial = self._file.with_name(f".{self._file.name}")
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(self._file)
            self._is_told = True
        except OSError as error:
            log.error("%s cannot be written: %s", self._file, error)

    def _untell(self) -> None:
        if self._is_told:
            self._is_told = False
            try:
                self._file.unlink(missing_ok=True)
            except OSError as error:
                log.error("%s cannot be removed: %s", self._file, error)


def _host(endpoint: str) -> str:
    return endpoint.rpartition(":")[0]
