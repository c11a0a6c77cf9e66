"""The answer to "why has the fleet the pilots that it has?": what was decided, and how pools stand.

The decisions are those of the database (`pilot.head.decisions`), and what became of pilots is in
their rows; the present state is from memory. Without a head there are the records alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pilot import clock
from pilot.errors import PilotError
from pilot.formatting import counted, duration, moment
from pilot.head.decisions import END, GIVEN_UP, GROW, REASONS, SHAPED, WAITS_AGAIN
from pilot.head.explain.report import SHOWN, first_line
from pilot.head.explain.view import View
from pilot.head.orders import CANCEL, DRAIN, HOLD, SCALE, Order
from pilot.head.outlook import (
    QUEUED,
    RUNNING,
    STUCK_S,
    PilotRow,
    ProvisioningView,
    hindrance,
)
from pilot.scheduler.batch import Stuck
from pilot.scheduler.elasticity import BUDGET, ENOUGH, SCALED, PoolStatus, standings

#: The kinds of entries that are no decisions: a pilot has started, or has ended.
STARTED, ENDED = "started", "ended"
#: The verbs of decisions on pilots.
_ON_PILOTS = {
    GROW: "is asked for, with",
    SHAPED: "is submitted with",
    END: "is to end:",
    GIVEN_UP: "is given up:",
    WAITS_AGAIN: "waits in the queue again:",
    DRAIN: "is",
    CANCEL: "is",
    "adopt": "is",
}


def explain_fleet(
    view: View, since: float = 0.0, pool: str | None = None, limit: int = 1000
) -> dict[str, Any]:
    """Return the history of the fleet, and the present state of its pools.

    Parameters
    ----------
    view
        The state of the head.
    since
        The history from this time on, in seconds since the epoch.
    pool
        Only this pool.
    limit
        The maximum number of entries; the last ones are returned.

    Returns
    -------
    dict
        ``history``: entries with ``at``, ``pool``, ``pilot`` (or None), ``kind`` and ``text``, the
        oldest first; ``cut``: there are more. ``pools``: an entry for each pool, with its
        ``text``, and the same in numbers where a head runs.

    Raises
    ------
    PilotError
        There is no such pool.
    """
    outlook = view.fleet.outlook()
    if pool is not None and outlook.pools and pool not in {each.name for each in outlook.pools}:
        there = ", ".join(each.name for each in outlook.pools)
        raise PilotError(f"there is no pool {pool!r}; there are {there}")
    wanted: dict[str, object] = {"since": since, "pool": pool, "limit": limit + 1}
    history = [
        *_decided(view.store.rows("decisions_since", wanted)),
        *_became(view.store.rows("pilots_since", wanted), since),
    ]
    history.sort(key=lambda entry: entry["at"])
    return {
        "history": history[-limit:],
        "cut": len(history) > limit,
        "pools": [
            each
            for each in (_present(view, outlook) if outlook.pools else _recorded(view))
            if pool in (None, each["pool"])
        ],
    }


def _entry(at: float, pool: str, pilot: str, kind: str, text: str) -> dict[str, Any]:
    return {"at": at, "pool": pool, "pilot": pilot or None, "kind": kind, "text": text}


def _decided(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Give the decisions in words; the rows are the newest first."""
    for row in reversed(rows):
        pilot, kind, detail = row["pilot"], row["kind"], first_line(row["detail"])
        if pilot:
            text = f"pilot {pilot} of pool {row['pool']} {_ON_PILOTS.get(kind, kind)} {detail}"
        elif kind in REASONS:
            text = f"no more nodes are asked for: {detail}"
        else:
            text = f"pool {row['pool']} {detail}"
        yield _entry(row["at"], row["pool"], pilot, kind, text)


def _became(rows: Sequence[Mapping[str, Any]], since: float) -> Iterator[dict[str, Any]]:
    """Give the starts and ends of pilots in words."""
    for row in reversed(rows):
        name = f"pilot {row['name']}" + (f" (job {row['job']})" if row["job"] else "")
        started, ended = row["started"], row["ended"]
        if started is not None and started >= since:
            text = f"{name} has started, with {counted(row['nodes'], 'node')}"
            if row["submitted"] is not None and (waited_s := started - row["submitted"]) >= 1.0:
                text += f", after {duration(waited_s)} in the queue"
            yield _entry(started, row["pool"], row["name"], STARTED, text)
        if ended is not None and ended >= since:
            text = f"{name} has ended: {first_line(row['reason'])}"
            yield _entry(ended, row["pool"], row["name"], ENDED, text)


def _present(view: View, outlook: ProvisioningView) -> Iterator[dict[str, Any]]:
    now = clock.now()
    for its in standings(outlook.pools, view.core.demand(), outlook.supply):
        rows = [row for row in outlook.rows.values() if row.pool == its.pool.name]
        running = [row for row in rows if row.state == RUNNING]
        there = sum(row.nodes for row in running)
        leaving = sum(row.nodes for row in running if row.draining)
        coming = [row for row in rows if row.state != RUNNING]
        parts = [f"work for {counted(its.wanted, 'node')}", f"{there} there"]
        if leaving:
            parts[-1] += f" ({leaving} of them in pilots that end)"
        parts += [_coming(row, outlook, now) for row in coming[:SHOWN]]
        if len(coming) > SHOWN:
            more = sum(row.nodes for row in coming[SHOWN:])
            parts.append(f"{counted(more, 'node')} in {len(coming) - SHOWN} more pilots to come")
        yield {
            "pool": its.pool.name,
            "wanted": its.wanted,
            "there": there,
            "coming": sum(row.nodes for row in coming),
            "why": its.blocked_by,
            "text": "; ".join([", ".join(parts), *_hindered(its, outlook, now)]),
        }


def _coming(row: PilotRow, outlook: ProvisioningView, now: float) -> str:
    """Describe a pilot that has not started."""
    since_s = duration(now - (row.submitted or row.created))
    if row.draining:
        return f"{row.nodes} in job {row.job}, which is taken out of the queue"
    if row.job_runs_since is not None:
        since_s = duration(now - row.job_runs_since)
        return f"{row.nodes} in job {row.job}, which has started {since_s} ago, and is not heard of"
    if row.state != QUEUED:
        return f"{row.nodes} being submitted since {since_s}"
    text = f"{row.nodes} in the queue since {since_s} (job {row.job}): {outlook.kind.title} says "
    text += row.waits_for or "nothing"
    if meaning := outlook.kind.meaning(row.waits_for, row.job or ""):
        text += f" ({meaning})"
    if row.stuck in (Stuck.HELD, Stuck.NEVER) and row.stuck_since is not None:
        left_s = max(0.0, row.stuck_since + STUCK_S - now)
        return f"{text}, so it does not start by itself, and is given up in {duration(left_s)}"
    if row.stuck is Stuck.ADMIN:
        return f"{text}, so it does not start before it is let go"
    if row.expected is None:
        return f"{text}, no start is estimated"
    return f"{text}, expected at {moment(row.expected)}"


def _hindered(its: PoolStatus, outlook: ProvisioningView, now: float) -> Iterator[str]:
    """Give the reasons why no more nodes are asked for, where more could be used."""
    pool = its.pool.name
    if outlook.silence:
        since_s = duration(now - outlook.silent_since)
        yield (
            f"{outlook.kind.title} has not answered for {since_s} ({first_line(outlook.silence)})"
        )
    if losses := outlook.losses.get(pool):
        yield f"{losses.describe(pool)}; next try {_when(losses.until, now)}"
    if refused := outlook.refused.get(pool):
        yield (
            f"{outlook.kind.title} took no pilot ({first_line(refused.error)}); "
            f"next try {_when(refused.until, now)}"
        )
    if its.blocked_by != ENOUGH and (text := hindrance(its)):
        yield text
    elif its.pool.halt is not None:
        yield f"no new pilots: {its.pool.halt.text}"
    if its.pool.budget is not None and its.blocked_by != BUDGET:
        yield f"of its budget {its.pool.budget.text}"
    if its.pool.scaled and its.blocked_by != SCALED:
        yield f"it is {its.pool.scaled}"


def _when(until: float, now: float) -> str:
    return f"in {duration(until - now)}" if until > now else "now"


def _recorded(view: View) -> Iterator[dict[str, Any]]:
    """Give what the database has of pools, where no head runs."""
    last = {
        row["pool"]: first_line(row["detail"])
        for row in view.store.rows("last_decisions", {"kinds": json.dumps(REASONS)})
    }
    alive = view.store.rows("pilots_alive", {})
    every = [Order(**row) for row in view.store.rows("orders", {})]
    given = [order for order in every if order.verb in (SCALE, HOLD)]
    of_orders = (order.subject for order in given)
    for pool in sorted({*last, *(row["pool"] for row in alive), *of_orders}):
        mine = [row for row in alive if row["pool"] == pool]
        there = sum(row["nodes"] for row in mine if row["state"] == RUNNING)
        coming = sum(row["nodes"] for row in mine if row["state"] != RUNNING)
        text = f"no head runs; when the last one ended, {counted(there, 'node')} there"
        if coming:
            text += f", {coming} asked for"
        if pool in last:
            text += f"; it had asked for no more: {last[pool]}"
        text += "".join(f"; it is {order.words}" for order in given if order.subject == pool)
        yield {"pool": pool, "there": there, "coming": coming, "text": text}
