"""Ends whose released results went unwritten: good only with the ends of all that need these. Pure.

A pilot lets such results go when all tasks that need them have ended well there, and reports these
ends together. Where the head knows better (it has given one of these tasks to another pilot, or
counts on the result for something else), the result is made again.

Invariants
----------
- Of an end that is taken, nobody needs a result that is not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pilot.head.core.releases import Releases
from pilot.head.core.state import Task
from pilot.model.tasks import Completion, TaskFailure

_WHY = "a result that was released, and was not written, is needed after all"


def sound(
    completions: Sequence[Completion], tasks: Mapping[int, Task], releases: Releases
) -> Sequence[Completion]:
    """Return the completions of a report, those as interrupted whose results are missed.

    Parameters
    ----------
    completions
        In the order in which they were reported: each after those whose results it has used.
    tasks
        The unfinished tasks.
    releases
        What was released.
    """
    if not any(_waived(end) for end in completions):
        return completions
    well = {end.task for end in completions if end.outcome == "ok"}
    taken: list[Completion] = []
    for end in reversed(completions):
        task = tasks.get(end.task)
        waived = _waived(end)
        if task is not None and waived and _is_missed(task, waived, well, tasks, releases):
            well.discard(end.task)
            failure = TaskFailure("interrupted", _WHY, node=end.node, attempt=end.attempt)
            end = msgspec.structs.replace(
                end, outcome="interrupted", values=(), failure=failure, children=None, files=()
            )
        taken.append(end)
    taken.reverse()
    return taken


def _waived(end: Completion) -> list[int]:
    """Return the indices of the results that were let go."""
    delegated = end.children.delegated if end.children is not None else {}
    return [
        index
        for index, value in enumerate(end.values)
        if value.is_released and index not in delegated
    ]


def _is_missed(
    task: Task,
    waived: Sequence[int],
    well: set[int],
    tasks: Mapping[int, Task],
    releases: Releases,
) -> bool:
    """Tell whether somebody may still ask for a result, or an unfinished task that has not ended
    well with this one needs it."""
    if task.template.cache or task.parts or task.result_receivers:
        return True
    if not all(releases.is_claimed((task.id, index)) for index in waived):
        return True
    return any(
        each.id in tasks and each.id not in well and (task.id, index) in each.inputs
        for each in task.dependents or ()
        for index in waived
    )
