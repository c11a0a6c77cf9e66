"""Lookup of tasks: unfinished ones in the core, all others in the database.

Invariants
----------
- What the core has is newer, and goes first.
- A row is read and decoded once for an answer, and only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pilot.head.explain.report import Snapshot
from pilot.head.store.damage import naming
from pilot.head.store.rows import (
    decode_after,
    decode_delegated,
    decode_inputs,
    decode_result,
    decode_template,
)
from pilot.model.ids import Ref, task_label
from pilot.model.states import COMPLETED
from pilot.model.tasks import TaskFailure, Template
from pilot.texts import printable


class Recorded(NamedTuple):
    """A task as the database has it."""

    session: int
    name: str
    kind: str
    state: str
    attempts: int
    ended: float | None
    inputs: tuple[Ref, ...]
    after: tuple[int, ...]
    #: The children's results that stand for the task's own, by index.
    delegated: Mapping[int, Ref]
    deleted: bool
    failure: TaskFailure | None
    #: Tasks that wrote its results.
    owners: tuple[int, ...]
    #: True if all its results were released, and are gone.
    released: bool
    template: Template
    session_state: str
    paused: bool


class Lookup:
    """Looks tasks up for one answer."""

    def __init__(self, facts: Snapshot) -> None:
        self.has_head = facts.head.get("pid") is not None
        self._live = facts.core.tasks
        self._store = facts.store
        self._rows: dict[int, Recorded | None] = {}

    def row(self, number: int) -> Recorded | None:
        """Return a task as the database has it, or None."""
        if number not in self._rows:
            rows = self._store.rows("explain_task", {"task": number})
            with naming(number):
                self._rows[number] = _decoded(rows[0]) if rows else None
        return self._rows[number]

    def in_states(self, tasks: list[int], states: tuple[str, ...]) -> list[int]:
        """Return the tasks whose state in the database is one of these."""
        known = self._store.states(tasks) if tasks else {}
        return [task for task in dict.fromkeys(tasks) if known.get(task) in states]

    def template(self, number: int) -> Template:
        """Return the template of a known task."""
        live = self._live.get(number)
        if live is not None:
            return live.template
        row = self.row(number)
        assert row is not None
        return row.template

    def name(self, number: int) -> str:
        """Return a task as sentences name it: ``task 3.17 (name)``."""
        live = self._live.get(number)
        row = None if live else self.row(number)
        name = live.template.name if live else row.name if row else ""
        return f"task {task_label(number)}" + (f" ({printable(name)})" if name else "")

    def state(self, number: int) -> str:
        """Return the state of a task; ``UNKNOWN`` if it does not exist."""
        live = self._live.get(number)
        if live is not None:
            return live.state
        row = self.row(number)
        return "UNKNOWN" if row is None else row.state


def _decoded(row: dict[str, Any]) -> Recorded:
    values, failure = decode_result(row["result"])
    return Recorded(
        row["session"],
        row["name"],
        row["kind"],
        row["state"],
        row["attempts"],
        row["ended"],
        decode_inputs(row["inputs"]),
        decode_after(row["after"]),
        decode_delegated(row["delegated"])[1],
        row["state"] == COMPLETED and row["result"] is None,
        failure,
        tuple(value.owner for value in values),
        bool(values) and all(value.is_released for value in values),
        decode_template(row["detail"]),
        row["session_state"] or "",
        bool(row["paused"]),
    )
