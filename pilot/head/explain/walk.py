"""Walk from a task through the tasks that it waits for, back to those that wait for no other.

A task that waits for others is not a cause of anything: it is followed, through its inputs, through
the tasks that it comes after, and through the children that it has delegated its results to. The
same walk leads from a task that was aborted to the one that failed first.

Invariants
----------
- No more is looked at than the limits below allow, however many tasks wait; `Walk.roots` says where
  it did not look further.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from pilot.head.explain.lookup import Lookup, Recorded
from pilot.head.explain.report import Snapshot
from pilot.model.ids import Ref
from pilot.model.states import (
    ABORTED,
    CANCELLED,
    COMPLETED,
    DELEGATED,
    FAILED,
    PENDING,
    READY,
    TIMED_OUT,
)

#: The most tasks that one walk visits; the most rows, if only the database knows them.
LOOK_TASKS, LOOK_ROWS = 10_000, 1000


class Walk:
    """Walks from tasks to the tasks that they wait for, for one answer."""

    def __init__(self, facts: Snapshot, known: Lookup) -> None:
        self._live = facts.core.tasks
        self._known = known
        self._root_of: dict[int, int] = {}
        self._steps = 0

    def needs(self, number: int) -> tuple[int, ...]:
        """Return the tasks that this one waits for, or that aborted it."""
        live = self._live.get(number)
        if live is not None:
            if live.state == PENDING:
                needed: Iterable[int] = (*(source for source, _ in live.inputs), *live.after)
            elif live.state == DELEGATED:
                needed = (child.id for child in live.delegates)
            else:
                return ()
            unfinished = (each for each in needed if each in self._live)
            return tuple(dict.fromkeys(islice(unfinished, LOOK_TASKS + 1)))
        row = self._known.row(number)
        if row is None or (row.state == READY and self._known.has_head):
            return ()
        if row.state == READY:
            before = [*(source for source, _ in row.inputs), *row.after]
            return tuple(self._known.in_states(before, (READY, DELEGATED)))
        if row.state == DELEGATED:
            return tuple(
                self._known.in_states([s for s, _ in row.delegated.values()], (READY, DELEGATED))
            )
        if row.state in (COMPLETED, CANCELLED):
            return ()
        return self._culprit(row)

    def _culprit(self, row: Recorded) -> tuple[int, ...]:
        """Return the task whose end was this one's: a child that had its results, or an input."""
        sources = [source for source, _ in row.delegated.values()]
        if row.state == ABORTED:
            sources += [source for source, _ in row.inputs]
        for each in self._known.in_states(sources, (FAILED, TIMED_OUT, ABORTED, CANCELLED)):
            found = self._known.row(each)
            if found is None or found.template.on_failure != "ignore" or found.state == CANCELLED:
                return (each,)
        return ()

    def owner(self, number: int, index: int) -> Ref | None:
        """Return the child, and its result, that stands for a result; None if there is none."""
        live = self._live.get(number)
        if live is None:
            row = self._known.row(number)
            return row.delegated.get(index) if row is not None else None
        for child in live.delegates:
            for heir, here, there in child.result_receivers or ():
                if heir is live and here == index:
                    return child.id, there
        return None

    def root(self, number: int) -> int:
        """Return the task at the end of the way along the first task that each waits for."""
        way = []
        while number not in self._root_of and self._steps < LOOK_TASKS:
            way.append(number)
            self._steps += 1
            needs = self.needs(number)
            if not needs:
                break
            number = needs[0]
        number = self._root_of.get(number, number)
        self._root_of.update(dict.fromkeys(way, number))
        return number

    def roots(self, number: int) -> tuple[dict[int, int], list[int], bool]:
        """Return which task led to which, the ends of all ways, and True if that is all."""
        most = LOOK_TASKS if self._live else LOOK_ROWS
        led: dict[int, int] = {number: 0}
        ends, waiting = [], [number]
        for each in waiting:  # it grows
            needs = self.needs(each)
            if not needs:
                ends.append(each)
            for needed in needs:
                if needed not in led:
                    led[needed] = each
                    if len(led) > most:
                        return led, ends or [self.root(number)], False
                    waiting.append(needed)
        return led, ends, True


def way_to(led: Mapping[int, int], first: int, last: int) -> list[int]:
    """Return the way from one task to another, from which one led to which."""
    way = [last]
    while way[-1] != first:
        way.append(led.get(way[-1]) or first)
    return way[::-1]
