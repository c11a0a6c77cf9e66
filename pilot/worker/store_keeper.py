"""The node store as its node worker keeps it: written behind, filled from other nodes, given away.

Responsible for the store, the threads that copy from and to it, and the messages about that.

Invariants
----------
- Threads copy; the node worker's loop takes in what has ended, and nothing else.
- What the agent has asked to have copied or fetched is answered, whatever becomes of it.
- What is not needed any more goes, also what arrives after that was told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from typing import Any

import msgspec

from pilot.errors import SiteError
from pilot.site import Site
from pilot.wire.keys import load_keys
from pilot.wire.messages import worker as m
from pilot.worker.node_store import StoreHolder
from pilot.worker.persisting import GONE, Persister

log = logging.getLogger("pilot.node")


class StoreKeeper:
    """The keeper of a node's store.

    Parameters
    ----------
    site, pilot, node
        The site, and the names of the pilot and the node.
    tell
        Sends the agent a message.
    watch
        Takes a descriptor that becomes readable when `look` is to be called.
    """

    def __init__(
        self,
        site: Site,
        pilot: str,
        node: str,
        tell: Callable[[msgspec.Struct], None],
        watch: Callable[[int], object],
    ) -> None:
        self._site = site
        self._names = pilot, node
        self._node = node
        self._tell = tell
        self._watch = watch
        self._store = _make_store(site, pilot, node)
        self._persister: Persister | None = None
        # Late: most nodes fetch nothing, and give nothing away.
        self._fetcher: Any = None
        self._sharer: Any = None

    @property
    def store(self) -> StoreHolder | None:
        """The store; None where there is none."""
        return self._store

    def begin(self) -> None:
        """Begin to write behind."""
        if self._store is not None:
            self._persister = Persister(self._store.directory, self._site.directory)
            self._watch(self._persister.sentinel)

    def take(self, message: Any) -> None:
        """Carry out a message of the agent, if it is about the store."""
        if isinstance(message, m.Persist):
            if self._persister is not None:
                self._persister.add(message.paths)
        elif isinstance(message, m.DropKept):
            self._drop(message)
        elif isinstance(message, m.OpenStore):
            self._open(message.address)
        elif isinstance(message, m.Fetch):
            self._fetch(message)

    def look(self, ready: Container[int]) -> None:
        """Tell the agent what has ended."""
        if self._persister is not None and self._persister.sentinel in ready:
            self._tell_persisted(self._persister)
        if self._fetcher is not None and self._fetcher.sentinel in ready:
            self._tell_fetched()

    def close(self) -> None:
        """End the threads, and remove the store."""
        for thing in (self._sharer, self._fetcher, self._persister, self._store):
            if thing is not None:
                thing.close()

    # --- written behind

    def _tell_persisted(self, persister: Persister) -> None:
        assert self._store is not None
        told = m.Persisted(self._node, [], {}, [])
        for path, end in persister.take():
            if end.problem == GONE:
                told.lost.append(path)
            elif end.problem:
                log.error("%s", end.problem)
                told.failed[path] = end.problem
                if not end.passes:
                    told.in_vain.append(path)
            else:
                self._store.note_durable(path)
                told.paths.append(path)
                told.size += end.size
                told.seconds += end.seconds
        if told.paths or told.failed or told.lost:
            self._tell(told)

    def _drop(self, message: m.DropKept) -> None:
        if self._store is None or self._persister is None:
            return
        self._persister.withdraw(message.paths)
        if self._fetcher is not None:
            self._fetcher.withdraw(message.paths)
        self._store.drop(message.paths)
        for session in message.sessions:
            self._store.drop_session(session)

    # --- from node to node

    def _open(self, address: str | None) -> None:
        """Give the segments of the store away from now on."""
        problem = "" if self._store is not None else "it has no store"
        if self._store is not None and self._sharer is None:
            from pilot.worker.sharing import Sharer

            name = f"{self._site.directory}/{'/'.join(self._names)}/store"
            try:
                keys = load_keys(self._site.keys)
                self._sharer = Sharer(self._store.directory, keys, name, address)
            except (OSError, SiteError) as error:
                problem = str(error)
                log.warning("results here are not given to other nodes: %s", error)
        endpoints = self._sharer.endpoints if self._sharer is not None else None
        self._tell(m.StoreOpened(self._node, endpoints, problem))

    def _fetch(self, message: m.Fetch) -> None:
        """Fetch a segment, if there is room for it."""
        problem = self._fetch_or_say(message)
        if problem is not None:
            self._tell(m.Fetched(self._node, message.path, problem=problem))

    def _fetch_or_say(self, message: m.Fetch) -> str | None:
        """Begin to fetch a segment; return why not (empty: it is there), or None."""
        path = message.path
        if self._store is None:
            return "it has no store"
        if self._store.has(path):
            return ""
        if not self._store.expect(path, message.size, self._site.directory):
            return "its store has no room"
        if self._fetcher is None:
            from pilot.worker.fetching import Fetcher

            try:
                keys = load_keys(self._site.keys)
            except SiteError as error:
                self._store.arrived(path, 0)
                return str(error)
            self._fetcher = Fetcher(
                self._store.copies, self._site.directory, keys, "-".join(self._names)
            )
            self._watch(self._fetcher.sentinel)
        self._fetcher.fetch(path, message.source)
        return None

    def _tell_fetched(self) -> None:
        assert self._store is not None
        for path, end in self._fetcher.take():
            is_wanted = self._store.arrived(path, end.size)
            problem = end.problem or ("" if is_wanted else "it is not needed any more")
            if problem:
                log.info("%s is not fetched: %s", path, problem)
            self._tell(m.Fetched(self._node, path, end.size, end.seconds, problem))


def _make_store(site: Site, pilot: str, node: str) -> StoreHolder | None:
    """Make the node's store; return None where it may not or cannot have one."""
    if site.config.data.node_store_mib != 0:
        try:
            return StoreHolder(site, pilot, node)
        except (OSError, SiteError) as error:
            log.warning("no results are kept in the memory of this node: %s", error)
    return None
