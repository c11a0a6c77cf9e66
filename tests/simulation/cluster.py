"""A whole site under a virtual clock: client, head, pilots, executors, all that can go wrong.

The head is the real `Core`, the pilots are the real `Rules`; sockets, processes, the database and
the batch system are modelled around them as their shells treat them. Everything that happens is an
entry in one queue of events, and all that is left to chance comes from one seeded generator, so a
seed is a run that can be repeated exactly.

What must always hold is checked after every event that touches the core or the rules of a pilot.
"""

from __future__ import annotations

import heapq
import itertools
import random
from abc import ABC, abstractmethod
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
from invariants import Replay, check_core, check_rules

from pilot.agent.rules import actions as a
from pilot.agent.rules.reports import Reports
from pilot.agent.rules.rules import Rules
from pilot.client.numbers import Numbers
from pilot.head.core import core as c
from pilot.head.core import events as ev
from pilot.head.core import numbering
from pilot.head.core import state as st
from pilot.head.core.retry import ABORTED, CANCELLED, COMPLETED, FAILED, FINAL, READY, TIMED_OUT
from pilot.model.ids import Ref, session_of
from pilot.model.tasks import Children, Completion, TaskFailure, TaskSpec, Template
from pilot.model.values import Value
from pilot.scheduler.resources import NodeShape, Resources
from pilot.wire.messages import InputValue, RunningTask, Work

#: After this time nothing goes wrong any more, and what is left has to end.
CALM_S = 60.0
#: By then everything must have ended.
END_S = 4000.0
#: As in the head's shell.
REJOIN_S = 10.0

CORES = 4


# --- what is modelled around the core ------------------------------------------------------------


@dataclass
class StoredTask:
    """A row of the table of tasks."""

    spec: TaskSpec
    session: int
    created: float
    attempts: int = 0
    errors: int = 0
    crashes: int = 0
    state: str = READY
    delegated: tuple[tuple[Value, ...], dict[int, Ref]] | None = None


@dataclass
class Store:
    """What is committed."""

    templates: dict[int, list[Template]] = field(default_factory=dict)
    tasks: dict[int, StoredTask] = field(default_factory=dict)
    sessions: dict[int, str] = field(default_factory=dict)
    #: How many numbers of each session are given away.
    numbers: Counter[int] = field(default_factory=Counter)
    log: list[ev.Change] = field(default_factory=list)
    #: Announced to the client, after commit.
    announced: dict[int, str] = field(default_factory=dict)


class Link:
    """A connection: what is sent arrives in order, or never once one of its ends is gone."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.alive = True
        self._last = 0.0

    def send(self, receive: Callable[[], None]) -> None:
        cluster = self._cluster
        self._last = max(self._last, cluster.now) + cluster.rng.expovariate(100.0)
        cluster.at(self._last, lambda: receive() if self.alive else None)


class Head:
    """The core with the glue that the head's shell is: what is told is told after a commit."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.core = c.Core()
        self.numbers = numbering.Numbers(self._reserve, children_block=2)
        self.alive = True
        self.started = cluster.now
        self.links: dict[str, Link] = {}
        self.lives: dict[str, int] = {}
        self.recent: dict[int, str] = {}
        self.batch: list[Callable[[], None]] = []
        self.after: list[Callable[[], None]] = []
        store = cluster.store
        self.expected = set(cluster.agents) if store.tasks else set()
        self.replay = Replay(store.log)
        self.core.log.other("head", "STARTED", 0, cluster.now)
        alive = {session: s for session, s in store.sessions.items() if s != "CLOSED"}
        unfinished = [
            ev.Restored(row.spec, row.attempts, row.errors, row.crashes, row.created, row.delegated)
            for number, row in sorted(store.tasks.items())
            if row.state not in FINAL
        ]
        templates = [t for session in alive for t in store.templates.get(session, [])]
        restored = ev.TasksRestored(templates, unfinished)
        self._carry_out(self.core.apply(restored, cluster.now))
        for session, state in alive.items():
            opened = ev.SessionOpened(session, closed=state == "CLOSING", restored=True)
            self._carry_out(self.core.apply(opened, cluster.now))
        self._turn()

    def _turn(self) -> None:
        """One turn of the head's loop."""
        if not self.alive:
            return
        cluster = self.cluster
        if self.expected and cluster.now - self.started > REJOIN_S:
            self.expected.clear()
        if not self.expected:
            for name, tasks in self.core.assign(cluster.now).items():
                self._send_work(name, tasks)
            for name, stuck in self.core.ask_back(cluster.now).items():
                if name in self.links and name in cluster.agents:
                    agent = cluster.agents[name]
                    cluster.asked_back += len(stuck)
                    self.links[name].send(lambda agent=agent, stuck=stuck: agent.give_back(stuck))
        check_core(self.core)
        if self.batch or self.after:
            self._commit()
        else:
            cluster.after(cluster.rng.uniform(0.001, 0.05), self._turn)

    def _commit(self) -> None:
        batch, after = self.batch, self.after
        self.batch, self.after = [], []
        changes = self.core.log.take()
        self.replay.take(changes)
        self.replay.check(self.core)
        batch.append(lambda: self.cluster.store.log.extend(changes))

        def done() -> None:
            if not self.alive:
                return  # the process died before its transaction was committed
            for write in batch:
                write()
            if self.cluster.rng.random() < self.cluster.head_deaths_at_commit:
                self.cluster.kill_head()  # committed, and nobody was told
                if not self.alive:
                    return
            for tell in after:
                tell()
            self._turn()

        self.cluster.after(self.cluster.rng.uniform(0.0, 0.1), done)

    def _send_work(self, name: str, tasks: list[st.Task]) -> None:
        work, templates = [], {}
        for task in tasks:
            for source, _ in task.inputs:
                if source in self.core.tasks:
                    self.cluster.sent_early += 1
                    holder = self.core.tasks[source].pilot
                    assert holder is not None and holder.name == name, "sent early, elsewhere"
                    continue
                state = self.recent.get(source) or self._stored_state(source)
                assert state in FINAL, f"task {task.id:#x} was assigned, its input is {state}"
                row = self.cluster.store.tasks.get(source)
                policy = row and self.cluster.policies[source]
                assert state == COMPLETED or policy == "ignore", (state, policy)
            assert self._stored_state(task.id) not in FINAL, "a finished task was assigned"
            templates[task.template.id] = task.template
            inputs = tuple(
                InputValue(s, i, None if s in self.core.tasks else Value(0, b""))
                for s, i in task.inputs
            )
            work.append(Work(task.id, task.attempt, task.template.id, b"", inputs))
        agent = self.cluster.agents.get(name)
        link = self.links.get(name)
        if agent and link:
            link.send(lambda: agent.add_work(list(templates.values()), work))

    def _stored_state(self, task: int) -> str:
        row = self.cluster.store.tasks.get(task)
        return row.state if row else ""

    def _reserve(self, session: int, count: int) -> int:
        """Durable at once, whatever becomes of the head."""
        given = self.cluster.store.numbers
        given[session] += count
        return given[session] - count + 1

    # --- what arrives

    def on_reserve(self, link: Link, session: int, count: int, asked: Future[Any]) -> None:
        block = self.numbers.block(session, count)
        link.send(lambda: self.cluster.client.given(session, asked, block))

    def on_submit(
        self, link: Link, session: int, templates: list[Template], tasks: list[TaskSpec]
    ) -> None:
        cluster, store = self.cluster, self.cluster.store
        known = [spec for spec in tasks if spec.id in store.tasks]
        ended = [spec.id for spec in known if spec.id not in self.core.tasks]
        self._tell(link, ended)
        tasks = [spec for spec in tasks if spec.id not in store.tasks]
        states = self._ended_inputs(tasks)
        effects = self.core.apply(ev.TasksSubmitted(session, templates, tasks, states), cluster.now)

        def write() -> None:
            known = {template.id for template in store.templates.setdefault(session, [])}
            store.templates[session].extend(t for t in templates if t.id not in known)

        self.batch.append(write)
        self._carry_out(effects)
        accepted = {spec.id for spec in tasks} | {spec.id for spec in known}
        self.after.append(
            lambda: link.send(lambda: cluster.client.accepted(accepted, dict(effects.refused)))
        )

    def _ended_inputs(self, tasks: list[TaskSpec]) -> dict[int, str]:
        """States of the inputs that are no unfinished tasks; ignored failures count as good."""
        inputs = {source for spec in tasks for source, _ in spec.inputs} - set(self.core.tasks)
        states = {}
        for source in inputs:
            state = self.recent.get(source) or self._stored_state(source)
            if state in (FAILED, TIMED_OUT, ABORTED) and self.cluster.policies[source] == "ignore":
                state = COMPLETED
            if state:
                states[source] = state
        return states

    def on_watch(self, link: Link, tasks: list[int]) -> None:
        self._tell(link, [task for task in tasks if task not in self.core.tasks])

    def _tell(self, link: Link, tasks: list[int]) -> None:
        def tell() -> None:
            states = {task: self._stored_state(task) for task in tasks}
            link.send(lambda: self.cluster.client.told(states))

        if tasks:
            self.after.append(tell)

    def on_cancel(self, session: int, tasks: list[int] | None) -> None:
        self._carry_out(self.core.apply(ev.TasksCancelled(session, tasks), self.cluster.now))

    def open(self, session: int) -> None:
        """A client hears of a session once it is committed; the story begins after that."""
        changes = [ev.Change("session", "OPEN", session, self.cluster.now, "", [])]
        self.cluster.store.sessions[session] = "OPEN"
        self.cluster.store.log.extend(changes)
        self.replay.take(changes)
        opened = ev.SessionOpened(session, restored=True)
        self._carry_out(self.core.apply(opened, self.cluster.now))

    def on_close(self, link: Link, session: int) -> None:
        if session not in self.core.sessions:  # it has ended
            closed = self.cluster.client.session_closed
            self.after.append(lambda: link.send(lambda: closed(session)))
            return

        def write() -> None:
            if self.cluster.store.sessions[session] == "OPEN":
                self.cluster.store.sessions[session] = "CLOSING"

        self.batch.append(write)
        self._carry_out(self.core.apply(ev.SessionOpened(session, closed=True), self.cluster.now))
        self.after.append(lambda: link.send(lambda: self.cluster.client.session_closed(session)))

    def on_hello(
        self, agent: Agent, link: Link, held: list[tuple[int, int]], sessions: set[int]
    ) -> None:
        name = agent.name
        if self.lives.get(name, agent.life) != agent.life:
            self.pilot_lost(name, "requeued")
        self.lives[name] = agent.life
        self.expected.discard(name)
        self.links[name] = link
        link.send(agent.on_welcome)
        event = ev.PilotJoined(name, "main", NodeShape(CORES), len(agent.nodes), 0.0, held)
        self._carry_out(self.core.apply(event, self.cluster.now))
        for session in sessions.difference(self.core.sessions):
            link.send(partial(agent.end_session, session))

    def on_status(
        self, agent: Agent, link: Link, running: list[RunningTask], nodes: int, draining: bool
    ) -> None:
        name = agent.name
        pilot = self.core.pilots.get(name)
        if pilot is None:
            link.send(agent.on_who_are_you)
            return
        if pilot.nodes != nodes or pilot.draining != draining:
            event = ev.PilotChanged(name, nodes, draining)
            self._carry_out(self.core.apply(event, self.cluster.now))
        self._carry_out(self.core.apply(ev.AttemptsRunning(name, running), self.cluster.now))

    def on_completions(
        self, agent: Agent, link: Link, number: int, completions: list[Completion]
    ) -> None:
        completions = self.numbers.name_children(completions, self.core.tasks)
        for done in completions:
            if done.children is not None and session_of(done.children.tasks[0].id):
                self.cluster.note_children(done.task, done.children)
        children = [spec for each in completions if each.children for spec in each.children.tasks]
        event = ev.AttemptsEnded(agent.name, completions, self._ended_inputs(children))
        self._carry_out(self.core.apply(event, self.cluster.now))
        self.after.append(lambda: link.send(lambda: agent.on_committed(number)))

    def pilot_lost(self, name: str, reason: str) -> None:
        self.links.pop(name, None)
        self.expected.discard(name)
        if name in self.core.pilots:
            self._carry_out(self.core.apply(ev.PilotLost(name, reason), self.cluster.now))

    # --- what follows

    def _carry_out(self, effects: ev.Effects) -> None:
        check_core(self.core)
        cluster, store = self.cluster, self.cluster.store
        for end in effects.ended:
            assert end.task not in self.recent, "a task has ended twice"
            self.recent[end.task] = end.state
        ends = [(end.task, end.state) for end in effects.ended]
        counts = [
            (a.completion.task, a.completion.attempt, a.errors, a.crashes) for a in effects.attempts
        ]

        def write() -> None:
            for learned in effects.learned:
                known = {template.id for template in store.templates[learned.session]}
                store.templates[learned.session].extend(
                    t for t in learned.templates if t.id not in known
                )
            for spec, task, _ in effects.accepted:
                assert spec.id not in store.tasks, f"{spec.id:#x} was taken on twice"
                store.tasks[spec.id] = StoredTask(spec, task.template.session, task.created_at)
            for delegated in effects.delegated:
                row = store.tasks[delegated.task]
                row.state, row.delegated = "DELEGATED", (delegated.values, delegated.refs)
            for task, attempt, errors, crashes in counts:
                row = store.tasks[task]
                row.attempts, row.errors, row.crashes = attempt, errors, crashes
            for task, state in ends:
                row = store.tasks[task]
                assert row.state not in FINAL, f"{task:#x}: {state} after {row.state}"
                row.state = state
            for session in effects.sessions_ended:
                store.sessions[session] = "CLOSED"

        def tell() -> None:
            cluster.client.link.send(lambda: cluster.client.told(dict(ends)))

        self.batch.append(write)
        if ends:
            self.after.append(tell)
        for name, tasks in effects.cancel.items():
            if name in self.links and name in cluster.agents:
                agent = cluster.agents[name]
                self.links[name].send(lambda agent=agent, tasks=tasks: agent.cancel(tasks))
        for session in effects.sessions_ended:
            for name, link in self.links.items():
                if name in cluster.agents:
                    link.send(partial(cluster.agents[name].end_session, session))


class Client:
    """A client: keeps what it submitted until it is accepted, asks every new head again."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.link = Link(cluster)
        self.unaccepted: dict[int, tuple[int, list[Template], TaskSpec]] = {}
        self.awaited: set[int] = set()
        self.closing: set[int] = set()
        self.refused: dict[int, str] = {}
        self.numbers: dict[int, Numbers] = {}
        #: What the head was asked for and has not given: session, and how many.
        self.asked: dict[Future[Any], tuple[int, int]] = {}

    def open(self, session: int, block: tuple[int, int]) -> None:
        """A session is there, and the first numbers for its tasks."""
        self.numbers[session] = Numbers(*block, partial(self._ask, session), _does_not_wait)

    def _ask(self, session: int, count: int) -> Future[Any]:
        asked: Future[Any] = Future()
        self.asked[asked] = session, count
        self._say(lambda head: head.on_reserve(self.link, session, count, asked))
        return asked

    def given(self, session: int, asked: Future[Any], block: tuple[int, int]) -> None:
        if self.asked.pop(asked, None):
            asked.set_result(block)

    def submit(self, session: int, templates: list[Template], tasks: list[TaskSpec]) -> None:
        for spec in tasks:
            self.unaccepted[spec.id] = (session, templates, spec)
            self.awaited.add(spec.id)
        self._say(lambda head: head.on_submit(self.link, session, templates, tasks))

    def cancel(self, session: int, tasks: list[int] | None) -> None:
        self._say(lambda head: head.on_cancel(session, tasks))

    def close(self, session: int) -> None:
        self.closing.add(session)
        self._say(lambda head: head.on_close(self.link, session))

    def _say(self, words: Callable[[Head], None]) -> None:
        head = self.cluster.head
        if head.alive:
            self.link.send(lambda: words(head) if head.alive else None)

    def connect(self) -> None:
        """There is a new head."""
        self.link.alive = False
        self.link = Link(self.cluster)
        for asked, (session, count) in self.asked.items():
            self._say(
                lambda head, session=session, count=count, asked=asked: head.on_reserve(
                    self.link, session, count, asked
                )
            )
        again = list(self.unaccepted.values())
        for session, templates, spec in again:
            self._say(
                lambda head, session=session, templates=templates, spec=spec: head.on_submit(
                    self.link, session, templates, [spec]
                )
            )
        watched = [task for task in self.awaited if task not in self.unaccepted]
        self._say(lambda head: head.on_watch(self.link, watched))
        for session in self.closing:
            self._say(lambda head, session=session: head.on_close(self.link, session))

    def accepted(self, tasks: set[int], refused: dict[int, str]) -> None:
        for task in tasks:
            self.unaccepted.pop(task, None)
        for task, why in refused.items():
            self.refused[task] = why
            self.awaited.discard(task)

    def told(self, states: dict[int, str]) -> None:
        for task, state in states.items():
            before = self.cluster.store.announced.setdefault(task, state)
            assert before == state, f"{task:#x} was {before}, now {state}"
            self.awaited.discard(task)

    def session_closed(self, session: int) -> None:
        self.closing.discard(session)


def _does_not_wait(asked: Future[Any]) -> None:
    raise InterruptedError


class Agent:
    """The rules of a pilot with the glue that its shell is, and its executors and worlds."""

    def __init__(self, cluster: Cluster, name: str, nodes: int, is_trap: bool) -> None:
        self.cluster = cluster
        self.name = name
        #: Whether tasks may never end here.
        self.is_trap = is_trap
        self.life = 0
        self.alive = True
        self.link: Link | None = None
        self.head: Head | None = None
        self.welcomed = False
        self.reports = Reports()
        self.nodes = [f"{name}.{number}" for number in range(nodes)]
        self.rules = Rules(self.nodes, NodeShape(CORES))
        self.executors: dict[int, Executor] = {}
        self.worlds: dict[int, World] = {}
        self.running: dict[int, RunningTask] = {}
        for position, node in enumerate(self.nodes):
            self.rules.add_node(node, NodeShape(CORES), cluster.now, position)
        self._tick()

    def _tick(self) -> None:
        if not self.alive:
            return
        self.rules.tick(self.cluster.now)
        head = self.cluster.head
        if head.alive and head is not self.head:
            self._connect(head)
        else:
            self.tell_status()
        self.step()
        if self.rules.draining and self.rules.is_idle and not self.reports:
            self.bye()
        else:
            self.cluster.after(0.5, self._tick)

    def tell_status(self) -> None:
        head, link = self.head, self.link
        if self.welcomed and head is not None and link is not None:
            running, nodes = list(self.running.values()), len(self.rules.hosts)
            draining = self.rules.draining
            link.send(
                lambda: head.on_status(self, link, running, nodes, draining) if head.alive else None
            )

    def _connect(self, head: Head) -> None:
        if self.link:
            self.link.alive = False
        self.head, self.link = head, Link(self.cluster)
        self.greet()

    def greet(self) -> None:
        self.welcomed = False
        if self.reports.next:
            self.reports.close_frame()
        held = self.reports.held() | self.rules.held
        head, link = self.head, self.link
        assert head is not None and link is not None
        sessions = {template.session for template in self.rules.templates.values()}
        link.send(
            lambda: head.on_hello(self, link, list(held.items()), sessions) if head.alive else None
        )

    def on_who_are_you(self) -> None:
        if self.welcomed:
            self.greet()

    def on_welcome(self) -> None:
        if not self.welcomed:
            self.welcomed = True
            self.tell_status()
            for number in self.reports.frames:
                self._send(number)

    def on_committed(self, number: int) -> None:
        for completion in self.reports.acknowledge(number):
            self.rules.forget([completion.task])

    def _send(self, number: int) -> None:
        head, link = self.head, self.link
        assert head is not None and link is not None
        completions = self.reports.frames[number]
        copies = 2 if self.cluster.rng.random() < 0.05 else 1
        for _ in range(copies):
            link.send(
                lambda: head.on_completions(self, link, number, completions) if head.alive else None
            )

    def add_work(self, templates: list[Template], work: list[Work]) -> None:
        if self.alive:
            work = list(self.reports.meet(work, self.cluster.now))
            self.rules.add_work(templates, work, self.cluster.now)
            self.step()

    def cancel(self, tasks: list[int]) -> None:
        if self.alive:
            self.rules.cancel(tasks, self.cluster.now)
            self.step()

    def end_session(self, session: int) -> None:
        if self.alive:
            self.rules.end_session(session)

    def give_back(self, tasks: list[int]) -> None:
        if self.alive:
            self.rules.give_back(tasks, self.cluster.now)
            self.step()

    def leave(self) -> None:
        """Its walltime is over, or it is preempted with a grace time."""
        self.rules.stop_all("its walltime is over", self.cluster.now)
        self.tell_status()
        self.step()

    def drain(self) -> None:
        """The end of its walltime is near: it starts nothing more, and leaves when it is done."""
        self.rules.drain("its walltime is near its end", self.cluster.now)
        self.tell_status()
        self.step()

    def bye(self) -> None:
        head, link = self.head, self.link
        if head is not None and link is not None:
            link.send(lambda: head.pilot_lost(self.name, "bye") if head.alive else None)
        self.vanish(told=True)

    def vanish(self, told: bool = False) -> None:
        """All of it is gone at once; the head hears of it from the batch system."""
        self.alive = False
        self.cluster.agents.pop(self.name, None)
        if self.link and not told:
            self.link.alive = False
        self.cluster.after(
            self.cluster.rng.uniform(0.5, 5.0), lambda: self.cluster.batch_says_gone(self.name)
        )

    def lose_node(self, node: str) -> None:
        if not self.alive or node not in self.nodes or len(self.nodes) == 1:
            return
        self.nodes.remove(node)
        for executor in list(self.executors.values()):
            if executor.node == node:
                executor.alive = False
                del self.executors[executor.id]
        self.rules.lose_node(node, "node lost", self.cluster.now)
        self.tell_status()
        self.step()

    def step(self) -> None:
        """Carry out and report."""
        while actions := self.rules.take_actions():
            for action in actions:
                self._carry_out(action)
        check_rules(self.rules, CORES)
        completions = self.rules.take_completions()
        for done in completions:
            self.running.pop(done.task, None)
            self.cluster.reported[done.task].add((self.name, done.attempt, done.outcome))
        self.reports.add(completions, self.cluster.now)
        self._report()

    def _report(self) -> None:
        """Tell the head what has ended, now or when it is time."""
        if not self.alive or not self.reports.next:
            return
        wait_s = self.reports.wait_s(self.cluster.now, self.rules.has_waiting)
        if wait_s:
            self.cluster.after(wait_s, self._report)
            return
        number = self.reports.close_frame()
        if self.welcomed:
            self._send(number)

    def _carry_out(self, action: a.Action) -> None:
        if isinstance(action, a.StartExecutor):
            self.executors[action.executor] = Executor(self, action.executor, action.node)
        elif isinstance(action, a.StopExecutor):
            if executor := self.executors.get(action.executor):
                executor.stop(action.grace_s)
        elif isinstance(action, a.RunOnExecutor):
            if executor := self.executors.get(action.executor):
                executor.take(action.work)
        elif isinstance(action, a.TakeBackFromExecutor):
            if executor := self.executors.get(action.executor):
                executor.take_back(action.upto)
        elif isinstance(action, a.TakeBackFromWorld):
            if world := self.worlds.get(action.world):
                world.take_back(action.upto)
        elif isinstance(action, a.StartWorld):
            self.worlds[action.world] = World(self, action.world, action.need.ranks)
        elif isinstance(action, a.RunOnWorld):
            self.worlds[action.world].take(action.work)
        elif isinstance(action, a.ForgetSession):
            for process in [*self.executors.values(), *self.worlds.values()]:
                rules = self.rules.executors.get(process.id) or self.rules.worlds.get(process.id)
                assert rules is None or rules.session != action.session
        else:
            if world := self.worlds.get(action.world):
                world.stop()


class Process(ABC):
    """What runs tasks in the order in which they were sent, and may be told to skip some."""

    def __init__(self, agent: Agent, number: int) -> None:
        self.agent = agent
        self.cluster = agent.cluster
        self.id = number
        self.alive = True
        #: What it was sent and is not in: each with its number.
        self.queue: deque[tuple[int, Work]] = deque()
        self.sent = 0
        #: The last that is not taken back any more.
        self.begun = 0
        self.current: Work | None = None

    def take(self, work: list[Work]) -> None:
        for item in work:
            self.sent += 1
            self.queue.append((self.sent, item))
        self._next()

    def take_back(self, upto: int) -> None:
        """It is stopped for a moment (of a world the first rank), unless it cannot be now."""

        def reach() -> None:
            if not self.alive or self.cluster.rng.random() < 0.2:
                return
            begun = self.begun
            self.queue = deque(
                (number, work) for number, work in self.queue if not begun < number <= upto
            )
            rules, cluster = self.agent.rules, self.cluster
            # The node worker tells that, by its own connection: the process may be sooner.
            cluster.after(
                cluster.rng.uniform(0.0005, 0.05),
                lambda: self._say(lambda: rules.taken_back(self.id, begun, upto, cluster.now)),
            )

        self.cluster.after(self.cluster.rng.uniform(0.0, 0.01), reach)

    @abstractmethod
    def _next(self) -> None:
        """Go on with what comes next, if it is in nothing."""

    @abstractmethod
    def _say(self, say: Callable[[], None]) -> None:
        """Have the agent hear of something."""


class Executor(Process):
    """A process that runs tasks one after the other, and may die at any moment."""

    def __init__(self, agent: Agent, number: int, node: str) -> None:
        super().__init__(agent, number)
        self.node = node
        #: What it is in never ends by itself.
        self.hangs = False
        self.cluster.after(self.cluster.rng.uniform(0.0, 0.3), self._ready)

    def _say(self, say: Callable[[], None]) -> None:
        """What it says arrives if its agent and node are still there."""

        def arrive() -> None:
            if self.agent.alive and self.id in self.agent.executors:
                say()
                self.agent.step()

        self.cluster.after(0.0005, arrive)

    def _ready(self) -> None:
        if self.alive:
            self._say(lambda: self.agent.rules.executor_ready(self.id, 1, self.cluster.now))

    def _next(self) -> None:
        if not self.alive or self.current is not None or not self.queue:
            return
        self.begun, work = self.queue.popleft()
        self.current = work
        started = self.cluster.now
        self.cluster.note_run(work)
        self.agent.running[work.task] = RunningTask(work.task, work.attempt, self.node, started)
        if self._may_hang() and self.cluster.rng.random() < self.cluster.hang_rate:
            self.hangs = True
            return
        self.cluster.after(self.cluster.duration(), lambda: self._end(work, started))

    def _may_hang(self) -> bool:
        """Only a task that has nothing behind it in its executor, and will have nothing."""
        known = self.agent.rules.executors[self.id]
        return self.agent.is_trap and len(known.pipeline) == 1 and not known.unsealed

    def _end(self, work: Work, started: float) -> None:
        if not self.alive or self.current is not work:
            return
        outcome = self.cluster.outcome(work)
        if outcome == "crash":
            self.die(-9)
            return
        self.current = None
        done = completion(work, outcome, started, self.cluster.now)
        if outcome == "ok":
            done = msgspec.structs.replace(done, children=self.cluster.children(work))
        rules, now = self.agent.rules, self.cluster.now
        if self.cluster.rng.random() < 0.2:
            # Its result is large: it is reported when the segment is sealed.
            self._say(lambda: rules.executor_ran(self.id, [work.task], now))
            self.cluster.after(
                0.05,
                lambda: self.alive and self._say(lambda: rules.executor_done(self.id, [done], now)),
            )
        else:
            self._say(lambda: rules.executor_done(self.id, [done], now))
        self._next()

    def stop(self, grace_s: float) -> None:
        # Some tasks end, or sit out the grace time, before the signal gets them.
        self.cluster.after(self.cluster.rng.uniform(0.0, grace_s), lambda: self.die(-15))

    def die(self, status: int) -> None:
        if not self.alive:
            return
        self.alive = False
        task = self.current.task if self.current else 0

        def heard() -> None:
            self.agent.rules.executor_exited(
                self.id, status, task, self.cluster.now, (), "", self.cluster.now
            )
            del self.agent.executors[self.id]

        self._say(heard)


class World(Process):
    """The ranks of an MPI world: they leave a task together, or all die."""

    def __init__(self, agent: Agent, number: int, ranks: int) -> None:
        super().__init__(agent, number)
        self.ranks = ranks
        #: What all ranks go on with, or are in, as the first of them has told.
        self.begun = 1
        for rank in range(ranks):
            self.cluster.after(
                self.cluster.rng.uniform(0.1, 0.5),
                lambda rank=rank: self._say(
                    lambda: agent.rules.rank_ready(number, rank, self.cluster.now)
                ),
            )

    def _say(self, say: Callable[[], None]) -> None:
        if self.alive and self.agent.alive:
            say()
            self.agent.step()

    def _next(self) -> None:
        if not self.alive or self.current is not None or not self.queue:
            return
        number, work = self.queue.popleft()
        self.current = work
        self.begun = max(number, self.begun)
        self.cluster.note_run(work)
        started, takes_s = self.cluster.now, self.cluster.duration()
        # The first rank may leave it before the others, and tells already what they go on with.
        leaves_s = takes_s * self.cluster.rng.choice((0.0, 0.5, 1.0))
        self.cluster.after(leaves_s, self._first_leaves)
        self.cluster.after(takes_s, lambda: self._end(work, started))

    def _first_leaves(self) -> None:
        following = self.queue[0][0] if self.queue else self.sent + 1
        self.begun = max(following, self.begun)

    def _end(self, work: Work, started: float) -> None:
        if not self.alive or self.current is not work:
            return
        outcome, rng, rules = self.cluster.outcome(work), self.cluster.rng, self.agent.rules
        if outcome == "crash":
            self.die(9)
            return
        done = completion(work, outcome, started, self.cluster.now)
        if outcome == "ok":
            # The first rank tells it a little later, maybe when the next task runs already.
            self.cluster.after(
                0.002, lambda: self._say(lambda: rules.world_done(self.id, [done], done.ended))
            )
        else:
            # Some fail alike. Or the first rank has raised, and others wait for it in MPI.
            hanging = rng.random() < 0.5
            for rank in range(1 if hanging else self.ranks):
                delay = 0.002 + 0.001 * rank
                self.cluster.after(
                    delay,
                    lambda rank=rank: self._say(
                        lambda: rules.rank_done(self.id, rank, done, self.cluster.now)
                    ),
                )
            if hanging:
                return
        self.current = None
        self._next()

    def stop(self) -> None:
        self.cluster.after(self.cluster.rng.uniform(0.0, 3.0), lambda: self.die(15))

    def die(self, status: int) -> None:
        if not self.alive:
            return
        task = self.current.task if self.current else 0

        def exited() -> None:
            rules, now = self.agent.rules, self.cluster.now
            if self.cluster.rng.random() < 0.9:  # else nobody could watch it
                rules.rank_exited(self.id, task, now)
            self.alive = False
            self.agent.worlds.pop(self.id, None)
            rules.world_exited(self.id, 128 + status, "", now)

        self._say(exited)


def completion(work: Work, outcome: str, started: float, ended: float) -> Completion:
    failure = None
    if outcome == "error":
        failure = TaskFailure("ValueError", "as told", bases=("ValueError", "Exception"))
    values = (Value(0),) if outcome == "ok" else ()
    return Completion(
        work.task, work.attempt, outcome, values, failure, started=started, ended=ended
    )


# --- the cluster ---------------------------------------------------------------------------------

NEEDS = (
    ("python", Resources()),
    ("python", Resources()),
    ("python", Resources(cores=2)),
    ("python", Resources(cores=4)),
    ("mpi", Resources(ranks=2)),
    ("mpi", Resources(ranks=2, ranks_per_node=1)),
    ("mpi-command", Resources(ranks=3)),
)


class Cluster:
    """One run, from its seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], Any]]] = []
        self._numbers = itertools.count()
        self._templates = itertools.count(1)
        self._pilots = itertools.count(1)
        self.store = Store()
        self.agents: dict[str, Agent] = {}
        #: How often each task was run.
        self.runs: Counter[int] = Counter()
        #: Inputs that were still to be made when a task was sent to who makes them.
        self.sent_early = 0
        #: Tasks that pilots were asked to give back.
        self.asked_back = 0
        #: What pilots have said of each task: pilot, attempt, outcome.
        self.reported: dict[int, set[tuple[str, int, str]]] = defaultdict(set)
        self.policies: dict[int, str] = {}
        self.specs: dict[int, tuple[Template, TaskSpec]] = {}
        #: Children that tasks have submitted, also in attempts that did not count.
        self.parents: dict[int, int] = {}
        self.cancelled: set[int] = set()
        #: Tasks in a pilot that was taken for lost while it lived: nobody can tell it to stop.
        self.cut_off: set[int] = set()
        self.calm = False
        #: How likely a task ends in an error or a crash; how likely a head dies after a commit.
        self.error_rate = self.rng.choice((0.0, 0.1, 0.4))
        self.crash_rate = self.rng.choice((0.0, 0.05, 0.2))
        self.head_deaths_at_commit = self.rng.choice((0.0, 0.0, 0.02))
        self.mean_s = self.rng.choice((0.001, 0.05, 1.0, 5.0))
        #: How likely a task never ends in a pilot where some do not.
        self.hang_rate = self.rng.choice((0.0, 0.05, 0.5))
        self.head = Head(self)
        self.client = Client(self)
        self.open_templates: dict[int, list[Template]] = {}
        self.templates: dict[int, Template] = {}

    # --- time

    def at(self, when: float, what: Callable[[], Any]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), what))

    def after(self, seconds: float, what: Callable[[], Any]) -> None:
        self.at(self.now + seconds, what)

    def run(self) -> None:
        """Let it all happen, and see that everything has ended well."""
        for session in (1, 2):
            self.head.open(session)
            self.client.open(session, self.head.numbers.block(session, 4))
            self.open_templates[session] = [self._template(session) for _ in range(4)]
        self._start_pilot()
        for _ in range(self.rng.randrange(5, 30)):
            self.at(self.rng.uniform(0.0, CALM_S * 0.9), self._submit_some)
        for _ in range(self.rng.randrange(0, 25)):
            self.at(self.rng.uniform(0.5, CALM_S), self._misfortune)
        self.at(CALM_S, self._calm_down)
        while self._events:
            self.now, _, what = heapq.heappop(self._events)
            what()
            if self.now > CALM_S and self._is_over():
                break
            assert self.now < END_S, f"it does not end: {self._describe()}"
        self._check_end()

    def _is_over(self) -> bool:
        return (
            set(self.store.sessions.values()) == {"CLOSED"}
            and not self.client.awaited
            and not self.client.unaccepted
            and all(a.rules.is_idle and not a.reports for a in self.agents.values())
            and not any(a.rules.templates for a in self.agents.values())
            and not any(pilot.held for pilot in self.head.core.pilots.values())
        )

    def _calm_down(self) -> None:
        self.calm = True
        if not self.head.alive:
            self._start_head()
        agents = self.agents.values()
        if not any(
            len(agent.nodes) >= 2 and not agent.is_trap and not agent.rules.draining
            for agent in agents
        ):
            self._start_pilot(nodes=3)
        for session in self.store.sessions:
            self.client.close(session)
        self._cancel_endless()

    def _cancel_endless(self) -> None:
        """End what never ends, once all others have ended but those that wait for it."""
        endless = {
            executor.current.task
            for agent in self.agents.values()
            for executor in agent.executors.values()
            if executor.hangs and executor.current is not None
        }
        tasks = self.head.core.tasks.values()
        others = [t for t in tasks if t.id not in endless and not t.missing and not t.awaiting]
        if endless and not others and not self.client.unaccepted:
            self.cancelled.update(endless)
            for session in self.store.sessions:
                mine = [t.id for t in tasks if t.id in endless and t.template.session == session]
                self.client.cancel(session, mine)
        self.after(1.0, self._cancel_endless)

    def _describe(self) -> str:
        core = self.head.core
        return (
            f"unfinished {[(t.id, t.state, t.attempt, t.missing) for t in core.tasks.values()]}, "
            f"pilots {[(p.name, p.nodes, p.draining, p.held) for p in core.pilots.values()]}, "
            f"agents {[(a.name, a.rules.held) for a in self.agents.values()]}, "
            f"awaited {self.client.awaited}, unaccepted {list(self.client.unaccepted)}, "
            f"sessions {self.store.sessions}"
        )

    # --- what chance brings

    def duration(self) -> float:
        """What tasks take is alike, but some turn out to be long."""
        longer_s = 1.0 if self.rng.random() < 0.03 else 0.0
        return longer_s + self.rng.expovariate(1.0 / self.mean_s)

    def outcome(self, work: Work) -> str:
        if self.rng.random() < self.crash_rate:
            return "crash"
        if self.rng.random() < self.error_rate:
            return "error"
        return "ok"

    def note_run(self, work: Work) -> None:
        self.runs[work.task] += 1
        assert all(item.value is not None for item in work.inputs), "it runs without an input"
        state = self.store.announced.get(work.task)
        assert state not in (COMPLETED, FAILED, TIMED_OUT) or work.task in self.cut_off, (
            f"{work.task:#x} runs after it was announced as {state}"
        )

    def children(self, work: Work) -> Children | None:
        """What a task submits, if it does, and which child has its result, if one has."""
        parent = self.specs[work.task][0]
        if self.rng.random() > 0.15 or len(self.specs) > 400:
            return None
        templates = self.rng.sample(self.open_templates[parent.session], 2)
        new = ()
        if self.rng.random() < 0.3:
            new = (self._template(parent.session),)
        specs: list[TaskSpec] = []
        for number in range(1, self.rng.randrange(1, 4) + 1):
            template = self.rng.choice([*templates, *new])
            # Children may need their elder siblings, and what their parent needed.
            sources = [spec.id for spec in specs] + [item.task for item in work.inputs]
            chosen = self.rng.sample(sources, min(len(sources), self.rng.choice((0, 0, 1))))
            spec = TaskSpec(number, template.id, b"", tuple((source, 0) for source in chosen))
            specs.append(spec)
        delegated = {}
        if self.rng.random() < 0.6:
            delegated[0] = (self.rng.choice(specs).id, 0)
        return Children((), new, tuple(specs), delegated)

    def note_children(self, parent: int, children: Children) -> None:
        """They have got their numbers: they come to be, if their head lives until the commit."""
        for spec in children.tasks:
            assert spec.id not in self.specs, f"{spec.id:#x} was given twice"
            assert session_of(spec.id) == session_of(parent)
            template = self.templates[spec.template]
            self.specs[spec.id] = (template, spec)
            self.policies[spec.id] = template.on_failure
            self.parents[spec.id] = parent

    def _template(self, session: int) -> Template:
        kind, need = self.rng.choice(NEEDS)
        number = next(self._templates)
        template = self.templates[number] = Template(
            id=number,
            session=session,
            name=f"t{number}",
            kind=kind,
            function=b"%d" % number,
            resources=need,
            time_limit_s=self.rng.choice((0.0, 0.0, 0.0, 10.0)),
            retries=self.rng.choice((0, 1, 3)),
            max_crashes=self.rng.choice((0, 3)),
            priority=self.rng.choice((0, 0, 5)),
            on_failure=self.rng.choice(("fail", "fail", "ignore", "cancel_successors")),
        )
        return template

    def _submit_some(self) -> None:
        if not self.calm:
            self._submit_to(self.rng.choice((1, 2)))

    def _submit_to(self, session: int) -> None:
        templates = self.open_templates[session]
        specs = []
        # Often a few that may need others; or so many alike that they are sent several at a time.
        alike = self.rng.choice(templates) if self.rng.random() < 0.1 else None
        count = self.rng.randrange(1, 8) if alike is None else 40
        try:
            given = self.client.numbers[session].take(count)
        except InterruptedError:
            self.after(0.1, self._submit_some)  # it waits for numbers, as a thread would
            return
        for task in given:
            assert task not in self.specs, f"{task:#x} was given twice"
            template = alike or self.rng.choice(templates)
            sources = [
                number
                for number, (other, _) in self.specs.items()
                if other.session == session and alike is None
            ][-10:]
            chosen = self.rng.sample(sources, min(len(sources), self.rng.choice((0, 0, 1, 2))))
            spec = TaskSpec(task, template.id, b"", tuple((source, 0) for source in chosen))
            self.specs[task] = (template, spec)
            self.policies[task] = template.on_failure
            specs.append(spec)
        self.client.submit(session, templates, specs)

    def _misfortune(self) -> None:
        if self.calm:
            return
        agents = list(self.agents.values())
        agent = self.rng.choice(agents) if agents else None
        what = self.rng.choice(
            [
                "head",
                "head",
                "vanish",
                "leave",
                "drain",
                "node",
                "executor",
                "silent",
                "cancel",
                "pilot",
            ]
        )
        if what == "head":
            self.kill_head()
        elif what == "pilot" or agent is None:
            self._start_pilot()
        elif what == "vanish":
            agent.vanish()
        elif what == "leave":
            agent.leave()
        elif what == "drain":
            agent.drain()
        elif what == "node":
            agent.lose_node(self.rng.choice(agent.nodes))
        elif what == "executor":
            if processes := [*agent.executors.values(), *agent.worlds.values()]:
                self.rng.choice(processes).die(-9 if self.rng.random() < 0.5 else 1)
        elif what == "silent":
            # The head takes it for lost, but it lives.
            if self.head.alive:
                self.cut_off.update(agent.rules.held)
                self.head.pilot_lost(agent.name, "silent")
        elif self.specs:
            session = self.rng.choice((1, 2))
            tasks = [t for t, (template, _) in self.specs.items() if template.session == session]
            named = self.rng.sample(tasks, min(len(tasks), 3))
            self.cancelled.update(named)
            self.client.cancel(session, named)

    def _start_pilot(self, nodes: int = 0) -> None:
        name = f"p{next(self._pilots)}"
        is_trap = not nodes and self.hang_rate > 0 and self.rng.random() < 0.5
        self.agents[name] = Agent(self, name, nodes or self.rng.choice((1, 2, 3)), is_trap)

    def batch_says_gone(self, name: str) -> None:
        if self.head.alive:
            self.head.pilot_lost(name, "its job has ended")
        else:
            self.after(1.0, lambda: self.batch_says_gone(name))

    def kill_head(self) -> None:
        if not self.head.alive or self.calm:
            return
        self.head.alive = False
        for agent in self.agents.values():
            agent.welcomed = False
            if agent.link:
                agent.link.alive = False
        self.client.link.alive = False
        self.after(self.rng.uniform(0.1, 3.0), self._start_head)

    def _start_head(self) -> None:
        if not self.head.alive:
            self.head = Head(self)
            self.client.connect()

    # --- the end

    def _check_end(self) -> None:
        core, store = self.head.core, self.store
        check_core(core)
        assert set(store.sessions.values()) == {"CLOSED"}, self._describe()
        assert not core.tasks and not core.sessions and not core.templates and not core.classes
        replay = Replay(store.log)
        assert replay.tasks == {number: row.state for number, row in store.tasks.items()}
        for pilot in core.pilots.values():
            assert not pilot.held and pilot.load == 0, (pilot.name, pilot.held)
        for agent in self.agents.values():
            assert not agent.rules.held and not agent.reports
            # Nor is anything kept of sessions that have ended.
            assert not agent.rules.templates and not agent.rules._queues._sessions
            assert not agent.rules.executors and not agent.rules.worlds
        assert not self.client.awaited, self._describe()
        for task, (template, _) in self.specs.items():
            if task in self.client.refused:
                assert task not in store.tasks
                continue
            row = store.tasks.get(task)
            if task in self.parents:
                parent = store.tasks[self.parents[task]]
                if row is None:
                    continue  # submitted by an attempt that did not count
                family = [t for t, p in self.parents.items() if p == self.parents[task]]
                assert parent.state in FINAL, "a child without its parent's end"
                born = [t for t in family if t in store.tasks]
                assert len(born) <= 3, f"children of several attempts: {born}"
            else:
                assert store.announced[task] == row.state
            assert row.state in FINAL
            if row.delegated is not None:
                heir = store.tasks[row.delegated[1][0][0]]
                passed = COMPLETED if self._is_ignored(row, heir) else heir.state
                assert row.state in (passed, CANCELLED), (row.state, heir.state)
                continue
            outcomes = Counter(outcome for _, _, outcome in self.reported[task])
            # What is counted has happened, and a task is given up at its limits, not before.
            assert row.errors <= min(outcomes["error"], template.retries + 1), (task, outcomes)
            assert row.crashes <= min(outcomes["crash"], template.max_crashes + 1), (task, outcomes)
            if row.state == COMPLETED:
                assert outcomes["ok"] and self.runs[task]
            elif row.state == FAILED:
                assert row.errors > template.retries or row.crashes > template.max_crashes
            elif row.state == TIMED_OUT:
                assert outcomes["timeout"]
            elif row.state == ABORTED:
                assert self._upstream_states(task) - {COMPLETED}
            else:
                assert self._may_be_cancelled(task)

    def _is_ignored(self, row: StoredTask, heir: StoredTask) -> bool:
        """Whether a child that failed gave its parent a default."""
        return self.policies[heir.spec.id] == "ignore" and heir.state != CANCELLED

    def _upstream_states(self, task: int) -> set[str]:
        return {self.store.tasks[source].state for source, _ in self.specs[task][1].inputs}

    def _may_be_cancelled(self, task: int) -> bool:
        """Whether it was cancelled itself, or anything that it hangs on was."""
        seen, todo = set(), [task]
        while todo:
            number = todo.pop()
            if number in seen:
                continue
            seen.add(number)
            if number in self.cancelled:
                return True
            if number != task and self.policies[number] == "cancel_successors":
                return True
            todo.extend(source for source, _ in self.specs[number][1].inputs)
            if number in self.parents:
                todo.append(self.parents[number])
            row = self.store.tasks.get(number)
            if row is not None and row.delegated is not None:
                todo.extend(child for child, _ in row.delegated[1].values())
        return False
