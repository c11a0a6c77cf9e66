"""Edges between tasks: inputs, and results that a task has delegated to its children.

An unfinished task keeps the tasks that wait for it: its `dependents` need its results, its
`result_receivers` take them as their own. Plain functions over tasks: the ends of others that
follow from an end are returned as `Ending`s, which `pilot.head.core.lifecycle` carries out.

Invariants
----------
- `missing` counts the unfinished tasks among a task's inputs, each once, and `owed` the results
  that its children still owe.
- Edges of a task that ends are followed once, and then cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, cast

from pilot.head.core import allocation
from pilot.head.core.state import Task
from pilot.model.ids import Ref, task_label
from pilot.model.states import ABORTED, CANCELLED, COMPLETED, DELEGATED, PENDING, FinalState
from pilot.model.tasks import TaskFailure, TaskSpec
from pilot.model.values import Value

#: A task and its final state, with results or the reason, and True if its pilot knows of the end.
Ending: TypeAlias = tuple[Task, FinalState, tuple[Value, ...], TaskFailure | None, bool]


def link(task: Task, spec: TaskSpec, tasks: Mapping[int, Task]) -> None:
    """Make the task wait for those of its inputs that are not finished yet."""
    task.inputs = spec.inputs
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
    freed = []
    for dependent in task.dependents or ():
        dependent.missing -= 1
        if dependent.state != PENDING:
            continue
        if not dependent.missing:
            freed.append(dependent)
        elif dependent.near == dependent.missing and dependent.near_pilot is not None:
            dependent.near_pilot.early.append(dependent)
    return freed


def abort(task: Task, failure: TaskFailure | None) -> list[Ending]:
    """Return the ends of the dependents of a task that has no results."""
    cause = TaskFailure(
        type="TaskAborted",
        message=_cause(task, failure),
        detail=failure.detail if failure else "",
    )
    cancels = task.template.on_failure == "cancel_successors"
    after: FinalState = CANCELLED if cancels else ABORTED
    return [(each, after, (), cause, False) for each in task.dependents or ()]


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
    task.dependents = task.result_receivers = None
    task.delegates = ()


def _cause(task: Task, failure: TaskFailure | None) -> str:
    """Return the sentence that begins a dependent's error, and names the first cause."""
    # One that the task has raised, of tasks of its own, has base classes.
    if failure is not None and failure.type == "TaskAborted" and not failure.bases:
        return failure.message
    reason = f": {failure.type}: {failure.message}" if failure else ""
    return f"its input, task {task_label(task.id)} ({task.template.name}), is {task.state}{reason}"
