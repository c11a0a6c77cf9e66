"""The head's loop: frames, timers and answers in; effects carried out.

One thread owns the core, the sockets and the database. A turn of the loop takes in what has
arrived, hands out work, and writes everything that has changed as one transaction; what must only
be told after it is durable (acceptance, results, acknowledgements to pilots) is told when the
commit is done, while the next turns go on.

Invariants
----------
- Nothing is told before it is committed; work is handed out at once, since a pilot's completion of
  a task that a crash made unknown is ignored and the client submits it again.
- The lease is checked before anything is written or said; without it the process ends at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec
import zmq

from pilot.data.values import Value
from pilot.errors import PilotError
from pilot.head import core as c
from pilot.head import events as ev
from pilot.head import policy, queries
from pilot.head import state as st
from pilot.head.fleet import Fleet
from pilot.head.janitor import Janitor, who_needs
from pilot.head.lease import Lease
from pilot.head.recall import Recall
from pilot.head.store import Batch, SessionRow, Store
from pilot.site import Site
from pilot.version import __version__
from pilot.wire import messages as m
from pilot.wire.channel import Server, load_keys
from pilot.wire.discovery import HeadAddress, process_started, write_address
from scheduler.resources import NodeShape

log = logging.getLogger("pilot.head")

#: The loop looks after its timers at least so often, in seconds.
TICK_S = 0.25
#: After a restart, how long to wait for the pilots of before, in seconds.
REJOIN_S = 10.0
#: After a failed commit, how long until the next try, in seconds.
RETRY_S = 1.0
#: Arguments of waiting tasks are kept in memory up to so many bytes; others are read when needed.
PAYLOAD_BYTES = 256 << 20
#: So many of the last outcomes are kept in memory, for tasks that need them as inputs.
RECENT = 50_000
#: States that ``on_failure="ignore"`` makes good for dependents.
_FAILURES = (policy.FAILED, policy.TIMED_OUT, policy.ABORTED)
#: How long the head waits for its pilots when it is told to end, in seconds.
STOP_S = 20.0


class _Peer:
    """A pilot's connection, and what it has been sent already."""

    def __init__(self, address: bytes) -> None:
        self.address = address
        self.sessions: set[int] = set()
        self.functions: set[tuple[int, bytes]] = set()
        self.templates: set[int] = set()


class Head:
    """The head of a site. `run` returns when it was told to end or has been idle for long.

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
        self._lease.acquire()
        self._store = Store(site.database, config.store.journal)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._core = c.Core()
        self._batch = Batch()
        #: Numbers of the next event, and of the last one that is committed.
        self._next_event = self._store.next_event()
        self._last_event = self._next_event - 1
        self._committing: Batch | None = None
        self._commit_error: Exception | None = None
        self._committed = False
        self._thread = threading.current_thread()
        self._retry_at = 0.0
        self._payloads: dict[int, bytes] = {}
        self._payload_bytes = 0
        self._recent: dict[int, m.TaskOutcome] = {}
        #: Detached children that are not committed yet: (parent, ordinal) → id.
        self._detached: dict[tuple[int, int], int] = {}
        self._functions: dict[int, dict[bytes, m.Function]] = {}
        self._sessions: dict[int, m.SessionInfo] = {}
        self._clients: dict[int, bytes] = {}
        self._streams: dict[bytes, int] = {}
        self._resumed: set[bytes] = set()
        self._watchers: dict[int, list[bytes]] = {}
        self._peers: dict[str, _Peer] = {}
        self._lives: dict[str, tuple[str, int]] = {}
        self.running: dict[int, m.RunningTask] = {}
        self._stopping = ""
        self._stop_by = 0.0
        self._recall = Recall(self._store, self._values, self._notify)
        self._fleet = Fleet(site, self._store, self._notify, self._pilot_lost, self._log_pilot)
        self._server: Server[Any] = Server(
            load_keys(site.keys),
            f"{site.directory}/head",
            m.ToHead,
            config.head.address,
            config.head.port,
        )
        self._janitor = Janitor(site.directory, self._notify)
        self._started = self._busy = time.time()
        self._restore()
        self._janitor.add(self._store.garbage())
        self._expected = {name for name, row in self._fleet.pilots.items() if row.job is not None}
        self._handlers: dict[type, Callable[[bytes, Any, float], None]] = {
            m.Submit: self._on_submit,
            m.Detach: self._on_detach,
            m.Completions: self._on_completions,
            m.PilotStatus: self._on_status,
            m.ClientHello: self._on_client,
            m.ClientBye: self._on_client_bye,
            m.OpenSession: self._on_open,
            m.Watch: self._on_watch,
            m.Cancel: self._on_cancel,
            m.ControlSession: self._on_control,
            m.DeleteResults: self._on_delete,
            m.Query: self._on_query,
            m.Command: self._on_command,
            m.PilotHello: self._on_pilot,
            m.PilotBye: self._on_bye,
        }
        #: Whoever started a head inside a job: it ends with that process, as the job does.
        self._starter = os.getppid() if adopt_job else 0
        if adopt_job:
            self._fleet.adopt(adopt_job, self._started)

    def _restore(self) -> None:
        """Take on what an earlier head left unfinished."""
        now = time.time()
        self._core.log.other("head", "STARTED", 0, now, f"epoch {self._lease.epoch}")
        unfinished = self._store.unfinished()
        rows = self._store.sessions()
        templates: list[m.Template] = []
        tasks: list[ev.Restored] = []
        for row in rows:
            self._sessions[row.id] = m.SessionInfo(row.id, row.name, row.environment)
            self._functions[row.id] = self._store.functions(row.id)
            templates += self._store.templates(row.id)
            tasks += unfinished.get(row.id, ())
        owed: set[int] = set()
        kinds = {template.id: template for template in templates}
        for item in tasks:
            self._recall.accepted(kinds[item.spec.template], item.spec)
            if item.delegated is None:
                self._keep_payload(item.spec)
            else:
                owed.update(ref[0] for ref in item.delegated[1].values())
        owed.difference_update(item.spec.id for item in tasks)
        restored = ev.TasksRestored(templates, tasks, self._as_all_see(owed))
        self._carry_out(self._core.apply(restored, now))
        for row in rows:
            self._carry_out(self._core.apply(_opened(row, restored=True), now))
        if tasks:
            log.info("restored %d unfinished tasks", len(tasks))

    # --- the loop

    def run(self) -> None:
        """Serve until told to end, or idle for long."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop("told by a signal", end_pilots=False))
        address = HeadAddress(
            self._lease.epoch,
            os.uname().nodename,
            os.getpid(),
            process_started(os.getpid()),
            self._server.endpoints,
            __version__,
        )
        write_address(self._site.address_file, address)
        log.info("head of %s, epoch %d, %s", self._site.name, address.epoch, address.endpoints)
        poller = zmq.Poller()
        poller.register(self._server.socket, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        self._ticked = 0.0
        while True:
            for source, _ in poller.poll(int(TICK_S * 1000)):
                if source == self._wake:
                    os.eventfd_read(self._wake)
            if not self._lease.renew():
                log.critical("the lease is lost: another head may run; this one ends at once")
                os._exit(1)
            now = time.time()
            self._after_commit()
            for peer, message in self._server.receive():
                self._handle(peer, message, now)
            self._fleet.take()
            self._batch.add_swept(self._janitor.take())
            while (known := self._recall.take()) is not None:
                self._carry_out(self._core.apply(known, now))
            self._assign(now)
            due = now - self._ticked >= TICK_S
            self._commit(now, due)
            if due:
                self._ticked = now
                self._tick(now)
                if self._is_over(now):
                    break
        self._close()

    def _handle(self, peer: bytes, message: Any, now: float) -> None:
        try:
            self._handlers[type(message)](peer, message, now)
        except Exception as error:
            # One bad message must not end the head: it would be sent to the next one again.
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
            if request is not None:
                text = str(error) if expected else f"{kind} failed in the head: {error!r}"
                self._server.send(peer, m.Reply(request, error=text))

    def _tick(self, now: float) -> None:
        if self._expected and (
            now - self._started > REJOIN_S or self._expected.isdisjoint(self._fleet.pilots)
        ):
            self._expected.clear()
        if self._starter and os.getppid() != self._starter and not self._stopping:
            self._stop("the job's program has ended", end_pilots=True)
        if self._stopping:
            self._fleet.poll(now)
            return
        try:
            self._store.shrink()
        except sqlite3.Error as error:
            log.error("space in the database cannot be given back: %s; trying again", error)
        try:
            ending = self._fleet.tick(now, self._core.demand)
        except sqlite3.Error as error:
            log.error("pilots cannot be written down: %s; trying again", error)
            return
        for name in ending:
            self._end_pilot(name, "idle", now)

    def _is_over(self, now: float) -> bool:
        if self._core.tasks or self._fleet.pilots:
            self._busy = max(self._busy, now)
        idle_s = self._site.config.head.idle_timeout_s
        if not self._stopping and idle_s and now - self._busy > idle_s:
            self._stop("idle", end_pilots=True)
        if not self._stopping:
            return False
        if self._batch or self._committing or self._core.log.changes:
            return now > self._stop_by + STOP_S
        return not self._stop_by or not self._fleet.pilots or now > self._stop_by

    def _stop(self, reason: str, end_pilots: bool) -> None:
        self._stopping = self._stopping or reason
        if end_pilots:
            now = time.time()
            self._stop_by = now + STOP_S
            queued = []
            for name in list(self._fleet.pilots):
                if name in self._peers:
                    self._end_pilot(name, reason, now, at_once=True)
                else:
                    queued.append(name)
            try:
                self._fleet.cancel_all(queued)
            except Exception as error:
                log.warning("queued pilots could not be cancelled: %s", error)
            for name in queued:
                self._fleet.ended(name, reason, now)
        self._notify()

    def _close(self) -> None:
        log.info("ends: %s", self._stopping)
        left = [name for name in self._fleet.pilots if name in self._fleet.pilots]
        if self._stop_by and left:
            self._fleet.cancel_all(left)
        self._site.address_file.unlink(missing_ok=True)
        self._server.close()
        self._fleet.close()
        self._janitor.stop()
        self._recall.close()
        self._store.close()
        self._lease.release()

    def _notify(self) -> None:
        os.eventfd_write(self._wake, 1)

    # --- effects

    def _carry_out(self, effects: ev.Effects) -> None:
        """Note what is to be written, and what to tell after that."""
        batch, now = self._batch, time.time()
        for learned in effects.learned:
            for function in learned.functions:
                self._functions[learned.session][function.digest] = function
            batch.add_functions(learned.session, learned.functions)
            batch.add_templates(learned.templates)
        if effects.accepted:
            for spec, taken, _ in effects.accepted:
                self._keep_payload(spec)
                if taken.template.cache:
                    self._recall.accepted(taken.template, spec)
            batch.add_tasks(effects.accepted)
        if effects.recalls:
            self._recall.add(effects.recalls)
        if effects.delegated:
            batch.add_delegated(effects.delegated)
            for delegated in effects.delegated:
                self._drop_payload(delegated.task)
        if effects.attempts:
            batch.add_attempts(effects.attempts, now)
            for attempt in effects.attempts:
                self.running.pop(attempt.completion.task, None)
        if effects.late:
            batch.add_late_attempts(effects.late, now)
        if effects.ended:
            batch.add_ends(effects.ended)
            by_client: dict[bytes, list[m.TaskOutcome]] = {}
            for end in effects.ended:
                outcome = m.TaskOutcome(end.task, end.state, end.values, end.failure)
                self._recent[end.task] = outcome
                self._drop_payload(end.task)
                self._recall.ended(end.task)
                for peer in self._audience(end.task):
                    by_client.setdefault(peer, []).append(outcome)
                self._watchers.pop(end.task, None)
            for peer, outcomes in by_client.items():
                batch.after.append(_later(self._server.send, peer, m.Outcomes(outcomes)))
        for pilot, tasks in effects.cancel.items():
            if pilot in self._peers:
                self._server.send(self._peers[pilot].address, m.CancelWork(tasks))
        if effects.started:
            told: dict[bytes, list[int]] = {}
            for task in effects.started:
                for peer in self._audience(task):
                    told.setdefault(peer, []).append(task)
            for peer, tasks in told.items():
                self._server.send(peer, m.Started(tasks))
        for session in effects.sessions_ended:
            batch.end_session(session, "CLOSED", now)
            self._sessions.pop(session, None)
            self._functions.pop(session, None)

    def _audience(self, task: int) -> Iterable[bytes]:
        """The clients that want to know of a task."""
        owner = self._clients.get(task >> 32)
        watchers = self._watchers.get(task, ()) if self._watchers else ()
        if not watchers:
            return (owner,) if owner is not None else ()
        return {*watchers, owner} if owner is not None else set(watchers)

    def _commit(self, now: float, events_too: bool) -> None:
        """Write what has changed since the last commit, unless one is under way.

        Events alone, which say where tasks are that have not ended, wait for other changes or for
        a tick of the timers.
        """
        if self._committing is not None or now < self._retry_at:
            return
        batch = self._batch
        changes = self._core.log.changes
        if not (batch or (events_too and changes)):
            return
        if changes:
            self._next_event = batch.add_changes(self._core.log.take(), self._next_event)
        self._committing, self._batch = batch, Batch()
        self._committed, self._commit_error = False, None
        self._store.write(batch, self._commit_done)
        self._after_commit()

    def _commit_done(self, error: Exception | None) -> None:
        """Called from the committing thread, or from this one where the disk is quick."""
        self._commit_error = error
        self._committed = True
        if threading.current_thread() is not self._thread:
            self._notify()

    def _after_commit(self) -> None:
        if not self._committed or self._committing is None:
            return
        batch, self._committing = self._committing, None
        self._committed = False
        if self._commit_error is not None:
            log.error(
                "the database cannot be written: %s; nothing is lost, trying again",
                self._commit_error,
            )
            self._retry_at = time.time() + RETRY_S
            batch.extend(self._batch)
            self._batch = batch
            return
        if batch.events:
            first, count, *_ = batch.events[-1]
            self._last_event = first + count - 1
        for tell in batch.after:
            tell()
        if len(self._recent) > 2 * RECENT:
            # What is not committed yet is among the newest, so what goes can be read again.
            for task in list(self._recent)[:RECENT]:
                del self._recent[task]

    # --- work for pilots

    def _assign(self, now: float) -> None:
        if self._expected or self._stopping:
            return
        for name, tasks in self._core.assign(now).items():
            self._send_work(self._peers[name], tasks)

    def _send_work(self, peer: _Peer, tasks: list[st.Task]) -> None:
        sessions, functions, templates = [], [], []
        missing = [task.id for task in tasks if task.id not in self._payloads]
        read = self._store.payloads(missing) if missing else {}
        live = self._core.tasks  # what the pilot makes itself
        values = self._values(
            {ref[0] for task in tasks for ref in task.inputs if ref[0] not in live}
        )
        work = []
        for task in tasks:
            template = task.template
            if template.id not in peer.templates:
                peer.templates.add(template.id)
                templates.append(template)
                if template.session not in peer.sessions:
                    peer.sessions.add(template.session)
                    sessions.append(self._sessions[template.session])
                key = (template.session, template.function)
                if key not in peer.functions:
                    peer.functions.add(key)
                    functions.append(self._functions[template.session][template.function])
            payload = self._payloads.get(task.id)
            work.append(
                m.Work(
                    task.id,
                    task.attempt,
                    template.id,
                    read[task.id] if payload is None else payload,
                    tuple(
                        m.InputValue(
                            source, index, values[source][index] if source in values else None
                        )
                        for source, index in task.inputs
                    )
                    if task.inputs
                    else (),
                )
            )
        self._server.send(peer.address, m.Assign(sessions, functions, templates, work))

    def _values(self, tasks: set[int]) -> dict[int, tuple[Value, ...]]:
        """The values of tasks that have ended."""
        return {task: outcome.values for task, outcome in self._as_all_see(tasks).items()}

    def _as_all_see(self, tasks: set[int]) -> dict[int, m.TaskOutcome]:
        """How those of the tasks that have ended have ended, as their dependents see it."""
        return {task: self._as_seen(outcome) for task, outcome in self._outcomes(tasks).items()}

    def _outcomes(self, tasks: set[int]) -> dict[int, m.TaskOutcome]:
        """How those of the tasks that have ended have ended."""
        found = {task: self._recent[task] for task in tasks if task in self._recent}
        unknown = tasks - found.keys()
        if unknown:
            found.update((outcome.task, outcome) for outcome in self._store.results(unknown))
        return found

    def _as_seen(self, outcome: m.TaskOutcome) -> m.TaskOutcome:
        """How a task's dependents see its end: a failure may be ignored, and have a default."""
        if outcome.state not in _FAILURES:
            return outcome
        template = self._store.template_of(outcome.task)
        if template.on_failure != "ignore":
            return outcome
        return m.TaskOutcome(outcome.task, policy.COMPLETED, c.default_values(template))

    def _keep_payload(self, spec: m.TaskSpec) -> None:
        if self._payload_bytes < PAYLOAD_BYTES:
            self._payloads[spec.id] = spec.payload
            self._payload_bytes += len(spec.payload)

    def _drop_payload(self, task: int) -> None:
        payload = self._payloads.pop(task, None)
        if payload is not None:
            self._payload_bytes -= len(payload)

    # --- clients

    def _on_client(self, peer: bytes, hello: m.ClientHello, now: float) -> None:
        self._busy = now
        refused = _refusal(hello.protocol, hello.version)
        stream = hello.stream
        if not refused and stream >= 0:
            if stream:
                self._resumed.add(peer)
            else:
                stream = self._store.add_streams(peer.hex(), 1, now)
            self._clients[stream] = peer
            self._streams[peer] = stream
        self._server.send(peer, m.Welcome(self._lease.epoch, __version__, stream, refused))

    def _on_client_bye(self, peer: bytes, _message: m.ClientBye, _now: float) -> None:
        self._resumed.discard(peer)
        stream = self._streams.pop(peer, 0)
        if self._clients.get(stream) == peer:
            del self._clients[stream]

    def _on_open(self, peer: bytes, message: m.OpenSession, now: float) -> None:
        session = message.session
        if session:
            row = self._session_row(session)
            if row.state != "OPEN":
                raise PilotError(f"session {session} is {row.state}: it takes no more tasks")
            options = row.options
        else:
            if message.weight <= 0:
                raise PilotError(f"weight={message.weight}: give a number above 0")
            session = self._store.add_session(message, now)
            options = message.options
            self._sessions[session] = m.SessionInfo(session, message.name, message.environment)
            self._functions[session] = {}
            opened = ev.SessionOpened(session, message.weight, message.priority)
            self._carry_out(self._core.apply(opened, now))
        # Not before the log has it, too.
        reply = m.Reply(message.request, [session, options])
        self._batch.after.append(_later(self._server.send, peer, reply))

    def _session_row(self, session: int) -> SessionRow:
        row = self._store.session(session)
        if row is None:
            raise PilotError(f"there is no session {session}; `pilot session list` shows them")
        return row

    def _on_submit(self, peer: bytes, message: m.Submit, now: float) -> None:
        self._busy = now
        session, tasks = message.session, message.tasks
        if session not in self._sessions:
            refused = [(spec.id, f"session {session} is closed or unknown") for spec in tasks]
            self._server.send(peer, m.Accepted(message.seq, refused))
            return
        if peer in self._resumed:
            # It may have sent these to the head before, which may have finished them.
            known = self._store.states([spec.id for spec in tasks])
            ended = [
                spec.id for spec in tasks if spec.id in known and spec.id not in self._core.tasks
            ]
            if ended:
                self._tell_ended(peer, ended)
                tasks = [spec for spec in tasks if spec.id not in known]
        refused = self._take_on(message, tasks, 0, now)
        self._batch.after.append(_later(self._server.send, peer, m.Accepted(message.seq, refused)))
        if not self._core.pilots:
            self._fleet.hurry()
            self._ticked = 0.0  # a tick at once
            self._notify()

    def _take_on(
        self, message: m.Submit | m.Detach, tasks: list[m.TaskSpec], parent: int, now: float
    ) -> list[tuple[int, str]]:
        """Take tasks on, with what came with them; returns those that are refused, and why."""
        session = message.session
        for function in message.functions:
            self._functions[session][function.digest] = function
        self._batch.add_functions(session, message.functions)
        self._batch.add_templates(message.templates)
        effects = self._core.apply(
            ev.TasksSubmitted(session, message.templates, tasks, self._ended_inputs(tasks), parent),
            now,
        )
        self._carry_out(effects)
        return effects.refused

    def _on_detach(self, peer: bytes, message: m.Detach, now: float) -> None:
        if message.session not in self._sessions:
            raise PilotError(f"session {message.session} is closed or unknown")
        given, new = [], []
        for spec in message.tasks:
            key = (message.parent, spec.ordinal)
            known = self._detached.get(key) or self._store.detached(*key)
            if known is None:
                self._detached[key] = known = spec.id
                new.append(spec)
            given.append(known)
        refused = self._take_on(message, new, message.parent, now)
        for spec in new:
            # Once it is committed the database knows it; one that is refused is not known.
            self._batch.after.append(
                partial(self._detached.__delitem__, (message.parent, spec.ordinal))
            )
        reply = (
            m.Reply(message.request, error=refused[0][1])
            if refused
            else m.Reply(message.request, given)
        )
        self._batch.after.append(_later(self._server.send, peer, reply))

    def _ended_inputs(self, tasks: Iterable[m.TaskSpec]) -> dict[int, str]:
        """States of the inputs that are no unfinished tasks."""
        live = self._core.tasks
        wanted = {ref[0] for spec in tasks for ref in spec.inputs if ref[0] not in live}
        if not wanted:
            return {}
        states = {task: self._recent[task].state for task in wanted if task in self._recent}
        unknown = wanted.difference(states)
        if unknown:
            states.update(self._store.states(unknown))
        for task, state in states.items():
            if state in _FAILURES:
                states[task] = self._as_seen(m.TaskOutcome(task, state)).state
        return states

    def _on_watch(self, peer: bytes, message: m.Watch, _now: float) -> None:
        ended = []
        for task in message.tasks:
            if task in self._core.tasks:
                if self._clients.get(task >> 32) != peer:
                    self._watchers.setdefault(task, []).append(peer)
            else:
                ended.append(task)
        if ended:
            self._tell_ended(peer, ended)

    def _tell_ended(self, peer: bytes, tasks: list[int]) -> None:
        """Tell a client how tasks ended, after whatever is not committed of them is."""

        def tell() -> None:
            outcomes = [self._recent[task] for task in tasks if task in self._recent]
            unknown = [task for task in tasks if task not in self._recent]
            if unknown:
                outcomes.extend(self._store.results(unknown))
            found = {outcome.task for outcome in outcomes}
            # Never accepted, and its client has given it up: say so rather than nothing.
            outcomes.extend(
                m.TaskOutcome(
                    task,
                    "FAILED",
                    failure=m.TaskFailure("unknown", f"task {m.task_label(task)} does not exist"),
                )
                for task in tasks
                if task not in found
            )
            self._server.send(peer, m.Outcomes(outcomes))

        self._batch.after.append(tell)

    def _on_cancel(self, peer: bytes, message: m.Cancel, now: float) -> None:
        named = ev.TasksCancelled(message.session, message.tasks or None, message.group)
        effects = self._core.apply(named, now)
        self._carry_out(effects)
        reply = m.Reply(message.request, len(effects.ended))
        self._batch.after.append(_later(self._server.send, peer, reply))

    def _on_control(self, peer: bytes, message: m.ControlSession, now: float) -> None:
        session, verb = message.session, message.verb
        self._flush(now)  # what it was told just before is in the row, too
        row = self._session_row(session)
        if verb in ("purge", "delete"):
            self._remove(row, verb)
        elif row.state in ("CLOSED", "PURGED"):
            if verb != "close":
                raise PilotError(f"session {session} is {row.state}: it cannot {verb}")
        else:
            row = self._changed(row, verb)
            if verb in ("pause", "resume"):
                self._batch.pause_session(session, row.paused)
            else:
                self._batch.end_session(session, row.state, None)
            self._carry_out(self._core.apply(_opened(row), now))
        reply = m.Reply(message.request, True)
        self._batch.after.append(_later(self._server.send, peer, reply))

    @staticmethod
    def _changed(row: SessionRow, verb: str) -> SessionRow:
        """What a session becomes."""
        if verb in ("pause", "resume"):
            return row._replace(paused=verb == "pause")
        if verb == "stop":
            return row._replace(state=row.state if row.state == "CLOSING" else "STOPPED")
        if verb == "close":
            return row._replace(state="CLOSING")
        raise PilotError(f"a session knows no {verb!r}")

    def _remove(self, row: SessionRow, verb: str) -> None:
        """Delete a session's data, or all that is known of it."""
        if row.state not in ("CLOSED", "PURGED"):
            raise PilotError(
                f"session {row.id} is {row.state}; close it and let it end, or cancel it, "
                f"before you {verb} it"
            )
        inputs = {ref[0] for task in self._core.tasks.values() for ref in task.inputs}
        needed = dict.fromkeys(self._store.tasks_of(row.id, inputs), ())
        self._refuse_if_needed(needed, f"session {row.id}", verb)
        directories = [
            (above / str(row.id)).relative_to(self._site.directory).as_posix()
            for above in (self._site.results, self._site.checkpoints)
        ]
        if verb == "purge":
            garbage = self._store.purge(row.id, directories)
            if row.state != "PURGED":
                self._core.log.other("session", "PURGED", row.id, time.time())
        else:
            garbage = self._store.delete(row.id, directories)
            self._core.log.other("session", "DELETED", row.id, time.time(), row.name)
        self._janitor.add(garbage)
        # What is remembered may be of this session; the rest is read again when it is needed.
        self._recent.clear()

    def _on_delete(self, peer: bytes, message: m.DeleteResults, now: float) -> None:
        self._flush(now)
        known = self._store.states(message.tasks)
        for task in message.tasks:
            label = m.task_label(task)
            if task not in known:
                raise PilotError(f"task {label} does not exist; nothing was deleted")
            if task in self._core.tasks:
                raise PilotError(
                    f"task {label} has not ended; nothing was deleted. Cancel it, or wait for it"
                )
        outcomes = self._store.results(message.tasks)
        values = {outcome.task: outcome.values for outcome in outcomes}
        self._refuse_if_needed(values, "its result", "delete")
        self._janitor.add(self._store.delete_results(message.tasks))
        for task in message.tasks:
            self._recent.pop(task, None)
        count = sum(outcome.state == policy.COMPLETED for outcome in outcomes)
        self._server.send(peer, m.Reply(message.request, count))

    def _refuse_if_needed(
        self, deleted: Mapping[int, Collection[Value]], what: str, verb: str
    ) -> None:
        needed = who_needs(self._core.tasks.values(), self._store.owing(), deleted)
        if needed is not None:
            unfinished, source = map(m.task_label, needed)
            raise PilotError(
                f"task {unfinished} still needs the result of task {source}; nothing was deleted. "
                f"Cancel it, or wait for it, before you {verb} {what}"
            )

    def _flush(self, now: float) -> None:
        """Have all that has happened so far in the database, before it is read or deleted there.

        Raises
        ------
        PilotError
            It cannot be written now.
        """
        for _ in range(2):  # the commit that is under way, and what has come since it began
            self._commit(now, events_too=True)
            self._store.join()
            self._after_commit()
        if self._batch or self._committing:
            raise PilotError(
                f"the database cannot be written: {self._commit_error}; nothing was done"
            )

    def _on_query(self, peer: bytes, message: m.Query, now: float) -> None:
        self._busy = now
        view = queries.View(
            self._store, self._core, self._fleet, self.running, self._status, self._last_event
        )
        answer = queries.answer(view, message.name, message.arguments)
        self._server.send(peer, m.Reply(message.request, answer))

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
            "clients": len(self._clients),
            "pilots": len(self._fleet.pilots),
            "trouble": str(self._commit_error or "") or self._fleet.trouble,
            "unwritten": str(self._commit_error or ""),
            "stopping": self._stopping,
            "awaits": {"pilots": sorted(self._expected), "until": self._started + REJOIN_S}
            if self._expected
            else None,
        }

    def _on_command(self, peer: bytes, message: m.Command, _now: float) -> None:
        if message.name != "stop":
            raise PilotError(f"the head knows no command {message.name!r}")
        self._server.send(peer, m.Reply(message.request, self._status()))
        self._stop("told to", end_pilots=not message.arguments.get("leave_pilots", False))

    # --- pilots

    def _on_pilot(self, address: bytes, hello: m.PilotHello, now: float) -> None:
        refused = _refusal(hello.protocol, hello.version)
        stream = 0 if refused else self._store.add_streams(hello.pilot, m.STREAMS, now)
        self._server.send(address, m.Welcome(self._lease.epoch, __version__, stream, refused))
        if refused:
            log.warning("pilot %s refused: %s", hello.pilot, refused)
            return
        life = (hello.job, hello.life)
        if self._lives.get(hello.pilot, life) != life:
            self._pilot_lost(hello.pilot, "its job was requeued")
        self._lives[hello.pilot] = life
        self._expected.discard(hello.pilot)
        self._peers[hello.pilot] = _Peer(address)
        self._fleet.joined(hello.pilot, hello.job, hello.pool, len(hello.nodes), now)
        log.info(
            "pilot %s (job %s) joined with %d nodes, holding %d tasks",
            hello.pilot,
            hello.job,
            len(hello.nodes),
            len(hello.held),
        )
        event = ev.PilotJoined(
            hello.pilot,
            hello.pool,
            _common_shape(hello.nodes),
            len(hello.nodes),
            hello.ends_at,
            hello.held,
        )
        self._carry_out(self._core.apply(event, now))
        if self._stopping and self._stop_by:
            self._end_pilot(hello.pilot, self._stopping, now, at_once=True)

    def _on_completions(self, address: bytes, message: m.Completions, now: float) -> None:
        children = [
            spec
            for completion in message.completions
            if completion.children is not None
            for spec in completion.children.tasks
        ]
        ended = self._ended_inputs(children) if children else {}
        owed = {
            ref[0]
            for completion in message.completions
            if completion.children is not None
            for ref in completion.children.delegated.values()
        }
        outcomes = self._as_all_see(owed)
        event = ev.AttemptsEnded(message.pilot, message.completions, ended, outcomes)
        self._carry_out(self._core.apply(event, now))
        self._batch.after.append(_later(self._server.send, address, m.Committed(message.seq)))

    def _on_status(self, _address: bytes, message: m.PilotStatus, now: float) -> None:
        if message.pilot not in self._core.pilots:
            # It is taken for lost, but lives: let it introduce itself again.
            self._server.send(_address, m.Welcome(self._lease.epoch, __version__, 0, m.WHO_ARE_YOU))
            return
        self._fleet.heard(message.pilot, len(message.nodes), message.idle_s, message.draining, now)
        pilot = self._core.pilots[message.pilot]
        if pilot.nodes != len(message.nodes) or pilot.draining != message.draining:
            self._carry_out(
                self._core.apply(
                    ev.PilotChanged(message.pilot, len(message.nodes), message.draining), now
                )
            )
        if message.running:
            for running in message.running:
                if running.task in self._core.tasks:
                    self.running[running.task] = running
            self._carry_out(
                self._core.apply(ev.AttemptsRunning(message.pilot, message.running), now)
            )

    def _on_bye(self, _address: bytes, message: m.PilotBye, _now: float) -> None:
        self._pilot_lost(message.pilot, message.reason)
        self._fleet.left(message.pilot, message.reason)

    def _pilot_lost(self, name: str, reason: str) -> None:
        self._peers.pop(name, None)
        self._expected.discard(name)
        if name in self._core.pilots:
            self._carry_out(self._core.apply(ev.PilotLost(name, reason), time.time()))

    def _log_pilot(self, state: str, detail: str) -> None:
        self._core.log.other("pilot", state, 0, time.time(), detail)

    def _end_pilot(self, name: str, reason: str, now: float, at_once: bool = False) -> None:
        peer = self._peers.get(name)
        if peer is None:
            return
        log.info("pilot %s is told to end: %s", name, reason)
        self._server.send(peer.address, m.EndPilot(reason, at_once))
        if pilot := self._core.pilots.get(name):
            self._carry_out(self._core.apply(ev.PilotChanged(name, pilot.nodes, True), now))
        self._fleet.pilots[name].draining = True


def _later(
    send: Callable[[bytes, msgspec.Struct], None], peer: bytes, message: msgspec.Struct
) -> Callable[[], None]:
    return lambda: send(peer, message)


def _opened(row: SessionRow, restored: bool = False) -> ev.SessionOpened:
    return ev.SessionOpened(
        row.id,
        row.weight,
        row.priority,
        closed=row.state == "CLOSING",
        stopped=row.state == "STOPPED",
        paused=row.paused,
        restored=restored,
    )


def _refusal(protocol: int, version: str) -> str:
    if protocol == m.PROTOCOL:
        return ""
    return (
        f"this head is Pilot {__version__} (protocol {m.PROTOCOL}), the other side is {version} "
        f"(protocol {protocol}); use the same release on both, after `pilot head stop`"
    )


def _common_shape(nodes: list[m.NodeInfo]) -> NodeShape:
    """What every node of a pilot has at least."""
    return NodeShape(
        min((node.shape.cores for node in nodes), default=1),
        min((node.shape.memory_mib for node in nodes), default=0),
        min((node.shape.gpus for node in nodes), default=0),
    )
