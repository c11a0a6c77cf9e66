"""How tasks have ended, for those that need to know: their dependents, and clients.

The last outcomes are in memory, also those that are not committed yet; others are read from the
database.

Invariants
----------
- What is forgotten here is committed, so it can be read again.
- A dependent sees a failure that is to be ignored as a good end, with the default as its values.
"""

from __future__ import annotations

from collections.abc import Iterable

from pilot.data.values import Value
from pilot.head.core import default_values
from pilot.head.policy import ABORTED, COMPLETED, FAILED, TIMED_OUT
from pilot.head.store import Store
from pilot.wire.messages import TaskFailure, TaskOutcome, task_label

#: So many of the last outcomes are kept in memory.
RECENT = 50_000
#: States that ``on_failure="ignore"`` makes good for dependents.
_FAILURES = (FAILED, TIMED_OUT, ABORTED)


class Outcomes:
    """The outcomes of all tasks that have ended."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: The last ones, oldest first.
        self.recent: dict[int, TaskOutcome] = {}

    def trim(self) -> None:
        """Forget old ones; right after a commit: what came meanwhile is among the newest."""
        if len(self.recent) > 2 * RECENT:
            for task in list(self.recent)[:RECENT]:
                del self.recent[task]

    def states(self, tasks: set[int]) -> dict[int, str]:
        """The states of those of the tasks that have ended, as their dependents see them."""
        states = {task: self.recent[task].state for task in tasks if task in self.recent}
        if unknown := tasks - states.keys():
            states.update(self._store.states(unknown))
        for task, state in states.items():
            if state in _FAILURES:
                states[task] = self._seen(TaskOutcome(task, state)).state
        return states

    def values(self, tasks: set[int]) -> dict[int, tuple[Value, ...]]:
        """The values of those of the tasks that have ended, as their dependents see them."""
        return {task: outcome.values for task, outcome in self.seen(tasks).items()}

    def seen(self, tasks: set[int]) -> dict[int, TaskOutcome]:
        """How those of the tasks that have ended have ended, as their dependents see it."""
        return {outcome.task: self._seen(outcome) for outcome in self._of(tasks)}

    def told(self, tasks: Iterable[int]) -> list[TaskOutcome]:
        """How tasks have ended, as clients are told.

        One that was never accepted, and that its client has given up, is said to be unknown,
        rather than nothing.
        """
        outcomes = {outcome.task: outcome for outcome in self._of(set(tasks))}
        return [outcomes.get(task) or _unknown(task) for task in tasks]

    def _of(self, tasks: set[int]) -> list[TaskOutcome]:
        found = [self.recent[task] for task in tasks if task in self.recent]
        if len(found) < len(tasks):
            found += self._store.results(task for task in tasks if task not in self.recent)
        return found

    def _seen(self, outcome: TaskOutcome) -> TaskOutcome:
        if outcome.state not in _FAILURES:
            return outcome
        template = self._store.template_of(outcome.task)
        if template.on_failure != "ignore":
            return outcome
        return TaskOutcome(outcome.task, COMPLETED, default_values(template))


def _unknown(task: int) -> TaskOutcome:
    failure = TaskFailure("unknown", f"task {task_label(task)} does not exist")
    return TaskOutcome(task, "FAILED", failure=failure)
