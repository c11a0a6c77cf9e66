"""One pilot whose nodes fetch results from each other, with all that may go wrong meanwhile.

In the lives of whole sites that is rare. Here tasks need each other's results all the time, over
the pilot's own rules: copies come late or never, nodes are lost, files cannot be written, results
are released. A seed is a run that can be repeated.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from support.builders import done, template

from pilot.agent.rules import actions as a
from pilot.agent.rules.attempts import Attempts
from pilot.agent.rules.rules import Rules
from pilot.model.tasks import Completion
from pilot.model.values import Value
from pilot.scheduler.resources import NodeShape
from pilot.wire.messages.pilot import AttemptSpec, InputValue, ReleasedResult

SIZE = 8 << 20
STEPS = 300
RUNS = 150


class Exchange:
    """A pilot, and what its nodes have."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.cores = self.rng.choice((1, 1, 2))
        names = [f"n{number}" for number in range(self.rng.choice((2, 3)))]
        self.rules = Rules(names, NodeShape(self.cores), durable_every_s=5.0)
        self.now = 100.0
        self.stores: dict[str, set[str]] = {name: set() for name in names}
        self.copies: dict[str, set[str]] = {name: set() for name in names}
        self.written: set[str] = set()
        self.executors: dict[int, str] = {}
        self.queues: dict[int, list[AttemptSpec]] = {}
        self.writes: list[a.Persist] = []
        self.fetches: list[a.Fetch] = []
        self.inputs: dict[int, tuple[int, ...]] = {}
        self.ends: dict[int, Completion] = {}
        self.released: set[int] = set()
        self.seen: Counter[str] = Counter()
        self.template = template()
        for position, name in enumerate(names):
            self.rules.add_node(name, NodeShape(self.cores), self.now, position)

    # --- what the rules say

    def step(self) -> None:
        while actions := self.rules.take_actions():
            for action in actions:
                self._carry_out(action)
        for end in self.rules.take_completions():
            self._told(end)

    def _carry_out(self, action: a.Action) -> None:
        if isinstance(action, a.StartExecutor):
            self.executors[action.executor] = action.node
            self.queues[action.executor] = []
            self.rules.executor_ready(action.executor, 1, self.now)
        elif isinstance(action, a.RunOnExecutor):
            for work in action.work:
                self._runs(work, self.executors[action.executor])
            self.queues[action.executor] += action.work
        elif isinstance(action, a.UnsendFromExecutor):
            begun = 1 + action.upto - len(self.queues[action.executor])
            del self.queues[action.executor][1:]
            self.rules.unsent(action.executor, begun, action.upto, self.now)
        elif isinstance(action, a.StopExecutor):
            queue = self.queues.pop(action.executor, None)
            if queue is not None:
                task = queue[0].task if queue else 0
                self.rules.executor_exited(action.executor, -15, task, 1.0, (), "", self.now)
        elif isinstance(action, a.Persist):
            self.writes.append(action)
        elif isinstance(action, a.Fetch):
            assert action.path not in self.copies[action.node], "it is there already"
            assert not any(
                (one.node, one.path) == (action.node, action.path) for one in self.fetches
            ), "it is fetched twice"
            self.fetches.append(action)
        elif isinstance(action, a.DropKept):
            for have in (self.stores, self.copies):
                have.get(action.node, set()).difference_update(action.paths)
            self.fetches = [
                one
                for one in self.fetches
                if one.node != action.node or one.path not in action.paths
            ]

    def _runs(self, work: AttemptSpec, node: str) -> None:
        """All inputs are to be had where a task starts."""
        for item in work.inputs:
            assert item.value is not None
            if path := item.value.path:
                is_copied = path in self.copies[node]
                is_here = path in self.stores[node] or is_copied or path in self.written
                assert is_here, f"{path} is not to be had on {node}"
                self.seen["read a copy of what is not written"] += (
                    is_copied and path not in self.written
                )

    def _told(self, end: Completion) -> None:
        """An end is told once, after all that it rests on."""
        assert end.task not in self.ends, "it is told twice"
        self.ends[end.task] = end
        if end.outcome != "ok":
            self.seen[f"told as {end.outcome}"] += 1
            return
        for value in end.values:
            assert not value.path or value.path in self.written, "it is told before it is written"
        for maker in self.inputs[end.task]:
            assert self.ends[maker].outcome == "ok", "it is told before what it rests on"

    # --- what happens

    def happen(self) -> None:
        """Let one thing happen."""
        choices = ["add", "add", "end", "end", "end", "write", "fetch", "fetch", "tick", "release"]
        if self.rng.random() < 0.01 and len(self.stores) > 1:
            choices = ["lose"]
        getattr(self, f"_{self.rng.choice(choices)}")()
        self.now += self.rng.choice((0.0, 0.01, 0.3))
        self.step()

    def _add(self) -> None:
        task = len(self.inputs) + 1
        open_ = [
            one
            for one in self.inputs
            if one not in self.released
            and (one not in self.ends or self.ends[one].outcome == "ok")
            and not any(value.is_released for value in self._values(one))
        ]
        makers = tuple(self.rng.sample(open_[-8:], min(len(open_), self.rng.randrange(4))))
        inputs = tuple(
            InputValue(maker, 0, self.ends[maker].values[0] if maker in self.ends else None)
            for maker in makers
        )
        self.inputs[task] = makers
        work = AttemptSpec(task, 1, self.template.id, b"", inputs)
        self.rules.add_work([self.template], [work], self.now)

    def _values(self, task: int) -> tuple[Value, ...]:
        end = self.ends.get(task)
        return end.values if end is not None else ()

    def _end(self) -> None:
        busy = [number for number, queue in self.queues.items() if queue]
        if not busy:
            return
        number = self.rng.choice(busy)
        work, node = self.queues[number].pop(0), self.executors[number]
        if self.rng.random() < 0.7:
            path = f"results/0/{work.task}.h5"
            self.stores[node].add(path)
            value = Value(SIZE, b"", path, f"/{work.task}")
            end = done(work.task, values=(value,), node=node)
            self.rules.executor_kept(number, [end], [path], self.now)
        else:
            ok = self.rng.random() < 0.8
            values = (Value(1, b"x"),) if ok else ()
            end = done(work.task, "ok" if ok else "error", values=values, node=node)
            self.rules.executor_done(number, [end], self.now)

    def _write(self, problems: bool = True) -> None:
        if not self.writes:
            return
        action = self.writes.pop(self.rng.randrange(len(self.writes)))
        there = [path for path in action.paths if path in self.stores.get(action.node, ())]
        if there and problems and self.rng.random() < 0.03:
            self.rules.persisted([], dict.fromkeys(there, "no space left"), self.now)
        elif there:
            self.written.update(there)
            self.rules.wrote(SIZE * len(there), self.rng.uniform(0.001, 0.1) * len(there))
            self.rules.persisted(there, {}, self.now)

    def _fetch(self, problems: bool = True) -> None:
        if not self.fetches:
            return
        action = self.fetches.pop(self.rng.randrange(len(self.fetches)))
        node, path = action.node, action.path
        if node not in self.copies:
            return
        failed = path not in self.stores.get(action.source, ())
        if failed or (problems and self.rng.random() < 0.2):
            self.seen["fetched in vain"] += 1
            self.rules.fetched(path, node, self.now, "it does not come")
            return
        for old in sorted(self.copies[node] & self.written):
            if self.rng.random() < 0.3:
                self.copies[node].remove(old)  # it makes room
        self.copies[node].add(path)
        self.seen["fetched"] += 1
        self.rules.fetched(path, node, self.now, "", SIZE, self.rng.uniform(0.001, 0.1))

    def _tick(self) -> None:
        self.now += self.rng.choice((0.1, 1.5))
        self.rules.tick(self.now)

    def _release(self) -> None:
        open_ = [one for one in self.rules.held if one in self.inputs and one not in self.released]
        if open_:
            task = self.rng.choice(open_)
            users = [one for one, its in self.inputs.items() if task in its]
            if all(one in self.rules.held for one in users):
                self.released.add(task)
                self.rules.release([ReleasedResult(task, 0, tuple(users))])

    def _lose(self) -> None:
        node = self.rng.choice(list(self.stores))
        for have in (self.stores, self.copies):
            del have[node]
        for number in [number for number, its in self.executors.items() if its == node]:
            self.queues.pop(number, None)
        self.seen["lost"] += 1
        self.rules.lose_node(node, "it is gone", self.now)

    def run(self) -> None:
        """Let it all happen, and all end."""
        for _ in range(STEPS):
            self.happen()
        for _ in range(20 * STEPS):
            if self.rules.is_idle:
                break
            self._end()
            self._write(problems=False)
            self._fetch(problems=False)
            self._tick()
            self.step()
        left = [task for task in self.inputs if task not in self.ends]
        assert not left, f"{left} never end"


def failure(seed: int) -> str:
    """What is wrong with a run; empty: nothing."""
    try:
        Exchange(seed).run()
    except AssertionError as error:
        return str(error) or "an assertion"
    return ""


def test_exchanges_end_well() -> None:
    seen: Counter[str] = Counter()
    for seed in range(RUNS):
        exchange = Exchange(seed)
        try:
            exchange.run()
        except Exception as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {error}")
        seen.update(exchange.seen)
    for what in (
        "fetched",
        "fetched in vain",
        "read a copy of what is not written",
        "lost",
        "told as interrupted",
        "told as crash",
    ):
        assert seen[what], f"{what}: never, in {seen}"


def test_a_task_that_starts_without_what_was_to_be_fetched_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pilot that does not hear that a node could not fetch something."""
    hears = Attempts.fetched

    def believes(self: Attempts, path: str, node: str, size: int, seconds: float, _: str) -> None:
        hears(self, path, node, size, seconds, "")

    monkeypatch.setattr(Attempts, "fetched", believes)
    assert any("is not to be had" in failure(seed) for seed in range(RUNS))
