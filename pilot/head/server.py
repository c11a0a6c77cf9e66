"""The head: a loop that takes in what has happened, hands out work, and writes what has changed.

One thread owns the core, the sockets and the database. A turn of the loop (`Head.run`) goes:

1. It is made sure that the lease, which a thread renews, is still held.
2. What waited for the last commit is told, if that is done (`commits`).
3. Messages are taken in: of clients (`clients`, `control`, `queries`) and of pilots (`pilots`);
   then the answers of other threads: of the batch system (`fleet`), of the janitor, of who looks up
   what has run before (`recall`). Each becomes an event for the core, and its effects are carried
   out (`shell`).
4. Work is handed out to pilots (`pilots`, with what is in `parcels`).
5. All that has changed begins to be written as one transaction (`commits`).
6. Every 0.25 s the timers are looked after.

Invariants
----------
- The lease is checked before anything is written or said; without it the process ends at once.
- No message ends the head, whatever is wrong with it: it would be sent to the next one again.
- No step of the loop does either (`steps`): it is tried again, and the others go on meanwhile.
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

import zmq

from pilot import clock
from pilot.data.patience import patiently
from pilot.data.pickling import INTERPRETER
from pilot.errors import PilotError
from pilot.head import events as ev
from pilot.head import queries
from pilot.head.clients import Clients
from pilot.head.control import Control, opened
from pilot.head.database_file import fence, refuse_if_missing
from pilot.head.janitor import Janitor
from pilot.head.lease import UNKNOWN, Lease
from pilot.head.outlook import pool_limits
from pilot.head.peers import Handler, PilotPeer
from pilot.head.pilots import Pilots
from pilot.head.shell import Shell
from pilot.head.store import Store, open_error
from pilot.head.unreadable import Answers
from pilot.limits import UNSENT_BYTES
from pilot.site import SITE_FILE, Site
from pilot.version import __version__
from pilot.wire import messages as m
from pilot.wire.channel import Server
from pilot.wire.discovery import (
    HeadAddress,
    process_space,
    process_started,
    read_address,
    write_address,
)
from pilot.wire.keys import load_keys
from site_configs import SiteConfig

log = logging.getLogger("pilot.head")

#: The loop looks after its timers at least so often, in seconds.
TICK_S = 0.25
#: How long the head waits for its pilots when it is told to end, in seconds.
STOP_S = 20.0
#: Messages that show that the head is used.
_USES = (m.ClientHello, m.Submit, m.Query)


@contextlib.contextmanager
def _many_objects() -> Iterator[None]:
    """Make very many objects that stay: a third of the time for that would go into looking for
    garbage among them, again and again, and they are not to be looked through later either."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _network_address(config: SiteConfig) -> str | None:
    """Return the address to listen at for other machines; None: they have nothing to say here."""
    head = config.head
    is_local = config.batch == "local" and head.address == "auto" and not head.port
    return None if is_local else head.address


class Head:
    """The head of a site. `run` returns when it was told to end or has been idle for long.

    Parameters
    ----------
    site
        The site.
    adopt_job
        The batch job that this process runs in, if it is to be the first pilot.

    Raises
    ------
    HeadError
        Another head runs, or the database cannot be opened.
    """

    def __init__(self, site: Site, adopt_job: str = "") -> None:
        site.prepare()
        self._site = site
        config = site.config
        self._lease = Lease(site.lease_file, config.lease.renew_s, config.lease.expire_s)
        before = read_address(site.address_file)
        self._lease.acquire(before.epoch if before is not None else 0)
        self._lease.keep()
        #: The pilots that can be told something, by name.
        self._peers: Mapping[str, PilotPeer] = {}
        try:
            self._store = self._open_store()
        except BaseException:
            self._lease.release()
            raise
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._server: Server[Any] = Server(
            load_keys(site.keys),
            f"{site.directory}/head",
            m.ToHead,
            _network_address(config),
            config.head.port,
            UNSENT_BYTES,
        )
        self._started = self._used = clock.now()
        self._ticked = 0.0
        #: Whether it is still to be written where this head is found now.
        self._moved = False
        #: The file that tells where this head is found, as it was when it was written.
        self._written: os.stat_result | None = None
        #: Why the head ends (empty: it does not), and when at the latest, with its pilots (0: they
        #: stay).
        self._stopping = ""
        self._stop_by = 0.0
        epoch = self._lease.epoch
        self._shell = Shell(
            self._store, self._server.send, pool_limits(config), self._notify, self._server.unsent
        )
        self._peers = self._shell.peers.pilots
        self._core, self._commits = self._shell.core, self._shell.commits
        self._steps = self._shell.steps
        self._janitor = Janitor(site.directory, self._notify)
        # What site.yaml names may be another one in each job's environment: it is not known here.
        python = INTERPRETER if site.config.environment.python == "auto" else ""
        self._clients = Clients(self._shell, epoch, self._hurry, python, config.head.max_unfinished)
        self._answers = Answers(epoch, self._server.send)
        self._control = Control(site, self._shell, self._janitor)
        self._pilots = Pilots(site, self._shell, epoch, self._notify, self._started)
        self._fleet = self._pilots.fleet
        self._handlers: Mapping[type, Handler] = {
            **self._clients.handlers,
            **self._control.handlers,
            **self._pilots.handlers,
            m.Query: self._query,
            m.Command: self._command,
        }
        with _many_objects():
            self._restore()
        #: Whoever started a head inside a job: it ends with that process, as the job does.
        self._starter = os.getppid() if adopt_job else 0
        if adopt_job:
            self._fleet.adopt(adopt_job, self._started)

    def _open_store(self) -> Store:
        """Open the database that belongs to the lease, safe from the head before."""
        site, lease = self._site, self._lease
        refuse_if_missing(site, lease.database)
        if lease.unfenced and site.database.exists():
            log.info("the head before was not seen to die: its database is copied")
            fence(site.database)
        store = Store(site.database, site.config.store.journal, self._check_lease)
        try:
            if lease.database not in ("", UNKNOWN, store.identity):
                log.warning("%s is not the database of the head before", site.database)
            if lease.copied:
                log.warning("the site directory is a copy: its pilots are those of the original")
                store.become_another(clock.now())
            elif lease.moved:
                log.warning("the site directory was moved: pilots of before cannot find this head")
                store.disown_pilots(clock.now(), "the site directory has another path now")
            lease.raise_above(store.epoch)
            store.begin_epoch(lease.epoch)
            lease.note(database=store.identity, unfenced=False)
        except sqlite3.Error as error:
            store.close()
            raise open_error(site.database, error) from error
        except BaseException:
            store.close()
            raise
        return store

    def _restore(self) -> None:
        """Take on what an earlier head left unfinished."""
        now = clock.now()
        shell, store = self._shell, self._store
        self._core.log.other("head", "STARTED", 0, now, f"epoch {self._lease.epoch}")
        unfinished = store.unfinished()
        rows = store.sessions()
        templates: list[m.Template] = []
        tasks: list[ev.Restored] = []
        for row in rows:
            info = m.SessionInfo(row.id, row.name, row.environment)
            with store.reading(row.id, "what its tasks are made of"):
                functions, kinds_here = store.functions(row.id), store.templates(row.id)
            shell.parcels.open(info, functions)
            templates += kinds_here
            tasks += unfinished.get(row.id, ())
            known = {one.id: one.function for one in kinds_here}
            for item in unfinished.get(row.id, ()):
                with store.reading(row.id, f"what task {m.task_label(item.spec.id)} is to run"):
                    if known[item.spec.template]:
                        functions[known[item.spec.template]]
        owed: set[int] = set()
        kinds = {template.id: template for template in templates}
        for item in tasks:
            shell.recall.accepted(kinds[item.spec.template], item.spec)
            if item.delegated is None:
                shell.parcels.keep(item.spec)
            else:
                owed.update(ref[0] for ref in item.delegated[1].values())
        owed.difference_update(item.spec.id for item in tasks)
        shell.apply(ev.TasksRestored(templates, tasks, shell.outcomes.seen(owed)), now)
        for row in rows:
            shell.apply(opened(row, restored=True), now)
        if tasks:
            log.info("restored %d unfinished tasks", len(tasks))
        self._janitor.add(store.garbage())

    # --- the loop

    def run(self) -> None:
        """Serve until told to end, or idle for long."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop("told by a signal", end_pilots=False))
        patiently(self._announce)
        poller = zmq.Poller()
        self._server.register(poller)
        poller.register(self._wake, zmq.POLLIN)
        run = self._steps.run
        while True:
            for source, _ in poller.poll(int(TICK_S * 1000)):
                if source == self._wake:
                    os.eventfd_read(self._wake)
            self._check_lease()
            now = clock.now()
            run("what waited for a commit", self._commits.finish)
            self._take_in(now)
            if not self._stopping:
                run("handing out work", self._pilots.assign, now)
            due = now - self._ticked >= TICK_S
            self._check_lease()  # what has come may have taken long
            run("writing", self._commits.begin, now, due)
            run("telling clients", self._shell.telling.go_on)
            if due:
                self._ticked = now
                self._tick(now)
                if self._is_over(now):
                    break
        self._close()

    def _check_lease(self) -> None:
        if self._lease.is_held():
            return
        if (self._site.directory / SITE_FILE).exists():
            log.critical("the lease is lost: another head may run; this one ends at once")
        else:
            log.critical("%s is gone: this head ends, and its pilots", self._site.directory)
            # Nobody else will: who works at the new place of the directory has no way to them.
            for peer in self._peers.values():
                self._server.send(peer.address, m.EndPilot("the site directory is gone", True))
            if self._peers:
                self._server.close()
        os._exit(1)

    def _announce(self) -> None:
        """Write down where this head is found."""
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

    def _take_in(self, now: float) -> None:
        """What has arrived since the last turn."""
        run = self._steps.run
        if not run("taking in messages", self._receive, now):
            time.sleep(TICK_S)  # they are still there: the loop would be woken at once
        run("answers of the batch system", self._fleet.take)
        run("what was removed", self._take_swept)
        run("looking up what has run before", self._take_recalled, now)

    def _receive(self, now: float) -> None:
        for peer, message in self._server.receive():
            self._handle(peer, message, now)
        for peer in self._server.take_gone():
            self._clients.gone(peer)
        for peer, unreadable in self._server.take_unreadable():
            self._answers.answer(peer, unreadable, now)

    def _take_swept(self) -> None:
        self._commits.batch.add_swept(self._janitor.take())

    def _take_recalled(self, now: float) -> None:
        while (known := self._shell.recall.take()) is not None:
            self._shell.apply(known, now)

    def _handle(self, peer: bytes, message: Any, now: float) -> None:
        if isinstance(message, _USES):
            self._used = now
        self._clients.hear(peer, now)
        try:
            self._handlers[type(message)](peer, message, now)
        except Exception as error:
            kind = type(message).__name__
            expected = isinstance(error, PilotError)
            log.log(
                logging.INFO if expected else logging.ERROR,
                "%s: %s",
                kind,
                error,
                exc_info=not expected,
            )
            request = getattr(message, "request", None)
            text = str(error) if expected else f"{kind} failed in the head: {error!r}"
            if request is not None:
                self._server.send(peer, m.Reply(request, error=text))
            elif isinstance(message, m.Submit):
                live = self._core.tasks
                refused = [(spec.id, text) for spec in message.tasks if spec.id not in live]
                self._commits.tell(peer, m.Accepted(message.seq, refused))

    def _notify(self) -> None:
        """Have a turn at once; from any thread."""
        os.eventfd_write(self._wake, 1)

    # --- timers

    def _tick(self, now: float) -> None:
        run = self._steps.run
        if self._starter and os.getppid() != self._starter and not self._stopping:
            self._stop("the job's program has ended", end_pilots=True)
        if not self._stopping:
            run("giving back space of the database", self._store.shrink)
            run("closing what was left", self._control.close_left, now)
        run("looking after clients", self._clients.forget_silent, self._server.is_here, now)
        run("looking after the sockets", self._look_after_sockets)
        run("looking after the pilots", self._pilots.tick, now, not self._stopping)

    def _look_after_sockets(self) -> None:
        self._moved = self._server.look_after() or self._moved or self._is_hidden()
        if self._moved:
            self._announce()
            self._moved = False

    def _is_hidden(self) -> bool:
        """Whether something else is where it is written down where this head is found.

        It is not read: what it is now may be anything.
        """
        try:
            found, written = self._site.address_file.lstat(), self._written
        except FileNotFoundError:
            return True
        return written is None or (
            (found.st_ino, found.st_size, found.st_mtime_ns)
            != (written.st_ino, written.st_size, written.st_mtime_ns)
        )

    def _hurry(self) -> None:
        """There are tasks and no pilot: decide at once whether there is to be one."""
        self._fleet.hurry()
        self._ticked = 0.0
        self._notify()

    def _is_over(self, now: float) -> bool:
        if self._core.tasks or self._fleet.pilots:
            self._used = max(self._used, now)
        idle_s = self._site.config.head.idle_timeout_s
        if not self._stopping and idle_s and now - self._used > idle_s:
            self._stop("idle", end_pilots=True)
        if not self._stopping:
            return False
        if self._commits.pending:
            return now > self._stop_by + STOP_S
        return not self._stop_by or not self._fleet.pilots or now > self._stop_by

    # --- the end

    def _stop(self, reason: str, end_pilots: bool) -> None:
        self._stopping = self._stopping or reason
        if end_pilots:
            now = clock.now()
            self._stop_by = now + STOP_S
            self._pilots.end_all(reason, now)
        self._notify()

    def _close(self) -> None:
        log.info("ends: %s", self._stopping)
        for name, step in (
            ("cancelling pilots", self._pilots.cancel_rest),
            ("removing the address", partial(self._site.address_file.unlink, missing_ok=True)),
            ("closing the sockets", self._server.close),
            ("waiting for the batch system", self._fleet.close),
            ("waiting for the janitor", self._janitor.stop),
            ("ending the look-up", self._shell.recall.close),
            ("closing the database", self._store.close),
            ("giving up the lease", self._lease.release),
        ):
            self._steps.attempt(name, step)

    # --- what the head itself is asked and told

    def _query(self, peer: bytes, message: m.Query, _now: float) -> None:
        view = queries.View(
            self._store,
            self._core,
            self._fleet,
            self._shell.running,
            self._status,
            self._commits.last_event,
        )
        answer = queries.answer(view, message.name, message.arguments)
        self._server.send(peer, m.Reply(message.request, answer))

    def _command(self, peer: bytes, message: m.Command, _now: float) -> None:
        if message.name == "backup":
            self._store.back_up(Path(message.arguments["file"]), clock.now())
            self._server.send(peer, m.Reply(message.request, True))
            return
        if message.name != "stop":
            raise PilotError(f"the head knows no command {message.name!r}")
        self._server.send(peer, m.Reply(message.request, self._status()))
        self._stop("told to", end_pilots=not message.arguments.get("leave_pilots", False))

    def _status(self) -> dict[str, Any]:
        """What the head says of itself."""
        return {
            "site": self._site.name,
            "directory": str(self._site.directory),
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "epoch": self._lease.epoch,
            "version": __version__,
            "started": self._started,
            "unfinished": len(self._core.tasks),
            "clients": len(self._shell.peers.clients),
            "pilots": len(self._fleet.pilots),
            "trouble": self._commits.trouble or self._fleet.trouble or self._steps.trouble,
            "unwritten": self._commits.trouble,
            "stopping": self._stopping,
            "awaits": self._pilots.awaited(),
        }
