"""Turns: tasks that take the same value one after the other, in any order, each the latest version.

A `Turn` is of one result, the *anchor*. A member is handed out with the version that the last
member left, and leaves the next one where it completes. The head's shell gives the turn back once
that is committed, so that a new head, which knows the committed version, finds nobody with a later
one.

Invariants
----------
- A turn has one holder at a time, from when a pilot gets it until it has ended, or waits again.
- A version is given to members until one of them has completed; then it is given to no other.
- Of each class one member at most is in the queue of its class for a turn, the others are aside: so
  a turn that comes back costs the number of classes, and not that of members.
- A pilot that was away keeps a member only if nobody had the turn meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from pilot.head.core.state import Part, Task, Turn
from pilot.model.ids import Ref, session_of, task_label
from pilot.model.states import READY
from pilot.model.tasks import TaskSpec, Template


def is_reading(template: Template) -> bool:
    """Tell whether a task with turns does no work: it takes over the version, after others."""
    return template.kind == "value"


def join(task: Task, spec: TaskSpec, turns: dict[Ref, Turn]) -> None:
    """Give a new task its parts in turns; those of which nothing is known begin here."""
    parts = []
    for place, result in spec.commutative:
        anchor = spec.inputs[place]
        turn = turns.get(anchor)
        if turn is None:
            turn = turns[anchor] = Turn(anchor, anchor)
        turn.members += 1
        parts.append(Part(turn, place, result))
    task.parts = tuple(parts)


def latest(spec: TaskSpec, turns: Mapping[Ref, Turn]) -> list[Ref]:
    """List the versions that a new task would begin with, of the turns that there are."""
    if not spec.commutative or not turns:
        return []
    anchors = [spec.inputs[place] for place, _ in spec.commutative if place < len(spec.inputs)]
    return [turns[anchor].latest for anchor in anchors if anchor in turns]


def misfit(spec: TaskSpec, template: Template) -> str:
    """Return why a task cannot have the parts that it says, or ""."""
    for place, result in spec.commutative:
        if place >= len(spec.inputs) or result >= template.returns:
            return "it has no such input, or no such result, to take by turns"
        if session_of(spec.inputs[place][0]) != template.session:
            source = task_label(spec.inputs[place][0])
            return f"it takes a result of task {source} by turns, which is of another session"
    return ""


def enter(task: Task, first: bool) -> bool:
    """Tell whether a ready task may be in the queue of its class; if not, it is put aside."""
    work = task.own_class
    for part in task.parts:
        turn = part.turn
        if turn.holder is not None or work in turn.candidates:
            _put_aside(task, turn, first)
            return False
    for part in task.parts:
        part.turn.candidates[work] = task
    return True


def may_start(task: Task) -> bool:
    """Tell whether a task of a queue has its turns; if not, it is put aside."""
    held = next((part.turn for part in task.parts if part.turn.holder is not None), None)
    if held is None:
        return True
    _uncandidate(task)
    _put_aside(task, held, first=True)
    return False


def may_keep(task: Task, pilot: str, attempt: int) -> bool:
    """Tell whether a pilot that introduces itself may keep an attempt of a member."""
    return all(
        part.turn.holder in (None, task) and part.turn.last in (None, (pilot, task.id, attempt))
        for part in task.parts
    )


def take(task: Task, pilot: str) -> None:
    """Give a member that a pilot gets its turns."""
    _uncandidate(task)
    task.aside = False
    for part in task.parts:
        part.turn.holder = task
        part.turn.last = (pilot, task.id, task.attempt)


def complete(task: Task) -> list[tuple[Ref, Ref]]:
    """Make the results of a member the latest versions; return these, by their anchors."""
    for part in task.parts:
        part.turn.latest = (task.id, part.result)
    return [(part.turn.anchor, part.turn.latest) for part in task.parts]


def leave(task: Task) -> list[Task]:
    """Take a task out of its turns, whatever it has of them; return those to be queued now."""
    task.aside = False
    _uncandidate(task)
    for part in task.parts:
        if part.turn.holder is task:
            part.turn.holder = None
    return _next(part.turn for part in task.parts)


def give_back(anchor: Ref, number: int, turns: Mapping[Ref, Turn]) -> list[Task]:
    """Take a turn from a member whose version is committed; return those to be queued now."""
    turn = turns.get(anchor)
    if turn is None or turn.holder is None or turn.holder.id != number:
        return []
    turn.holder = None
    return _next((turn,))


def _next(turns: Iterable[Turn]) -> list[Task]:
    """Return the first that waits aside, of each class that has none in its queue."""
    found = []
    for turn in turns:
        if turn.holder is not None:
            continue
        for work, waiting in list(turn.aside.items()):
            while waiting and work not in turn.candidates:
                task = waiting.popleft()
                if task.aside and task.state == READY:
                    task.aside = False
                    found.append(task)
                    break
            if not waiting:
                del turn.aside[work]
    return found


def _put_aside(task: Task, turn: Turn, first: bool) -> None:
    task.aside = True
    waiting = turn.aside.setdefault(task.own_class, deque())
    if first:
        waiting.appendleft(task)
    else:
        waiting.append(task)


def _uncandidate(task: Task) -> None:
    for part in task.parts:
        if part.turn.candidates.get(task.own_class) is task:
            del part.turn.candidates[task.own_class]
