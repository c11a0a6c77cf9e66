"""The work of a simulated site: tasks by class, and when they come.

Durations are drawn from a seed, once for a workload: so each policy gets the same tasks.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pilot.scheduler.resources import NodeShape, Resources, nodes_needed


class WorkClass:
    """Tasks that are alike for the scheduler (`pilot.scheduler.assignment.WorkClass`)."""

    rank = (0, 0)
    starving = False
    late = False
    share = 0.0
    pool = ""
    waits = False
    depth = 0

    def __init__(
        self,
        name: str,
        need: Resources,
        shape: NodeShape,
        time_limit_s: float = 0.0,
        checkpoint_s: float = 0.0,
    ) -> None:
        nodes = nodes_needed(need, shape)
        if nodes is None:
            raise ValueError(f"a task of class {name!r} needs {need}, and a node has {shape}")
        self.name, self.need = name, need
        #: The user's limit; 0: none, and nothing is known of the class before a task has ended.
        self.time_limit_s = time_limit_s
        #: The time between two checkpoints of a task, in seconds; 0: it makes none.
        self.checkpoint_s = checkpoint_s
        #: The nodes that one task fills: a part of one, or several.
        self.fills = need.total_cores / shape.cores
        self.longest_s = math.inf
        self.mean_s: float | None = None
        #: The tasks that no pilot has, and their number.
        self.queue: deque[Task] = deque()
        self.ready = 0
        self.assigned = 0

    def may_wait_on(self, shape: NodeShape) -> bool:  # noqa: ARG002  # as the protocol has it
        """Tell whether tasks may wait for cores: there are no versions of them."""
        return True

    @property
    def session(self) -> str:
        """The session: there is one."""
        return ""

    def put(self, task: Task, first: bool = False) -> None:
        """Put a task in the queue: at the end, or before all others."""
        if first:
            self.queue.appendleft(task)
        else:
            self.queue.append(task)
        self.ready += 1

    def pop(self) -> Task:
        """Remove the first task of the queue."""
        self.ready -= 1
        return self.queue.popleft()

    def learn(self, duration_s: float) -> None:
        """Add a duration to the mean, as the head does."""
        self.mean_s = duration_s if self.mean_s is None else 0.9 * self.mean_s + 0.1 * duration_s


@dataclass(eq=False, slots=True)
class Task:
    """A task, and how far it has come."""

    work: WorkClass
    length_s: float
    came_at: float
    #: The seconds that are done, and kept by a checkpoint.
    done_s: float = 0.0
    #: The start of the current attempt, and the number of attempts that have begun.
    started_at: float = 0.0
    attempts: int = 0
    ended_at: float | None = None


@dataclass(frozen=True)
class Batch:
    """Tasks of one class that come together."""

    at_s: float
    work: int
    lengths_s: tuple[float, ...]
    #: True if they come when all earlier ones have ended, and so many seconds later.
    after_all: bool = False


@dataclass(frozen=True)
class Kind:
    """The needs of the tasks of a class, and the words of their user about them."""

    name: str
    need: Resources
    time_limit_s: float = 0.0
    checkpoint_s: float = 0.0


@dataclass(frozen=True)
class Workload:
    """All work of a simulation."""

    kinds: Sequence[Kind]
    batches: Sequence[Batch]
    #: The head gives tasks out no more often than this, in seconds.
    turn_s: float = 0.1

    def classes(self, shape: NodeShape) -> list[WorkClass]:
        """Return the classes, new ones for each simulation."""
        return [
            WorkClass(kind.name, kind.need, shape, kind.time_limit_s, kind.checkpoint_s)
            for kind in self.kinds
        ]

    def node_s(self, shape: NodeShape) -> float:
        """Return the node-seconds of all work."""
        fills = [kind.need.total_cores / shape.cores for kind in self.kinds]
        return math.fsum(fills[batch.work] * math.fsum(batch.lengths_s) for batch in self.batches)


def bursts(shape: NodeShape, size: float = 1.0, stretch: float = 1.0) -> Workload:
    """Return the workload W10: 200 tasks of 1 s, a pause of 60 s, 40 tasks of 1 s over two nodes
    each, a pause of 60 s, 100 tasks of 1 s. A pause begins when all tasks have ended.

    Parameters
    ----------
    shape
        A node.
    size
        How many times as many tasks.
    stretch
        How many times as long the tasks and the pauses are.
    """
    wide = Resources(ranks=2 * shape.cores, ranks_per_node=shape.cores)
    kinds = [Kind("one core", Resources()), Kind("two nodes", wide)]
    pause_s, length_s = 60.0 * stretch, stretch

    def burst(work: int, count: int, pause_s: float = 0.0) -> Batch:
        return Batch(pause_s, work, (length_s,) * round(count * size), after_all=True)

    batches = [burst(0, 200), burst(1, 40, pause_s), burst(0, 100, pause_s)]
    return Workload(kinds, batches, turn_s=length_s / 100)


def sweep(
    shape: NodeShape,
    nodes: int,
    minutes: float,
    length_s: float,
    checkpoint_s: float,
    seed: int,
    gang: int = 0,
) -> Workload:
    """Return tasks that keep so many nodes busy for so long, and make checkpoints.

    Parameters
    ----------
    shape
        A node.
    nodes, minutes
        The work, in nodes and minutes.
    length_s, checkpoint_s
        The mean length of a task, and the time between two of its checkpoints, in seconds.
    seed
        What the lengths are drawn from.
    gang
        A tenth of the work is of tasks over so many nodes; 0: all tasks need one core.
    """
    chance = random.Random(f"sweep {seed}")
    lengths = _log_normal(chance, length_s, 0.5)
    kinds = [Kind("one core", Resources(), checkpoint_s=checkpoint_s)]
    node_s = nodes * minutes * 60.0
    part = 0.9 if gang else 1.0
    count = round(part * node_s * shape.cores / length_s)
    batches = [Batch(0.0, 0, tuple(lengths() for _ in range(count)))]
    if gang:
        wide = Resources(ranks=gang * shape.cores, ranks_per_node=shape.cores)
        kinds.append(Kind(f"{gang} nodes", wide, checkpoint_s=checkpoint_s))
        count = round(0.1 * node_s / gang / length_s)
        batches.append(Batch(0.0, 1, tuple(lengths() for _ in range(count))))
    return Workload(kinds, batches)


def day(shape: NodeShape, scale: float, seed: int) -> Workload:
    """Return the work of a day: sweeps, gangs, rounds of short tasks, single ones now and then.

    Parameters
    ----------
    shape
        A node.
    scale
        How many times as many tasks as for a pool of about 400 nodes.
    seed
        What the lengths and arrivals are drawn from.
    """
    chance = random.Random(f"day {seed}")
    hour = 3600.0
    eight = Resources(ranks=8 * shape.cores, ranks_per_node=shape.cores)
    kinds = [
        Kind("sweep, no limit given", Resources()),
        Kind("sweep, with checkpoints", Resources(), 2 * hour, checkpoint_s=300.0),
        Kind("eight nodes, with limit", eight, 1800.0),
        Kind("round", Resources()),
        Kind("single, whole node", Resources(cores=shape.cores), 1800.0),
    ]

    def lengths(mean_s: float, spread: float, count: float, most_s: float) -> tuple[float, ...]:
        draw = _log_normal(chance, mean_s, spread)
        return tuple(min(most_s, draw()) for _ in range(max(1, round(count * scale))))

    batches = [
        Batch(1.0 * hour, 0, lengths(900.0, 0.8, 8000, 3 * hour)),
        Batch(9.0 * hour, 1, lengths(1800.0, 1.0, 6000, 1.9 * hour)),
        Batch(11.0 * hour, 2, lengths(900.0, 0.3, 150, 1700.0)),
        Batch(14.5 * hour, 2, lengths(600.0, 0.3, 100, 1700.0)),
        Batch(17.0 * hour, 0, lengths(900.0, 0.8, 6000, 3 * hour)),
    ]
    # An optimiser's rounds: 20 minutes apart, through the working day.
    batches += [Batch(8 * hour + n * 1200.0, 3, lengths(60.0, 0.3, 600, 600.0)) for n in range(30)]
    at = 0.0
    while (at := at + chance.expovariate(1 / 300.0)) < 22 * hour:
        batches.append(Batch(at, 4, lengths(300.0, 0.7, 1, 1700.0)))
    return Workload(kinds, sorted(batches, key=lambda batch: batch.at_s), turn_s=0.5)


def _log_normal(chance: random.Random, mean: float, spread: float) -> Callable[[], float]:
    """Return a log-normal draw of this mean."""
    mu = math.log(mean) - spread**2 / 2
    return lambda: chance.lognormvariate(mu, spread)
