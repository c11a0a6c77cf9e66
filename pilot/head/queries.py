"""The queries of a head: one function for each, from arguments to plain data.

Rows come from the database; what only the core knows (which of the unfinished tasks are assigned or
run, and where) is laid over them. Nothing here changes anything. With an empty core (see `offline`)
the rows stand as they are: there all unfinished tasks are READY.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from pilot.errors import PilotError
from pilot.formatting import amount
from pilot.head.core.events import Change
from pilot.head.explain.explain import why
from pilot.head.explain.fleet import explain_fleet
from pilot.head.explain.view import View
from pilot.head.object_lookup import find
from pilot.head.orders import Order
from pilot.head.store import search
from pilot.head.store.damage import naming, naming_session
from pilot.head.store.rows import (
    decode_after,
    decode_commutative,
    decode_failure,
    decode_inputs,
    decode_logs,
    decode_result,
    decode_template,
)
from pilot.model import session_retry as again
from pilot.model.ids import parse_task_label, task_label
from pilot.model.objects import parse, versioned
from pilot.model.states import (
    CLOSED_STATES,
    DELEGATED,
    EVENT_STATES,
    FINAL,
    READY,
    SESSION_STATES,
    UNSUCCESSFUL,
)
from pilot.model.tasks import TaskSpec
from pilot.scheduler.amounts import amount_number
from pilot.scheduler.assignment import cores_of
from pilot.scheduler.budgets import HOUR_S
from pilot.texts import shortened

#: Characters of error messages in lists; bytes of a task's arguments.
MESSAGE_BYTES, CALL_BYTES = 500, 64 << 10
#: Rows in one answer, unless the question says otherwise.
LIMIT = 1000
#: Rows of the event log that are read at a time, and that are searched for one answer.
_EVENT_ROWS, _EVENT_ROWS_MOST = 64, 1024
#: Queries whose answers are told only once all that they may have seen is committed: they have
#: numbers that are given in a transaction.
NUMBERED = frozenset({"objects", "named"})
#: The states that sessions can be listed by.
_SESSION_STATES = (*SESSION_STATES, "PAUSED")


#: Arguments of queries that are numbers.
_NUMBERS = {"limit", "offset", "session", "after", "number"}


def answer(view: View, name: str, arguments: dict[str, Any]) -> Any:
    """Answer a query.

    Raises
    ------
    PilotError
        There is no such query, one of its numbers is none, or what it asks for does not exist.
    """
    query = _QUERIES.get(name)
    if query is None:
        raise PilotError(f"the head has no query {name!r}")
    for key in arguments.keys() & _NUMBERS:
        given = arguments[key]
        if key == "session" and given is None:
            continue
        if type(given) is not int or not 0 <= given < 1 << 63:
            raise PilotError(f"{key}={given!r:.60}: give a whole number from 0")
    return query(view, **arguments)


def head(view: View) -> dict[str, Any]:
    """Return the state of the head alone: cheap, for frequent calls."""
    return view.status()


def status(view: View) -> dict[str, Any]:
    """Return the head, what the site has only once, the open sessions, and the pilots."""
    amounts = view.core.site
    return {
        **view.status(),
        "resources": {
            name: {"used": amount_number(amounts.used[name]), "total": amount_number(total)}
            for name, total in amounts.total.items()
        },
        "unheard": sorted(amounts.unheard),
        "orders": orders(view),
        "budgets": budgets(view),
        "sessions": sessions(view, open_only=True),
        "fleet": fleet(view, alive=True),
    }


def sessions(
    view: View,
    state: search.Words = None,
    name: str | None = None,
    since: float | None = None,
    limit: int = LIMIT,
    open_only: bool = False,
) -> list[dict[str, Any]]:
    """List sessions, the newest first, by state (or PAUSED), name, or time of creation."""
    return _sessions(view, None, state, name, since, limit, open_only)


def _sessions(
    view: View,
    session: int | None = None,
    state: search.Words = None,
    name: str | None = None,
    since: float | None = None,
    limit: int = LIMIT,
    open_only: bool = False,
) -> list[dict[str, Any]]:
    states = None
    if state is not None:
        states = [each.upper() for each in ([state] if isinstance(state, str) else state)]
        if unknown := set(states).difference(_SESSION_STATES):
            raise PilotError(
                f"sessions have no state {min(unknown)!r}; they have {', '.join(_SESSION_STATES)}"
            )
    rows = view.store.rows(
        "list_sessions",
        {
            "session": session,
            "states": None if states is None else json.dumps(states),
            "paused": "PAUSED" in (states or ()),
            "name": name,
            "since": since,
            "limit": limit,
            "open_only": open_only,
        },
    )
    for row in rows:
        row["paused"] = bool(row["paused"])
        live = view.core.sessions.get(row["id"])
        if live is not None:
            row["unfinished"] = live.unfinished
        row["outcome"] = _outcome(row)
    return rows


def _outcome(row: dict[str, Any]) -> str:
    """Return the worst outcome of a session's tasks; empty while some are unfinished."""
    if row["unfinished"] or not row["tasks"]:
        return ""
    return next((what for what in ("failed", "cancelled", "aborted") if row[what]), "completed")


def session(view: View, session: int | None = None) -> dict[str, Any]:
    """Return a session (default: the newest): where its code is, and its tasks by state."""
    rows = _sessions(view, session, limit=1)
    found = view.store.session(rows[0]["id"]) if rows else None
    if found is None:
        raise PilotError(
            "there is no session yet"
            if session is None
            else f"there is no session {session}; `pilot session list` shows them"
        )
    environment = found.environment
    with naming_session(found.id, "what its tasks are made of"):
        groups = {template.group for template in view.store.templates(found.id)}
    return {
        **rows[0],
        "working_dir": environment.working_dir,
        "sys_path": list(environment.sys_path),
        "groups": sorted(groups - {""}),
        "states": search.count(
            view.store, view.core, search.wanted(session=rows[0]["id"], current=True)
        ),
    }


def tasks(
    view: View,
    sort: str = "id",
    reverse: bool = False,
    limit: int = LIMIT,
    offset: int = 0,
    **filters: Any,
) -> list[dict[str, Any]]:
    """List tasks; see `pilot.head.store.search.wanted` for the filters."""
    wanted = _wanted(view, filters)
    found = search.find(view.store, view.core, wanted, sort, reverse, limit, offset)
    rows = view.store.rows("list_these_tasks", {"tasks": json.dumps(found)})
    for row in rows:
        with naming(row["id"]):
            failure = decode_result(row.pop("result"))[1] if row["error"] else None
        row["message"] = failure and shortened(failure.message, MESSAGE_BYTES)
    return [_with_live_state(view, row) for row in rows]


def calls(view: View, tasks: list[str]) -> dict[str, Any]:
    """Return the functions and arguments of tasks, as submitted: ``functions`` has payloads,
    ``calls`` for each task its arguments, and the index of its function.

    Large ones are left out, and ``why`` says so.
    """
    ids = json.dumps([_number(task) for task in tasks])
    found: list[dict[str, Any]] = []
    functions: list[bytes] = []
    places: dict[tuple[int, bytes], int | None] = {}
    for row in view.store.rows("calls", {"tasks": ids, "most": CALL_BYTES}):
        with naming(row["id"]):
            digest = decode_template(row["detail"]).function
            inputs = decode_inputs(row["inputs"])
        key = row["session"], digest
        if key not in places:
            wanted = {"session": key[0], "digest": digest, "most": CALL_BYTES}
            payload = view.store.rows("function", wanted)
            places[key] = len(functions) if payload else None
            functions += [each["payload"] for each in payload]
        why = "" if row["payload"] is not None else "(they were deleted)"
        found.append(
            {
                "id": task_label(row["id"]),
                "name": row["name"],
                "kind": row["kind"],
                "payload": row["payload"],
                "why": f"({amount(row['size'])})" if why and row["size"] else why,
                "inputs": [[task_label(task), n] for task, n in inputs],
                "function": places[key],
            }
        )
    return {"functions": functions, "calls": found}


def task_counts(view: View, **filters: Any) -> dict[str, int]:
    """Count tasks by state; the filters are those of `tasks`."""
    return search.count(view.store, view.core, _wanted(view, filters))


def _wanted(view: View, filters: dict[str, Any]) -> search.Wanted:
    if unknown := sorted(filters.keys() - search.FILTERS):
        raise PilotError(
            f"tasks are not filtered by {unknown[0]!r}; give {', '.join(sorted(search.FILTERS))}"
        )
    wanted = search.wanted(**filters)
    if wanted.session is not None:
        _check_session(view, wanted.session)
    return wanted


def _check_session(view: View, session: int) -> None:
    if view.store.session(session) is None:
        raise PilotError(f"there is no session {session}; `pilot session list` shows them")


def _with_live_state(view: View, row: dict[str, Any]) -> dict[str, Any]:
    number = row["id"]
    live = view.core.tasks.get(number)
    if live is not None:
        row["state"] = live.state
        row["attempts"] = live.attempt
        row["pilot"] = live.pilot.name if live.pilot else None
        row["pool"] = search.pool_of(live) or None
        row["node"] = row["started"] = row["ran_s"] = row["cpu_s"] = row["peak_mib"] = None
        if running := view.running.get(number):
            row["node"], row["started"] = running.node, running.started
    return {**row, "id": task_label(number)}


def outcomes(view: View, session: int, runs: list[list[int]], limit: int = LIMIT) -> dict[str, Any]:
    """Return the states of a session's tasks, given as runs of ids (first and last): ``states``
    counts them, ``failed`` has a row for each failed one, with its error.
    """
    ids = json.dumps(runs)
    states = {
        row["state"]: row["tasks"]
        for row in view.store.rows(
            "count_runs", {"session": session, "runs": ids, "states": json.dumps(sorted(FINAL))}
        )
        if row["tasks"]
    }
    total = sum(last - first + 1 for first, last in runs)
    unfinished = total - sum(states.values())
    if unfinished:
        states["UNFINISHED"] = unfinished
    failed = view.store.rows("failed_in_runs", {"session": session, "runs": ids, "limit": limit})
    for row in failed:
        with naming(row["id"]):
            _, failure = decode_result(row.pop("result"))
        row["task"] = task_label(row["id"])
        row["error"] = f"{failure.type}: {failure.message}" if failure else ""
    return {"states": states, "failed": failed}


def task(view: View, task: str) -> dict[str, Any]:
    """Return a task, with its attempts."""
    number = _number(task)
    rows = view.store.rows("show_task", {"task": number})
    if not rows:
        raise PilotError(f"there is no task {task}; `pilot task list` shows them")
    row = rows[0]
    with naming(number):
        template = decode_template(row.pop("detail"))
        values, failure = decode_result(row.pop("result"))
        inputs = [task_label(source) for source, _ in decode_inputs(row.pop("inputs"))]
        after = [task_label(source) for source in decode_after(row.pop("after"))]
    attempts = _attempts(view, number)
    for attempt in attempts if template.versions else ():
        attempt["version"] = attempt["version"] or template.name
    return {
        **_with_live_state(view, row),
        "resources": str(template.resources),
        "returns": template.returns,
        "return_names": list(template.return_names),
        "options": msgspec.to_builtins(
            {
                field: getattr(template, field)
                for field in (
                    "time_limit_s",
                    "retries",
                    "retry_on",
                    "no_retry_on",
                    "retry_timeouts",
                    "max_crashes",
                    "priority",
                    "pool",
                    "on_failure",
                    "compression",
                    "fresh",
                )
            }
        ),
        "environment": str(template.software) if template.software is not None else None,
        "parent": task_label(row["parent"]) if row["parent"] else None,
        "retry_of": task_label(row["retry_of"]) if row["retry_of"] else None,
        "inputs": inputs,
        "after": after,
        "results": [
            {
                "size": value.size,
                "file": value.path or None,
                "name": value.name or None,
                "released": value.is_released,
            }
            for value in values
        ],
        "error": None
        if failure is None
        else {"type": failure.type, "message": failure.message, "detail": failure.detail},
        "first_cause": task_label(failure.cause) if failure and failure.cause else None,
        "version": attempts[-1]["version"] if attempts else None,
        "attempts_made": attempts,
    }


def _attempts(view: View, task: int) -> list[dict[str, Any]]:
    attempts = view.store.rows("list_attempts", {"task": task})
    for attempt in attempts:
        with naming(task):
            failure = decode_failure(attempt.pop("failure"))
            logs = decode_logs(attempt["logs"])
        attempt["error"] = None if failure is None else f"{failure.type}: {failure.message}"
        attempt["logs"] = msgspec.to_builtins([msgspec.structs.asdict(span) for span in logs])
    return attempts


def retry(view: View, session: int, tasks: list[int] | None = None) -> dict[str, Any]:
    """Return what is needed to run failed tasks of a session again; by default all of them."""
    rows = view.store.rows(
        "tasks_to_retry", {"session": session, "states": json.dumps(UNSUCCESSFUL)}
    )
    for named in set(tasks or ()).difference(row["id"] for row in rows):
        if not view.store.rows("show_task", {"task": named}):
            raise PilotError(f"there is no task {task_label(named)}; `pilot task list` shows them")
    if rows and all(row["payload"] is None for row in rows):
        raise PilotError(f"session {session} was purged: its tasks cannot run again")
    ended = [
        again.Ended(
            row["state"],
            tuple(json.loads(row["ancestors"])),
            TaskSpec(
                row["id"],
                row["template"],
                row["payload"],
                _inputs(row),
                digest=row["digest"] or b"",
                after=_after(row),
                commutative=_commutative(row),
            ),
            row["again"],
        )
        for row in rows
    ]
    specs = again.chosen(ended, tasks)
    used = {spec.template for spec in specs}
    all_templates = view.store.templates(session)
    used.update(*(each.versions for each in all_templates if each.id in used))
    templates = [each for each in all_templates if each.id in used]
    digests = {template.function for template in templates}
    functions = [
        each for digest, each in view.store.functions(session).items() if digest in digests
    ]
    return {"functions": functions, "templates": templates, "tasks": specs}


def logs(view: View, task: str) -> list[dict[str, Any]]:
    """Return the places of the output of each attempt of a task, a running one included."""
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


def _inputs(row: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    with naming(row["id"]):
        return decode_inputs(row["inputs"])


def _commutative(row: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    with naming(row["id"]):
        return decode_commutative(row["commutative"])


def _after(row: dict[str, Any]) -> tuple[int, ...]:
    with naming(row["id"]):
        return decode_after(row["after"])


def result(view: View, task: str) -> dict[str, Any]:
    """Return the state, values and failure of a task."""
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


def objects(
    view: View, name: str | None = None, removed: bool = False, limit: int = LIMIT
) -> list[dict[str, Any]]:
    """List versions of named objects, by name, the newest first; also `removed` ones."""
    if name is not None:
        name = find(view.store, parse(name))["name"] if not removed else parse(name).name
    wanted: dict[str, object] = {"name": name, "version": None, "removed": removed, "limit": limit}
    return [_object(row) for row in view.store.rows("list_objects", wanted)]


def named(view: View, name: str) -> dict[str, Any]:
    """Return the version that a text such as ``mesh``, ``mesh@3`` or ``mesh@best`` means; with the
    number of its task, its value there, and the identity of the database."""
    row = find(view.store, parse(name))
    number = row["task"]
    (outcome,) = view.store.results([number])
    value = outcome.values[row["place"]]
    return {
        **_object(row),
        "number": number,
        "count": len(outcome.values),
        "value": msgspec.to_builtins(msgspec.structs.asdict(value), builtin_types=(bytes,)),
        "database": view.store.identity,
    }


def _object(row: dict[str, Any]) -> dict[str, Any]:
    """Return a version as it is shown."""
    maker = row["maker"]
    return {
        "object": versioned(row["name"], row["version"]),
        "name": row["name"],
        "version": row["version"],
        "aliases": json.loads(row["aliases"]),
        "made": row["made"],
        "user": row["user"],
        "session": row["session"],
        "session_name": row["session_name"],
        "made_by": task_label(maker) if maker else None,
        "task": task_label(row["task"]),
        "place": row["place"],
        "size": row["size"],
        "type": row["type"],
        "tags": _tags(row["tags"]),
        "expires": row["expires"],
        "removed": row["removed"],
    }


def _tags(text: str) -> dict[str, Any]:
    """Return tags; what is no JSON object is one tag."""
    try:
        found = json.loads(text)
    except ValueError:
        found = text
    return found if isinstance(found, dict) else {"tags": found}


def fleet(view: View, alive: bool = False, limit: int = LIMIT) -> list[dict[str, Any]]:
    """List pilots, the newest first; all, or those that have not ended."""
    rows = view.store.rows("list_pilots", {"limit": limit, "alive": alive})
    given = {row["subject"]: row for row in orders(view)}
    for row in rows:
        row["order"] = given.get(row["name"])
        known = view.fleet.pilots.get(row["name"])
        joined = view.core.pilots.get(row["name"])
        row["waits_for"], row["expected"], row["idle_s"], row["draining"] = "", None, 0.0, False
        if known is not None:
            row["nodes"] = known.nodes
            row["state"] = "SUSPENDED" if known.suspended else row["state"]
            row["waits_for"] = known.waits_for if not known.heard else ""
            row["expected"] = known.expected
            row["idle_s"] = known.idle_s
            row["draining"] = known.draining
        row["cores"] = cores_of(joined) if joined else None
        row["tasks"] = len(joined.held) if joined else 0
    return rows


def budgets(view: View) -> list[dict[str, Any]]:
    """List the budgets of pools and sessions, in node-hours; ``text`` has the same in words."""
    outlook = view.fleet.outlook()
    found = [
        *((pool, None, account) for pool, account in outlook.accounts.items()),
        *((None, session, account) for session, account in outlook.session_accounts.items()),
    ]
    return [
        {
            "pool": pool,
            "session": session,
            "budget": account.budget.node_s / HOUR_S,
            "per": account.budget.per,
            "used": account.used / HOUR_S,
            "committed": account.committed / HOUR_S,
            "left": account.left / HOUR_S,
            "until": None if account.ends_at == math.inf else account.ends_at,
            "text": account.words,
        }
        for pool, session, account in found
    ]


def orders(view: View) -> list[dict[str, Any]]:
    """List the orders of users for pools and pilots, the oldest first, with ``text``."""
    rows = view.store.rows("orders", {})
    return [{**row, "text": Order(**row).words} for row in rows]


def events(
    view: View,
    since: int = 0,
    session: int | None = None,
    task: str | None = None,
    state: search.Words = None,
    limit: int = LIMIT,
) -> dict[str, Any]:
    """List events after number `since`; below 0: the last so many of the log.

    ``events`` has number, time, kind, state, session, task (or None) and detail of each, ``last``
    the number to go on after. ``more``: there are more to ask for at once; ``over``: the session or
    task has ended, so that none will come.
    """
    number = None if task is None else _number(task)
    if number is not None:
        session = _session_of(view, number, str(task))
    elif session is not None:
        _check_session(view, session)
    states = None
    if state is not None:
        states = {each.upper() for each in ([state] if isinstance(state, str) else state)}
        known = list(dict.fromkeys(itertools.chain(*EVENT_STATES.values())))
        if unknown := states.difference(known):
            raise PilotError(
                f"no event has the state {min(unknown)!r}; there are {', '.join(known)}"
            )
    newest = view.last_event
    # What is put into the database is seen here before it is committed, and told only after that.
    over = view.store.next_event() - 1 == newest and _is_over(view, session, number)
    after = since if since >= 0 else max(0, newest + since)
    found: list[list[Any]] = []
    looked = 0
    while len(found) < limit and looked < _EVENT_ROWS_MOST and after < newest:
        rows = view.store.events(after + 1, session, _EVENT_ROWS)
        for first, changes in rows:
            for at, change, each in _singly(first, changes, after, number, states):
                if at > newest or len(found) == limit:
                    break
                found.append(
                    [at, change.at, change.kind, change.state, change.session, each, change.detail]
                )
                after = at
            if len(found) == limit:
                break
            after = max(after, first + sum(change.count for change in changes) - 1)
        looked += len(rows)
        if len(rows) < _EVENT_ROWS and len(found) < limit:
            after = newest
    return {
        "events": found,
        "last": max(since, min(after, newest)),
        "more": after < newest,
        "over": over,
    }


def _session_of(view: View, task: int, label: str) -> int:
    live = view.core.tasks.get(task)
    if live is not None:
        return live.template.session
    rows = view.store.rows("session_of_task", {"task": task})
    if not rows:
        raise PilotError(f"there is no task {label}; `pilot task list` shows them")
    return int(rows[0]["session"])


def _is_over(view: View, session: int | None, task: int | None) -> bool:
    """Tell whether nothing more will happen to a task, or else to a session."""
    if task is not None:
        return view.store.states([task]).get(task, READY) not in (READY, DELEGATED)
    row = None if session is None else view.store.session(session)
    return row is not None and row.state in CLOSED_STATES


def _singly(
    first: int, changes: list[Change], after: int, task: int | None, states: set[str] | None
) -> Iterator[tuple[int, Change, str | None]]:
    """Yield the wanted events of a row of the log, one by one, after number `after`."""
    number = first
    for change in changes:
        begin, number = number, number + change.count
        if number <= after + 1 or (states is not None and change.state not in states):
            continue
        if not change.spans:
            if task is None:
                yield begin, change, None
            continue
        for start, length in zip(change.spans[::2], change.spans[1::2], strict=True):
            steps = range(max(0, after + 1 - begin), length)
            if task is not None:
                steps = range(task - start, task - start + 1) if task - start in steps else range(0)
            for step in steps:
                yield begin + step, change, task_label(start + step)
            begin += length


def attempt_counts(view: View, session: int) -> dict[str, int]:
    """Count the attempts of a session's tasks by outcome: ``ok``, ``error``, ``crash``, …."""
    rows = view.store.rows("count_attempts_by_outcome", {"session": session})
    return {row["outcome"]: row["attempts"] for row in rows}


def placements(
    view: View, session: int, after: int = 0, number: int = 0, limit: int = LIMIT
) -> dict[str, Any]:
    """List what attempts of a session's tasks had, and when, in the order of the tasks.

    ``last`` is the task and the number to give as ``after`` and ``number`` for the next ones; None
    if there are no more.
    """
    _check_session(view, session)
    wanted: dict[str, object] = {
        "session": session,
        "after": after,
        "number": number,
        "limit": limit,
    }
    rows = view.store.rows("list_placements", wanted)
    last = [rows[-1]["id"], rows[-1]["number"]] if len(rows) == limit else None
    for row in rows:
        row["id"] = task_label(row["id"])
    return {"placements": rows, "last": last}


def found(view: View, session: int) -> int:
    """Count the tasks of a session that did not run, since their results were found by key."""
    return int(view.store.rows("count_found", {"session": session})[0]["found"])


def _number(task: str) -> int:
    try:
        return parse_task_label(task)
    except ValueError as error:
        raise PilotError(str(error)) from None


_QUERIES: dict[str, Callable[..., Any]] = {
    query.__name__: query
    for query in (
        head,
        status,
        sessions,
        session,
        tasks,
        calls,
        task_counts,
        outcomes,
        task,
        retry,
        logs,
        result,
        objects,
        named,
        fleet,
        explain_fleet,
        orders,
        budgets,
        events,
        why,
        found,
        placements,
        attempt_counts,
    )
}
