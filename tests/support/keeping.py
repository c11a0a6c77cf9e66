"""A pilot whose tasks leave large results in the stores of their nodes, for tests of the rules."""

from __future__ import annotations

from typing import Any

from pilot.agent.rules import actions as a
from pilot.agent.rules.rules import Rules
from pilot.model.values import Value
from pilot.scheduler.resources import NodeShape
from pilot.wire.messages.pilot import AttemptSpec, InputValue
from support.builders import done, template

SIZE = 64 << 20


def large(task: int, path: str = "") -> Value:
    return Value(SIZE, b"", path or f"results/0/{task}.h5", f"/0/t/{task}/0")


class Pilot:
    """A pilot whose tasks leave large results on their nodes."""

    def __init__(self, *cores: int) -> None:
        self.hosts = [f"n{number}" for number in range(len(cores))]
        self.rules = Rules(self.hosts, NodeShape(max(cores)))
        self.now = 100.0
        self.nodes: dict[int, str] = {}
        self.tasks: dict[int, list[int]] = {}
        self.persisted: list[str] = []
        self.dropped: list[str] = []
        #: What was to be fetched: to which node, from which, and what.
        self.fetches: list[tuple[str, str, str]] = []
        self.stopped: list[int] = []
        self.keeps: list[bool] = []
        for number, (host, count) in enumerate(zip(self.hosts, cores, strict=True)):
            self.rules.add_node(host, NodeShape(count), self.now, number)

    def step(self) -> None:
        while actions := self.rules.take_actions():
            for action in actions:
                if isinstance(action, a.StartExecutor):
                    self.nodes[action.executor] = action.node
                    self.rules.executor_ready(action.executor, 1, self.now)
                elif isinstance(action, a.RunOnExecutor):
                    self.keeps.append(action.keeps)
                    tasks = self.tasks.setdefault(action.executor, [])
                    tasks.extend(item.task for item in action.work)
                elif isinstance(action, a.Persist):
                    self.persisted.extend(action.paths)
                elif isinstance(action, a.Fetch):
                    self.fetches.append((action.node, action.source, action.path))
                elif isinstance(action, a.DropKept):
                    self.dropped.extend(action.paths)
                elif isinstance(action, a.StopExecutor):
                    self.stopped.append(action.executor)

    def add(self, task: int, *inputs: int | Value, **options: Any) -> None:
        items = tuple(
            InputValue(99, 0, source) if isinstance(source, Value) else InputValue(source, 0, None)
            for source in inputs
        )
        known = template(**options)
        work = AttemptSpec(task, 1, known.id, b"", items)
        self.rules.add_work([known], [work], self.now)
        self.step()

    def executor_of(self, task: int) -> int:
        return next(number for number, tasks in self.tasks.items() if task in tasks)

    def node_of(self, task: int) -> str:
        """The node on which a task runs or has run; empty: it waits."""
        numbers = [number for number, tasks in self.tasks.items() if task in tasks]
        return self.nodes[numbers[-1]] if numbers else ""

    def keep(self, task: int) -> None:
        value = large(task)
        number = self.executor_of(task)
        self.rules.executor_kept(number, [done(task, values=(value,))], [value.path], self.now)
        self.step()

    def ends(self, task: int, **changes: Any) -> None:
        self.rules.executor_done(self.executor_of(task), [done(task, **changes)], self.now)
        self.step()

    def written(self, *tasks: int) -> None:
        self.rules.persisted([large(task).path for task in tasks], {}, self.now)
        self.step()

    def fetched(self, node: str, path: str, problem: str = "") -> None:
        self.rules.fetched(path, node, self.now, problem, SIZE, 0.1)
        self.step()

    def lose(self, node: str) -> None:
        self.rules.lose_node(node, "it is gone", self.now)
        self.step()

    def wait(self, seconds: float) -> None:
        self.rules.tick(self.now)
        self.now += seconds
        self.rules.tick(self.now)
        self.step()

    @property
    def reported(self) -> list[tuple[int, str]]:
        return [(each.task, each.outcome) for each in self.rules.take_completions()]
