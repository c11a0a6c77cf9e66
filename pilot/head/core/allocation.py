"""The place of an unfinished task: the queue of its class, a pilot, or neither.

Plain functions over tasks and pilots; whoever calls them decides why.

Invariants
----------
- What a pilot holds is counted alike in six places: its `held`, `load`, `shares` and `coreless`,
  the class's `assigned`, the session's `load`. Of a task that a pilot has still to end, the pilot
  alone counts the cores, until that is reported. A task that waits for others is in `held` and
  `waits` alone.
- Of what a pilot holds, exactly the tasks that are ASSIGNED are in its `waiting`.
- A class's `ready` counts the tasks in its queue that may be given away; those that wait for a turn
  are aside. One that leaves the state READY stays in the queue until it is popped: queues are never
  searched.
- A task's `near` of its missing inputs are with its `near_pilot`, or fewer: whoever goes by it asks
  the task itself once more.
"""

from __future__ import annotations

from pilot.head.core import turns
from pilot.head.core.events import Effects, Log
from pilot.head.core.state import Pilot, Task
from pilot.model.states import ASSIGNED, READY, RUNNING
from pilot.scheduler.assignment import is_short
from pilot.scheduler.resources import cores_on


def queue(task: Task, first: bool = False) -> None:
    """Put a ready task in the queue of its class: at the end, or before all others.

    One that waits for a turn that another one has is put aside, and comes here again.
    """
    if task.parts and not turns.enter(task, first):
        return
    work = task.task_class = task.own_class
    work.ready += 1
    if first:
        work.queue.appendleft(task)
    else:
        work.queue.append(task)


def hold(task: Task, pilot: Pilot, now: float, log: Log) -> None:
    """Assign the task to the pilot."""
    work = task.task_class
    if _is_queued(task):
        work.ready -= 1
    work.assigned += 1
    task.state = ASSIGNED
    task.pilot = pilot
    task.assigned_at = now
    task.started_at = 0.0
    if task.parts:
        turns.take(task, pilot.name)
    pilot.hold(task.id, cores_on(work.need, pilot.shape))
    if not is_short(work):
        pilot.note_lasting(task.id)
    pilot.waiting.setdefault(work, {})[task] = now
    work.session.load += work.cores
    for dependent in task.dependents or ():
        near(dependent, pilot)
    log.task(task.id, ASSIGNED, work.session.id, now, pilot.name)


def begin(task: Task, pilot: Pilot, started: float, now: float, log: Log) -> None:
    """Record that the task runs, or has run, as its pilot has reported."""
    task.state = RUNNING
    task.started_at = started
    _waits_no_more(task, pilot)
    log.task(task.id, RUNNING, task.task_class.session.id, now)


def wait(task: Task, pilot: Pilot) -> None:
    """Count the cores, or the place, of a task as free: it waits for other tasks."""
    work = task.task_class
    work.waits = True
    pilot.lend(task.id, work.depth)
    work.assigned -= 1
    work.session.load -= work.cores


def go_on(task: Task, pilot: Pilot) -> None:
    """Count a task again that has waited for others."""
    work = task.task_class
    pilot.take_again(task.id)
    work.assigned += 1
    work.session.load += work.cores


def near(task: Task, pilot: Pilot) -> None:
    """Count one more of the task's missing inputs as held by `pilot`."""
    if task.near_pilot is pilot:
        task.near += 1
    else:
        task.near_pilot, task.near = pilot, 1
    if task.near == task.missing:
        pilot.early.append(task)


def leave_pilot(task: Task) -> None:
    """Remove the task from its pilot, if it has one."""
    if (pilot := task.pilot) is not None:
        _unassign(task)
        pilot.release(task.id)


def revoke(task: Task, effects: Effects) -> None:
    """Have the pilot of a task end it; its cores stay counted until that is reported."""
    if task.pilot is not None:
        effects.cancel.setdefault(task.pilot.name, []).append(task.id)
        _unassign(task)


def let_go(task: Task, effects: Effects, reported: bool) -> None:
    """Remove a task that ends from its queue or pilot; `reported`: the pilot knows of the end."""
    if task.pilot is None:
        if _is_queued(task):
            task.task_class.ready -= 1
    elif reported:
        leave_pilot(task)
    else:
        revoke(task, effects)


def _unassign(task: Task) -> None:
    assert task.pilot is not None
    if task.state == ASSIGNED:
        _waits_no_more(task, task.pilot)
    for dependent in task.dependents or ():
        if dependent.near_pilot is task.pilot:
            # Maybe it was not counted: another pilot had the last one, in between.
            dependent.near = max(0, dependent.near - 1)
    if task.id not in task.pilot.waits:
        task.task_class.assigned -= 1
        task.task_class.session.load -= task.task_class.cores
    task.pilot = None


def _waits_no_more(task: Task, pilot: Pilot) -> None:
    waiting = pilot.waiting[task.task_class]
    del waiting[task]
    if not waiting:
        del pilot.waiting[task.task_class]


def _is_queued(task: Task) -> bool:
    """Tell whether a task may be given to a pilot: it is ready, its memo lookup is done, and it
    does not wait for a turn."""
    return (
        task.state == READY
        and (task.memo is not None or not task.template.cache)
        and not task.aside
    )
