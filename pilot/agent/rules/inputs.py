"""Inputs made in this pilot, for tasks that were sent here before their inputs were there.

The head sends a task early where all that it still needs is held by one pilot: so a chain of short
tasks goes on without a word to the head. Its inputs are filled in here as soon as they have ended.
Where one process has all of these it is sent the task as well, *ahead* of them, and fills them in.

Invariants
----------
- A task leaves with all of its inputs, ahead of them, or it is given back.
- A result is kept until the head has committed it (from then on the head sends it along) and until
  no task here waits for it and for others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import msgspec

from pilot.model.tasks import Completion
from pilot.model.values import Value
from pilot.wire.messages.pilot import AttemptSpec, InputValue


class Ended(NamedTuple):
    """The consequences of the end of a task for others."""

    #: Those that now have all inputs.
    ready: list[AttemptSpec]
    #: Those that never will here.
    hopeless: list[AttemptSpec]
    #: Those that were sent ahead of it; `came`: with the end their process has the result.
    ahead: list[AttemptSpec]
    came: bool


class _Waiting:
    """A waiting task, and the results that it has got so far."""

    __slots__ = ("missing", "values", "work")

    def __init__(self, work: AttemptSpec, missing: set[int]) -> None:
        self.work = work
        self.missing = missing
        self.values: dict[int, tuple[Value, ...]] = {}

    def filled(self) -> AttemptSpec:
        """Return the work with the values of its inputs, as far as they are there."""
        values = self.values
        inputs = tuple(
            item
            if item.value is not None or item.task not in values
            else InputValue(item.task, item.index, values[item.task][item.index])
            for item in self.work.inputs
        )
        return msgspec.structs.replace(self.work, inputs=inputs)


class Inputs:
    """The recent results of this pilot, and the tasks that wait for others."""

    def __init__(self) -> None:
        self._values: dict[int, tuple[Value, ...]] = {}
        self._waiting: dict[int, _Waiting] = {}
        #: Task → those that wait for it.
        self._wanted: dict[int, list[_Waiting]] = {}
        #: Those that were sent ahead of their inputs, and have not ended.
        self._ahead: dict[int, _Waiting] = {}

    def add(
        self,
        work: AttemptSpec,
        held: Mapping[int, int],
        has_ended: Callable[[int], bool] = lambda _: False,
    ) -> AttemptSpec | None:
        """Return a task with all its inputs, or None if it has to wait for some.

        Parameters
        ----------
        work
            May have inputs without a value.
        held
            The tasks that are here and are not reported.
        has_ended
            Tells whether one of them has ended all the same.

        Raises
        ------
        LookupError
            An input neither is here nor will be.
        """
        missing = {item.task for item in work.inputs if item.value is None}
        if not missing:
            return work
        waiting = _Waiting(work, missing)
        for source in missing.intersection(self._values):
            waiting.values[source] = self._values[source]
            missing.discard(source)
        if not missing.issubset(held) or any(map(has_ended, missing)):
            raise LookupError("its input is not made here")
        if not missing:
            return waiting.filled()
        self._waiting[work.task] = waiting
        for source in missing:
            self._wanted.setdefault(source, []).append(waiting)
        return None

    def send_ahead(
        self, tasks: Iterable[int], most: int, may: Callable[[AttemptSpec], bool]
    ) -> list[AttemptSpec]:
        """Take out, in an order in which they can run, the tasks that need nothing but results of
        these and of each other.

        Only one that nobody waits beside: others may run at once, elsewhere.

        Parameters
        ----------
        tasks
            The tasks that a process has, or will have.
        most
            The greatest number of tasks to be taken.
        may
            Tells whether one may go; it has all that is known of its inputs.
        """
        found: list[AttemptSpec] = []
        there = set(tasks)
        makers = deque(there)
        while makers and len(found) < most:
            wanted = self._wanted.get(makers.popleft(), ())
            if len(wanted) != 1:
                continue
            (waiting,) = wanted
            task = waiting.work.task
            if self._waiting.get(task) is not waiting or not waiting.missing <= there:
                continue
            work = waiting.filled()
            if may(work):
                self._ahead[task] = self._waiting.pop(task)
                there.add(task)
                makers.append(task)
                found.append(work)
        return found

    def take_ahead(self, task: int) -> AttemptSpec | None:
        """Return a task that was sent ahead and has not run, with all that is there of its inputs;
        None: it was not sent ahead."""
        waiting = self._ahead.pop(task, None)
        return None if waiting is None else waiting.filled()

    def ended(self, completion: Completion) -> Ended:
        """Note the end of a task; return what that means for those that wait for it."""
        task = completion.task
        self._ahead.pop(task, None)
        children = completion.children
        there = completion.outcome == "ok" and not (children and children.delegated)
        if there:
            self._values[task] = completion.values
        ready, hopeless, ahead = [], [], []
        for waiting in self._wanted.pop(task, ()):
            if self._ahead.get(waiting.work.task) is waiting:
                if there:
                    waiting.values[task] = completion.values
                    waiting.missing.discard(task)
                ahead.append(waiting.work)
                continue
            if self._waiting.get(waiting.work.task) is not waiting:
                continue  # it was taken out
            if not there:
                del self._waiting[waiting.work.task]
                hopeless.append(waiting.work)
                continue
            waiting.values[task] = completion.values
            waiting.missing.discard(task)
            if not waiting.missing:
                del self._waiting[waiting.work.task]
                ready.append(waiting.filled())
        return Ended(ready, hopeless, ahead, there)

    def is_wanted(self, task: int) -> bool:
        """Tell whether a task waits here for the result of this one."""
        return task in self._wanted

    def lose(self, task: int) -> list[AttemptSpec]:
        """Drop the results of a task, which are lost; return the waiting tasks that had got
        them."""
        self._values.pop(task, None)
        hopeless = [its.work for its in self._waiting.values() if task in its.values]
        for work in hopeless:
            del self._waiting[work.task]
        return hopeless

    def waiting(self) -> list[AttemptSpec]:
        """List the work that waits for inputs."""
        return [waiting.work for waiting in self._waiting.values()]

    def take(self, tasks: Collection[int] | None = None) -> list[AttemptSpec]:
        """Remove and return those of `tasks` that wait for inputs; all that wait if `tasks` is
        None."""
        named = [task for task in self._waiting if tasks is None or task in tasks]
        return [self._waiting.pop(task).work for task in named]

    def forget(self, tasks: Iterable[int]) -> None:
        """Drop the results of tasks whose ends the head has committed."""
        for task in tasks:
            self._values.pop(task, None)
