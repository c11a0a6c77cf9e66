"""SCALE, a head with up to 1,000 nodes of 128 cores, in simulation: the part that saturates first.

The head's own code decides and writes: its core, and its database on this machine's disk, and
messages are encoded and decoded. What its loop spends on a socket for each message is measured
first, with CURVE, and added. Nodes, the network and time are simulated: a virtual clock goes on by
what the head really takes, and jumps over what it waits. The head has a core for itself, and
ZeroMQ's threads another.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec

from bench import core as rules
from bench.stage import Stage
from bench.store import open_store
from pilot.agent.rules.reports import TOGETHER_S
from pilot.head.core.core import Core
from pilot.head.core.events import AttemptsEnded, Effects, PilotJoined, TasksSubmitted
from pilot.head.store.batch import Batch
from pilot.head.store.store import Store
from pilot.model.tasks import Completion, Environment, TaskOutcome, Template
from pilot.scheduler.resources import NodeShape, Resources
from pilot.site import Site
from pilot.wire.channel import Client, Server
from pilot.wire.keys import load_keys
from pilot.wire.messages import pilot as m
from pilot.wire.messages.client import ClientBye, OpenSession, Outcomes
from pilot.wire.messages.head import ToHead
from pilot.wire.messages.pilot import Assign, AttemptSpec, Completions
from pilot.wire.polling import poller_of

T = TypeVar("T")

CORES = 128
#: Nodes, and how long each task runs, in seconds.
CASES = ((1, 0.1), (10, 0.1), (100, 0.1), (1_000, 0.1), (1_000, 1.0), (1_000, 10.0), (1_000, 60.0))
#: Tasks take from half as long to half as long again.
SPREAD = 0.5
#: This part of the tasks is given to nodes before it counts: they are filled then. And it counts
#: until all have been given, so that nodes have enough to do all the time.
WARM_UP = 0.4
#: A message must arrive within so many milliseconds.
PATIENCE_MS = 30_000

PARTS = ("core", "store", "messages", "sockets")


class Figures(NamedTuple):
    """The figures of a run."""

    tasks_per_s: float
    #: NodeAllocation of the cores' time in which they ran tasks.
    busy: float
    #: Tasks in a message of a node, on average.
    together: float
    #: Processor time of the head, in microseconds for each task.
    core_us: float
    store_us: float
    messages_us: float
    sockets_us: float


def run(stage: Stage) -> None:
    """Measure."""
    found: dict[str, Figures] = {}
    cases = CASES[: stage.count(len(CASES), 2)]
    with stage.site() as site:
        site.prepare()
        sockets = socket_costs(site, stage.count(20_000, 2_000))
    for nodes, task_s in cases:
        count = max(stage.count(100_000, 10_000), 4 * CORES * nodes)
        stage.say(f"{nodes:,} nodes, tasks of {task_s:g} s")
        with open_store(stage.directory / "tasks.db") as store:
            figures = Cluster(store, sockets, nodes, task_s, count).run()
        case = _title(nodes, task_s)
        found[case] = figures
        stage.findings.add("SCALE", case, "tasks/s", figures.tasks_per_s)
        stage.findings.add("SCALE", f"{case}: cores busy", "%", 100 * figures.busy)
    nodes, task_s = max(cases, key=lambda each: each[0] / each[1])
    full = found[_title(nodes, task_s)]
    title = _title(nodes, task_s)
    for part, spent in zip(PARTS, full[3:], strict=True):
        case = f"{title}: the head's {part}"
        stage.findings.add("SCALE", case, "µs/task", spent, more_is_better=False)
    stage.findings.add("SCALE", f"{title}: in a message of a node", "tasks", full.together)
    for what, spent_s in zip(("receive", "send"), sockets, strict=True):
        case = f"to {what} a message"
        stage.findings.add("SCALE", case, "µs", 1e6 * spent_s, more_is_better=False)
    stage.findings.data["SCALE"] = {case: each._asdict() for case, each in found.items()}


def _title(nodes: int, task_s: float) -> str:
    return f"{nodes:,} nodes of {CORES} cores, tasks of {task_s:g} s"


def socket_costs(site: Site, count: int) -> tuple[float, float]:
    """Return the seconds that a server's thread spends to receive a small message, and to send
    one."""
    keys = load_keys(site.keys)
    server: Server[Any] = Server(keys, f"{site.directory}/bench", ToHead, "127.0.0.1")
    poller = poller_of(*server.sources)
    client: Client[Any] = Client(keys, b"bench", m.ToPilot)
    client.connect(server.endpoints.remote)
    spent = [0.0, 0.0]
    received, peer = 0, b""
    try:
        for _ in range(count):
            client.send(ClientBye())
        while received < count:
            if not poller.poll(PATIENCE_MS):
                raise TimeoutError("messages do not arrive")
            begin = time.perf_counter()
            arrived = server.receive()
            spent[0] += time.perf_counter() - begin
            received += len(arrived)
            peer = arrived[-1][0] if arrived else peer  # what woke us may be a greeting alone
        begin = time.perf_counter()
        for _ in range(count):
            server.send(peer, m.Committed(1))
        spent[1] = time.perf_counter() - begin
    finally:
        client.close()
        server.close()
    return spent[0] / count, spent[1] / count


class Node:
    """A pilot of one node: it runs the work it gets, and reports ends as agents do."""

    def __init__(self, name: str, task_s: float) -> None:
        self.name = name
        self._task_s = task_s
        self._chance = random.Random(name)
        self._waiting: deque[AttemptSpec] = deque()
        #: End, begin, task and attempt of what runs.
        self._running: list[tuple[float, float, int, int]] = []
        self._ended_s = 0.0

    def busy_s(self, now: float) -> float:
        """Return the seconds that its cores have run tasks until now, all together."""
        return self._ended_s + sum(min(now, end) - begin for end, begin, _, _ in self._running)

    def take(self, work: list[AttemptSpec], now: float) -> None:
        """Take in work."""
        self._waiting.extend(work)
        while self._waiting and len(self._running) < CORES:
            self._begin(now)

    def _begin(self, now: float) -> None:
        work = self._waiting.popleft()
        takes_s = self._task_s * self._chance.uniform(1.0 - SPREAD, 1.0 + SPREAD)
        heapq.heappush(self._running, (now + takes_s, now, work.task, work.attempt))

    @property
    def next_report(self) -> float | None:
        """The time of the next report; None if there is nothing to report."""
        if not self._running:
            return None
        return self._running[0][0] + (TOGETHER_S if self._waiting else 0.0)

    def report(self, now: float) -> list[Completion]:
        """Return the attempts that have ended until now; waiting ones take their places."""
        ended = []
        while self._running and self._running[0][0] <= now:
            end, begin, task, attempt = heapq.heappop(self._running)
            ended.append(
                Completion(
                    task,
                    attempt,
                    "ok",
                    rules.VALUES,
                    started=begin,
                    ended=end,
                    node=self.name,
                )
            )
            self._ended_s += end - begin
            if self._waiting:
                self._begin(end)
        return ended


class Cluster:
    """A head and its nodes."""

    def __init__(
        self,
        store: Store,
        sockets: tuple[float, float],
        nodes: int,
        task_s: float,
        count: int,
    ) -> None:
        self._store = store
        self._receive_s, self._send_s = sockets
        self._count = count
        self._nodes = {f"p{number}": Node(f"p{number}", task_s) for number in range(nodes)}
        #: When which node has something to tell; each is in it once at most.
        self._calendar: list[tuple[float, str]] = []
        self._planned: set[str] = set()
        self._core = Core([])
        self._event = store.next_event()
        self._batch = Batch()
        self._spent = dict.fromkeys(PARTS, 0.0)
        self._reports = 0
        self._now = 0.0
        self._given = self._ended = 0
        for name in self._nodes:
            self._core.apply(PilotJoined(name, "main", NodeShape(CORES), 1, 0.0, []), 0.0)
        session = store.add_session(OpenSession(1, "bench", Environment("")), 0.0)
        kind = Template(1, session, "t", "python", b"f", Resources())
        tasks = rules.independent(count)
        for first in range(0, count, rules.BATCH):
            some = tasks[first : first + rules.BATCH]
            self._note(self._core.apply(TasksSubmitted(session, [kind], some, {}), 0.0))
            self._write()

    def run(self) -> Figures:
        """Run until all tasks have been given to nodes."""
        self._hand_out()
        while self._given < WARM_UP * self._count:
            self._turn()
        began_s, began, busy_s = self._now, self._ended, self._busy_s()
        self._spent = dict.fromkeys(PARTS, 0.0)
        self._reports = 0
        while self._given < self._count:
            self._turn()
        took_s, ended = self._now - began_s, self._ended - began
        return Figures(
            ended / took_s,
            (self._busy_s() - busy_s) / (took_s * CORES * len(self._nodes)),
            ended / self._reports,
            *(1e6 * spent / ended for spent in self._spent.values()),
        )

    def _turn(self) -> None:
        """Simulate one turn of the head's loop."""
        if not self._calendar:
            raise RuntimeError(f"after {self._ended} of {self._count} tasks nothing runs")
        self._now = max(self._now, self._calendar[0][0])  # the head sleeps until then
        frames = self._frames()
        for name, frame in frames:
            self._take(name, frame)
        self._hand_out()
        self._spend("store", self._write)
        self._count_messages(len(frames) * self._send_s)  # that they are committed

    def _busy_s(self) -> float:
        return sum(node.busy_s(self._now) for node in self._nodes.values())

    def _frames(self) -> list[tuple[str, bytes]]:
        """Return the frames that have arrived."""
        frames = []
        while self._calendar and self._calendar[0][0] <= self._now:
            _, name = heapq.heappop(self._calendar)
            self._planned.discard(name)
            node = self._nodes[name]
            ended = node.report(self._now)
            self._plan(name)
            frames.append((name, msgspec.msgpack.encode(Completions(name, 1, ended))))
        return frames

    def _plan(self, name: str) -> None:
        report = self._nodes[name].next_report
        if report is not None and name not in self._planned:
            self._planned.add(name)
            heapq.heappush(self._calendar, (report, name))

    def _take(self, name: str, frame: bytes) -> None:
        """Process a node's report in the head, and encode what the client is told."""
        self._reports += 1
        self._count_messages(self._receive_s)
        done = self._spend("messages", self._decode, frame)
        event = AttemptsEnded(name, done.completions)
        effects = self._spend("core", self._core.apply, event, self._now)
        self._spend("store", self._note, effects)
        self._spend("messages", self._tell, effects)
        self._count_messages(self._send_s)
        self._ended += len(effects.ended)

    def _hand_out(self) -> None:
        given = self._spend("core", self._core.assign, self._now)
        for name, tasks in given.items():
            work = [AttemptSpec(task.id, task.attempt, 1, b"payload", ()) for task in tasks]
            self._spend("messages", msgspec.msgpack.encode, Assign([], [], [], work))
            self._count_messages(self._send_s)
            self._given += len(work)
            self._nodes[name].take(work, self._now)
            self._plan(name)

    def _spend(self, part: str, act: Callable[..., T], *arguments: Any) -> T:
        """Do something that the head does, and advance the clock by the time it takes."""
        begin = time.perf_counter()
        result = act(*arguments)
        took_s = time.perf_counter() - begin
        self._spent[part] += took_s
        self._now += took_s
        return result

    def _count_messages(self, took_s: float) -> None:
        self._spent["sockets"] += took_s
        self._now += took_s

    _decode = staticmethod(msgspec.msgpack.Decoder(Completions).decode)

    def _note(self, effects: Effects) -> None:
        self._batch.add_tasks(effects.accepted)
        self._batch.add_attempts(effects.attempts, self._now)
        self._batch.add_ends(effects.ended)

    def _write(self) -> None:
        """Write all changes of one turn in one transaction."""
        batch, self._batch = self._batch, Batch()
        self._event = batch.add_changes(self._core.log.take(), self._event)
        self._store.write(batch, _raise)
        self._store.join()

    @staticmethod
    def _tell(effects: Effects) -> bytes:
        ends = [TaskOutcome(end.task, end.state, end.values) for end in effects.ended]
        return msgspec.msgpack.encode(Outcomes(ends))


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error
