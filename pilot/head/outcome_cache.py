"""The outcomes of ended tasks, for their dependents and for clients.

The last outcomes are in memory, also those that are not committed yet; others are read from the
database.

Invariants
----------
- What is forgotten here is committed, so it can be read again.
- What is kept is bounded by number and by bytes, but for what one commit may bring.
- Of a session that has ended nothing is kept once its end is committed.
- A result that is gone, since it was released, is told as such from then on.
- A dependent sees a failure that is to be ignored as a good end, with the default as its values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from pilot.errors import ResultError
from pilot.head.core.core import default_values
from pilot.head.core.events import Ended
from pilot.head.store.reader import Reader
from pilot.model.ids import Ref, session_of
from pilot.model.states import ABORTED, COMPLETED, FAILED, TIMED_OUT, KnownState, ToldState
from pilot.model.tasks import TaskOutcome
from pilot.model.values import RELEASED, Value

#: The number and the total size, in bytes, of the last outcomes that are kept in memory.
RECENT, RECENT_BYTES = 50_000, 64 << 20
#: The approximate size of an outcome besides its values, in bytes.
_OUTCOME_BYTES = 500
#: The number of outcomes that are read at a time.
_PORTION = 100
#: States that ``on_failure="ignore"`` makes good for dependents.
_FAILURES = (FAILED, TIMED_OUT, ABORTED)


class Outcomes:
    """The outcomes of all tasks that have ended."""

    def __init__(self, store: Reader) -> None:
        self._store = store
        #: The last outcomes, oldest first.
        self._recent: dict[int, TaskOutcome] = {}
        #: The outcomes that dependents get in place of failures that are to be ignored.
        self._ignored: dict[int, tuple[Value, ...]] = {}
        #: The ends by which dependents get nothing.
        self._lost: dict[int, Ended] = {}
        self._bytes = 0
        #: Tasks among the last whose results are found by a key.
        self._memoised: set[int] = set()
        #: True if a result was ever released.
        self.any_released = store.any_released
        #: Sessions that have ended, of which something may be kept.
        self._closed: set[int] = set()

    def keep(self, end: Ended) -> TaskOutcome:
        """Keep the outcome of a task, which may not be committed yet; return it."""
        outcome = TaskOutcome(end.task, end.state, end.values, end.failure)
        self._recent[end.task] = outcome
        if end.ignored is not None:
            self._ignored[end.task] = end.ignored
        elif end.lost is not None:
            self._lost[end.task] = end
        if end.memo:
            self._memoised.add(end.task)
        self._bytes += _size(outcome)
        return outcome

    def forget(self, task: int) -> None:
        """Forget the outcome of a task, whose result was deleted: it is read again when needed."""
        outcome = self._recent.pop(task, None)
        if outcome is not None:
            self._bytes -= _size(outcome)
            self._ignored.pop(task, None)
            self._lost.pop(task, None)
            self._memoised.discard(task)

    def forget_all(self) -> None:
        """Forget all outcomes: they are read again when needed. All must be committed."""
        self._recent.clear()
        self._ignored.clear()
        self._lost.clear()
        self._memoised.clear()
        self._bytes = 0

    def close(self, session: int) -> None:
        """Forget the tasks of an ended session, once its end is committed."""
        self._closed.add(session)

    def trim(self, uncommitted: Callable[[], Iterable[int]]) -> None:
        """Forget the oldest outcomes down to a bound that is exceeded twice; right after a commit.

        Parameters
        ----------
        uncommitted
            Gives the tasks that have ended since that commit began: they are not in the database
            yet.
        """
        recent = self._recent
        if self._closed:
            self._forget_closed(set(uncommitted()))
        if len(recent) <= 2 * RECENT and self._bytes <= 2 * RECENT_BYTES:
            return
        kept = set(uncommitted())
        for task in list(recent):
            if task in kept or (len(recent) <= RECENT and self._bytes <= RECENT_BYTES):
                return
            self.forget(task)

    def _forget_closed(self, uncommitted: set[int]) -> None:
        closed = self._closed
        ended = [task for task in self._recent if session_of(task) in closed]
        self._closed = {session_of(task) for task in ended if task in uncommitted}
        for task in ended:
            if task not in uncommitted:
                self.forget(task)

    def known(self, tasks: set[int]) -> set[int]:
        """Return those of the tasks that there are, or were, and that have ended if none is live.

        An end counts before it is committed, which takes long where the disk is full.
        """
        known = tasks & self._recent.keys()
        if unknown := tasks - known:
            known |= self._store.states(unknown).keys()
        return known

    # --- released results

    def there(self, tasks: set[int]) -> dict[int, tuple[Value, ...]]:
        """Return the results of the completed ones among ended tasks."""
        found: dict[int, tuple[Value, ...]] = {}
        left = list(tasks)
        while left:  # a portion at a time: what is read may be large
            portion, left = left[:_PORTION], left[_PORTION:]
            outcomes = self._of(set(portion))
            found |= {one.task: one.values for one in outcomes if one.state == COMPLETED}
        return found

    def kept(self, tasks: set[int]) -> set[int]:
        """Return the tasks among these of which a result is found by a name, or by its key.

        Names that are not written yet are not known here.
        """
        return (tasks & self._memoised) | self._store.kept(tasks)

    def replace(self, task: int, values: tuple[Value, ...]) -> TaskOutcome:
        """Keep what is left of a completed task's results; return the outcome, to be written."""
        outcome = TaskOutcome(task, COMPLETED, values)
        if (before := self._recent.get(task)) is not None:
            self._bytes -= _size(before)
        self._recent[task] = outcome
        self._bytes += _size(outcome)
        return outcome

    def gone(self, results: Iterable[Ref]) -> set[Ref]:
        """Return those of these results of ended tasks that were released, and are gone."""
        if not self.any_released:
            return set()
        gone: set[Ref] = set()
        older: set[int] = set()
        wanted = list(results)
        for result in wanted:
            outcome = self._recent.get(result[0])
            if outcome is None:
                older.add(result[0])
            elif result[1] < len(outcome.values) and outcome.values[result[1]].is_released:
                gone.add(result)
        if older:
            places = self._store.released_places(older)
            gone.update(one for one in wanted if one[1] in places.get(one[0], ()))
        return gone

    def states(self, tasks: set[int]) -> dict[int, KnownState | ToldState]:
        """Return the states of the tasks that have ended, as their dependents see them."""
        states: dict[int, KnownState | ToldState] = {
            task: self._recent[task].state for task in tasks if task in self._recent
        }
        if unknown := tasks - states.keys():
            states |= self._store.states(unknown)
        for task, state in states.items():
            if state in (FAILED, TIMED_OUT, ABORTED):
                states[task] = self._seen(TaskOutcome(task, state)).state
        return states

    def lost(self, tasks: set[int]) -> dict[int, Ended]:
        """Return the ends of tasks of which dependents get nothing."""
        lost = {task: self._lost[task] for task in tasks if task in self._lost}
        if others := tasks - lost.keys():
            lost |= self._store.lost(others)
        return lost

    def values(self, tasks: set[int]) -> dict[int, tuple[Value, ...]]:
        """Return the values of the tasks that have ended, as their dependents see them.

        Raises
        ------
        ResultError
            One has none: its row in the database is damaged.
        """
        seen = self.seen(tasks)
        for outcome in seen.values():
            if outcome.failure is not None and not outcome.values:
                raise ResultError(
                    f"a result that it needs cannot be read: {outcome.failure.message}"
                )
        return {task: outcome.values for task, outcome in seen.items()}

    def seen(self, tasks: set[int]) -> dict[int, TaskOutcome]:
        """Return the outcomes of the tasks that have ended, as their dependents see them."""
        return {outcome.task: self._seen(outcome) for outcome in self._of(tasks)}

    def told(self, tasks: Iterable[int]) -> list[TaskOutcome]:
        """Return the outcomes of tasks, as clients are told.

        One that was never accepted, and that its client has given up, is said to be lost, rather
        than nothing.
        """
        outcomes = {outcome.task: outcome for outcome in self._of(set(tasks))}
        return [outcomes.get(task) or TaskOutcome(task, "LOST") for task in tasks]

    def _of(self, tasks: set[int]) -> list[TaskOutcome]:
        found = [self._recent[task] for task in tasks if task in self._recent]
        if len(found) < len(tasks):
            found += self._store.results(task for task in tasks if task not in self._recent)
        return found

    def _seen(self, outcome: TaskOutcome) -> TaskOutcome:
        if outcome.state not in _FAILURES:
            return outcome
        if outcome.task in self._recent:  # it may not be in the database yet
            ignored = self._ignored.get(outcome.task)
        else:
            template = self._store.template_of(outcome.task)
            ignored = None
            if template.on_failure == "ignore":
                ignored = default_values(template, outcome.failure)
        if ignored is None:
            return outcome
        return TaskOutcome(outcome.task, COMPLETED, ignored)


def without(values: tuple[Value, ...], places: Collection[int]) -> tuple[Value, ...]:
    """Return the values of a task of which those in these places were released."""
    return tuple(RELEASED if place in places else value for place, value in enumerate(values))


def _size(outcome: TaskOutcome) -> int:
    size = _OUTCOME_BYTES
    for value in outcome.values:
        size += len(value.payload)
    failure = outcome.failure
    if failure is not None:
        size += len(failure.exception) + len(failure.message) + len(failure.detail)
    return size
