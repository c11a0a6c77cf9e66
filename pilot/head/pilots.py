"""Messages of pilots: they join, get tasks, report ends, and leave.

`fleet` knows the pilots as jobs of the batch system, this module those that have introduced
themselves.

Invariants
----------
- Work is handed out at once, before its submission is committed: what a pilot reports of a task
  that a crash made unknown is ignored, and the client submits it again.
- A completion is acknowledged when it is committed; until then the pilot keeps it.
- After a restart no work is handed out until the pilots started under the previous head have said
  what they hold, or have had the time to.
- A task that cannot be sent to a pilot fails by name; the others go on.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from pilot.errors import PilotError, ResultError
from pilot.head.connections import Handler, PilotPeer, Sent, refusal
from pilot.head.core import events as ev
from pilot.head.core.state import Task
from pilot.head.fleet import Fleet
from pilot.head.outlook import RUNNING
from pilot.head.shell import Shell
from pilot.head.walltimes import WALLTIME_MOVED_S
from pilot.model.ids import task_label
from pilot.model.installation import Installation
from pilot.model.tasks import Completion
from pilot.model.values import Value
from pilot.scheduler.batch import BatchSystem
from pilot.scheduler.resources import common_shape
from pilot.site import Site
from pilot.texts import printable
from pilot.version import __version__
from pilot.wire.messages import pilot as m
from pilot.wire.messages.client import Notice
from pilot.wire.messages.common import WHO_ARE_YOU, Welcome

log = logging.getLogger("pilot.head")

#: The time to wait, after a restart, for pilots started under the previous head, in seconds.
REJOIN_S = 10.0
#: A delay of a tick that means that the head itself stood still, in seconds.
SLEPT_S = 5.0
#: The number of notices that are remembered, not to be told again.
NOTICES_KNOWN = 1000
#: The number of ended pilots of which the last life that joined is remembered.
LIVES_KNOWN = 1000


class Pilots:
    """The head's side of each pilot.

    Parameters
    ----------
    site
        The site.
    shell
        The core and what belongs to it.
    batch
        The batch system.
    epoch
        The head's.
    notify
        Called from another thread when the fleet has something to take in.
    now
        When this head started, in seconds since the epoch.
    learn
        Called with what a pilot that has joined runs its tasks in.
    """

    def __init__(
        self,
        site: Site,
        shell: Shell,
        batch: BatchSystem,
        epoch: int,
        notify: Callable[[], None],
        now: float,
        learn: Callable[[Installation], None] = lambda _: None,
    ) -> None:
        self._learn = learn
        self._shell = shell
        self._core = shell.core
        self._peers = shell.peers.pilots
        self._epoch = epoch
        self._database = shell.store.identity
        self._now = shell.machine.now
        self.fleet = Fleet(
            site,
            shell.store,
            batch,
            shell.core.pilots,
            notify,
            self._lost,
            self._note,
            shell.machine,
        )
        #: Pilots of the previous head that have not joined this one yet, and the end of the wait.
        self._expected = {name for name, row in self.fleet.pilots.items() if row.job is not None}
        self._expected_until = now + REJOIN_S
        #: The time of the last tick; 0: none yet.
        self._ticked = 0.0
        #: The job and life of each pilot that has joined; of ended ones only the last.
        self._lives: dict[str, tuple[str, int]] = {}
        #: Reported ends that are not processed yet: their children have no numbers.
        self._untaken: deque[tuple[bytes, m.Completions]] = deque()
        #: The reason why all pilots are to end; empty: they are not.
        self._ending = ""
        self.handlers: Mapping[type, Handler] = {
            m.PilotHello: self._hello,
            m.Completions: self._completions,
            m.PilotStatus: self._status,
            m.HeldBack: self._held_back,
            m.Waiting: self._waiting,
            m.PilotBye: self._bye,
            m.PilotNotice: self._notice,
        }

        #: The notices that were told, by session and subject.
        self._noticed: set[tuple[int, str]] = set()

    # --- what pilots say

    def _notice(self, _address: bytes, message: m.PilotNotice, _now: float) -> None:
        log.warning(
            "pilot %s: session %d: %s", message.pilot, message.session, printable(message.text)
        )
        key = message.session, message.subject
        if key in self._noticed:
            return  # another pilot has said the same
        if len(self._noticed) >= NOTICES_KNOWN:
            self._noticed.clear()
        self._noticed.add(key)
        for peer in self._shell.peers.members.get(message.session, ()):
            self._shell.send(peer, Notice(message.session, message.text))

    def _hello(self, address: bytes, hello: m.PilotHello, now: float) -> None:
        name, nodes = hello.pilot, len(hello.nodes)
        refused = refusal(hello.protocol, hello.version)
        job, life = self._lives.get(name, (hello.job, hello.life))
        if job == hello.job and hello.life < life:
            refused = refused or f"life {life} of its job has joined, and this is life {hello.life}"
        if hello.database not in ("", self._database):
            refused = refused or (
                "the site has another database now, in which its tasks are not: it was reset, or "
                "a backup was put in its place"
            )
        database = self._database
        self._shell.send(address, Welcome(self._epoch, __version__, refused, database=database))
        if refused:
            log.warning("pilot %s refused: %s", name, refused)
            return
        if (job, life) != (hello.job, hello.life):
            self._lost(name, "its job was requeued")
        self._lives.pop(name, None)  # the last that has joined is the last to be forgotten
        self._lives[name] = hello.job, hello.life
        if len(self._lives) > LIVES_KNOWN + 2 * len(self.fleet.pilots):
            ended = [one for one in self._lives if one not in self.fleet.pilots]
            for one in ended[: len(ended) // 2]:
                del self._lives[one]
        self._peers[name] = peer = PilotPeer(address)
        self.fleet.joined(name, hello.job, hello.pool, nodes, now, hello.life)
        log.info(
            "pilot %s (job %s) joined with %d nodes, holding %d tasks",
            name,
            hello.job,
            nodes,
            len(hello.held),
        )
        shape = common_shape([node.shape for node in hello.nodes])
        ends_at = now + hello.left_s if hello.left_s else hello.ends_at
        joined = ev.PilotJoined(name, hello.pool, shape, nodes, ends_at, hello.held, hello.site)
        self._shell.apply(joined, now)
        self._learn(hello.installation)
        # Not sooner: where the database failed on the way here, it is still to say what it holds.
        self._expected.discard(name)
        peer.is_taken_in = True
        for session in hello.sessions:
            if self._shell.assignments.is_open(session):
                peer.sent[session] = Sent(set(), set())  # it is to hear of its end
            else:
                self._shell.send(address, m.ForgetSession(session))
        if self._ending:
            self._end(name, self._ending, now, at_once=True)
        elif order := self.fleet.orders.pilots.get(name):
            left_s = order.left_s(now)
            # After it, what runs still has the time to save its state that a signal would give.
            is_over = bool(order.within_s) and not left_s
            self._end(name, order.words, now, at_once=is_over, within_s=left_s)
        elif self.fleet.is_surplus(name):
            self._end(name, f"another pilot has the nodes of job {hello.job}", now)

    def _completions(self, address: bytes, message: m.Completions, now: float) -> None:
        self._untaken.append((address, message))
        self._take_completions(now)

    def _take_completions(self, now: float) -> None:
        """Process reported ends in order; at the next tick if they must wait for the database."""
        while self._untaken:
            address, message = self._untaken.popleft()
            try:
                self._take_ends(address, message, now)
            except sqlite3.Error as error:
                self._untaken.appendleft((address, message))
                log.error("children cannot be numbered: %s; trying again", error)
                return

    def _take_ends(self, address: bytes, message: m.Completions, now: float) -> None:
        completions = self._shell.numbers.name_children(message.completions, self._core.tasks)
        made = [ended.children for ended in completions if ended.children is not None]
        if any(children.released for children in made):
            completions = [self._without_kept(ended) for ended in completions]
        owed = {ref[0] for children in made for ref in children.delegated.values()}
        specs = [spec for children in made for spec in children.tasks]
        inputs, lost, gone = self._shell.ended_inputs(specs)
        outcomes = self._shell.outcomes.seen(owed)
        ends = ev.AttemptsEnded(message.pilot, completions, inputs, outcomes, lost, gone)
        self._shell.apply(ends, now)
        self._shell.commits.tell(address, m.Committed(message.seq))
        if any(ended.outcome in ("ok", "error") for ended in message.completions):
            self.fleet.worked(message.pilot)

    def _without_kept(self, done: Completion) -> Completion:
        """Return an end without releases of results that are kept for others."""
        children = done.children
        if children is None or not children.released:
            return done
        new = {spec.id for spec in children.tasks}
        known = new | self._core.tasks.keys()
        ended = {task for task, _ in children.released if task not in known}
        there = self._shell.releasing.open_to_release(children.released, ended)
        children = msgspec.structs.replace(children, released=tuple(there))
        return msgspec.structs.replace(done, children=children)

    def _status(self, address: bytes, message: m.PilotStatus, now: float) -> None:
        name, nodes, draining = message.pilot, len(message.nodes), message.draining
        pilot = self._core.pilots.get(name)
        peer = self._peers.get(name)
        if pilot is None or self._is_other(address, name) or not (peer and peer.is_taken_in):
            # It is taken for lost, but lives, or the database failed when it came: let it
            # introduce itself again.
            self._shell.send(address, Welcome(self._epoch, __version__, WHO_ARE_YOU))
            return
        if message.answer:
            self._shell.send(address, m.HeadStatus())
        idle_s, idle_nodes = message.idle_s, message.idle_nodes
        self.fleet.heard(name, idle_s, draining, now, idle_nodes, message.booking)
        ends_at = now + message.left_s if message.left_s else 0.0
        moved = abs(ends_at - pilot.ends_at) > WALLTIME_MOVED_S
        if pilot.nodes != nodes or pilot.draining != draining or moved:
            ends_at = ends_at if moved else pilot.ends_at
            self._shell.apply(ev.PilotChanged(name, nodes, draining, ends_at), now)
        if (left_s := self.fleet.walltime_left_s(name, pilot.ends_at, now)) is not None:
            self._shell.send(address, m.Walltime(left_s))
        if message.returned:
            self.fleet.shrinking.returned(
                name,
                message.returned,
                [node.name for node in message.nodes],
                now,
                lambda answer: self._shell.send(address, answer),
            )
        if (peer := self._peers.get(name)) is not None:
            peer.fetches = message.fetches
        if message.running:
            self.fleet.worked(name)
            for running in message.running:
                if running.task in self._core.tasks:
                    self._shell.running[running.task] = running
            self._shell.apply(ev.AttemptsRunning(name, message.running), now)

    def _held_back(self, address: bytes, message: m.HeldBack, now: float) -> None:
        if not self._is_other(address, message.pilot):
            self._shell.apply(ev.AttemptsHeldBack(message.pilot, message.attempts), now)

    def _waiting(self, address: bytes, message: m.Waiting, now: float) -> None:
        name = message.pilot
        if name in self._core.pilots and not self._is_other(address, name):
            waiting = ev.AttemptsWaiting(name, message.waiting, message.going_on)
            self._shell.apply(waiting, now)

    def _bye(self, address: bytes, message: m.PilotBye, _now: float) -> None:
        if self._is_other(address, message.pilot):
            return
        self._lost(message.pilot, message.reason)
        self.fleet.left(message.pilot, message.reason)

    def _is_other(self, address: bytes, name: str) -> bool:
        """Tell whether a message comes from a pilot's earlier life, or an old connection."""
        peer = self._peers.get(name)
        return peer is not None and peer.address != address

    # --- what becomes of them

    def _lost(
        self, name: str, reason: str, may_live: bool = False, out_of_memory: bool = False
    ) -> bool:
        """Forget what a pilot had; return True if it may still hold amounts of the site."""
        self._peers.pop(name, None)
        self._expected.discard(name)
        if name in self._core.pilots or self._core.site.concerns(name):
            self._shell.apply(ev.PilotLost(name, reason, may_live, out_of_memory), self._now())
        return self._core.site.concerns(name)

    def _note(self, state: str, detail: str) -> None:
        self._core.log.other("pilot", state, 0, self._now(), detail)

    def tick(self, now: float, decide: bool) -> None:
        """Poll the pilots; with `decide`, also start and end pilots to match demand."""
        if self._ticked and (late_s := now - self._ticked) > SLEPT_S:
            log.warning("the head stood still for %.0f s", late_s)
            self.fleet.forgive(late_s)
            self._expected_until += late_s
        self._ticked = now
        if self._expected and (
            now > self._expected_until or self._expected.isdisjoint(self.fleet.pilots)
        ):
            self._expected.clear()
        self._take_completions(now)
        if not decide:
            self.fleet.poll(now)
            return
        self._ask_back(now)
        try:
            told = self.fleet.tick(now, self._core.demand)
        except sqlite3.Error as error:
            log.error("pilots cannot be written down: %s; trying again", error)
            return
        self._keep_budgets(now)
        self._pass_over_suspended(now)
        for name, message in told:
            if isinstance(message, m.EndPilot):
                self._end(name, message.reason, now)
            elif (peer := self._peers.get(name)) is not None:
                self._shell.send(peer.address, message)

    def _pass_over_suspended(self, now: float) -> None:
        """Give no tasks to pilots that stand still; their next status has them take tasks again."""
        for name, pilot in self._core.pilots.items():
            row = self.fleet.pilots.get(name)
            if row is not None and row.suspended and not pilot.draining:
                self._shell.apply(ev.PilotChanged(name, pilot.nodes, True), now)

    def _keep_budgets(self, now: float) -> None:
        """Have sessions whose budget is used up start nothing more, and others go on."""
        accounts = self.fleet.session_accounts()
        for session in list(self._core.sessions.values()):
            account = accounts.get(session.id)
            is_up = account is not None and account.is_used_up
            if is_up != session.over_budget:
                log.info("the budget of session %d is %s", session.id, "used up" if is_up else "ok")
                self._shell.apply(ev.BudgetChanged(session.id, is_up), now)

    def awaited(self) -> dict[str, Any] | None:
        """Return the pilots that dispatch waits for after a restart, and until when, or None."""
        if not self._expected:
            return None
        return {"pilots": sorted(self._expected), "until": self._expected_until}

    # --- what they are told

    def assign(self, now: float) -> None:
        """Hand out ready tasks, unless there is no room for more results."""
        if self._expected or self._shell.commits.is_full:
            return
        try:
            given = self._core.assign(now)
        except Exception:
            for name in list(self._peers):  # nobody knows what each of them was to get
                self._greet_again(name)
            raise
        trouble: Exception | None = None
        for name, tasks in given.items():
            try:
                self._send_work(self._peers[name], tasks)
            except Exception as error:
                if not self._set_aside(name, tasks, error):
                    trouble = error
        # After what it is about has been sent.
        self._shell.releasing.tell_later(self._core.take_unwanted())
        if trouble is not None:
            raise trouble

    def _send_work(self, peer: PilotPeer, tasks: Sequence[Task]) -> None:
        self._shell.send(peer.address, self._pack(peer, tasks))

    def _pack(self, peer: PilotPeer, tasks: Sequence[Task]) -> m.Assign:
        live = self._core.tasks  # what the pilot makes itself
        inputs = {ref[0] for task in tasks for ref in task.given if ref[0] not in live}
        values = self._shell.outcomes.values(inputs)
        if self._core.releases.is_used:
            _check_there(tasks, values)
        return self._shell.assignments.pack(peer, tasks, values)

    def _set_aside(self, name: str, tasks: Sequence[Task], error: Exception) -> bool:
        """Fail the tasks that cannot be sent; return False if no task is at fault."""
        log.error("pilot %s cannot be sent its work", name, exc_info=error)
        whys = {} if isinstance(error, sqlite3.OperationalError) else self._culprits(tasks)
        if whys:
            self._shell.refuse({}, whys)
        self._greet_again(name)
        return bool(whys)

    def _culprits(self, tasks: Sequence[Task]) -> dict[int, str]:
        whys = {}
        for task in tasks:
            try:
                self._pack(PilotPeer(b""), [task])
            except sqlite3.OperationalError:
                continue
            except Exception as error:
                why = error if isinstance(error, PilotError) else repr(error)
                whys[task.id] = f"it cannot be handed to a pilot: {why}"
        return whys

    def _greet_again(self, name: str) -> None:
        """Ask a pilot again what it holds; other tasks assigned to it return to their queues."""
        if (peer := self._peers.get(name)) is not None:
            welcome = Welcome(self._epoch, __version__, WHO_ARE_YOU)
            self._shell.send(peer.address, welcome)

    def _ask_back(self, now: float) -> None:
        """Ask pilots to return tasks that others could start."""
        if self._expected:
            return
        for name, tasks in self._core.ask_back(now).items():
            log.info("pilot %s is asked for %d tasks that others have room for", name, len(tasks))
            self._shell.send(self._peers[name].address, m.Reclaim(tasks))

    def drain(self, name: str, reason: str, now: float, within_s: float = 0.0) -> None:
        """Have a pilot end when its tasks have, or after `within_s` seconds if that is not 0; the
        job of one that has not started is cancelled.

        One that runs, and does not speak with this head, is told when it does.
        """
        row = self.fleet.pilots[name]
        if name in self._peers:
            self._end(name, reason, now, within_s=within_s)
        elif row.state != RUNNING and not row.own:
            self.fleet.withdraw(row, reason, now)

    def forget(self, name: str, reason: str, now: float) -> None:
        """Take for ended a pilot that was left alone, as a user says it is."""
        self._lost(name, reason)
        self.fleet.ended(name, reason, now)

    def end_all(self, reason: str, now: float) -> None:
        """End all pilots: running ones by a message, queued ones by cancelling their jobs."""
        self._ending = self._ending or reason
        queued = []
        for name in list(self.fleet.pilots):
            if name in self._peers:
                self._end(name, reason, now, at_once=True)
            else:
                queued.append(name)
        self._cancel(queued)
        for name in queued:
            self.fleet.ended(name, reason, now)

    def _end(
        self, name: str, reason: str, now: float, at_once: bool = False, within_s: float = 0.0
    ) -> None:
        peer = self._peers.get(name)
        if peer is None:
            return
        log.info("pilot %s is told to end: %s", name, reason)
        self._shell.send(peer.address, m.EndPilot(reason, at_once, within_s))
        if pilot := self._core.pilots.get(name):
            self._shell.apply(ev.PilotChanged(name, pilot.nodes, True), now)
        self.fleet.told(name)

    def _cancel(self, names: Sequence[str]) -> None:
        try:
            self.fleet.cancel_all(names)
        except Exception as error:
            log.warning("pilots could not be cancelled: %s", error)

    def cancel_rest(self) -> None:
        """Cancel the jobs of pilots that were told to end and have not."""
        if self._ending:
            self._cancel(list(self.fleet.pilots))


def _check_there(tasks: Sequence[Task], values: Mapping[int, tuple[Value, ...]]) -> None:
    """Raise where a task needs a result that is gone, which may never be.

    Raises
    ------
    ResultError
        It was released, or deleted.
    """
    for task in tasks:
        for source, index in task.given:
            its = values.get(source)
            if its is not None and (index >= len(its) or its[index].is_released):
                raise ResultError(f"it needs a result of task {task_label(source)}, which is gone")
