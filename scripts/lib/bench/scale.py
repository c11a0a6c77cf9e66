"""SCALE, a head with up to 1,000 nodes of 128 cores, in simulation: what saturates first.

The head's own code decides and writes: its core, and its database on this machine's disk, and
messages are encoded and decoded. Nodes, the network and time are simulated: a virtual clock goes on
by what the head really takes, and jumps over what it waits. Sockets and CURVE are not in it (see
``WIRE`` for what they add). Nodes are never late, and there is no load but the head's.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec

from bench import core as rules
from bench.stage import Stage
from bench.store import open_store
from pilot.head.core import Core
from pilot.head.events import AttemptsEnded, Effects, PilotJoined, TasksSubmitted
from pilot.head.store import Batch, Store
from pilot.wire.messages import (
    Assign,
    Completion,
    Completions,
    Environment,
    OpenSession,
    Outcomes,
    TaskOutcome,
    Template,
    Work,
)
from scheduler.resources import NodeShape, Resources

T = TypeVar("T")

CORES = 128
#: Nodes, and how long each task runs, in seconds.
CASES = ((1, 0.1), (10, 0.1), (100, 0.1), (1_000, 0.1), (1_000, 1.0), (1_000, 10.0), (1_000, 60.0))
#: A node reports what ends within so many seconds together, as agents do.
TOGETHER_S = 0.005
#: The first part of a run, in which nodes are filled, does not count.
WARM_UP = 0.3


class Figures(NamedTuple):
    """What came out of a run."""

    tasks_per_s: float
    #: Share of the cores' time in which they ran tasks.
    busy: float
    #: Processor time of the head, in microseconds for each task.
    core_us: float
    store_us: float
    messages_us: float


def run(stage: Stage) -> None:
    """Measure."""
    found: dict[str, Figures] = {}
    cases = CASES[: stage.count(len(CASES), 2)]
    for nodes, task_s in cases:
        count = max(stage.count(100_000, 10_000), 4 * CORES * nodes)
        stage.say(f"{nodes:,} nodes, tasks of {task_s:g} s")
        with open_store(stage.directory / "tasks.db") as store:
            figures = Site(store, nodes, task_s, count).run()
        case = _title(nodes, task_s)
        found[case] = figures
        stage.findings.add("SCALE", case, "tasks/s", figures.tasks_per_s)
        stage.findings.add("SCALE", f"{case}: cores busy", "%", 100 * figures.busy)
    nodes, task_s = max(cases, key=lambda each: each[0] / each[1])
    full = found[_title(nodes, task_s)]
    for part, spent in zip(("core", "store", "messages"), full[2:], strict=True):
        case = f"{nodes:,} nodes, the head's {part}"
        stage.findings.add("SCALE", case, "µs/task", spent, more_is_better=False)
    stage.findings.data["SCALE"] = {case: each._asdict() for case, each in found.items()}


def _title(nodes: int, task_s: float) -> str:
    return f"{nodes:,} nodes of {CORES} cores, tasks of {task_s:g} s"


class Node:
    """A pilot of one node: it runs what it is given, and reports what has ended."""

    def __init__(self, name: str, task_s: float) -> None:
        self.name = name
        self._task_s = task_s
        self._waiting: deque[Work] = deque()
        #: Ends of what runs.
        self._running: list[tuple[float, int, int]] = []
        self.busy_s = 0.0

    def take(self, work: list[Work], now: float) -> None:
        """Work has come."""
        self._waiting.extend(work)
        self._start(now)

    def _start(self, now: float) -> None:
        while self._waiting and len(self._running) < CORES:
            work = self._waiting.popleft()
            heapq.heappush(self._running, (now + self._task_s, work.task, work.attempt))

    @property
    def next_report(self) -> float | None:
        """When it has something to tell; None: it has nothing."""
        return self._running[0][0] + TOGETHER_S if self._running else None

    def report(self, now: float) -> bytes:
        """What has ended until now; what waits goes on where it was."""
        ended = []
        while self._running and self._running[0][0] <= now:
            end, task, attempt = heapq.heappop(self._running)
            ended.append(
                Completion(
                    task,
                    attempt,
                    "ok",
                    rules.VALUES,
                    started=end - self._task_s,
                    ended=end,
                    node=self.name,
                )
            )
            self.busy_s += self._task_s
            if self._waiting:
                work = self._waiting.popleft()
                heapq.heappush(self._running, (end + self._task_s, work.task, work.attempt))
        return msgspec.msgpack.encode(Completions(self.name, 1, ended))


class Site:
    """A head and its nodes, until all tasks have ended."""

    def __init__(self, store: Store, nodes: int, task_s: float, count: int) -> None:
        self._store = store
        self._count = count
        self._nodes = {f"p{number}": Node(f"p{number}", task_s) for number in range(nodes)}
        #: When which node has something to tell; each is in it once at most.
        self._calendar: list[tuple[float, str]] = []
        self._planned: set[str] = set()
        self._core = Core([])
        self._event = store.next_event()
        self._batch = Batch()
        self._spent = dict.fromkeys(("core", "store", "messages"), 0.0)
        self._now = 0.0
        self._ended = 0
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
        """Let it go on."""
        self._spent = dict.fromkeys(self._spent, 0.0)
        began_s, began, busy_s = 0.0, 0, 0.0
        self._hand_out()
        while self._ended < self._count:
            if not self._calendar:
                raise RuntimeError(f"after {self._ended} of {self._count} tasks nothing runs")
            self._now = max(self._now, self._calendar[0][0])  # the head sleeps until then
            for name, frame in self._frames():
                self._take(name, frame)
            self._hand_out()
            self._spend("store", self._write)
            if not began and self._ended > WARM_UP * self._count:
                began_s, began, busy_s = self._now, self._ended, self._busy_s()
        took_s = self._now - began_s
        return Figures(
            (self._ended - began) / took_s,
            (self._busy_s() - busy_s) / (took_s * CORES * len(self._nodes)),
            *(1e6 * spent / self._count for spent in self._spent.values()),
        )

    def _busy_s(self) -> float:
        return sum(node.busy_s for node in self._nodes.values())

    def _frames(self) -> list[tuple[str, bytes]]:
        """What has arrived."""
        frames = []
        while self._calendar and self._calendar[0][0] <= self._now:
            _, name = heapq.heappop(self._calendar)
            self._planned.discard(name)
            frames.append((name, self._nodes[name].report(self._now)))
            self._plan(name)
        return frames

    def _plan(self, name: str) -> None:
        report = self._nodes[name].next_report
        if report is not None and name not in self._planned:
            self._planned.add(name)
            heapq.heappush(self._calendar, (report, name))

    def _take(self, name: str, frame: bytes) -> None:
        """The head takes in what a node has told, and what the client is to be told."""
        done = self._spend("messages", self._decode, frame)
        event = AttemptsEnded(name, done.completions)
        effects = self._spend("core", self._core.apply, event, self._now)
        self._spend("store", self._note, effects)
        self._spend("messages", self._tell, effects)
        self._ended += len(effects.ended)

    def _hand_out(self) -> None:
        given = self._spend("core", self._core.assign, self._now)
        for name, tasks in given.items():
            work = [Work(task.id, task.attempt, 1, b"payload", ()) for task in tasks]
            self._spend("messages", msgspec.msgpack.encode, Assign([], [], [], work))
            self._nodes[name].take(work, self._now)
            self._plan(name)

    def _spend(self, part: str, act: Callable[..., T], *arguments: Any) -> T:
        """Do something that the head does; the clock goes on by what it takes."""
        begin = time.perf_counter()
        result = act(*arguments)
        took_s = time.perf_counter() - begin
        self._spent[part] += took_s
        self._now += took_s
        return result

    _decode = staticmethod(msgspec.msgpack.Decoder(Completions).decode)

    def _note(self, effects: Effects) -> None:
        self._batch.add_tasks(effects.accepted)
        self._batch.add_attempts(effects.attempts, self._now)
        self._batch.add_ends(effects.ended)

    def _write(self) -> None:
        """One transaction for all that a turn of the loop has changed."""
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
