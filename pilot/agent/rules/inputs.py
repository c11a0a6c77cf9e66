"""Inputs made in this pilot, for tasks that were sent here before their inputs were there.

The head sends a task early where all that it still needs is held by one pilot: so a chain of short
tasks goes on without a word to the head. Its inputs are filled in here as soon as they have ended.

Invariants
----------
- A task leaves with all of its inputs, or it is given back.
- A result is kept until the head has committed it (from then on the head sends it along) and until
  no task here waits for it and for others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec

from pilot.model.tasks import Completion
from pilot.model.values import Value
from pilot.wire.messages.pilot import AttemptSpec, InputValue


class _Waiting:
    """A waiting task, and the results that it has got so far."""

    __slots__ = ("missing", "values", "work")

    def __init__(self, work: AttemptSpec, missing: set[int]) -> None:
        self.work = work
        self.missing = missing
        self.values: dict[int, tuple[Value, ...]] = {}

    def filled(self) -> AttemptSpec:
        """Return the work with the values of all its inputs."""
        inputs = tuple(
            item
            if item.value is not None
            else InputValue(item.task, item.index, self.values[item.task][item.index])
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

    def ended(self, completion: Completion) -> tuple[list[AttemptSpec], list[AttemptSpec]]:
        """Note the end of a task; return the tasks that now have all inputs, and those that never
        will here."""
        task = completion.task
        children = completion.children
        there = completion.outcome == "ok" and not (children and children.delegated)
        if there:
            self._values[task] = completion.values
        ready, hopeless = [], []
        for waiting in self._wanted.pop(task, ()):
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
        return ready, hopeless

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
