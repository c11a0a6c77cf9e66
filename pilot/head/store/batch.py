"""The batch of changes that one transaction writes: the head's loop collects it in a turn. Pure.

Invariants
----------
- Rows are written in the order of `Batch.rows`: what others refer to comes before them.
- Nothing in a batch is told to anybody before its commit is done (`Batch.after`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from pilot.head.core.events import Attempt, Change, Delegated, Ended
from pilot.head.core.state import Task
from pilot.head.store.rows import attempt_row, encode, object_row
from pilot.model.ids import Ref
from pilot.model.objects import decode_naming
from pilot.model.states import SessionState
from pilot.model.tasks import Completion, Function, TaskOutcome, TaskSpec, Template
from pilot.model.values import Value

#: The approximate size of a row in memory besides its texts, in bytes.
ROW_BYTES = 500


class Batch:
    """The changes that one transaction writes."""

    def __init__(self) -> None:
        self.functions: list[tuple[int, bytes, bytes]] = []
        self.templates: list[tuple[int, int, str, str, str, bytes]] = []
        self.tasks: list[tuple[object, ...]] = []
        self.events: list[tuple[int, int, int, bytes]] = []
        self.delegated: list[tuple[bytes, int]] = []
        self.ends: list[tuple[object, ...]] = []
        self.borrowed: list[tuple[str, str, int]] = []
        self.objects: list[dict[str, object]] = []
        self.claims: list[Ref] = []
        self.released: list[tuple[bytes, int]] = []
        self.gone: list[Ref] = []
        self.unclaimed: list[Ref] = []
        self.returned: list[tuple[str, str, int]] = []
        self.garbage: list[dict[str, str]] = []
        self.versions: list[tuple[int, int, int, int]] = []
        self.swept: list[dict[str, str]] = []
        self.attempts: list[tuple[object, ...]] = []
        self.counts: list[tuple[int, int, int, int]] = []
        self.late: list[tuple[int, int]] = []
        self.sessions: list[dict[str, object]] = []
        self.paused: list[dict[str, object]] = []
        #: Functions to call once the batch is committed.
        self.after: list[Callable[[], None]] = []

    def __bool__(self) -> bool:
        return bool(
            self.tasks
            or self.ends
            or self.attempts
            or self.sessions
            or self.paused
            or self.functions
            or self.templates
            or self.swept
            or self.claims
            or self.released
            or self.unclaimed
            or self.after
        )  # what is delegated comes with its attempt; events alone can wait for others

    def size(self, skipped: Sequence[int] = (0, 0, 0, 0)) -> tuple[int, tuple[int, ...]]:
        """Return the approximate size in memory, in bytes, and the numbers of rows counted.

        Parameters
        ----------
        skipped
            The numbers of rows that were looked at before, and are not again.
        """
        size = 0
        lists: tuple[list[Any], ...] = (self.functions, self.tasks, self.ends, self.attempts)
        for rows, first in zip(lists, skipped, strict=True):
            for row in itertools.islice(rows, first, None):
                size += ROW_BYTES
                for value in row:
                    if isinstance(value, bytes | str):
                        size += len(value)
        return size, tuple(map(len, lists))

    def extend(self, later: Batch) -> None:
        """Append a later batch."""
        for name in vars(self):
            getattr(self, name).extend(getattr(later, name))

    def add_functions(self, session: int, functions: Iterable[Function]) -> None:
        """Add functions of a session."""
        self.functions.extend((session, f.digest, f.payload) for f in functions)

    def add_templates(self, templates: Iterable[Template]) -> None:
        """Add templates of a session."""
        self.templates.extend(
            (t.id, t.session, t.name, t.kind, t.pool, encode(t)) for t in templates
        )

    def add_tasks(self, accepted: Iterable[tuple[TaskSpec, Task, int]]) -> None:
        """Add accepted tasks."""
        self.tasks.extend(
            (
                spec.id,
                task.template.session,
                spec.template,
                parent,
                spec.ordinal,
                task.created_at,
                spec.payload,
                encode(spec.inputs) if spec.inputs else None,
                spec.digest or None,
                spec.retry_of or None,
                encode(spec.after) if spec.after else None,
                encode(spec.commutative) if spec.commutative else None,
            )
            for spec, task, parent in accepted
        )

    def add_versions(self, versions: Iterable[tuple[Ref, Ref]]) -> None:
        """Add the latest versions of values that tasks take by turns, by their anchors."""
        self.versions.extend((*anchor, *latest) for anchor, latest in versions)

    def add_swept(self, swept: Iterable[tuple[str, str]]) -> None:
        """Add garbage, as path and name, that was removed from the disk."""
        self.swept.extend({"path": path, "name": name} for path, name in swept)

    def add_ends(self, ended: Sequence[Ended]) -> None:
        """Add final states, with the values or the failure."""
        for end in ended:
            if end.values:
                self._borrow(end.task, end.values)
        self.ends.extend(
            (
                end.state,
                end.at,
                encode((end.values, end.failure)),
                end.failure.type if end.failure else None,
                end.pool or None,
                end.ran_s,
                end.memo or None,
                encode(end.files) if end.files and end.memo else None,
                end.task,
            )
            for end in ended
        )

    def add_released(
        self,
        outcomes: Iterable[TaskOutcome],
        gone: Iterable[Ref],
        unclaimed: Iterable[Ref],
        freed: Iterable[tuple[int, Value]],
        garbage: Iterable[Value],
    ) -> None:
        """Add that results are gone.

        Parameters
        ----------
        outcomes
            What is left of the results of these tasks.
        gone, unclaimed
            The results that are gone, and those that were released in vain.
        freed
            Values in files, each with a task that does not have it any more.
        garbage
            The values among these that their owners do not have either.
        """
        self.released.extend((encode((one.values, one.failure)), one.task) for one in outcomes)
        self.gone.extend(gone)
        self.unclaimed.extend(unclaimed)
        self.returned.extend((value.path, value.name, task) for task, value in freed)
        self.garbage.extend({"path": value.path, "name": value.name} for value in garbage)

    def add_objects(self, named: Iterable[tuple[TaskSpec, int]], now: float) -> None:
        """Add values that tasks (0: clients) have put under the names of objects."""
        for spec, parent in named:
            naming = decode_naming(spec.payload)
            if naming is not None:
                size = spec.values[0].size
                row = object_row(naming, spec.id, 0, size, parent, now, put=True)
                self.add_object(row, spec.values)

    def add_object(self, row: dict[str, object], values: Iterable[Value]) -> None:
        """Add a version of a named object; its task keeps all these values."""
        self.borrowed.extend((v.path, v.name, cast("int", row["task"])) for v in values if v.path)
        self.objects.append(row)

    def rows(self) -> tuple[tuple[str, Sequence[Any]], ...]:
        """Return the rows with the names of the statements that write them, in the order of
        writing."""
        return (
            ("add_functions", self.functions),
            ("add_templates", self.templates),
            ("add_tasks", self.tasks),
            ("add_attempts", self.attempts),
            ("count_attempts", self.counts),
            ("count_late_attempts", self.late),
            ("delegate_tasks", self.delegated),
            ("end_tasks", self.ends),
            ("add_versions", self.versions),
            ("add_borrowed", self.borrowed),
            ("add_objects", self.objects),
            ("add_claims", self.claims),
            ("release_results", self.released),
            ("add_released", self.gone),
            ("remove_claims", self.unclaimed),
            ("return_borrowed", self.returned),
            ("add_garbage_of_released", self.garbage),
            ("remove_garbage", self.swept),
            ("set_session_state", self.sessions),
            ("pause_session", self.paused),
            ("add_events", self.events),
        )

    def ended_tasks(self) -> Iterable[int]:
        """Return the tasks whose final states, or changed results, are in this batch."""
        ended: Any = (row[-1] for row in self.ends)
        return (*ended, *(task for _, task in self.released)) if self.released else ended

    def add_changes(self, changes: Sequence[Change], first: int) -> int:
        """Add events from number `first` on; return the number of the next one."""
        for session, alike in itertools.groupby(changes, lambda change: change.session):
            row = list(alike)
            count = sum(change.count for change in row)
            self.events.append((first, count, session, encode(row)))
            first += count
        return first

    def add_delegated(self, delegated: Iterable[Delegated]) -> None:
        """Add tasks whose results are to come from children; those that are there are kept."""
        for each in delegated:
            self.delegated.append((encode((each.values, each.refs)), each.task))
            self._borrow(each.task, each.values)

    def _borrow(self, task: int, values: Iterable[Value]) -> None:
        self.borrowed.extend(
            (value.path, value.name, task) for value in values if value.path and value.owner != task
        )

    def add_attempts(self, attempts: Iterable[Attempt], now: float) -> None:
        """Add attempts that ended."""
        for attempt in attempts:
            c = attempt.completion
            times = (attempt.created, attempt.ready, attempt.assigned)
            self.attempts.append(attempt_row(c, attempt.pilot, times, now))
            self.counts.append((c.attempt, attempt.errors, attempt.crashes, c.task))

    def add_late_attempts(self, late: Iterable[tuple[str, Completion]], now: float) -> None:
        """Add attempts of tasks that had ended before them."""
        for pilot, completion in late:
            row = attempt_row(completion, pilot, (None, None, None), now)
            self.attempts.append(row)
            self.late.append((completion.attempt, completion.task))

    def end_session(
        self, session: int, state: SessionState, ended: float | None, reason: str | None = None
    ) -> None:
        """Add a session's new state, the time of its end, and why nobody had to ask for that."""
        self.sessions.append({"id": session, "state": state, "ended": ended, "reason": reason})

    def pause_session(self, session: int, paused: bool) -> None:
        """Add that a session is paused, or resumed."""
        self.paused.append({"id": session, "paused": paused})
