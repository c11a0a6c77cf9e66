"""The way of a client to the head of its site: found or started, greeted, and given up.

Invariants
----------
- A head of another database than the first one is never taken: what was submitted is not in it.
- A site whose heads die again and again is given up.
- What may pass, such as a full disk, is waited for once a head has been there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from pilot.client.starter import ensure_head
from pilot.errors import AuthenticationError, DiskFullError, HeadError
from pilot.head.running import DatabaseLocked, find_head, silence_of
from pilot.site import Site, SiteGone
from pilot.wire.channel import Client
from pilot.wire.discovery import HeadAddress, read_address
from pilot.wire.endpoints import LOCAL
from pilot.wire.messages import client as m
from pilot.wire.messages.common import Welcome
from pilot.wire.reaching import WELCOME_S, find_way

#: The time in seconds that the answer to a greeting may take.
GREETING_S = 20.0
#: The interval in seconds at which a head is looked for that is not there.
LOOK_S = 0.25
#: A client starts at most so many heads within so many seconds.
RESTARTS, RESTART_S = 8, 60.0
#: A head that holds other keys is given so long to see that they were changed, in seconds.
REFUSED_S = 4.0
#: A site directory that is not there is waited for so long, in seconds.
GONE_S = 300.0

log = logging.getLogger("pilot")


class HeadFinder:
    """A finder of the head of a site, for one connection.

    Parameters
    ----------
    site
        The site.
    start
        True: start a head where none runs; False: raise then; None: wait for one.
    hello
        Gives the greeting.
    is_stopping
        Tells whether the connection is being closed.
    is_connected
        Tells whether a head has been there.
    """

    def __init__(
        self,
        site: Site,
        start: bool | None,
        hello: Callable[[], m.ClientHello],
        is_stopping: Callable[[], bool],
        is_connected: Callable[[], bool],
    ) -> None:
        self._site = site
        self._start = start
        self._hello = hello
        self._is_stopping = is_stopping
        self._is_connected = is_connected
        self._connects: list[float] = []
        self._address: HeadAddress | None = None
        self._silence = silence_of(site)
        #: Since when no head can start for a reason that may pass; 0: one can.
        self._waits_since = 0.0
        #: Since when the head refuses the keys; 0 while it does not.
        self._refused_since = 0.0
        #: The epoch of the head.
        self.epoch = 0
        #: The identity of the site's database; empty: the head does not say.
        self.database = ""

    def is_lost(self, wants: Callable[[], bool]) -> bool:
        """Tell whether another head has taken over, or this one is dead; one that said good-bye is
        missed if something is wanted of it."""
        address = read_address(self._site.address_file, self._address)
        if address is None:
            return wants()
        return (
            address.epoch > self.epoch or address.is_dead() or self._silence.has_ended(self.epoch)
        )

    def connect(self, client: Client[Any]) -> Welcome | None:
        """Find or start the head, and greet it until it has answered; return the answer, or None if
        the connection is being closed.

        Raises
        ------
        HeadError
            There is none, it does not start, or does not answer, or it keeps another database.
        AuthenticationError
            It has other keys.
        """
        deadline = time.monotonic() + 2 * GREETING_S
        while not self._is_stopping():
            began = time.monotonic()
            address = self._find()
            deadline += time.monotonic() - began  # a head in a job may be in the queue for long
            if address is None and (self._start is None or self._waits_since):
                time.sleep(LOOK_S)
                deadline = time.monotonic() + 2 * GREETING_S
                continue
            self._count_connects()
            if address is None:
                raise HeadError(
                    f"no head runs for site {self._site.name}; `pilot head start` starts one"
                )
            self._greet(client, address)
            welcome = self._await_welcome(client, deadline)
            if welcome is None:
                if self._silence.has_ended(address.epoch):
                    deadline = time.monotonic() + 2 * GREETING_S
                continue
            if welcome.refused:
                raise HeadError(welcome.refused)
            database = address.database
            if self.database and database and database != self.database:
                raise HeadError(
                    f"the site directory {self._site.directory} has another database now: what was "
                    "submitted is not in it. Open a new session"
                )
            self.epoch = welcome.epoch
            self.database = database or self.database
            self._refused_since = 0.0
            return welcome
        return None

    def _find(self) -> HeadAddress | None:
        """Find the head, or start one if allowed; return None where there is none now."""
        dead = self._silence.ended
        if not self._start:
            return find_head(self._site, dead)
        try:
            address = ensure_head(
                self._site, dead, follows=self.epoch > 0, given_up=self._is_stopping
            )
        except (DiskFullError, DatabaseLocked, SiteGone) as error:
            if not self._is_connected():
                raise
            # All that is accepted is safe, and the rest is still here.
            now = time.monotonic()
            if not self._waits_since:
                self._waits_since = now
                log.warning("pilot: %s; waiting for that", error)
            if isinstance(error, SiteGone) and now - self._waits_since > GONE_S:
                raise
            return None
        self._waits_since = 0.0
        return address

    def _greet(self, client: Client[Any], address: HeadAddress, endpoint: str = "") -> None:
        self._address = address
        client.connect(endpoint or address.endpoints.choose())
        client.send(self._hello())

    def _count_connects(self) -> None:
        """Give up on a site whose heads die again and again."""
        now = time.monotonic()
        self._connects = [then for then in self._connects if now - then < RESTART_S]
        self._connects.append(now)
        if len(self._connects) > RESTARTS:
            raise HeadError(
                f"the head of {self._site.name} has ended {RESTARTS} times within {RESTART_S:.0f} "
                f"s; see {self._site.logs / 'head.log'}. Accepted tasks are in the database; "
                "they go on with the next head"
            )

    def _await_welcome(self, client: Client[Any], deadline: float) -> Welcome | None:
        greeted, failures = time.monotonic(), ""
        while not self._is_stopping():
            if client.poll(0.1):
                for message in client.receive():
                    if isinstance(message, Welcome):
                        return message  # nothing follows it before something is asked for
            if self._is_refused(client):
                return None
            address = read_address(self._site.address_file, self._address)
            if (
                address is None
                or address.is_dead()
                or client.endpoint not in address.endpoints.ways
                or self._silence.has_ended(address.epoch)
            ):
                return None  # it died meanwhile
            if client.is_lost:
                self._greet(client, address)  # its socket was away: it makes it again
            if time.monotonic() - greeted > WELCOME_S and not client.endpoint.startswith(LOCAL):
                way = find_way(address.endpoints, client.endpoint)
                greeted, failures = time.monotonic(), "".join(f" ({f})" for f in way.failures)
                if way.is_reached and way.endpoint != client.endpoint:
                    self._greet(client, address, way.endpoint)
            if time.monotonic() > deadline:
                if not address.endpoints.is_reachable:
                    raise HeadError(
                        f"the head of {self._site.name} runs on {address.host} (pid {address.pid})"
                        " and listens to no network, since its site is for one machine; work "
                        "there, or set head.address in site.yaml and start the head again"
                    )
                raise HeadError(
                    f"the head of {self._site.name} on {address.host} (pid {address.pid}) does not "
                    f"answer at {client.endpoint}{failures}; is there a firewall, or is it "
                    f"stopped? See {self._site.logs / 'head.log'}"
                )
        return None

    def _is_refused(self, client: Client[Any]) -> bool:
        """Tell whether the head holds other keys: one that sees that it does gives way to another.

        Raises
        ------
        AuthenticationError
            The head has held other keys for some time.
        """
        try:
            client.check()
        except AuthenticationError:
            now = time.monotonic()
            self._refused_since = self._refused_since or now
            if now - self._refused_since > REFUSED_S:
                raise
            time.sleep(1.0)  # not so often that it counts as a head that dies again and again
            return True
        return False
