"""The choice of a session's tasks to run again, and their new form: pure.

What has ended stays ended, whoever was told: a task that is to run again becomes a new task of the
same session, with the same arguments, options and function. Where an argument was the result of a
task that runs again too, it is now that of the new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from pilot.errors import PilotError
from pilot.model.ids import task_label
from pilot.model.states import ABORTED, FAILURES, FinalState
from pilot.model.tasks import TaskSpec


class Ended(msgspec.Struct, frozen=True):
    """A task of the session that ended without completing."""

    state: FinalState
    #: The task that submitted it, the one that submitted that, and so on; 0: a client.
    ancestors: tuple[int, ...]
    spec: TaskSpec
    #: The task that has taken its place since; 0: none.
    again: int = 0


def chosen(ended: Sequence[Ended], wanted: Iterable[int] | None) -> list[TaskSpec]:
    """Choose the tasks that run again.

    Parameters
    ----------
    ended
        The tasks that could, in the order in which they were submitted.
    wanted
        Ids; None: all but those that were cancelled. Tasks that were aborted for want of them come
        along, as soon as they lack nothing else. Children of a task that runs again do not: it
        submits them anew.

    Raises
    ------
    PilotError
        One of them has not failed.
    """
    by_id = {task.spec.id: task for task in ended}
    # What ran again has submitted its children anew.
    by_whom = {task.spec.id: _replaced(task, by_id) for task in ended}
    ended = [task for task in ended if not by_whom[task.spec.id]]
    is_all = wanted is None
    if wanted is None:
        wanted = [task.spec.id for task in ended if task.state in FAILURES]
    taken = dict.fromkeys(wanted)
    for number in taken:
        if number not in by_id:
            raise PilotError(
                f"task {task_label(number)} has not failed; `pilot task list --failed` shows those "
                "that have"
            )
        if replaced := by_whom[number]:
            what = (
                "" if replaced == number else f"is a child of task {task_label(replaced)}, which "
            )
            again = task_label(by_id[replaced].again)
            raise PilotError(f"task {task_label(number)} {what}ran again already, as {again}")
    for task in ended:
        sources = {_latest(source, by_id) for source, _ in task.spec.inputs}
        lacks = by_id.keys() & sources
        if task.state == ABORTED and lacks <= taken.keys() and (lacks or is_all):
            taken[task.spec.id] = None
    return [
        _with_latest(task.spec, by_id)
        for task in ended
        if task.spec.id in taken and not taken.keys() & task.ancestors
    ]


def _replaced(task: Ended, by_id: Mapping[int, Ended]) -> int:
    """Return the first of a task and its ancestors that has run again; 0 if there is none."""
    for number in (task.spec.id, *task.ancestors):
        if number in by_id and by_id[number].again:
            return number
    return 0


def _with_latest(spec: TaskSpec, by_id: Mapping[int, Ended]) -> TaskSpec:
    """Return a task that refers to the latest runs of the tasks that it waits for."""
    inputs = tuple((_latest(source, by_id), index) for source, index in spec.inputs)
    after = tuple(_latest(source, by_id) for source in spec.after)
    return msgspec.structs.replace(spec, inputs=inputs, after=after)


def _latest(number: int, by_id: Mapping[int, Ended]) -> int:
    while number in by_id and by_id[number].again:
        number = by_id[number].again
    return number


def renumbered(specs: Sequence[TaskSpec], ids: Sequence[int]) -> list[TaskSpec]:
    """Make new tasks of `specs`, with the ids in the same order."""
    new = {spec.id: number for spec, number in zip(specs, ids, strict=True)}
    return [
        msgspec.structs.replace(
            spec,
            id=new[spec.id],
            inputs=tuple((new.get(source, source), index) for source, index in spec.inputs),
            ordinal=0,
            retry_of=spec.id,
            after=tuple(new.get(source, source) for source in spec.after),
        )
        for spec in specs
    ]
