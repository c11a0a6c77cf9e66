"""The process that is the head of a site: its lease, its sockets, and its loop.

The work for clients, pilots and tasks is in `service`; a turn of it follows each message, and at
least every 0.25 s.

One thread owns the core, the sockets and the database.

Invariants
----------
- The lease, which a thread renews, is checked before anything is written or said; without it the
  process ends at once.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sqlite3
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pilot import clock
from pilot.data.patience import patiently
from pilot.errors import SiteError
from pilot.head.connections import PilotPeer
from pilot.head.hand_over import Do, HandOver
from pilot.head.in_job import InJob
from pilot.head.lease import UNKNOWN, Lease
from pilot.head.service import TICK_S, Service
from pilot.head.store.database_file import fence, lacks_its_log, log_of, refuse_if_missing
from pilot.head.store.opening import open_error
from pilot.head.store.place import Where
from pilot.head.store.store import Store
from pilot.limits import UNSENT_BYTES
from pilot.scheduler.batch import open_batch
from pilot.site import SITE_FILE, Site
from pilot.site_configs import SiteConfig
from pilot.version import __version__
from pilot.wire.channel import Server
from pilot.wire.discovery import (
    HeadAddress,
    process_space,
    process_started,
    read_address,
    write_address,
)
from pilot.wire.keys import load_keys, stamp_of
from pilot.wire.messages.head import ToHead
from pilot.wire.messages.pilot import EndPilot
from pilot.wire.polling import poller_of

log = logging.getLogger("pilot.head")

#: How long a database file that has vanished may be put back before it is written anew, in
#: seconds.
VANISHED_S = 2.0
#: A head ends this long after the last task if it was started, in a job, for these tasks alone, in
#: seconds.
WORK_ENDED_S = 60.0


@contextlib.contextmanager
def _many_objects() -> Iterator[None]:
    """Pause the garbage collector while very many objects are made that stay; exempt them after."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _network_address(config: SiteConfig) -> str | None:
    """Return the address to listen at for other machines; None if they need not reach the head."""
    head = config.head
    if head.transport == "files":
        return None
    is_local = config.kind.is_local and head.address == "auto" and not head.port
    return None if is_local else head.address


def _files(site: Site) -> Path | None:
    """Return the directory in which others connect over files; None if they need not."""
    head = site.config.head
    reached_so = head.transport == "files" or (
        head.transport == "auto" and _network_address(site.config) is not None
    )
    return site.wire if reached_so else None


class Head:
    """The head of a site. `run` returns when it was told to end or has been idle for long.

    Parameters
    ----------
    site
        The site.
    in_job
        The batch job that this process runs in; None: none that matters.

    Raises
    ------
    HeadError
        Another head runs, or the database cannot be opened.
    """

    def __init__(self, site: Site, in_job: InJob | None = None) -> None:
        site.prepare()
        self._site = site
        config = site.config
        self._lease = Lease(site.lease_file, config.lease.renew_s, config.lease.expire_s)
        before = read_address(site.address_file)
        self._lease.acquire(before.epoch if before is not None else 0)
        self._lease.keep()
        #: The pilots that are connected, by name.
        self._peers: Mapping[str, PilotPeer] = {}
        try:
            self._store = self._open_store()
        except BaseException:
            self._lease.release()
            raise
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._keys_stamp = stamp_of(site.keys)
        self._keys = load_keys(site.keys)
        self._server: Server[Any] = Server(
            self._keys,
            f"{site.directory}/head",
            ToHead,
            _network_address(config),
            config.head.port,
            UNSENT_BYTES,
            files=_files(site),
        )
        #: True if the file that tells where this head is found is still to be written.
        self._moved = False
        #: Since when the database file is missing; 0 while it is there.
        self._vanished = 0.0
        #: The file that tells where this head is found, as it was when it was written.
        self._written: os.stat_result | None = None
        self._service = Service(
            site,
            self._store,
            self._server,
            open_batch(config, site.jobs),
            self._lease.epoch,
            self._notify,
            self._check_lease,
        )
        self._peers = self._service.peers
        self._lease.progress = lambda: self._service.last_event
        with _many_objects():
            self._service.restore()
        #: True if the head's work is left to another head.
        self._leaves_work = False
        self._hand_over: HandOver | None = None
        #: The process that started a head inside a job: the head ends with it, as the job does.
        self._starter = os.getppid() if in_job is not None and in_job.hosted else 0
        if in_job is not None:
            self._enter_job(in_job)

    def _enter_job(self, in_job: InJob) -> None:
        site, service = self._site, self._service
        self._hand_over = HandOver(
            site,
            in_job.record,
            in_job.job,
            in_job.ends_at,
            open_batch(site.config, site.jobs),
            self._notify,
        )
        service.job = self._hand_over
        if in_job.record.ends_with_work and not in_job.hosted:
            service.idle_timeout_s = WORK_ENDED_S
        if in_job.adopts:
            service.adopt(in_job.job)

    def _open_store(self) -> Store:
        """Open the database that belongs to the lease, safe from the previous head."""
        site, lease = self._site, self._lease
        refuse_if_missing(site, lease.database)
        if lease.unfenced and site.database.exists():
            log.info("the previous head was not seen to die: its database is copied")
            fence(site.database)
        has_log = log_of(site.database).exists()
        makes = has_log or not lease.database
        store = Store(site.database, site.config.store.journal, self._check_lease, makes=makes)
        try:
            if lease.database not in ("", UNKNOWN, store.identity):
                log.warning("%s is not the database of the previous head", site.database)
            elif store.next_event() <= lease.events:
                if lease.unclosed and not has_log:
                    raise lacks_its_log(site.database)
                log.warning("%s is older than what the previous head has written", site.database)
                store.become_another(clock.now())
            if lease.copied:
                log.warning("the site directory is a copy: its pilots are those of the original")
                store.become_another(clock.now())
            elif lease.moved:
                log.warning("the site directory was moved: earlier pilots cannot find this head")
                store.disown_pilots(clock.now(), "the site directory has another path now")
            lease.raise_above(store.epoch)
            store.begin_epoch(lease.epoch)
            last_event = store.next_event() - 1
            lease.progress = lambda: last_event
            lease.note(database=store.identity, unclosed=True)
        except sqlite3.Error as error:
            store.close()
            raise open_error(site.database, error) from error
        except BaseException:
            store.close()
            raise
        return store

    # --- the loop

    def run(self) -> None:
        """Serve until told to end, or idle for long."""
        service = self._service
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._leave("told by a signal"))
        patiently(self._announce)
        poller = poller_of(*self._server.sources, self._wake)
        while True:
            for source, _ in poller.poll(int(TICK_S * 1000)):
                if source == self._wake:
                    os.eventfd_read(self._wake)
            self._check_lease()
            now = clock.now()
            if service.turn(now):
                self._tick(now)
                if service.is_over(now):
                    break
        self._close()

    def _check_lease(self) -> None:
        if self._lease.is_held():
            return
        if (self._site.directory / SITE_FILE).exists():
            log.critical("the lease is lost: another head may run; this one ends at once")
        else:
            log.critical("%s is gone: this head ends, and its pilots", self._site.directory)
            # Nobody else will: a head at the new place of the directory has no way to them.
            for peer in self._peers.values():
                self._server.send(peer.address, EndPilot("the site directory is gone", True))
            if self._peers:
                self._server.close()
        os._exit(1)

    def _announce(self) -> None:
        """Write the file that tells where this head is found."""
        address = HeadAddress(
            self._lease.epoch,
            os.uname().nodename,
            os.getpid(),
            process_started(os.getpid()),
            self._server.endpoints,
            __version__,
            process_space(),
            self._store.identity,
            str(self._site.directory),
            self._site.directory.stat().st_ino,
        )
        self._written = write_address(self._site.address_file, address)
        log.info("head of %s, epoch %d, %s", self._site.name, address.epoch, address.endpoints)

    def _notify(self) -> None:
        """Have a turn at once; callable from any thread."""
        os.eventfd_write(self._wake, 1)

    # --- timers

    def _tick(self, now: float) -> None:
        service = self._service
        if self._hand_over is not None and not service.stopping:
            service.steps.run("looking after the job", self._look_after_job, self._hand_over, now)
        service.steps.run("looking after the sockets", self._look_after_sockets)
        service.steps.run("looking after the database", self._look_after_database, now)
        service.steps.run("looking after the keys", self._look_after_keys)
        service.tick(now)

    def _look_after_job(self, hand_over: HandOver, now: float) -> None:
        """Ask for another job in time, and end when that has begun, or this one is over."""
        service = self._service
        ended = service.program_ended or bool(self._starter and os.getppid() != self._starter)
        why = (
            "the job's program has ended" if ended else f"the walltime of job {hand_over.job} ends"
        )
        do = hand_over.tick(now, service.has_work, ended)
        if do is Do.LEAVE:
            self._leave(why)
        elif do is Do.END:
            why = f"{why}, and nothing is left to do"
            service.steps.attempt("closing the record of the job", hand_over.finish, why)
            service.stop(why, end_pilots=True)

    def _leave(self, reason: str) -> None:
        """End, and leave work and pilots to the next head."""
        self._leaves_work = self._leaves_work or not self._service.stopping
        self._service.stop(reason, end_pilots=False)

    def _look_after_sockets(self) -> None:
        self._moved = self._server.look_after() or self._moved or self._is_hidden()
        if self._moved:
            self._announce()
            self._moved = False

    def _look_after_keys(self) -> None:
        """End where the keys were changed: nobody else would be let in."""
        stamp = stamp_of(self._site.keys)
        if stamp == self._keys_stamp:
            return
        self._keys_stamp = stamp
        try:
            changed = load_keys(self._site.keys) != self._keys
        except SiteError as error:
            log.error("%s", error)  # they may come back
            return
        if changed:
            reason = "the site's keys were changed, and are taken by the next head"
            self._service.stop(reason, end_pilots=False)

    def _look_after_database(self, now: float) -> None:
        if not (self._site.directory / SITE_FILE).exists():
            return  # it is gone as a whole, and may come back so
        found = self._store.look()
        if found is not Where.VANISHED:
            self._vanished = 0.0
        if found is Where.REPLACED:
            self._give_way(now)
        elif found is Where.VANISHED:
            self._vanished = self._vanished or now
            if now - self._vanished > VANISHED_S:
                path = self._site.database
                log.error("%s has vanished: it is written anew, and nothing is lost", path)
                self._store.write_anew()

    def _give_way(self, now: float) -> None:
        """End, since somebody has replaced the database file of this head."""
        self._service.steps.attempt("writing what is left", self._service.flush, now)
        self._leave_place()
        for name, step in (
            ("removing the address", partial(self._site.address_file.unlink, missing_ok=True)),
            ("giving up the lease", self._lease.release),
        ):
            self._service.steps.attempt(name, step)
        os._exit(1)

    def _leave_place(self) -> None:
        path = self._site.database
        aside = path.with_name(f"{path.name}.until-{time.strftime('%Y%m%d-%H%M%S')}")
        self._store.leave_to(aside)
        log.critical(
            "another file was put in the place of %s while this head ran: it ends, the next one "
            "takes that file. What was in the database until now is in %s",
            path,
            aside,
        )
        self._lease.note(unclosed=False)

    def _is_hidden(self) -> bool:
        """Tell whether the file that tells where this head is found is gone or was replaced.

        The file is not read: it may be anything.
        """
        try:
            found, written = self._site.address_file.lstat(), self._written
        except FileNotFoundError:
            return True
        return written is None or (
            (found.st_ino, found.st_size, found.st_mtime_ns)
            != (written.st_ino, written.st_size, written.st_mtime_ns)
        )

    # --- the end

    def _close(self) -> None:
        service = self._service
        log.info("ends: %s", service.stopping)
        for name, step in (
            ("leaving the job", self._leave_job),
            ("cancelling pilots", service.cancel_rest),
            ("removing the address", partial(self._site.address_file.unlink, missing_ok=True)),
            ("closing the sockets", self._server.close),
            ("waiting for other threads", service.close),
            ("closing the database", self._close_database),
            ("giving up the lease", self._lease.release),
        ):
            service.steps.attempt(name, step)

    def _leave_job(self) -> None:
        if self._hand_over is not None:
            if not self._leaves_work:
                self._hand_over.finish(self._service.stopping)
            self._hand_over.close()

    def _close_database(self) -> None:
        found = self._store.look()
        if found is Where.REPLACED:
            self._leave_place()
            return  # SQLite would close it in its old place
        if found is Where.VANISHED:
            self._store.write_anew()
        with contextlib.suppress(sqlite3.Error):  # what the lease knows already stays there
            # The last commits were waited for, and nobody has taken note of them.
            last_event = self._store.next_event() - 1
            self._lease.progress = lambda: last_event
        self._store.close()
        self._lease.note(unclosed=False)
