"""What can be asked of a head: one function for each query, from name and arguments to plain data.

Rows come from the database; what only the core knows (which of the unfinished tasks are assigned or
run, and where) is laid over them. Nothing here changes anything. With an empty core (see `offline`)
the rows stand as they are: there all unfinished tasks are READY.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, Protocol

import msgspec

from pilot.errors import PilotError
from pilot.head.core import Core
from pilot.head.events import Change
from pilot.head.policy import FINAL
from pilot.head.store import (
    Store,
    decode_failure,
    decode_inputs,
    decode_logs,
    decode_result,
    decode_template,
)
from pilot.wire.messages import RunningTask, parse_task_label, task_label

#: Rows in one answer, unless the question says otherwise.
LIMIT = 1000
#: So many rows of the log of events are read at a time.
_EVENT_ROWS = 64


class Pilot(Protocol):
    """What is known of a pilot beyond the database."""

    @property
    def nodes(self) -> int:
        """The nodes that it has now."""

    @property
    def heard(self) -> float:
        """When it last gave a sign of life; 0: it has not."""

    @property
    def idle_s(self) -> float:
        """How long nothing has run there."""

    @property
    def draining(self) -> bool:
        """Whether it starts nothing new."""

    @property
    def waits_for(self) -> str:
        """The batch system's reason for its state."""

    @property
    def expected(self) -> float | None:
        """When the batch system expects it to start."""


class Pilots(Protocol):
    """The fleet, as far as queries look at it."""

    @property
    def pilots(self) -> Mapping[str, Pilot]:
        """The pilots that have not ended, by name."""


class View(NamedTuple):
    """What queries look at."""

    store: Store
    core: Core
    fleet: Pilots
    running: Mapping[int, RunningTask]
    status: Callable[[], dict[str, Any]]
    #: Number of the last event that may be told.
    last_event: int


def answer(view: View, name: str, arguments: dict[str, Any]) -> Any:
    """Answer a query.

    Raises
    ------
    PilotError
        There is no such query, or what it asks for does not exist.
    """
    query = _QUERIES.get(name)
    if query is None:
        raise PilotError(f"the head knows no query {name!r}")
    return query(view, **arguments)


def head(view: View) -> dict[str, Any]:
    """The head alone: cheap, for who asks again and again."""
    return view.status()


def status(view: View) -> dict[str, Any]:
    """The head, the sessions that are open, and the pilots."""
    return {
        **view.status(),
        "sessions": sessions(view, open_only=True),
        "fleet": fleet(view, alive=True),
    }


def sessions(view: View, limit: int = LIMIT, open_only: bool = False) -> list[dict[str, Any]]:
    """Sessions, the newest first; all, or those that are open or have unfinished tasks."""
    return _sessions(view, limit=limit, open_only=open_only)


def _sessions(
    view: View, session: int | None = None, limit: int = LIMIT, open_only: bool = False
) -> list[dict[str, Any]]:
    arguments: dict[str, object] = {"session": session, "limit": limit, "open_only": open_only}
    rows = view.store.rows("list_sessions", arguments)
    for row in rows:
        live = view.core.sessions.get(row["id"])
        if live is not None:
            row["unfinished"] = live.unfinished
    return rows


def session(view: View, session: int | None = None) -> dict[str, Any]:
    """A session (the newest, if none is named): where its code is, and its tasks by state."""
    rows = _sessions(view, session, limit=1)
    found = view.store.session(rows[0]["id"]) if rows else None
    if found is None:
        raise PilotError(
            "there is no session yet"
            if session is None
            else f"there is no session {session}; `pilot session list` shows them"
        )
    environment = found.environment
    return {
        **rows[0],
        "working_dir": environment.working_dir,
        "sys_path": list(environment.sys_path),
        "states": _states(view, rows[0]["id"]),
    }


def _states(view: View, session: int) -> dict[str, int]:
    live = view.core.sessions.get(session)
    counts = {
        row["state"]: row["tasks"]
        for row in view.store.rows("count_states", {"session": session})
        if row["state"] in FINAL or live is None
    }
    if live is not None and live.unfinished:
        for task in view.core.tasks.values():
            if task.template.session == session:
                counts[task.state] = counts.get(task.state, 0) + 1
    return counts


def tasks(
    view: View,
    session: int | None = None,
    state: str | None = None,
    name: str | None = None,
    limit: int = LIMIT,
    offset: int = 0,
) -> list[dict[str, Any]]:
    """Tasks, in the order of their ids."""
    if state is None or state in FINAL or not view.core.tasks:
        rows = view.store.rows(
            "list_tasks",
            {"session": session, "state": state, "name": name, "limit": limit, "offset": offset},
        )
    else:
        # All that are unfinished are READY in the database; the core knows more.
        wanted = sorted(
            task.id
            for task in view.core.tasks.values()
            if task.state == state
            and session in (None, task.template.session)
            and name in (None, task.template.name)
        )[offset : offset + limit]
        rows = view.store.rows("list_these_tasks", {"tasks": json.dumps(wanted)})
    return [_with_live_state(view, row) for row in rows]


def _with_live_state(view: View, row: dict[str, Any]) -> dict[str, Any]:
    number = row["id"]
    live = view.core.tasks.get(number)
    if live is not None:
        row["state"] = live.state
        row["attempts"] = live.attempt
        row["pilot"] = live.pilot.name if live.pilot else None
        row["node"] = row["started"] = row["ran_s"] = None
        if running := view.running.get(number):
            row["node"], row["started"] = running.node, running.started
    return {**row, "id": task_label(number)}


def task(view: View, task: str) -> dict[str, Any]:
    """One task, with its attempts."""
    number = _number(task)
    rows = view.store.rows("show_task", {"task": number})
    if not rows:
        raise PilotError(f"there is no task {task}; `pilot task list` shows them")
    row = rows[0]
    template = decode_template(row.pop("detail"))
    values, failure = decode_result(row.pop("result"))
    inputs = [task_label(source) for source, _ in decode_inputs(row.pop("inputs"))]
    return {
        **_with_live_state(view, row),
        "resources": str(template.resources),
        "options": msgspec.to_builtins(
            {
                field: getattr(template, field)
                for field in (
                    "time_limit_s",
                    "retries",
                    "max_crashes",
                    "priority",
                    "pool",
                    "on_failure",
                )
            }
        ),
        "parent": task_label(row["parent"]) if row["parent"] else None,
        "inputs": inputs,
        "results": [
            {"size": value.size, "file": value.path or None, "name": value.name or None}
            for value in values
        ],
        "error": None
        if failure is None
        else {"type": failure.type, "message": failure.message, "detail": failure.detail},
        "attempts_made": _attempts(view, number),
    }


def _attempts(view: View, task: int) -> list[dict[str, Any]]:
    attempts = view.store.rows("list_attempts", {"task": task})
    for attempt in attempts:
        failure = decode_failure(attempt.pop("failure"))
        attempt["error"] = None if failure is None else f"{failure.type}: {failure.message}"
        attempt["logs"] = msgspec.to_builtins(
            [msgspec.structs.asdict(span) for span in decode_logs(attempt["logs"])]
        )
    return attempts


def logs(view: View, task: str) -> list[dict[str, Any]]:
    """Where the output of each attempt of a task is; of a running one up to now."""
    number = _number(task)
    spans = [
        {"attempt": attempt["number"], **span}
        for attempt in _attempts(view, number)
        for span in attempt["logs"]
    ]
    if running := view.running.get(number):
        spans.extend(
            {"attempt": running.attempt, **msgspec.structs.asdict(span)} for span in running.logs
        )
    elif not view.store.states([number]):
        raise PilotError(f"there is no task {task}; `pilot task list` shows them")
    return spans


def result(view: View, task: str) -> dict[str, Any]:
    """The state, values and failure of a task."""
    number = _number(task)
    ended = view.store.results([number])
    if ended:
        return {
            "state": ended[0].state,
            "values": msgspec.to_builtins(
                [msgspec.structs.asdict(value) for value in ended[0].values],
                builtin_types=(bytes,),
            ),
            "error": None
            if ended[0].failure is None
            else f"{ended[0].failure.type}: {ended[0].failure.message}\n{ended[0].failure.detail}",
        }
    live = view.core.tasks.get(number)
    state = live.state if live else view.store.states([number]).get(number)
    if state is None:
        raise PilotError(f"there is no task {task}; `pilot task list` shows them")
    return {"state": state, "values": [], "error": None}


def fleet(view: View, alive: bool = False, limit: int = LIMIT) -> list[dict[str, Any]]:
    """Pilots, the newest first; all, or those that have not ended."""
    rows = view.store.rows("list_pilots", {"limit": limit, "alive": alive})
    for row in rows:
        known = view.fleet.pilots.get(row["name"])
        joined = view.core.pilots.get(row["name"])
        row["waits_for"], row["expected"], row["idle_s"], row["draining"] = "", None, 0.0, False
        if known is not None:
            row["nodes"] = known.nodes
            row["waits_for"] = known.waits_for if not known.heard else ""
            row["expected"] = known.expected
            row["idle_s"] = known.idle_s
            row["draining"] = known.draining
        row["cores"] = joined.shape.cores * joined.nodes if joined else None
        row["tasks"] = len(joined.held) if joined else 0
    return rows


def events(
    view: View, since: int = 0, session: int | None = None, limit: int = LIMIT
) -> list[list[Any]]:
    """Events after number `since`: number, time, kind, state, session, task (or None), detail."""
    found: list[list[Any]] = []
    after = since
    while len(found) < limit and after < view.last_event:
        rows = view.store.events(after + 1, session, _EVENT_ROWS)
        for first, changes in rows:
            found.extend(
                [number, change.at, change.kind, change.state, change.session, task, change.detail]
                for number, change, task in islice(
                    _singly(first, changes, after), limit - len(found)
                )
                if number <= view.last_event
            )
            after = max(after, first + sum(change.count for change in changes) - 1)
        if len(rows) < _EVENT_ROWS:
            break
    return found


def _singly(
    first: int, changes: list[Change], after: int
) -> Iterator[tuple[int, Change, str | None]]:
    """The events of a row of the log, one by one, those after number `after`."""
    number = first
    for change in changes:
        if not change.spans:
            if number > after:
                yield number, change, None
            number += 1
        for start, length in zip(change.spans[::2], change.spans[1::2], strict=True):
            for step in range(max(0, after + 1 - number), length):
                yield number + step, change, task_label(start + step)
            number += length


def _number(task: str) -> int:
    try:
        return parse_task_label(task)
    except ValueError as error:
        raise PilotError(str(error)) from None


_QUERIES: dict[str, Callable[..., Any]] = {
    query.__name__: query
    for query in (head, status, sessions, session, tasks, task, logs, result, fleet, events)
}
