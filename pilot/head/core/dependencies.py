"""Edges between tasks: inputs, the order of ends and starts, and results delegated to children.

An unfinished task keeps the tasks that wait for it: its `dependents` need its results, its
`followers` start after its end, whatever that is, its `result_receivers` take its results as their
own. Plain functions over tasks: the ends of others that
follow from an end are returned as `Ending`s, which `pilot.head.core.lifecycle` carries out.
How a dependent ends follows from the end of its input alone (`consequence`), whenever it was
submitted.

Invariants
----------
- `missing` counts the unfinished tasks among a task's inputs and those that it comes after, each
  once, and `owed` the results that its children still owe.
- Edges of a task that ends are followed once, and then cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias, cast

import msgspec

from pilot.head.core import allocation
from pilot.head.core.events import Ended
from pilot.head.core.state import Task
from pilot.model.ids import Ref, task_label
from pilot.model.states import (
    ABORTED,
    CANCELLED,
    COMPLETED,
    DELEGATED,
    FAILURES,
    PENDING,
    FinalState,
)
from pilot.model.tasks import TaskFailure, TaskSpec, Template
from pilot.model.values import Value
from pilot.texts import shortened

#: A task and its final state, with results or the reason, and True if its pilot knows of the end.
Ending: TypeAlias = tuple[Task, FinalState, tuple[Value, ...], TaskFailure | None, bool]

#: The length to which a cause is cut that all tasks of a session may get, in bytes.
_CAUSE_BYTES = 500


def link(task: Task, spec: TaskSpec, tasks: Mapping[int, Task]) -> None:
    """Make the task wait for those of its inputs, and of those before it, that are not finished."""
    task.inputs = spec.inputs
    if spec.after:
        _put_after(task, spec, tasks)
    for needed in {ref[0] for ref in spec.inputs}:
        source = tasks.get(needed)
        if source is None:
            continue
        if source.dependents is None:
            source.dependents = []
        source.dependents.append(task)
        task.missing += 1
    for needed in {ref[0] for ref in spec.inputs} if task.missing else ():
        source = tasks.get(needed)
        if source is not None and source.pilot is not None:
            allocation.near(task, source.pilot)


def _put_after(task: Task, spec: TaskSpec, tasks: Mapping[int, Task]) -> None:
    """Make the task wait for the ends of others; of its inputs it does that anyway."""
    task.after = spec.after
    for number in {*spec.after}.difference(needed for needed, _ in spec.inputs):
        source = tasks.get(number)
        if source is None:
            continue
        if source.followers is None:
            source.followers = []
        source.followers.append(task)
        task.missing += 1


def waits_for(task: Task, other: Task, tasks: Mapping[int, Task]) -> bool:
    """Tell whether a task waits for another one, along whatever edges."""
    if not (other.dependents or other.followers or other.result_receivers):
        return False
    seen, waiting = {task.id}, [task]
    for each in waiting:  # it grows
        if each is other:
            return True
        needed = [*(source for source, _ in each.inputs), *each.after] if each.missing else []
        for number in (*needed, *(child.id for child in each.delegates)):
            source = tasks.get(number)
            if source is not None and number not in seen:
                seen.add(number)
                waiting.append(source)
    return False


def delegate(
    task: Task, values: list[Value], refs: Mapping[int, Ref], tasks: Mapping[int, Task]
) -> None:
    """Delegate results of the task to its children; `values` has the others."""
    task.state = DELEGATED
    task.values = values
    task.owed = len(refs)
    delegates = []
    for index, (number, there) in refs.items():
        child = tasks[number]
        if child.result_receivers is None:
            child.result_receivers = []
        child.result_receivers.append((task, index, there))
        delegates.append(child)
    task.delegates = tuple(delegates)


def free(task: Task) -> list[Task]:
    """Return the dependents that wait for nothing more, now that the task has its results."""
    return _freed(task.dependents or ())


def let_follow(task: Task) -> list[Task]:
    """Return the followers that wait for nothing more, now that the task has ended."""
    return _freed(task.followers or ())


def _freed(waiting: Iterable[Task]) -> list[Task]:
    freed = []
    for each in waiting:
        each.missing -= 1
        if each.state != PENDING:
            continue
        if not each.missing:
            freed.append(each)
        elif each.near == each.missing and each.near_pilot is not None:
            each.near_pilot.early.append(each)
    return freed


def abort(dependents: Iterable[Task], end: Ended) -> list[Ending]:
    """Return the ends of the dependents of a task that has no results."""
    cause = _cause(end)
    return [(each, _state_after(end, each.template), (), cause, False) for each in dependents]


def consequence(end: Ended, dependent: Template) -> tuple[FinalState, TaskFailure]:
    """Return how a dependent ends, and why, for want of the results of the task that ended so."""
    return _state_after(end, dependent), _cause(end)


def first_lost(spec: TaskSpec, *lost: Mapping[int, Ended]) -> Ended | None:
    """Return the first end by which the task has lost an input; None if none is lost."""
    ends = [ends[needed] for needed, _ in spec.inputs for ends in lost if needed in ends]
    return min(ends, key=lambda end: end.at) if ends else None


def taken_along(end: Ended, name: str, why: str) -> TaskFailure:
    """Return the error of tasks that are cancelled by the task of this name, which ended so."""
    told = f"{why} by task {task_label(end.task)} ({name}), which is {_how(end)}"
    return TaskFailure("TaskCancelled", shortened(told, _CAUSE_BYTES), cause=end.task)


def inherit(
    task: Task, values: tuple[Value, ...] | None, failure: TaskFailure | None
) -> list[Ending]:
    """Return the ends of the tasks that get this task's results; `values` None: it has none."""
    ends: list[Ending] = []
    for parent, index, there in task.result_receivers or ():
        if values is None:
            ends.append((parent, cast("FinalState", task.state), (), failure, True))
            continue
        parent.values[index] = values[there]
        parent.owed -= 1
        if not parent.owed:
            ends.append((parent, COMPLETED, tuple(parent.values), None, True))
    return ends


def cut(task: Task) -> None:
    """Remove all edges of the task."""
    task.dependents = task.followers = task.result_receivers = None
    task.delegates = ()


def _state_after(end: Ended, dependent: Template) -> FinalState:
    policy = end.lost
    assert policy is not None
    cancels = policy.on_failure == "cancel_successors"
    if end.state == CANCELLED:
        # Where that follows from another end, it is passed on; what a user cancels is a cause.
        cancels = cancels or end.failure is not None
    elif end.state in FAILURES and not cancels:
        cancels = policy.on_failure == "stop_session" or (
            policy.group_fails_together
            and (policy.session, policy.group) == (dependent.session, dependent.group)
        )
    return CANCELLED if cancels else ABORTED


def _cause(end: Ended) -> TaskFailure:
    """Return the error of the dependents, which names the first cause."""
    assert end.lost is not None
    failure = end.failure
    if failure is not None and failure.cause:
        return failure
    # One that the task has raised, of tasks of its own, has base classes.
    if failure is not None and failure.type == "TaskAborted" and not failure.bases:
        return msgspec.structs.replace(failure, cause=end.task)
    return TaskFailure(
        type="TaskAborted",
        message=f"its input, task {task_label(end.task)} ({end.lost.name}), is {_how(end)}",
        detail=failure.detail if failure else "",
        cause=end.task,
    )


def _how(end: Ended) -> str:
    """Return a task's state and error in words."""
    return f"{end.state}: {end.failure.type}: {end.failure.message}" if end.failure else end.state
