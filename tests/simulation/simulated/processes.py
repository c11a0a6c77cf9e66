"""Executors and MPI worlds: they run what they are sent in order, may skip some, and may die."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from pilot.model.states import Outcome
from pilot.model.tasks import Completion, TaskFailure
from pilot.model.values import Value
from pilot.wire.messages.client import Reply
from pilot.wire.messages.pilot import AttemptSpec, RunningTask
from pilot.worker.recent import RecentResults, not_here

if TYPE_CHECKING:
    from simulated.agent import Agent

#: Begins the name of an attempt.
RUN = "run "


class Process(ABC):
    """What runs tasks in the order in which they were sent, and may be told to skip some."""

    def __init__(self, agent: Agent, number: int) -> None:
        self.agent = agent
        self.cluster = agent.cluster
        self.clock = agent.clock
        self.rng = agent.cluster.chance(
            "process", agent.job, agent.life, type(self).__name__, number
        )
        self._stops = agent.cluster.chance(
            "stop", agent.job, agent.life, type(self).__name__, number
        )
        self.tasks = agent.cluster.tasks
        self.id = number
        self.is_alive = True
        #: What it was sent and is not in: each with its number.
        self.queue: deque[tuple[int, AttemptSpec]] = deque()
        self.sent = 0
        #: The last that is not taken back any more.
        self.begun = 0
        self.current: AttemptSpec | None = None
        #: It looks whether it is to stop.
        self.listens = False

    def take(self, work: list[AttemptSpec]) -> None:
        for item in work:
            self.sent += 1
            self.queue.append((self.sent, item))
        self._next()

    def take_back(self, upto: int) -> None:
        """It is stopped for a moment (of a world the first rank), unless it cannot be now."""

        def reach() -> None:
            if not self.is_alive or self.rng.random() < 0.2:
                return
            begun = self.begun
            self.queue = deque(
                (number, work) for number, work in self.queue if not begun < number <= upto
            )
            rules = self.agent.rules
            # The node worker tells that, by its own connection: the process may be sooner.
            self.clock.after(
                self.rng.uniform(0.0005, 0.05),
                lambda: self._say(lambda: rules.unsent(self.id, begun, upto, self.clock.now)),
            )

        self.clock.after(self.rng.uniform(0.0, 0.01), reach)

    def _begin(self) -> None:
        """Begin to look whether it is to stop, or not; that is known a while later."""
        self.listens = self._stops.random() < 0.5
        if self.listens:
            late_s = self.cluster.hasty(self._stops.uniform(0.0, 1.0))
            self.clock.after(late_s, self.agent.note_listening)

    def tell(self, task: int, attempt: int, until: float) -> None:
        """Stop as told: in time, or late, or never."""
        work = self.current
        late_s = self._stops.uniform(0.0, 1.1) * max(0.0, until - self.clock.now)
        if self.listens and work is not None and (work.task, work.attempt) == (task, attempt):
            self.clock.after(late_s, lambda: self._stop(work))

    @abstractmethod
    def _stop(self, work: AttemptSpec) -> None:
        """Have the task stop, if the process is in it still."""

    def _completion(self, work: AttemptSpec, outcome: Outcome, started: float) -> Completion:
        """Return the end of an attempt, which has a name of its own in place of a node's."""
        failure = None
        if outcome == "error":
            kind = self.rng.choice(("ValueError", "ValueError", "OSError"))
            failure = TaskFailure(kind, "as told", bases=(kind, "Exception"))
        elif outcome == "interrupted":
            failure = TaskFailure("Stopped", "", bases=("Stopped", "BaseException"))
        return Completion(
            work.task,
            work.attempt,
            outcome,
            self.tasks.made_by(work) if outcome == "ok" else (),
            failure,
            node=f"{RUN}{next(self.tasks.runs)}",
            started=started,
            ended=self.clock.now,
        )

    @abstractmethod
    def die(self, status: int) -> None:
        """End in the middle of whatever it is in."""

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
        self._stores = agent.cluster.chance("stores", agent.job, agent.life, number)
        self._recent = RecentResults()
        #: Others have its cores: what it is in waits for other tasks.
        self.lends = False
        self.clock.after(self.rng.uniform(0.0, 0.3), self._ready)

    def _say(self, say: Callable[[], None]) -> None:
        """What it says arrives if its agent and node are still there."""

        def arrive() -> None:
            if self.agent.is_alive and self.id in self.agent.executors:
                say()
                self.agent.step()

        self.clock.after(0.0005, arrive)

    def _ready(self) -> None:
        if self.is_alive:
            self._say(lambda: self.agent.rules.executor_ready(self.id, 1, self.clock.now))

    def _next(self) -> None:
        if not self.is_alive or self.current is not None or not self.queue:
            return
        self.begun, sent = self.queue.popleft()
        work = self._recent.fill(sent)
        self.cluster.oracle.seen["sent ahead of its inputs"] += work is not sent
        if work is None:
            end = msgspec.structs.replace(not_here(sent, self.node), ended=self.clock.now)
            self.cluster.oracle.seen["came without its inputs"] += 1
            rules, now = self.agent.rules, self.clock.now
            self._say(lambda: rules.executor_done(self.id, [end], now))
            self._next()
            return
        self.current = work
        started = self._started = self.clock.now
        self.cluster.oracle.runs(self.agent, work, self.node)
        self._begin()
        self._ask(work)
        self.agent.running[work.task] = RunningTask(work.task, work.attempt, self.node, started)
        if self._may_hang() and self.rng.random() < self.tasks.hang_rate:
            self.hangs = True
            return
        self.clock.after(self.tasks.duration(self.rng), lambda: self._end(work, started))

    def _ask(self, work: AttemptSpec) -> None:
        """Have children of a task begin at once; it waits for the answer before it ends."""
        self._waits = self._is_late = self._is_refused = False
        self._born: list[int] = []
        if not (specs := self.tasks.detached(work, self.rng)):
            return
        self._waits = True
        templates = [self.tasks.templates[spec.template] for spec in specs]

        def answer(message: Reply) -> None:
            if self.is_alive and self.current is work:
                self._is_refused, self._born = bool(message.error), message.result or []
                awaited = self.tasks.awaited(work, self._born, self.rng)
                template = self.tasks.templates[work.template]
                # On several nodes it would keep its cores, which the others may need.
                if awaited and template.resources.ranks == 1:
                    self._wait_for(work, awaited)
                else:
                    self._need_wait_no_more(work)

        self.agent.asker.detach(work.task, templates, specs, answer)

    def _need_wait_no_more(self, work: AttemptSpec) -> None:
        self._waits = False
        if self._is_late:
            self._end(work, self.clock.now)

    def _wait_for(self, work: AttemptSpec, tasks: list[int]) -> None:
        """Wait for tasks, or for a while, and have others use the cores meanwhile."""
        rules, asks = self.agent.rules, [False]
        self._say(lambda: rules.executor_waits(self.id, work.task, self.clock.now))
        self.lends = True

        def ask() -> None:
            if self.is_alive and self.current is work and not asks[0]:
                asks[0] = True
                self._say(lambda: rules.executor_goes_on(self.id, work.task, self.clock.now))

        if self.rng.random() < 0.2:
            self.clock.after(self.cluster.hasty(self.rng.uniform(0.0, 5.0)), ask)
        self.agent.asker.when_ended(tasks, ask)
        self.cluster.oracle.seen["waited for others"] += 1

    def go_on(self, task: int) -> None:
        """Have cores again, for a task that has waited for others."""
        work = self.current
        if self.is_alive and work is not None and work.task == task and self.lends:
            self.lends = False
            self.cluster.oracle.seen["went on"] += 1
            late_s = self.tasks.duration(self.rng)
            self.clock.after(late_s, lambda: self.current is work and self._need_wait_no_more(work))

    def _may_hang(self) -> bool:
        """Only a task that has nothing behind it in its executor, and will have nothing."""
        known = self.agent.rules.executors[self.id]
        return self.agent.is_trap and len(known.pipeline) == 1 and not known.unsealed

    def _stop(self, work: AttemptSpec) -> None:
        if not self._waits:
            self._end(work, self._started, "interrupted")

    def _end(self, work: AttemptSpec, started: float, outcome: Outcome | None = None) -> None:
        if not self.is_alive or self.current is not work:
            return
        if self._waits:
            self._is_late = True
            return
        if outcome is None:
            outcome = "error" if self._is_refused else self.tasks.outcome(self.rng)
        if outcome == "crash":
            self.die(-9)
            return
        self.current, self.hangs = None, False
        self.agent.ended(work.task)
        done = self._completion(work, outcome, started)
        if outcome == "ok":
            children = self.tasks.children(work, self._born, self.rng)
            owed = children.delegated if children is not None else {}
            values = tuple(Value(0, b"") if n in owed else v for n, v in enumerate(done.values))
            done = msgspec.structs.replace(done, children=children, values=values)
        rules, now = self.agent.rules, self.clock.now
        self._recent.forget(work.task)
        if outcome == "ok" and self._stores.random() < 0.5:
            # Its results are in the node's store first.
            done, paths = self._kept(done)
            self._say(lambda: rules.executor_ran(self.id, [work.task], now))
            self.clock.after(
                self._stores.uniform(0.0, 0.03),
                lambda: (
                    self.is_alive
                    and self._say(lambda: rules.executor_kept(self.id, [done], paths, now))
                ),
            )
        elif outcome != "interrupted" and self.rng.random() < 0.2:
            # Its result is large: it is reported when the segment is sealed.
            self._say(lambda: rules.executor_ran(self.id, [work.task], now))
            self.clock.after(
                0.05,
                lambda: (
                    self.is_alive and self._say(lambda: rules.executor_done(self.id, [done], now))
                ),
            )
        else:
            self._recent.note(done)
            self._say(lambda: rules.executor_done(self.id, [done], now))
        self._next()

    def _kept(self, done: Completion) -> tuple[Completion, list[str]]:
        """Return an end whose values are in segments of the node's store, and these segments."""
        paths: list[str] = []
        values: list[Value] = []
        for value in done.values:
            if value.payload:
                path = f"results/{done.task >> 32}/{done.node}-{len(values)}.h5"
                self.agent.stores[self.node].add(path)
                paths.append(path)
                value = Value(value.size, b"", path, value.payload.decode())
            values.append(value)
        return msgspec.structs.replace(done, values=tuple(values)), paths

    def stop(self, grace_s: float) -> None:
        # Some tasks end, or sit out the grace time, before the signal gets them.
        self.clock.after(self.rng.uniform(0.0, grace_s), lambda: self.die(-15))

    def die(self, status: int) -> None:
        if not self.is_alive:
            return
        self.is_alive = False
        task = self.current.task if self.current else 0
        self.agent.ended(task)

        def heard() -> None:
            self.agent.rules.executor_exited(
                self.id, status, task, self.clock.now, (), "", self.clock.now
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
            self.clock.after(self.rng.uniform(0.1, 0.5), partial(self._ready, rank))

    def _ready(self, rank: int) -> None:
        self._say(lambda: self.agent.rules.rank_ready(self.id, rank, self.clock.now))

    def _say(self, say: Callable[[], None]) -> None:
        if self.is_alive and self.agent.is_alive:
            say()
            self.agent.step()

    def _next(self) -> None:
        if not self.is_alive or self.current is not None or not self.queue:
            return
        number, work = self.queue.popleft()
        self.current = work
        self.begun = max(number, self.begun)
        self.cluster.oracle.runs(self.agent, work)
        self._begin()
        started, takes_s = self.clock.now, self.tasks.duration(self.rng)
        self._started = started
        # The first rank may leave it before the others, and tells already what they go on with.
        leaves_s = takes_s * self.rng.choice((0.0, 0.5, 1.0))
        self.clock.after(leaves_s, self._first_leaves)
        self.clock.after(takes_s, lambda: self._end(work, started))

    def _first_leaves(self) -> None:
        following = self.queue[0][0] if self.queue else self.sent + 1
        self.begun = max(following, self.begun)

    def _stop(self, work: AttemptSpec) -> None:
        if self.is_alive and self.current is work:
            self._first_leaves()
        self._end(work, self._started, "interrupted")

    def _end(self, work: AttemptSpec, started: float, outcome: Outcome | None = None) -> None:
        if not self.is_alive or self.current is not work:
            return
        outcome, rng, rules = outcome or self.tasks.outcome(self.rng), self.rng, self.agent.rules
        if outcome == "crash":
            self.die(9)
            return
        done = self._completion(work, outcome, started)
        if outcome == "ok":
            # The first rank tells it a little later, maybe when the next task runs already.
            self.clock.after(
                0.002, lambda: self._say(lambda: rules.world_done(self.id, [done], done.ended))
            )
        else:
            # Some fail alike. Or the first rank has raised, and others wait for it in MPI.
            hanging = rng.random() < 0.5
            for rank in range(1 if hanging else self.ranks):
                self.clock.after(0.002 + 0.001 * rank, partial(self._fails, rank, done))
            if hanging:
                return
        self.current = None
        self._next()

    def _fails(self, rank: int, done: Completion) -> None:
        self._say(lambda: self.agent.rules.rank_done(self.id, rank, done, self.clock.now))

    def stop(self) -> None:
        late_s = self.cluster.hasty(self.rng.uniform(0.0, 3.0))
        self.clock.after(late_s, lambda: self.die(15))

    def die(self, status: int) -> None:
        if not self.is_alive:
            return
        task = self.current.task if self.current else 0

        def exited() -> None:
            rules, now = self.agent.rules, self.clock.now
            if self.rng.random() < 0.9:  # else nobody could watch it
                rules.rank_exited(self.id, task, now)
            self.is_alive = False
            self.agent.worlds.pop(self.id, None)
            rules.world_exited(self.id, 128 + status, "", now)

        self._say(exited)
