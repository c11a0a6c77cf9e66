"""CORE, the head's state machine alone: the tasks per second that its rules let through.

No process, socket or database: events go into a `Core` and effects come out, as in the head's loop.
All figures are of one core of this machine, the best of some rounds.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from bench.stage import Stage
from pilot.head.core.core import Core
from pilot.head.core.events import AttemptsEnded, PilotJoined, TasksSubmitted
from pilot.model.tasks import Completion, TaskSpec, Template
from pilot.model.values import Value
from pilot.scheduler.resources import NodeShape, Resources

ROUNDS = 5
#: So many tasks come in a submission, and so many cores there are.
BATCH, PILOTS, CORES = 1_000, 4, 256
#: How long each task is said to have run, in seconds.
TASK_S = 0.01

_TEMPLATE = Template(id=1, session=1, name="t", kind="python", function=b"f", resources=Resources())
VALUES = (Value(1, b"x"),)


def run(stage: Stage) -> None:
    """Measure."""
    many, deep = stage.count(100_000, 10_000), stage.count(20_000, 2_000)
    rounds = stage.count(ROUNDS, 1)
    samples = {
        f"{many:,} independent": _rounds(rounds, lambda: tasks_per_s(independent(many))),
        f"chain of {deep:,}": _rounds(rounds, lambda: tasks_per_s(chain(deep))),
        f"{deep:,} into one": _rounds(rounds, lambda: tasks_per_s(fan_in(deep))),
    }
    for case, rates in samples.items():
        for step in rates[0]:
            best = max(each[step] for each in rates)
            stage.findings.add("CORE", f"{case}, {step}", "tasks/s", best)
    stage.findings.data["CORE"] = samples


def independent(count: int) -> list[TaskSpec]:
    """Return tasks that need nothing."""
    return [TaskSpec(number, 1, b"payload") for number in range(1, count + 1)]


def chain(count: int) -> list[TaskSpec]:
    """Return tasks of which each needs the one before."""
    needs = [((number - 1, 0),) if number > 1 else () for number in range(1, count + 1)]
    return [TaskSpec(number, 1, b"payload", each) for number, each in enumerate(needs, 1)]


def fan_in(count: int) -> list[TaskSpec]:
    """Return tasks that need nothing, and one that needs them all."""
    needs = tuple((number, 0) for number in range(1, count + 1))
    return [*independent(count), TaskSpec(count + 1, 1, b"payload", needs)]


def _rounds(count: int, measured: Callable[[], dict[str, float]]) -> list[dict[str, float]]:
    found = []
    for _ in range(count):
        gc.collect()
        found.append(measured())
    return found


def tasks_per_s(tasks: list[TaskSpec]) -> dict[str, float]:
    """Return the tasks per second of each step, and of all together.

    Raises
    ------
    RuntimeError
        Not all tasks have ended.
    """
    core, clock = Core(), time.perf_counter
    submissions = [tasks[first : first + BATCH] for first in range(0, len(tasks), BATCH)]
    for number in range(PILOTS):
        shape = NodeShape(CORES // PILOTS)
        core.apply(PilotJoined(f"p{number}", "main", shape, 1, 0.0, []), 0.0)
    submit_s = assign_s = complete_s = 0.0
    begin = clock()
    for each in submissions:
        core.apply(TasksSubmitted(1, [_TEMPLATE], each, {}), 1.0)
    submit_s, now, ended = clock() - begin, 1.0, 0
    while ended < len(tasks):
        now += TASK_S
        begin = clock()
        given = core.assign(now)
        assign_s += clock() - begin
        # What the pilots would say is no work of the core.
        said = [
            AttemptsEnded(
                name,
                [
                    Completion(t.id, t.attempt, "ok", VALUES, started=now, ended=now + TASK_S)
                    for t in batch
                ],
            )
            for name, batch in given.items()
        ]
        begin = clock()
        for event in said:
            ended += len(core.apply(event, now).ended)
        complete_s += clock() - begin
        core.log.take()
        if not given:
            raise RuntimeError(f"after {ended} of {len(tasks)} tasks nothing more is given out")
    if core.tasks:
        raise RuntimeError(f"{len(core.tasks)} tasks have not ended")
    steps = {"submit": submit_s, "assign": assign_s, "complete": complete_s}
    count = len(tasks)
    return {step: count / took for step, took in steps.items()} | {
        "all": count / sum(steps.values())
    }
