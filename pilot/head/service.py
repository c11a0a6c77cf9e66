"""The service of a head for clients, pilots and tasks, turn by turn; without its process.

`server` has the process: the lease, the sockets, signals, and the file that says where it is found.
Here is all that decides and remembers, and the order in which it comes. A turn (`Service.turn`):

1. What waited for the last commit is told, if that is done (`commits`).
2. Messages are taken in: of clients (`clients`, `session_commands`, `queries`) and of pilots
   (`pilots`); then the answers of other threads: of the batch system (`fleet`), of the janitor, of
   who looks up what has run before (`memo_lookup`). Each becomes an event for the core, and its
   effects are carried out (`shell`).
3. Work is handed out to pilots (`pilots`, with what is in `assignments`).
4. All that has changed begins to be written as one transaction (`commits`).
5. Every 0.25 s the timers are looked after (`Service.tick`); of a head that ends, at each turn.

Invariants
----------
- The guard is asked before anything is written or said.
- No message ends the head, whatever is wrong with it: it would be sent to the next one again.
- No step of a turn does either (`steps`): it is tried again, and the others go on meanwhile.
- What it is given (connections, database, batch system, machine) is all by which it reaches
  anything else: a simulation gives it others.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from pilot.errors import PilotError
from pilot.head import queries
from pilot.head.clients import Clients
from pilot.head.connections import Handler
from pilot.head.core import events as ev
from pilot.head.explain.view import View
from pilot.head.fleet_commands import FleetCommands
from pilot.head.janitor import Janitor
from pilot.head.machine import HERE, Machine
from pilot.head.objects import Objects
from pilot.head.outlook import pool_limits
from pilot.head.pilots import Pilots
from pilot.head.pilots_installation import PilotsInstallation
from pilot.head.session_commands import SessionCommands, opened
from pilot.head.shell import Shell
from pilot.head.store.store import Store
from pilot.head.unreadable import Answers
from pilot.model.ids import Ref, task_label
from pilot.model.tasks import SessionInfo, Template
from pilot.scheduler.batch import BatchSystem
from pilot.site import Site
from pilot.version import __version__
from pilot.wire.channel import Unreadable
from pilot.wire.messages import client as m

log = logging.getLogger("pilot.head")

#: The longest time between two ticks, in seconds.
TICK_S = 0.25
#: The time that the head waits for its pilots when it is told to end, in seconds.
STOP_S = 20.0
#: Messages that show that the head is used.
_USES = (m.ClientHello, m.Submit, m.Query)
#: Messages that wait while the database cannot be written: tasks come with the answer.
_WAITING = (m.Reserve, m.Detach, m.Release)


class Connections(Protocol):
    """The connections of all peers; `pilot.wire.channel.Server` is one."""

    def receive(self) -> list[tuple[bytes, Any]]:
        """Return messages that have arrived, with their senders."""

    def take_unreadable(self) -> list[tuple[bytes, Unreadable]]:
        """Return the data that arrived since the last call and is not a valid message."""

    def take_gone(self) -> list[bytes]:
        """Return the peers of this machine whose connections have ended since the last call."""

    def is_here(self, peer: bytes) -> bool:
        """Tell whether `take_gone` reports the end of a peer's connection."""

    def send(self, peer: bytes, message: msgspec.Struct) -> None:
        """Send to a peer; one that is gone gets nothing."""

    def unsent(self, peer: bytes) -> int:
        """Return the number of bytes sent to a peer that it has not taken yet."""

    def is_over_files(self, peer: bytes) -> bool:
        """Tell whether a peer is connected over the shared file system."""

    @property
    def trouble(self) -> str:
        """The obstacle that keeps messages from leaving; empty: there is none."""


class Job(Protocol):
    """The batch job that a head runs in; `pilot.head.hand_over.HandOver` is one."""

    job: str
    trouble: str

    def status(self) -> dict[str, Any]:
        """Return what ``pilot status`` says of it."""


class Service:
    """The head without its process.

    Parameters
    ----------
    site
        The site.
    store
        The database.
    connections
        The connections of clients and pilots.
    batch
        The batch system.
    epoch
        The head's.
    notify
        Called, also from other threads, when a turn is to come at once.
    guard
        Called before anything is written or said; does not return where that may not be any more.
    machine
        Tells the time, and has threads.
    """

    def __init__(
        self,
        site: Site,
        store: Store,
        connections: Connections,
        batch: BatchSystem,
        epoch: int,
        notify: Callable[[], None],
        guard: Callable[[], None],
        machine: Machine = HERE,
    ) -> None:
        config = site.config
        self._site = site
        self._store = store
        self._connections = connections
        self._epoch = epoch
        self._notify = notify
        self._guard = guard
        self._machine = machine
        self._started = self._used = machine.now()
        self._ticked = 0.0
        #: Messages that wait for the database, with their senders.
        self._postponed: list[tuple[bytes, Any]] = []
        #: The reason why the head ends (empty: it does not), and the deadline for its pilots
        #: (0: they stay).
        self.stopping = ""
        self._stop_by = 0.0
        #: The job that the head runs in; None: it runs in none.
        self.job: Job | None = None
        #: True if the program is over that the head was started for, in its job.
        self.program_ended = False
        #: The time without work and without a word from a client after which the head ends.
        self.idle_timeout_s = config.head.idle_timeout_s
        self._shell = Shell(
            store,
            connections.send,
            pool_limits(config),
            notify,
            connections.unsent,
            machine,
            config.amounts,
        )
        self.peers = self._shell.peers.pilots
        self._core, self._commits = self._shell.core, self._shell.commits
        self.steps = self._shell.steps
        self._janitor = Janitor(site.directory, notify)
        installation = PilotsInstallation(store, config.environment.python)
        most = config.head.max_unfinished
        self._clients = Clients(self._shell, epoch, self._hurry, installation, most)
        self._answers = Answers(epoch, connections.send)
        self._control = SessionCommands(site, self._shell, self._janitor)
        self._objects = Objects(self._shell, self._janitor)
        self._pilots = Pilots(
            site,
            self._shell,
            batch,
            epoch,
            notify,
            self._started,
            self._clients.learn_installation,
        )
        self._fleet = self._pilots.fleet
        self._handlers: Mapping[type, Handler] = {
            **self._clients.handlers,
            **self._control.handlers,
            **self._objects.handlers,
            **self._pilots.handlers,
            **FleetCommands(site, self._pilots, connections.send).handlers,
            m.Query: self._query,
            m.Command: self._command,
        }

    def adopt(self, job: str) -> None:
        """Make the allocation that this process runs in the first pilot."""
        self._fleet.adopting.adopt_own(job, self._started)

    def restore(self) -> None:
        """Load what an earlier head left unfinished; once, before the first turn."""
        now = self._started
        shell, store = self._shell, self._store
        self._core.log.other("head", "STARTED", 0, now, f"epoch {self._epoch}")
        unfinished = store.unfinished()
        rows = store.sessions()
        templates: list[Template] = []
        tasks: list[ev.Restored] = []
        versions: dict[Ref, Ref] = {}
        for row in rows:
            info = SessionInfo(row.id, row.name, row.environment)
            with store.reading(row.id, "what its tasks are made of"):
                functions, kinds_here = store.functions(row.id), store.templates(row.id)
                known = {one.id: one.function for one in kinds_here}
            if row.id in store.damaged:
                continue
            for item in unfinished.get(row.id, ()):
                with store.reading(row.id, f"what task {task_label(item.spec.id)} is to run"):
                    if known[item.spec.template]:
                        functions[known[item.spec.template]]
            if row.id in store.damaged:
                continue
            shell.assignments.open(info, functions)
            templates += kinds_here
            versions.update(store.versions(row.id))
            tasks += unfinished.get(row.id, ())
        owed: set[int] = set()
        kinds = {template.id: template for template in templates}
        for item in tasks:
            shell.memo_lookup.accepted(kinds[item.spec.template], item.spec)
            if item.delegated is None:
                if not shell.assignments.is_full:
                    shell.assignments.keep(item.spec)
            else:
                owed.update(ref[0] for ref in item.delegated[1].values())
        owed.difference_update(item.spec.id for item in tasks)
        outcomes, pilots = shell.outcomes.seen(owed), self._fleet.started()
        restored = ev.TasksRestored(templates, tasks, outcomes, pilots, store.claims(), versions)
        shell.apply(restored, now)
        self._control.restore(row for row in rows if row.id not in store.damaged)
        for row in rows:
            if row.id not in store.damaged:
                shell.apply(opened(row, restored=True), now)
        for told in store.damaged.values():
            log.error("%s", told)
        if tasks:
            log.info("restored %d unfinished tasks", len(tasks))
        self._janitor.add(store.garbage())

    # --- a turn

    def turn(self, now: float) -> bool:
        """Process everything that has arrived; return True if it is time for `tick`."""
        run = self.steps.run
        run("what waited for a commit", self._commits.finish)
        self._take_in(now)
        if not self.stopping:
            run("handing out work", self._pilots.assign, now)
        # Whoever told it to end waits for that.
        is_due = bool(self.stopping) or now - self._ticked >= TICK_S
        self._guard()  # what has come may have taken long
        run("writing", self._commits.begin, now, is_due)
        run("telling clients", self._shell.telling.go_on)
        if is_due:
            self._ticked = now
        return is_due

    def _take_in(self, now: float) -> None:
        """Process messages and answers that have arrived since the last turn."""
        run = self.steps.run
        if not run("taking in messages", self._receive, now):
            self._machine.sleep(TICK_S)  # they are still there: the loop would be woken at once
        run("answers of the batch system", self._fleet.take)
        run("what was removed", self._take_swept)
        run("looking up what has run before", self._take_recalled, now)

    def _receive(self, now: float) -> None:
        for peer, message in self._connections.receive():
            self._handle(peer, message, now)
        for peer in self._connections.take_gone():
            self._clients.gone(peer)
        for peer, unreadable in self._connections.take_unreadable():
            self._answers.answer(peer, unreadable, now)

    def _take_postponed(self, now: float) -> None:
        """Handle the messages again that had to wait for the database."""
        postponed, self._postponed = self._postponed, []
        for peer, message in postponed:
            self._handle(peer, message, now)

    def _take_swept(self) -> None:
        self._commits.batch.add_swept(self._janitor.take())

    def _take_recalled(self, now: float) -> None:
        while (known := self._shell.memo_lookup.take()) is not None:
            self._shell.apply(known, now)

    def _handle(self, peer: bytes, message: Any, now: float) -> None:
        if isinstance(message, _USES):
            self._used = now
        self._clients.hear(peer, now)
        try:
            self._handlers[type(message)](peer, message, now)
        except Exception as error:
            kind = type(message).__name__
            text, expected = str(error), isinstance(error, PilotError)
            if isinstance(error, sqlite3.OperationalError):
                if isinstance(message, _WAITING):
                    log.error("%s: %s; trying again", kind, error)
                    self._postponed.append((peer, message))
                    return
                text, expected = f"the database cannot be used now: {error}; try again", True
            elif not expected:
                text = f"{kind} failed in the head: {error!r}"
            log.log(
                logging.INFO if expected else logging.ERROR,
                "%s: %s",
                kind,
                error,
                exc_info=not expected,
            )
            request = getattr(message, "request", None)
            if request is not None:
                self._connections.send(peer, m.Reply(request, error=text))
            elif isinstance(message, m.Submit):
                live = self._core.tasks
                refused = [(spec.id, text) for spec in message.tasks if spec.id not in live]
                self._commits.tell(peer, m.Accepted(message.seq, refused))
            elif isinstance(message, m.Release):
                self._commits.tell(peer, m.Accepted(message.seq))  # nobody waits for more

    # --- timers

    def tick(self, now: float) -> None:
        """Do the work that is due by time alone."""
        run = self.steps.run
        if not self.stopping:
            run("giving back space of the database", self._store.shrink)
            run("removing released results", self._shell.releasing.sweep, self._janitor.add)
            run("closing what was left", self._control.close_left, now)
            run(
                "ending what was bound to clients",
                self._control.end_bound,
                self._connections.is_here,
                now,
            )
            run("purging what is not kept", self._control.purge_old, now)
            run("removing objects whose time is over", self._objects.expire, now)
        run("what waits for the database", self._take_postponed, now)
        run("looking after clients", self._clients.forget_silent, self._connections.is_here, now)
        run("looking after the pilots", self._pilots.tick, now, not self.stopping)

    def _hurry(self) -> None:
        """Decide at once whether to start a pilot: there are tasks and no pilot."""
        self._fleet.hurry()
        self._ticked = 0.0
        self._notify()

    def is_over(self, now: float) -> bool:
        """Tell whether the head has ended: it was told to, or has been idle for long."""
        if self._core.tasks or self._fleet.pilots:
            self._used = max(self._used, now)
        idle_s = self.idle_timeout_s
        if not self.stopping and idle_s and now - self._used > idle_s:
            self.stop("idle", end_pilots=True)
        if not self.stopping:
            return False
        if self._commits.pending:
            return now > self._stop_by + STOP_S
        return not self._stop_by or not self._fleet.pilots or now > self._stop_by

    def stop(self, reason: str, end_pilots: bool) -> None:
        """End the head, and first its pilots if they are not to stay."""
        self.stopping = self.stopping or reason
        if end_pilots:
            now = self._machine.now()
            self._stop_by = now + STOP_S
            self._pilots.end_all(reason, now)
        self._notify()

    @property
    def has_work(self) -> bool:
        """True while tasks are left."""
        return bool(self._core.tasks)

    @property
    def last_event(self) -> int:
        """The number of the last event that is in the database."""
        return self._commits.last_event

    def flush(self, now: float) -> None:
        """Have all that has happened in the database, and told.

        Raises
        ------
        PilotError
            It cannot be written now.
        """
        self._commits.flush(now)

    def cancel_rest(self) -> None:
        """Cancel the jobs of pilots that were told to end and have not."""
        self._pilots.cancel_rest()

    def close(self) -> None:
        """Wait for the work of other threads; the caller closes the database."""
        for name, step in (
            ("waiting for the batch system", self._fleet.close),
            ("waiting for the janitor", self._janitor.stop),
            ("ending the measurement of sessions", self._control.close),
            ("ending the look-up", self._shell.memo_lookup.close),
        ):
            self.steps.attempt(name, step)

    # --- what the head itself is asked and told

    def _query(self, peer: bytes, message: m.Query, _now: float) -> None:
        view = View(
            self._store,
            self._core,
            self._fleet,
            self._shell.running,
            self._status,
            self._commits.last_event,
            {name: peer.fetches for name, peer in self._shell.peers.pilots.items() if peer.fetches},
        )
        answer = queries.answer(view, message.name, message.arguments)
        reply = m.Reply(message.request, answer)
        if message.name in queries.NUMBERED and self._commits.pending:
            self._commits.tell(peer, reply)
        else:
            self._connections.send(peer, reply)

    def _command(self, peer: bytes, message: m.Command, _now: float) -> None:
        if message.name == "backup":
            self._store.back_up(Path(message.arguments["file"]), self._machine.now())
            self._connections.send(peer, m.Reply(message.request, True))
            return
        if message.name != "stop":
            raise PilotError(f"the head knows no command {message.name!r}")
        self._connections.send(peer, m.Reply(message.request, self._status()))
        if (job := message.arguments.get("program_of")) is not None:
            # Another job may have taken over since the program was started.
            self.program_ended = self.program_ended or (
                self.job is not None and self.job.job == job
            )
            return
        self.stop("told to", end_pilots=not message.arguments.get("leave_pilots", False))

    def _status(self) -> dict[str, Any]:
        """Return the head's own status."""
        return {
            "site": self._site.name,
            "directory": str(self._site.directory),
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "epoch": self._epoch,
            "version": __version__,
            "started": self._started,
            "unfinished": len(self._core.tasks),
            "clients": len(self._shell.peers.clients),
            "pilots": len(self._fleet.pilots),
            "trouble": self._commits.trouble
            or self._fleet.trouble
            or self.steps.trouble
            or self._connections.trouble
            or ("" if self.job is None else self.job.trouble)
            or "; ".join(self._store.damaged.values()),
            "unwritten": self._commits.trouble,
            "over_files": [
                name
                for name, peer in self.peers.items()
                if self._connections.is_over_files(peer.address)
            ],
            "stopping": self.stopping,
            "job": None if self.job is None else self.job.status(),
            "awaits": self._pilots.awaited(),
        }
