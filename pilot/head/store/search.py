"""Search for tasks: filters, order, pages and counts.

Only the database knows what has ended, only the core in which state the rest is. So a question is
split: ended tasks are searched in the index `tasks_listed`, which has everything that can be asked
for, unfinished ones in memory, and the two are put together. Where the database can answer alone
(the states of unfinished tasks do not matter, or there is no core), it does.

Invariants
----------
- No statement reads the rows of the table, which are wide: the index answers all of them.
- What a user says is bound to a statement, never written into it.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

from pilot.errors import PilotError
from pilot.head.core.core import Core
from pilot.head.core.state import Task
from pilot.head.store.reader import Reader
from pilot.model.states import (
    ASSIGNED,
    COMPLETED,
    DELEGATED,
    FINAL,
    PENDING,
    READY,
    RUNNING,
    TASK_STATES,
)

LIVE = (PENDING, READY, ASSIGNED, RUNNING, DELEGATED)
STATES = TASK_STATES

#: The keys that tasks can be sorted by, and the expressions for them in the index.
_VALUES = {
    "id": "t.id",
    "created": "t.created",
    "ended": "t.ended",
    "name": "p.name",
    "state": "t.state",
    "ran": "t.ran",
}
SORTS = tuple(_VALUES)
#: The sort key for creation, the newest first: found without a look at all tasks.
NEWEST = "newest"
#: The number of sessions that are searched one by one for that.
_SESSIONS_MOST = 64

_TASKS = "tasks t INDEXED BY tasks_listed"

#: A filter: one word, or several of which any will do; None: all.
Words: TypeAlias = str | Iterable[str] | None
#: The sort key of a task, and its id.
_Found: TypeAlias = tuple[Any, int]


class Wanted(NamedTuple):
    """The tasks that a question is about; made and checked by `wanted`."""

    session: int | None
    states: frozenset[str]
    names: list[str] | None
    pools: list[str] | None
    errors: list[str] | None
    created_since: float | None
    created_until: float | None
    ended_since: float | None
    ended_until: float | None
    current: bool


def wanted(
    *,
    session: int | None = None,
    state: Words = None,
    name: Words = None,
    pool: Words = None,
    error: Words = None,
    created_since: float | None = None,
    created_until: float | None = None,
    ended_since: float | None = None,
    ended_until: float | None = None,
    current: bool | None = None,
) -> Wanted:
    """Read the filters of a question.

    Parameters
    ----------
    current
        True: leave out tasks that a retry has replaced.

    Raises
    ------
    PilotError
        There is no such state.
    """
    states = frozenset(STATES if state is None else [each.upper() for each in _words(state) or ()])
    if unknown := sorted(states.difference(STATES)):
        raise PilotError(f"tasks have no state {unknown[0]!r}; they have {', '.join(STATES)}")
    if ended_since is not None or ended_until is not None:
        states &= FINAL
    if error is not None:
        states &= FINAL - {COMPLETED}
    return Wanted(
        session,
        states,
        _words(name),
        _words(pool),
        _words(error),
        created_since,
        created_until,
        ended_since,
        ended_until,
        bool(current),
    )


#: The filters that `wanted` takes.
FILTERS = frozenset(wanted.__kwdefaults__ or ())


def _words(given: Words) -> list[str] | None:
    return [given] if isinstance(given, str) else None if given is None else list(given)


def find(
    store: Reader,
    core: Core,
    what: Wanted,
    sort: str = "id",
    reverse: bool = False,
    limit: int = 1000,
    offset: int = 0,
) -> list[int]:
    """Return the ids of the tasks, one page of them.

    Tasks without a value to sort by (an unfinished task has no time of its end) come last.

    Raises
    ------
    PilotError
        There is no such sort key.
    """
    if sort == NEWEST:
        return _find_newest(store, core, what, limit, offset)
    if sort not in _VALUES:
        raise PilotError(f"tasks are not sorted by {sort!r}; give one of {', '.join(SORTS)}")
    if not _needs_core(core, what) and not (core.tasks and sort == "state"):
        return [task for _, task in _find_rows(store, what, sort, reverse, limit, offset)]
    count = offset + limit
    ended = what._replace(states=what.states & FINAL)
    found = [
        *_find_rows(store, ended, sort, reverse, count),
        *_find_live(core, what, sort, reverse, count),
    ]
    valued = sorted((item for item in found if item[0] is not None), reverse=reverse)
    others = sorted((item for item in found if item[0] is None), reverse=reverse)
    return [task for _, task in (valued + others)[offset:count]]


def _find_newest(store: Reader, core: Core, what: Wanted, limit: int, offset: int) -> list[int]:
    """Return the ids of the tasks, the last created first.

    In a session numbers rise with time, and nothing is created in one that has ended: so a few
    sessions are enough, those that are open and those that ended last.
    """
    count = offset + limit
    found: list[tuple[float, int]] = []
    if what.session is not None:
        sessions: list[tuple[int, float | None]] = [(what.session, None)]
    else:
        sessions = store.last_sessions(_SESSIONS_MOST + 1)
    for number, (session, ended) in enumerate(sessions):
        if len(found) == count and ended is not None and ended < found[-1][0]:
            break
        if number == _SESSIONS_MOST:
            return find(store, core, what, "created", True, limit, offset)
        ids = find(store, core, what._replace(session=session), "id", True, count)
        created = store.created(ids)
        for task in ids:
            if live := core.tasks.get(task):
                created[task] = live.created_at
        found = sorted([*found, *((at, task) for task, at in created.items())], reverse=True)
        del found[count:]
    return [task for _, task in found[offset:]]


def count(store: Reader, core: Core, what: Wanted) -> dict[str, int]:
    """Count the tasks by state."""
    counts: Counter[str] = Counter()
    rows = what._replace(states=what.states & FINAL) if core.tasks else what
    where, arguments = _conditions(rows)
    if rows.states:
        # One count for each state takes half as long as groups.
        statement = (
            f"SELECT s.value, (SELECT count(*) FROM {_TASKS} WHERE {where} AND t.state = s.value) "
            "FROM json_each(:states) s"
        )
        counts.update(dict(store.select(statement, arguments)))
    counts.update(task.state for task in _live(core, what))
    return {state: counts[state] for state in STATES if counts[state]}


def _needs_core(core: Core, what: Wanted) -> bool:
    """Tell whether the question needs the core: in the database all unfinished tasks are READY."""
    live = what.states.intersection(LIVE)
    return bool(core.tasks and live and (len(live) < len(LIVE) or what.pools is not None))


# --- in the database -----------------------------------------------------------------------------


def _find_rows(
    store: Reader, what: Wanted, sort: str, reverse: bool, limit: int, offset: int = 0
) -> list[_Found]:
    if not what.states:
        return []
    where, arguments = _conditions(what)
    value, order = _VALUES[sort], "DESC" if reverse else "ASC"
    keys = [f"{value} IS NULL"] * (sort in ("ended", "ran"))
    keys += [f"{value} {order}"] * (sort != "id")
    tables = _TASKS
    if sort == "name":
        tables += " CROSS JOIN templates p ON p.id = t.template"  # in this order
    statement = (
        f"SELECT {value}, t.id FROM {tables} "
        f"WHERE {where} AND t.state IN (SELECT value FROM json_each(:states)) "
        f"ORDER BY {', '.join([*keys, f't.id {order}'])} LIMIT :limit OFFSET :offset"
    )
    return store.select(statement, {**arguments, "limit": limit, "offset": offset})


def _conditions(what: Wanted) -> tuple[str, dict[str, object]]:
    """Return the SQL conditions, except on the state, and the values bound to them."""
    of_session = ":session" if what.session is not None else "SELECT id FROM sessions"
    conditions = [f"t.session IN ({of_session})"]
    arguments: dict[str, object] = {
        "session": what.session,
        "states": json.dumps(sorted(what.states)),
    }
    for column, words in (("pool", what.pools), ("error", what.errors), ("name", what.names)):
        if words is None:
            continue
        arguments[column] = json.dumps(words)
        any_of = f"IN (SELECT value FROM json_each(:{column}))"
        conditions.append(
            f"t.template IN (SELECT id FROM templates WHERE name {any_of})"
            if column == "name"
            else f"t.{column} {any_of}"
        )
    for column, comparison, when in (
        ("created", ">=", what.created_since),
        ("created", "<", what.created_until),
        ("ended", ">=", what.ended_since),
        ("ended", "<", what.ended_until),
    ):
        if when is not None:
            bound = f"{column}_{'since' if comparison == '>=' else 'until'}"
            arguments[bound] = when
            conditions.append(f"t.{column} {comparison} :{bound}")
    if what.current:
        conditions.append("t.id NOT IN (SELECT id FROM replaced)")
    return " AND ".join(conditions), arguments


# --- in memory -----------------------------------------------------------------------------------


def _find_live(core: Core, what: Wanted, sort: str, reverse: bool, limit: int) -> list[_Found]:
    # From the end that is likely to have them: then the first ones stay.
    found = ((_value(task, sort), task.id) for task in _live(core, what, reverse))
    return (heapq.nlargest if reverse else heapq.nsmallest)(limit, found)


def _value(task: Task, sort: str) -> Any:
    if sort == "id":
        return task.id
    if sort == "created":
        return task.created_at
    if sort == "name":
        return task.template.name
    return task.state if sort == "state" else None


def _live(core: Core, what: Wanted, reverse: bool = False) -> Iterator[Task]:
    """Yield the wanted unfinished tasks, in the order of submission."""
    states = what.states.intersection(LIVE)
    if not states or (what.session is not None and what.session not in core.sessions):
        return
    for task in reversed(core.tasks.values()) if reverse else core.tasks.values():
        template = task.template
        if (
            task.state in states
            and (what.session is None or template.session == what.session)
            and (what.names is None or template.name in what.names)
            and (what.created_since is None or task.created_at >= what.created_since)
            and (what.created_until is None or task.created_at < what.created_until)
            and (what.pools is None or pool_of(task) in what.pools)
        ):
            yield task


def pool_of(task: Task) -> str:
    """Return the pool of the pilot that has an unfinished task, or had it last."""
    return task.pilot.pool if task.pilot is not None else task.pool
