"""Released results: who still needs them, and when they may go.

A client, or a task for what it has submitted, releases a result when it will not ask for it any
more. The result goes when no unfinished task needs it: as an input, or as a result of its own that
a child makes. Until then it is *claimed* here, and no task that is submitted later gets it.

Invariants
----------
- A result goes only once its task has ended and no unfinished task needs it; what needs a result is
  told apart by result, not by task.
- Needs are counted from the first release on: while nothing was released nothing is paid for it.
- A pilot is told of a result that it has not reported yet as soon as its own tasks alone need that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from pilot.head.core.events import Effects
from pilot.head.core.state import Task, Turn
from pilot.model.ids import Ref
from pilot.wire.messages.pilot import ReleasedResult

#: With more dependents than that no pilot is told before the result may go.
_MOST_DEPENDENTS = 16


class Releases:
    """The released results that are still needed, and who needs results.

    Parameters
    ----------
    tasks
        The unfinished tasks.
    """

    def __init__(self, tasks: Mapping[int, Task]) -> None:
        self._tasks = tasks
        #: The places of claimed results, by task.
        self._claimed: dict[int, set[int]] = {}
        #: How many unfinished tasks need each result; None: nothing was released yet.
        self._needs: Counter[Ref] | None = None
        #: False while nothing was released: then nothing here needs to be called.
        self.is_used = False
        #: What the current event has let go: it may not be marked as gone yet.
        self.just_gone: set[Ref] = set()

    def is_claimed(self, result: Ref) -> bool:
        """Tell whether a result was released, and is not for tasks that are submitted now."""
        if result in self.just_gone:
            return True
        return bool(self._claimed) and result[1] in self._claimed.get(result[0], ())

    def is_needed(self, result: Ref) -> bool:
        """Tell whether an unfinished task needs a result."""
        return self._counted()[result] > 0

    # --- what is released

    def release(self, results: Iterable[Ref], effects: Effects) -> None:
        """Let results go, or claim those that are needed or still to be made."""
        needs = self._counted()
        for result in results:
            number, place = result
            if self.is_claimed(result):
                continue
            task = self._tasks.get(number)
            if task is None and not needs[result]:
                self._let_go(result, effects)
            elif task is None or place < task.template.returns:
                self._claimed.setdefault(number, set()).add(place)
                effects.claimed.append(result)
                if task is not None:
                    self._tell_early(task, result, effects.unwanted)

    def restore(self, results: Collection[Ref], effects: Effects) -> None:
        """Claim what was released before, once all unfinished tasks are there."""
        if results:
            self.release(results, effects)
            effects.claimed.clear()  # that is written down already

    # --- who needs them

    def need(self, task: Task) -> None:
        """Count what a task needs from now on."""
        if self._needs is not None:
            for result in _needed(task):
                self._needs[result] += 1

    def need_no_more(self, task: Task, effects: Effects) -> None:
        """Let go what a task has needed, and nobody else does."""
        needs = self._needs
        if needs is None:
            return
        for result in _needed(task):
            needs[result] -= 1
            if needs[result]:
                continue
            del needs[result]
            if self._claimed and result[1] in self._claimed.get(result[0], ()):
                self._is_needed_less(result, effects)

    def replace(self, version: Ref, turn: Turn, effects: Effects) -> None:
        """Take in that all who take a value by turns need its next version from now on."""
        needs = self._counted()
        needs[turn.latest] += turn.members
        needs[version] -= turn.members
        if not needs[version]:
            del needs[version]
            if self.is_claimed(version) and version not in self.just_gone:
                self._is_needed_less(version, effects)

    def ended(self, task: Task, effects: Effects) -> None:
        """Take in the end of a task: nobody asks for it, or what it has made may go."""
        self.need_no_more(task, effects)
        if not self._claimed or task.id not in self._claimed:
            return
        for place in sorted(self._claimed[task.id]):
            if not self._counted()[task.id, place]:
                self._let_go((task.id, place), effects)

    def given(self, tasks: Iterable[Task], told: dict[str, list[ReleasedResult]]) -> None:
        """Note what pilots may do without, now that they were given these tasks."""
        if not self._claimed:
            return
        for task in tasks:
            for number, place in ((task.id, each) for each in self._claimed.get(task.id, ())):
                self._tell_early(task, (number, place), told)
            for result in task.inputs:
                source = self._tasks.get(result[0])
                if source is not None and result[1] in self._claimed.get(result[0], ()):
                    self._tell_early(source, result, told)

    def _is_needed_less(self, result: Ref, effects: Effects) -> None:
        source = self._tasks.get(result[0])
        if source is None:
            self._let_go(result, effects)
        else:
            self._tell_early(source, result, effects.unwanted)

    def _let_go(self, result: Ref, effects: Effects) -> None:
        number, place = result
        if (places := self._claimed.get(number)) is not None:
            places.discard(place)
            if not places:
                del self._claimed[number]
        self.just_gone.add(result)
        effects.released.append(result)

    def _tell_early(self, source: Task, result: Ref, told: dict[str, list[ReleasedResult]]) -> None:
        """Note a result for the pilot that makes it, if its own tasks alone need that."""
        pilot, dependents = source.pilot, source.dependents or ()
        if pilot is None or source.result_receivers or len(dependents) > _MOST_DEPENDENTS:
            return
        if source.template.cache or source.parts:
            return  # others find it by its key, or have it by turns
        needing = [each for each in dependents if result in each.inputs]
        if all(each.pilot is pilot for each in needing):
            them = tuple(each.id for each in needing)
            told.setdefault(pilot.name, []).append(ReleasedResult(*result, them))

    def _counted(self) -> Counter[Ref]:
        if self._needs is None:
            self.is_used, self._needs = True, Counter()
            for task in self._tasks.values():
                self._needs.update(_needed(task))
        return self._needs


def _needed(task: Task) -> tuple[Ref, ...]:
    """Return the results that an unfinished task needs; of a turn also the latest version."""
    if task.parts:
        return (*task.inputs, *task.borrows, *(part.turn.latest for part in task.parts))
    return task.inputs + task.borrows if task.borrows else task.inputs
