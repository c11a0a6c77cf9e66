"""A pilot's rules, with or without a head's, under virtual time; what ran where is recorded."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from pilot.agent.rules import actions as a
from pilot.agent.rules.rules import Rules
from pilot.head.core.core import Core
from pilot.head.core.events import (
    AttemptsEnded,
    AttemptsRunning,
    PilotJoined,
    TasksSubmitted,
)
from pilot.head.core.state import Task
from pilot.model.tasks import Completion, Template
from pilot.scheduler.amounts import Amounts
from pilot.scheduler.placement import NodeAllocation
from pilot.scheduler.resources import NodeShape, common_shape
from pilot.wire.messages.pilot import AttemptSpec, RunningTask
from support.builders import done, spec, work

#: How often rules look at the time, in seconds, as an agent does.
TICK_S = 0.1


class Run(NamedTuple):
    """A task that has run: when it came, began and ended, and what it had."""

    task: int
    came: float
    began: float
    ended: float
    shares: tuple[NodeAllocation, ...]


class _Process:
    """An executor or a world: what it was sent, in order."""

    def __init__(self) -> None:
        self.is_ready = False
        self.begun = self.sent = 0
        self.waiting: deque[tuple[int, AttemptSpec]] = deque()
        self.current: AttemptSpec | None = None


class VirtualPilot:
    """A pilot on nodes of these shapes, in which nothing but tasks takes time."""

    def __init__(self, shapes: Sequence[NodeShape]) -> None:
        self.now = 0.0
        self.shapes = {f"n{number}": shape for number, shape in enumerate(shapes)}
        largest = max(shapes, key=lambda shape: shape.cores)
        self.rules = Rules(self.shapes, largest)
        self.runs: list[Run] = []
        self._took_s: dict[int, float] = {}
        self._came: dict[int, float] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._processes: dict[int, _Process] = {}
        #: When the tasks began that run.
        self._running: dict[int, float] = {}
        for position, (name, shape) in enumerate(self.shapes.items()):
            self.rules.add_node(name, shape, self.now, position)

    def at(self, moment: float, act: Callable[[], None]) -> None:
        """Have something happen at a moment."""
        heapq.heappush(self._events, (moment, next(self._numbers), act))

    def submit(
        self,
        moment: float,
        kind: Template,
        tasks: Iterable[int],
        took_s: float,
        versions: Iterable[Template] = (),
    ) -> None:
        """Have tasks come at a moment, each of which takes so long."""
        kinds = [*versions, kind]
        items = [work(task, 1, kind.id) for task in tasks]

        def come() -> None:
            for item in items:
                self._took_s[item.task], self._came[item.task] = took_s, self.now
            self.rules.add_work(kinds, items, self.now)

        self.at(moment, come)

    def run(self, until: float = 1e6) -> float:
        """Let everything happen until all has ended; return the time of the last end."""
        self.at(TICK_S, self._tick)
        while self._events and self.now < until:
            moment, _, act = heapq.heappop(self._events)
            self.now = max(self.now, moment)
            act()
            self._carry_out()
        return max((run.ended for run in self.runs), default=0.0)

    def _tick(self) -> None:
        self.rules.tick(self.now)
        if self._events or self.rules.held:
            self.at(self.now + TICK_S, self._tick)

    def _carry_out(self) -> None:
        while actions := self.rules.take_actions():
            for action in actions:
                self._do(action)

    def _do(self, action: a.Action) -> None:
        match action:
            case a.StartExecutor(executor=number):
                self._processes[number] = _Process()
                self.at(self.now, lambda: self.rules.executor_ready(number, number, self.now))
            case a.StartWorld(world=number, need=need):
                self._processes[number] = _Process()
                for rank in range(need.ranks):
                    self.at(self.now, partial(self._rank_ready, number, rank))
            case (
                a.RunOnExecutor(executor=number, work=items)
                | a.RunOnWorld(world=number, work=items)
            ):
                process = self._processes[number]
                for item in items:
                    process.sent += 1
                    process.waiting.append((process.sent, item))
                self._next(number)
            case (
                a.UnsendFromExecutor(executor=number, upto=upto)
                | a.UnsendFromWorld(world=number, upto=upto)
            ):
                process = self._processes[number]
                process.waiting = deque(item for item in process.waiting if item[0] > upto)
                begun = min(process.begun, upto)
                process.begun = max(process.begun, upto)
                self.at(self.now, lambda: self.rules.unsent(number, begun, upto, self.now))
            case a.StopExecutor(executor=number):
                if self._processes.pop(number, None) is not None:
                    self.at(self.now, lambda: self._executor_exited(number))
            case a.StopWorld(world=number):
                self._processes.pop(number, None)
                self.at(self.now, lambda: self.rules.world_exited(number, 0, "", self.now))

    def _rank_ready(self, number: int, rank: int) -> None:
        self.rules.rank_ready(number, rank, self.now)

    def _executor_exited(self, number: int) -> None:
        self.rules.executor_exited(number, 0, 0, 0.0, (), "", self.now)

    def _next(self, number: int) -> None:
        process = self._processes.get(number)
        if process is None or process.current is not None or not process.waiting:
            return
        process.begun, process.current = process.waiting.popleft()
        task, began = process.current.task, self.now
        known = self.rules.executors.get(number) or self.rules.worlds[number]
        shares = tuple(known.held)
        self._running[task] = began
        self.at(began + self._took_s[task], lambda: self._end(number, task, began, shares))

    def _end(
        self, number: int, task: int, began: float, shares: tuple[NodeAllocation, ...]
    ) -> None:
        process = self._processes.get(number)
        if process is None:
            return
        process.current = None
        del self._running[task]
        self.runs.append(Run(task, self._came[task], began, self.now, shares))
        completion: Completion = done(task, started=began, ended=self.now)
        if number in self.rules.executors:
            self.rules.executor_done(number, [completion], self.now)
        else:
            self.rules.world_done(number, [completion], self.now)
        self._next(number)


class VirtualSite(VirtualPilot):
    """A head with one such pilot: it is told of what ends and runs at once, and gives it tasks."""

    def __init__(self, shapes: Sequence[NodeShape], site: Amounts = ()) -> None:
        super().__init__(shapes)
        self.core = Core(site=site)
        joined = PilotJoined("p", "main", common_shape(list(shapes)), len(shapes), 0.0, [])
        self.core.apply(joined, 0.0)

    def submit(
        self,
        moment: float,
        kind: Template,
        tasks: Iterable[int],
        took_s: float,
        versions: Iterable[Template] = (),
    ) -> None:
        """Have tasks come to the head at a moment, each of which takes so long."""
        kinds = [*versions, kind]
        specs = [spec(task, kind.id) for task in tasks]

        def come() -> None:
            for item in specs:
                self._took_s[item.id], self._came[item.id] = took_s, self.now
            self.core.apply(TasksSubmitted(kind.session, kinds, specs, {}), self.now)

        self.at(moment, come)

    def _carry_out(self) -> None:
        super()._carry_out()
        while True:
            if ended := self.rules.take_completions():
                self.core.apply(AttemptsEnded("p", ended), self.now)
            given = self.core.assign(self.now).get("p", [])
            if not given:
                return
            self.rules.add_work(
                [kind for task in given for kind in _kinds(task)],
                [work(task.id, task.attempt, _kind(task).id) for task in given],
                self.now,
            )
            super()._carry_out()

    def _tick(self) -> None:
        running = [
            RunningTask(task, 1, "", began)
            for task, began in self._running.items()
            if self.now - began > 0.5
        ]
        self.core.apply(AttemptsRunning("p", running), self.now)
        super()._tick()


def _kind(task: Task) -> Template:
    """Return the template as which a task was given to a pilot."""
    return task.task_class.version or task.template


def _kinds(task: Task) -> list[Template]:
    """Return the template of a task after those of its versions, as a pilot gets them."""
    versions = [each.version for each in task.own_class.versions if each.version]
    return [*versions, task.template]
