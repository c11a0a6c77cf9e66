"""A head: the real service on simulated ports, from its start until it is killed or ends."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilot.head.machine import Machine
from pilot.head.service import TICK_S, Service
from pilot.head.store.batch import Batch
from pilot.head.store.deletion import Garbage
from pilot.head.store.store import Store
from pilot.model.ids import session_of
from simulated.batch import OWN
from simulated.network import Server
from simulated.threads import Thread

if TYPE_CHECKING:
    from simulated.cluster import Cluster


class Killed(BaseException):
    """The head has died in the middle of something."""


class WatchedStore(Store):
    """The real database code; the oracle sees what is written."""

    cluster: Cluster
    #: Whether its disk is so quick that the loop waits for each commit.
    is_quick = False

    def write(self, batch: Batch, done: Callable[[Exception | None], None]) -> None:
        """Write a batch."""
        self._writer._commit_s = 0.0 if self.is_quick else 1.0
        # A head that dies with a commit that goes through can look for nothing any more.
        self._writer._check_written = lambda first_event: None
        written = self.cluster.oracle.writes(batch)

        def is_done(error: Exception | None) -> None:
            if error is None:
                written()
            done(error)

        super().write(batch, is_done)

    def purge(self, session: int, directories: Iterable[str]) -> list[Garbage]:
        """Delete a session's data."""
        garbage = super().purge(session, directories)
        self.cluster.oracle.removed({session})
        return garbage

    def delete(self, session: int, directories: Iterable[str]) -> list[Garbage]:
        """Delete a session."""
        garbage = super().delete(session, directories)
        self.cluster.oracle.removed({session})
        return garbage

    def delete_results(self, tasks: Sequence[int]) -> list[Garbage]:
        """Delete results."""
        garbage = super().delete_results(tasks)
        self.cluster.oracle.removed(set(map(session_of, tasks)))
        return garbage

    def remove_objects(self, versions: Iterable[tuple[str, int]], now: float) -> list[Garbage]:
        """Remove versions of named objects, and what nothing else keeps."""
        gone = list(versions)
        garbage = super().remove_objects(gone, now)
        self.cluster.oracle.removed_objects(gone)
        return garbage


class Head:
    """One head; it may die at whatever it asks of its ports."""

    def __init__(self, cluster: Cluster, epoch: int) -> None:
        self.cluster = cluster
        self.clock, self.rng = cluster.clock, cluster.chance("head", epoch)
        self.epoch = epoch
        self.is_alive = True
        self._threads: list[Thread] = []
        #: When the next turn comes.
        self._next = math.inf
        #: It stands still until then.
        self.frozen_until = 0.0
        self._commit_s = self.rng.choice((0.0, 0.005, 0.05, 0.5))
        self._batch_s = self.rng.choice((0.05, 0.5, cluster.hasty(3.0)))
        self.server = Server(self.clock, cluster.chance, self.wake, self._says)
        cluster.disk.prepare(self._touches)
        self.service: Service | None = None
        self.run(self._try_to_start)

    def _try_to_start(self) -> None:
        try:
            self._start()
        except sqlite3.Error:
            self.die()  # the disk is full

    def _start(self) -> None:
        cluster = self.cluster
        machine = Machine(self.clock, self._start_thread, self.clock.sleep)
        store = WatchedStore(
            Path("/nowhere/tasks.db"), "auto", self._may_die, machine, lambda _: cluster.disk
        )
        store.cluster, store.is_quick = cluster, self._commit_s == 0.0
        store.begin_epoch(self.epoch)
        cluster.oracle.head_starts(store)
        self.store = store
        self.service = Service(
            cluster.site,
            store,
            self.server,
            cluster.batch,
            self.epoch,
            self.wake,
            self._may_die,
            machine,
        )
        cluster.oracle.watch(self.service)
        self.service.restore()
        if cluster.batch.has_own:
            self.service.adopt(OWN)
        self.wake()

    def run(self, what: Callable[[], None]) -> None:
        """Do something in this process, which may die of it."""
        if self.is_alive:
            try:
                what()
            except Killed:
                self.die()

    # --- turns

    def wake(self) -> None:
        """Have a turn soon."""
        self._turn_at(self.clock.now + self.rng.uniform(0.0, 0.002))

    def _turn_at(self, when: float) -> None:
        if when < self._next and self.is_alive:
            self._next = when
            self.clock.at(when, lambda: self.run(self._turn) if when == self._next else None)

    def _turn(self) -> None:
        service = self.service
        assert service is not None
        self._next = math.inf
        now = self.clock.now
        if now < self.frozen_until:
            self._turn_at(self.frozen_until)
            return
        if service.turn(now):
            service.tick(now)
            if service.is_over(now):
                self._end(service)
                return
        self._turn_at(now + TICK_S)

    def _end(self, service: Service) -> None:
        """End as told."""
        service.cancel_rest()
        self.server.die()
        service.close()
        self.store.close()
        self.is_alive = False
        self.cluster.head_is_gone()

    # --- death

    def _touches(self, writes: bool) -> None:
        """A statement is about to run."""
        self._may_die()
        if writes:
            self.cluster.moves.write()

    def _says(self, peer: bytes, message: Any) -> None:
        self.cluster.oracle.head_says(peer, message)
        self._may_die()

    def _may_die(self) -> None:
        if self.cluster.moves.kills_head():
            raise Killed

    def die(self) -> None:
        """Be killed."""
        if not self.is_alive:
            return
        self.cluster.oracle.head_dies(self)
        self.is_alive = False
        self.cluster.disk.prepare(lambda _: None)
        for thread in self._threads:
            thread.die(goes_through=self.rng.random() < 0.5)
        self.cluster.disk.crash()
        self.server.die()
        self.cluster.head_is_gone()

    # --- threads

    def _start_thread(self, name: str) -> Thread:
        def run(what: Callable[[], None]) -> None:
            self.run(what)
            self.wake()

        delay = {"commit": self._takes(self._commit_s), "batch": self._takes(self._batch_s)}
        thread = Thread(self.clock, delay.get(name, self._takes(0.01)), run)
        self._threads.append(thread)
        return thread

    def _takes(self, most_s: float) -> Callable[[], float]:
        return lambda: self.rng.uniform(0.0, most_s)
