"""What can be asked of a head: one function for each query, from name and arguments to plain data.

Rows come from the database; what only the core knows (which of the unfinished tasks are assigned or
run, and where) is laid over them. Nothing here changes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from pilot.errors import PilotError
from pilot.head.core import Core
from pilot.head.fleet import Fleet
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


class View(NamedTuple):
    """What queries look at."""

    store: Store
    core: Core
    fleet: Fleet
    running: Mapping[int, RunningTask]
    status: Callable[[], dict[str, Any]]


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


def status(view: View) -> dict[str, Any]:
    """The head, and the sessions that are open."""
    return {
        **view.status(),
        "sessions": [row for row in sessions(view) if row["state"] != "CLOSED"],
        "fleet": fleet(view, alive=True),
    }


def sessions(view: View, limit: int = LIMIT) -> list[dict[str, Any]]:
    """Sessions, the newest first."""
    rows = view.store.rows("list_sessions", {"limit": limit})
    for row in rows:
        live = view.core.sessions.get(row["id"])
        row["unfinished"] = live.unfinished if live else 0
    return rows


def session(view: View, session: int) -> dict[str, Any]:
    """One session with the number of its tasks in each state."""
    for row in sessions(view, limit=-1):
        if row["id"] == session:
            return {**row, "states": _states(view, session)}
    raise PilotError(f"there is no session {session}; `pilot session list` shows them")


def _states(view: View, session: int) -> dict[str, int]:
    rows = view.store.rows("count_states", {"session": session})
    counts = {row["state"]: row["tasks"] for row in rows if row["state"] in FINAL}
    live = view.core.sessions.get(session)
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
    final = state if state in FINAL else None
    unfinished = state is not None and final is None
    rows = view.store.rows(
        "list_tasks",
        {
            "session": session,
            # All that are unfinished are READY in the database; the core knows more.
            "state": "READY" if unfinished else final,
            "name": name,
            "limit": -1 if unfinished else limit,
            "offset": 0 if unfinished else offset,
        },
    )
    rows = [_with_live_state(view, row) for row in rows]
    if unfinished:
        rows = [row for row in rows if row["state"] == state][offset : offset + limit]
    return rows


def _with_live_state(view: View, row: dict[str, Any]) -> dict[str, Any]:
    number = row["id"]
    live = view.core.tasks.get(number)
    if live is not None:
        row["state"] = live.state
        row["attempts"] = live.attempt
        row["pilot"] = live.pilot.name if live.pilot else None
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
    if live is None:
        raise PilotError(f"there is no task {task}; `pilot task list` shows them")
    return {"state": live.state, "values": [], "error": None}


def fleet(view: View, alive: bool = False, limit: int = LIMIT) -> list[dict[str, Any]]:
    """Pilots, the newest first."""
    rows = view.store.rows("list_pilots", {"limit": limit})
    for row in rows:
        known = view.fleet.pilots.get(row["name"])
        joined = view.core.pilots.get(row["name"])
        if known is not None:
            row["nodes"] = known.nodes
            row["waits_for"] = known.waits_for if not known.heard else ""
            row["expected"] = known.expected
            row["idle_s"] = known.idle_s
            row["draining"] = known.draining
        row["cores"] = joined.shape.cores * joined.nodes if joined else None
        row["tasks"] = len(joined.held) if joined else 0
    return [row for row in rows if not alive or row["state"] != "ENDED"]


def _number(task: str) -> int:
    try:
        return parse_task_label(task)
    except ValueError as error:
        raise PilotError(str(error)) from None


_QUERIES: dict[str, Callable[..., Any]] = {
    query.__name__: query for query in (status, sessions, session, tasks, task, logs, result, fleet)
}
