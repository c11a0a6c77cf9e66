"""Which tasks of a session run again, and as what: pure.

What has ended stays ended, whoever was told: a task that is to run again becomes a new task of the
same session, with the same arguments, options and function. Where an argument was the result of a
task that runs again too, it is now that of the new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from pilot.errors import PilotError
from pilot.model.ids import task_label
from pilot.model.states import ABORTED, CANCELLED, FAILED, TIMED_OUT, FinalState
from pilot.model.tasks import TaskSpec

#: How tasks end that run again with all of their session, and where they are named.
RETRIED = (FAILED, TIMED_OUT, ABORTED)
CAN_BE_NAMED = (*RETRIED, CANCELLED)


class Ended(NamedTuple):
    """A task of the session that has not completed."""

    state: FinalState
    #: The task that submitted it; 0: a client.
    parent: int
    spec: TaskSpec
    #: The task that has taken its place since; 0: none.
    again: int = 0


def chosen(ended: Sequence[Ended], wanted: Iterable[int] | None) -> list[TaskSpec]:
    """Choose which of the tasks run again.

    Parameters
    ----------
    ended
        The tasks that could, in the order in which they were submitted.
    wanted
        Ids; None: all but those that were cancelled. Tasks that were aborted for want of one of
        them come along, and children of a task that runs again do not: it submits them anew.

    Raises
    ------
    PilotError
        One of them has not failed.
    """
    by_id = {task.spec.id: task for task in ended}
    ended = [task for task in ended if not task.again]
    if wanted is None:
        wanted = [task.spec.id for task in ended if task.state in RETRIED]
    taken = dict.fromkeys(wanted)
    for number in taken:
        if number not in by_id:
            raise PilotError(
                f"task {task_label(number)} has not failed; `pilot task list --failed` shows those "
                "that have"
            )
        if again := by_id[number].again:
            raise PilotError(f"task {task_label(number)} ran again already, as {task_label(again)}")
    for task in ended:
        if task.state == ABORTED and any(source in taken for source, _ in task.spec.inputs):
            taken[task.spec.id] = None
    return [
        task.spec
        for task in ended
        if task.spec.id in taken and not _has_ancestor(task, by_id, taken)
    ]


def _has_ancestor(task: Ended, by_id: dict[int, Ended], taken: dict[int, None]) -> bool:
    """Tell whether one that runs again submitted the task, itself or by its children."""
    parent = task.parent
    while parent in by_id:
        if parent in taken:
            return True
        parent = by_id[parent].parent
    return False


def renumbered(specs: Sequence[TaskSpec], ids: Sequence[int]) -> list[TaskSpec]:
    """Make new tasks of these, with the ids in the same places."""
    new = {spec.id: number for spec, number in zip(specs, ids, strict=True)}
    return [
        msgspec.structs.replace(
            spec,
            id=new[spec.id],
            inputs=tuple((new.get(source, source), index) for source, index in spec.inputs),
            ordinal=0,
            retry_of=spec.id,
        )
        for spec in specs
    ]
