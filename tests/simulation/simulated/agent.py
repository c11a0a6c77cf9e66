"""A pilot: the real rules and service, with what the agent's process is around them."""

from __future__ import annotations

import itertools
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from pilot.agent.rules import actions as a
from pilot.agent.rules.rules import Rules
from pilot.agent.service import Identity, Notice, Service
from pilot.scheduler.batch import JobRequest
from pilot.scheduler.resources import node_shape
from pilot.wire.messages import pilot as m
from pilot.wire.messages.common import WHO_ARE_YOU, Welcome
from pilot.wire.messages.pilot import RunningTask
from simulated.client import Client
from simulated.invariants import check_rules
from simulated.network import Link
from simulated.processes import Executor, World

if TYPE_CHECKING:
    from simulated.cluster import Cluster
    from simulated.head import Head

CORES = 4
SHAPE = node_shape(CORES, coreless=2)
#: Timers are looked at so often, in seconds.
TICK_S = 0.5


class Agent:
    """One life of a pilot's job."""

    def __init__(
        self, cluster: Cluster, job: str, request: JobRequest, life: int, ends_at: float
    ) -> None:
        self.cluster = cluster
        self.clock = cluster.clock
        self.name, self.job, self.life = request.name, job, life
        self.rng = cluster.chance("agent", self.job, life)
        graces = cluster.chance("grace", self.job, life)
        self.is_alive = True
        #: Tasks may never end here.
        self.is_trap = self.rng.random() < 0.3 and not cluster.calm
        self.nodes = [f"{self.name}.{life}.{number}" for number in range(request.nodes)]
        self.rules = Rules(self.nodes, SHAPE, self.clock.now)
        self.service = Service(
            Identity(self.name, job, life, "main"),
            self.rules,
            self._send,
            lambda: [m.NodeInfo(name, SHAPE) for name in self.rules.hosts],
            lambda _: list(self.running.values()),
            lambda _: None,
            self._leave_nodes,
            self._keep_nodes,
            ends_at,
            cluster.site.config.pools["main"].warning_s,
            Notice(cluster.hasty(30.0), cluster.hasty(graces.choice((0.0, 2.0, 15.0)))),
            self.clock,
        )
        self.link: Link | None = None
        self.head: Head | None = None
        self._connects = itertools.count(1)
        #: The reports that this head was told since it was greeted, by their numbers.
        self._told: set[int] = set()
        #: It stands still until then, and has not taken in this.
        self._frozen_until = 0.0
        self._unheard: list[Any] = []
        self._asker: Client | None = None
        self.executors: dict[int, Executor] = {}
        self.worlds: dict[int, World] = {}
        self.running: dict[int, RunningTask] = {}
        #: What the stores of the nodes have, and how long it takes to write that.
        self.stores: dict[str, set[str]] = {node: set() for node in self.nodes}
        self._disk = cluster.chance("disk", job, life)
        #: The copies that they have fetched from each other, and those that are expected.
        self.copies: dict[str, set[str]] = {node: set() for node in self.nodes}
        self._expected: set[tuple[str, str]] = set()
        self._wires = cluster.chance("wires", job, life)
        #: Node workers come up one by one.
        for position, node in enumerate(self.nodes):
            self.clock.after(
                cluster.hasty(self.rng.uniform(0.0, 3.0)),
                partial(self._add_node, node, position),
            )
        cluster.agents[self.name] = self
        self._ticked = self.clock.now
        self._tick()

    def _leave_nodes(self, nodes: list[str]) -> None:
        for node in nodes:
            unwritten = self.stores.pop(node) - self.cluster.written
            del self.copies[node]
            held = {value.path for end in self.rules._attempts._kept.ends() for value in end.values}
            assert not unwritten & held, f"{node} is left with results that are nowhere else"
            busy = [e for e in self.executors.values() if e.node == node and e.current is not None]
            assert not busy, f"{node} is left while something runs there"
            for executor in [e for e in self.executors.values() if e.node == node]:
                executor.is_alive = False
                del self.executors[executor.id]
            self.clock.after(self.rng.uniform(0.0, 5.0), partial(self._left, node))

    def _left(self, node: str) -> None:
        if self.is_alive and node in self.nodes:
            self.service.left(node, self.clock.now)
            self.step()

    def _keep_nodes(self, nodes: list[str]) -> None:
        for node in set(nodes) & set(self.nodes):
            self.stores[node], self.copies[node] = set(), set()
            position = self.nodes.index(node)
            self.clock.after(self.rng.uniform(0.0, 3.0), partial(self._add_node, node, position))

    def _add_node(self, node: str, position: int) -> None:
        if self.is_alive and node in self.nodes:
            self.rules.add_node(node, SHAPE, self.clock.now, position)
            self.step()

    # --- the head

    def _send(self, message: msgspec.Struct) -> None:
        if isinstance(message, m.PilotHello):
            self._told.clear()
        elif isinstance(message, m.Completions):
            self._told.add(message.seq)
            self.cluster.oracle.reported(self, message.completions)
        if self.link is not None:
            self.link.send(message)
            if isinstance(message, m.Completions) and self.rng.random() < 0.03:
                # The head asks who it is: all that is not committed is told again.
                ask = partial(self._hear, Welcome(1, "", WHO_ARE_YOU))
                self.clock.after(self.rng.uniform(0.0, 0.1), ask)

    def _look_for_head(self) -> None:
        head = self.cluster.head
        if head is None or not head.is_alive:
            self.service.lost_head()
        elif head is not self.head or self.link is None or not self.link.is_alive:
            self.head = head
            if self.link is not None:
                self.link.break_off()
            name = f"pilot:{self.name}:{self.life}#{next(self._connects)}".encode()
            self.link = Link(head.server, name, self._hear, is_here=False)
            self.service.greet()

    def _hear(self, message: Any) -> None:
        if self.clock.now < self._frozen_until:
            self._unheard.append(message)
        elif self.is_alive:
            self.service.take(message, self.clock.now)
            self.step()

    def has(self, task: int) -> bool:
        """Tell whether a task is here, or will be when what has come, or comes, is taken in."""
        coming = self.link.coming() if self.link is not None else []
        return task in self.rules.held or any(
            item.task == task
            for message in [*self._unheard, *coming]
            if isinstance(message, m.Assign)
            for item in message.work
        )

    def freeze(self, seconds: float) -> None:
        """Stand still; the processes that it has go on."""
        self._frozen_until = max(self._frozen_until, self.clock.now + seconds)

    def _wake_up(self, now: float) -> None:
        slept_s = now - self._ticked
        if slept_s > 5.0:
            self.service.slept(slept_s, now)
        unheard, self._unheard = self._unheard, []
        for message in unheard:
            self._hear(message)

    # --- its loop

    def _tick(self) -> None:
        if not self.is_alive:
            return
        now = self.clock.now
        if now < self._frozen_until:
            self.clock.at(self._frozen_until, self._tick)
            return
        self._wake_up(now)
        self._ticked = now
        self.rules.tick(now)
        self._look_for_head()
        self.service.tick(now)
        self.step()
        self.clock.after(TICK_S, self._tick)

    def step(self) -> None:
        """Carry out what the rules say, and tell what has ended."""
        if not self.is_alive:
            return
        while actions := self.rules.take_actions():
            for action in actions:
                self._carry_out(action)
        check_rules(self.rules, CORES)
        self._check_cores()
        now = self.clock.now
        self.service.report(now)
        self.cluster.oracle.has_told(self.service, self._told)
        if self.service.is_over(now):
            self._leave()
        elif 0.0 < (wait_s := self.service.wait_s(now)) < TICK_S:
            self.clock.after(wait_s, self.step)

    def _check_cores(self) -> None:
        """Check that what runs on a node, and does not wait, uses no more cores than it has."""
        used: Counter[str] = Counter()
        for executor in self.executors.values():
            known = self.rules.executors.get(executor.id)
            if executor.current is None or executor.lends or known is None or known.stopping:
                continue
            need = self.rules.templates[executor.current.template].resources
            if need.ranks == 1:
                used[executor.node] += need.cores
        assert all(cores <= CORES for cores in used.values()), f"{used} cores are in use"

    @property
    def asker(self) -> Client:
        """The connection by which tasks here ask the head to take children on."""
        if self._asker is None:
            self._asker = Client(self.cluster, f"{self.name}.{self.life}")
        return self._asker

    @property
    def has_asked(self) -> bool:
        """Tell whether it has that connection."""
        return self._asker is not None

    def ended(self, task: int) -> None:
        """Note that an attempt does not run any more."""
        self.running.pop(task, None)

    def _carry_out(self, action: a.Action) -> None:
        if isinstance(action, a.StartExecutor):
            self.executors[action.executor] = Executor(self, action.executor, action.node)
        elif isinstance(action, a.StopExecutor):
            if executor := self.executors.get(action.executor):
                executor.stop(action.grace_s)
        elif isinstance(action, a.RunOnExecutor):
            if executor := self.executors.get(action.executor):
                executor.take(action.work)
        elif isinstance(action, a.UnsendFromExecutor):
            if executor := self.executors.get(action.executor):
                executor.take_back(action.upto)
        elif isinstance(action, a.UnsendFromWorld):
            if world := self.worlds.get(action.world):
                world.take_back(action.upto)
        elif isinstance(action, a.GoOnExecutor):
            if executor := self.executors.get(action.executor):
                executor.go_on(action.task)
        elif isinstance(action, a.TellExecutor):
            if executor := self.executors.get(action.executor):
                executor.tell(action.task, action.attempt, action.until)
        elif isinstance(action, a.TellWorld):
            if world := self.worlds.get(action.world):
                world.tell(action.task, action.attempt, action.until)
        elif isinstance(action, a.StartWorld):
            self.worlds[action.world] = World(self, action.world, action.need.ranks)
        elif isinstance(action, a.RunOnWorld):
            self.worlds[action.world].take(action.work)
        elif isinstance(action, a.ForgetSession):
            self.service.forget_session(action.session)
            for process in [*self.executors.values(), *self.worlds.values()]:
                rules = self.rules.executors.get(process.id) or self.rules.worlds.get(process.id)
                assert rules is None or rules.session != action.session
            session = f"results/{action.session}/"
            for stores in (self.stores, self.copies):
                for node, store in stores.items():
                    stores[node] = {path for path in store if not path.startswith(session)}
            self._expected = {
                (node, path) for node, path in self._expected if not path.startswith(session)
            }
        elif isinstance(action, a.Persist):
            for path in action.paths:
                late_s = self._disk.choice((0.0, 0.05, 0.5, 3.0))
                self.clock.after(late_s, partial(self._write, action.node, path))
        elif isinstance(action, a.Fetch):
            self._expected.add((action.node, action.path))
            late_s = self._wires.choice((0.0, 0.02, 0.2, 4.0))
            self.clock.after(late_s, partial(self._fetch, action))
        elif isinstance(action, a.DropKept):
            self.stores.get(action.node, set()).difference_update(action.paths)
            self.copies.get(action.node, set()).difference_update(action.paths)
            self._expected.difference_update((action.node, path) for path in action.paths)
        elif isinstance(action, a.GiveUpNode):
            self.clock.after(0.0, lambda: self.lose_node(action.node))
        else:
            if world := self.worlds.get(action.world):
                world.stop()

    def _write(self, node: str, path: str) -> None:
        """Copy a segment of a node's store, if it is there still, to the site directory."""
        if not self.is_alive or node not in self.stores or path not in self.stores[node]:
            return
        problem = "no space left" if self._disk.random() < 0.02 else ""
        if not problem:
            self.cluster.written.add(path)
        self._hear_of(node, path, problem)

    def _fetch(self, action: a.Fetch) -> None:
        """Copy a segment from one node's store to another, unless the wire breaks, one of them is
        gone, or it is not needed any more."""
        node, path = action.node, action.path
        if not self.is_alive or node not in self.copies:
            return
        is_there = path in self.stores.get(action.source, ())
        if not is_there or (node, path) not in self._expected or self._wires.random() < 0.1:
            self._hear_fetched(node, path, "it does not come")
            return
        for old in sorted(self.copies[node] & self.cluster.written):
            if self._wires.random() < 0.5:
                self.copies[node].remove(old)  # it has made room
        self.copies[node].add(path)
        self._hear_fetched(node, path, "")

    def _hear_fetched(self, node: str, path: str, problem: str) -> None:
        if self.clock.now < self._frozen_until:
            self.clock.at(self._frozen_until, partial(self._hear_fetched, node, path, problem))
        elif self.is_alive and node in self.copies:
            self._expected.discard((node, path))
            size, seconds = 1 << 20, self._wires.uniform(0.001, 0.1)
            self.cluster.oracle.seen["fetched" if not problem else "fetched in vain"] += 1
            self.rules.fetched(path, node, self.clock.now, problem, size, seconds)
            self.step()

    def _hear_of(self, node: str, path: str, problem: str) -> None:
        if self.clock.now < self._frozen_until:
            self.clock.at(self._frozen_until, partial(self._hear_of, node, path, problem))
        elif self.is_alive and node in self.stores:
            failed = {path: problem} if problem else {}
            self.rules.wrote(1 << 20, self._disk.uniform(0.001, 0.1))
            self.rules.persisted([] if problem else [path], failed, self.clock.now)
            self.step()

    # --- its end

    def _leave(self) -> None:
        self.service.bye()
        if self.link is not None:
            self.link.hang_up()
        self._end()
        late_s = self.cluster.hasty(self.rng.uniform(0.0, 3.0))
        self.clock.after(late_s, lambda: self.cluster.batch.agent_ended(self.job, self.life))

    def _end(self) -> None:
        self.is_alive = False
        for process in [*self.executors.values(), *self.worlds.values()]:
            process.is_alive = False
        if self._asker is not None:
            self._asker.die()
        if self.cluster.agents.get(self.name) is self:
            del self.cluster.agents[self.name]

    def terminate(self) -> None:
        """Have it end since its job is cancelled, preempted or over."""
        if self.is_alive:
            self.service.interrupt("its job was cancelled or preempted", self.clock.now)
            self.step()

    def note_listening(self) -> None:
        """Have the node workers tell which tasks look whether they are to stop."""
        if not self.is_alive:
            return
        processes = [*self.executors.values(), *self.worlds.values()]
        tasks = [one.current.task for one in processes if one.current and one.listens]
        for node in self.nodes:
            self.rules.note_listening(node, tasks)

    def drain(self) -> None:
        """Have it end when what runs has ended, as the batch system warns."""
        self.service.drain("its walltime is near its end", self.clock.now)
        self.step()

    def vanish(self) -> None:
        """Let all of it be gone at once."""
        if self.is_alive:
            self._end()
            if self.link is not None:
                self.link.break_off()

    def lose_node(self, node: str) -> None:
        """Let one node be gone; without any the pilot ends."""
        if not self.is_alive or node not in self.nodes:
            return
        self.nodes.remove(node)
        self.stores.pop(node, None)
        self.copies.pop(node, None)
        for executor in list(self.executors.values()):
            if executor.node == node:
                executor.is_alive = False
                if executor.current is not None:
                    self.ended(executor.current.task)
                del self.executors[executor.id]
        self.rules.lose_node(node, "node lost", self.clock.now)
        self.service.tell_status(self.clock.now)
        if not self.nodes:
            self.service.end("it has no nodes left", self.clock.now, at_once=True)
        self.step()
