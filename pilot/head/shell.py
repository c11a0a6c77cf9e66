"""The shell around the core: it feeds events in, and carries their effects out.

Everything that happens (a message, a timer, an answer of the batch system) becomes an event, and
goes through `Shell.apply`. The parts that effects are carried out with are here for those who make
the events: `clients`, `session_commands` and `pilots`.

Invariants
----------
- An effect is noted for the commit and in memory at once; clients are told of ends when they are
  committed. Only what harms nobody if the head dies is sent at once: that tasks run, and to pilots
  which tasks to end.
- Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial

from pilot.errors import ResultError
from pilot.head.assignments import AssignmentPacker
from pilot.head.commits import Commits
from pilot.head.connections import Peers, Send
from pilot.head.core.core import Core
from pilot.head.core.events import (
    Effects,
    Ended,
    Event,
    TasksUnfit,
    VersionsCommitted,
    VersionsLookedUp,
)
from pilot.head.core.numbering import Numbers
from pilot.head.machine import HERE, Machine
from pilot.head.memo_lookup import MemoLookup
from pilot.head.outcome_cache import Outcomes
from pilot.head.releasing import Releasing
from pilot.head.steps import Steps
from pilot.head.store.store import Store
from pilot.head.store.unfit import LeftOut
from pilot.head.telling import Telling
from pilot.model.ids import Ref, task_label
from pilot.model.states import UNSUCCESSFUL
from pilot.model.tasks import Function, TaskOutcome, TaskSpec, Template
from pilot.model.values import Value
from pilot.scheduler.amounts import Amounts
from pilot.scheduler.assignment import Pool
from pilot.wire.messages import pilot as m
from pilot.wire.messages.client import Started


class Shell:
    """The core, and the parts that carry its effects out.

    Parameters
    ----------
    store
        The database.
    send
        Sends a message to a peer.
    pools
        The pools that pilots may be of.
    notify
        Called from other threads when the loop has something to take in.
    unsent
        The number of bytes that a peer has been sent and has not read.
    machine
        Tells the time, and has threads.
    site
        The amounts that exist once per site.
    """

    def __init__(
        self,
        store: Store,
        send: Send,
        pools: Sequence[Pool],
        notify: Callable[[], None],
        unsent: Callable[[bytes], int],
        machine: Machine = HERE,
        site: Amounts = (),
    ) -> None:
        self.machine = machine
        self._now = machine.now
        self.store = store
        self.send = send
        self.core = Core(pools, site)
        self.peers = Peers()
        self.numbers = Numbers(store.reserve, store.release)
        self.assignments = AssignmentPacker(store)
        self.outcomes = Outcomes(store)
        self.telling = Telling(send, unsent, self.outcomes, self._watch)
        self.memo_lookup = MemoLookup(store, self.outcomes.values, notify, machine)
        self.steps = Steps(machine.now)
        self.commits = Commits(
            store,
            self.core.log,
            send,
            notify,
            self._committed,
            self._give_up,
            self.steps,
            machine.now,
        )
        self.releasing = Releasing(store, self.outcomes, self.commits, self.peers, send)
        #: Ends that the database records differently from what clients would have been told.
        self._changed: dict[int, TaskOutcome] = {}
        #: The last reports of pilots on running tasks.
        self.running: dict[int, m.RunningTask] = {}

    def apply(self, event: Event, now: float) -> Effects:
        """Tell the core of an event at time `now`, and carry its effects out."""
        effects = self.core.apply(event, now)
        self._carry_out(effects)
        return effects

    def refuse(self, templates: Mapping[int, str], tasks: Mapping[int, str]) -> None:
        """Refuse tasks of these templates; end their unfinished tasks, and these tasks."""
        self.apply(TasksUnfit(templates, tasks), self._now())

    def _give_up(self, left: LeftOut) -> None:
        """Fail the tasks that the database cannot store."""
        for session, digest in left.functions:
            self.assignments.unlearn(session, digest)
        self._changed = left.ends
        if left.templates or left.tasks:
            self.refuse(left.templates, left.tasks)

    def _committed(self) -> None:
        self._changed = {}
        self.outcomes.trim(self.commits.batch.ended_tasks)

    def _watch(self, peer: bytes, task: int) -> bool:
        """Have a client told of a task when it ends; return False if it is not unfinished."""
        if task not in self.core.tasks:
            return False
        self.peers.watch(peer, task)
        return True

    def _tell(self, peer: bytes, outcomes: list[TaskOutcome]) -> None:
        changed = self._changed
        if changed:
            outcomes = [changed.get(outcome.task, outcome) for outcome in outcomes]
        self.telling.tell(peer, outcomes)

    def learn(
        self, session: int, functions: Iterable[Function], templates: Iterable[Template]
    ) -> None:
        """Keep functions and templates of a session."""
        self.assignments.learn(session, functions)
        self.commits.batch.add_functions(session, functions)
        self.commits.batch.add_templates(templates)

    def ended_inputs(
        self, tasks: Sequence[TaskSpec]
    ) -> tuple[Mapping[int, str], Mapping[int, Ended], Collection[Ref]]:
        """Return the states of what these tasks need or come after, where that is no unfinished
        task, the ends of inputs that have no results, and what was released of inputs and versions.
        """
        live = self.core.tasks
        needed = {ref for spec in tasks for ref in spec.inputs if ref[0] not in live}
        by_turns = [spec for spec in tasks if spec.commutative]
        versions = {ref for spec in by_turns for ref in self.core.versions(spec)}
        before = {one for spec in tasks if spec.after for one in spec.after if one not in live}
        if not (needed or before):
            return {}, {}, ()
        inputs = {ref[0] for ref in needed}
        states = self.outcomes.states(inputs | before)
        lost = {task for task in inputs if states.get(task) in UNSUCCESSFUL}
        gone = self.outcomes.gone(needed.union(ref for ref in versions if ref[0] not in live))
        return states, self.outcomes.lost(lost) if lost else {}, gone

    def _carry_out(self, effects: Effects) -> None:
        batch, now = self.commits.batch, self._now()
        for learned in effects.learned:
            self.learn(learned.session, learned.functions, learned.templates)
        if effects.accepted:
            keep = self.assignments.keep
            for spec, task, _ in effects.accepted:
                keep(spec)
                if task.template.cache:
                    self.memo_lookup.accepted(task.template, spec)
            batch.add_tasks(effects.accepted)
            if self.assignments.is_full:
                tasks = [spec.id for spec, *_ in effects.accepted]
                self.commits.then(partial(self.assignments.drop_all, tasks))
        if effects.lookups:
            self.memo_lookup.add(effects.lookups)
        if effects.delegated:
            batch.add_delegated(effects.delegated)
            for delegated in effects.delegated:
                self.assignments.drop(delegated.task)
        if effects.attempts:
            batch.add_attempts(effects.attempts, now)
            if self.running:
                for attempt in effects.attempts:
                    self.running.pop(attempt.completion.task, None)
        if effects.late:
            batch.add_late_attempts(effects.late, now)
        if effects.versions:
            batch.add_versions((anchor, latest) for anchor, latest, _ in effects.versions)
            over = [(anchor, member) for anchor, _, member in effects.versions]
            self.commits.then(partial(self._versions_committed, over))
        ended = self.releasing.take_away(effects) if effects.released else effects.ended
        if ended:
            batch.add_ends(ended)
            if effects.named:
                batch.add_objects(effects.named, now)
            self._note_ends(ended)
        if effects.claimed:
            batch.claims.extend(effects.claimed)
        if effects.unwanted:
            self.releasing.tell_later(effects.unwanted)
        for pilot, tasks in effects.cancel.items():
            if peer := self.peers.pilots.get(pilot):
                self.send(peer.address, m.CancelWork(tasks))
        if effects.started:
            self._tell_started(effects.started)
        for session in effects.sessions_ended:
            batch.end_session(session, "CLOSED", now)
            self.assignments.close(session)
            self.outcomes.close(session)
            self.peers.forget(session)
            self.numbers.forget(session)
            for peer in self.peers.pilots.values():
                if peer.sent.pop(session, None):
                    self.send(peer.address, m.ForgetSession(session))
        if effects.settling:
            self._settle(effects.settling)

    def _versions_committed(self, over: list[tuple[Ref, int]]) -> None:
        self.apply(VersionsCommitted(over), self._now())

    def _settle(self, settling: Iterable[tuple[int, Ref]]) -> None:
        """Give tasks that take over a version its value."""
        values: dict[int, Value] = {}
        unread: dict[int, str] = {}
        for number, (task, place) in settling:
            try:
                found = self.outcomes.values({task}).get(task)
            except ResultError as error:
                unread[number] = str(error)
                continue
            if found is None:
                unread[number] = f"the result of task {task_label(task)} is not there any more"
            else:
                values[number] = found[place]
        self.apply(VersionsLookedUp(values, unread), self._now())

    def _note_ends(self, ended: Iterable[Ended]) -> None:
        """Keep the outcomes of tasks, drop their data, and tell the clients after the commit."""
        keep, drop, memos = self.outcomes.keep, self.assignments.drop, self.memo_lookup
        audience, watchers, running = self.peers.audience, self.peers.watchers, self.running
        by_client: dict[bytes, list[TaskOutcome]] = {}
        for end in ended:
            outcome = keep(end)
            drop(end.task)
            memos.ended(end.task)
            for peer in audience(end.task):
                by_client.setdefault(peer, []).append(outcome)
            watchers.pop(end.task, None)
            if running:  # also what was cancelled, of which no attempt counts
                running.pop(end.task, None)
        for peer, outcomes in by_client.items():
            self.commits.then(partial(self._tell, peer, outcomes))

    def _tell_started(self, tasks: Iterable[int]) -> None:
        audience = self.peers.audience
        by_client: dict[bytes, list[int]] = {}
        for task in tasks:
            for peer in audience(task):
                by_client.setdefault(peer, []).append(task)
        for peer, started in by_client.items():
            self.send(peer, Started(started))
