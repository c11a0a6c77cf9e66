"""The accounts of node-seconds: what pilots have used, by pool and session, kept in the database.

Invariants
----------
- Each pilot's nodes are counted once for each moment from the start of its job to its end, as many
  as it had then. An allocation that a user has made is not counted.
- What is counted is written once a minute, and when a pilot has ended; up to which time is written
  with it, so that the next head goes on from there.
- The nodes of a pilot are shared among the sessions by the cores that their tasks hold there; while
  it has no tasks they are those of its last ones.
- A job is counted only while it is known to run: what a head finds in the database may have ended.
- A tick costs as much as there are pilots; the table is summed up once for each period.
"""

from __future__ import annotations

import logging
import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from pilot.head.outlook import QUEUED, RUNNING, PilotRow
from pilot.head.store.reader import Reader
from pilot.head.store.store import Store
from pilot.scheduler.assignment import PilotRoom
from pilot.scheduler.budgets import Account, NodeBudget, Period, by_day, period_of
from pilot.scheduler.elasticity import BudgetLimit, PoolLimits

log = logging.getLogger("pilot.fleet")

#: The kinds of accounts.
POOL: Final = "pool"
SESSION: Final = "session"
#: The time between two times of writing, in seconds.
WRITE_S = 60.0


class Room(PilotRoom, Protocol):
    """A pilot that has introduced itself, as it is counted."""

    @property
    def shares(self) -> Mapping[int, int]:
        """The cores of the tasks of each session."""


class Ledger:
    """The accounts of a site.

    Parameters
    ----------
    store
        The database.
    budgets
        The budgets of pools that have one, by name.
    """

    def __init__(self, store: Store, budgets: Mapping[str, NodeBudget]) -> None:
        self._store = store
        self._budgets = budgets
        #: What is counted and not written: (kind, name, day) → node-seconds.
        self._counted: defaultdict[tuple[str, str, int], float] = defaultdict(float)
        self._pilots: dict[str, tuple[float, float | None]] = {}
        self._written = 0.0
        #: The sums of the present periods, by pool.
        self._sums: dict[str, tuple[Period, float]] = {}
        #: The shares of sessions in each pilot, as they last were.
        self._shares: dict[str, dict[int, float]] = {}

    def count(self, rows: Iterable[PilotRow], rooms: Mapping[str, Room], now: float) -> None:
        """Count the nodes of pilots that are known to run, up to now."""
        for row in rows:
            room = rooms.get(row.name)
            if room is not None and room.shares:
                cores = sum(room.shares.values())
                self._shares[row.name] = {s: n / cores for s, n in room.shares.items()}
            if row.state == RUNNING and (row.heard or row.job_runs_since is not None):
                self._count(row, now)
            elif row.state == QUEUED and row.counted is not None:
                row.counted = None  # it waits anew
                self._pilots[row.name] = row.used, None

    def end(self, row: PilotRow, now: float) -> None:
        """Count a pilot that has ended, up to its end, and write it."""
        if row.counted is None and not (row.state == RUNNING and row.started is not None):
            return
        until = now
        if row.job_ended_at is not None:
            until = min(now, row.job_ended_at)
        elif not row.heard and row.job_runs_since is None and row.walltime:
            # Nobody has seen it run for this head: it ended at the end of its walltime at last.
            until = min(now, (row.started or now) + row.walltime)
        self._count(row, until)
        self._shares.pop(row.name, None)
        self.write(now)

    def _count(self, row: PilotRow, until: float) -> None:
        start = row.counted
        if start is None:
            # When a later life of a requeued job began, only the batch system knows.
            first = None if row.used else row.started
            start = min(until, row.job_runs_since or first or until)
        row.counted = max(start, until)
        if row.own or until <= start:
            return
        for day, seconds in by_day(start, until):
            node_s = row.nodes * seconds
            row.used += node_s
            self._counted[POOL, row.pool, day] += node_s
            if row.pool in self._sums and day >= self._sums[row.pool][0].first_day:
                period, used = self._sums[row.pool]
                self._sums[row.pool] = period, used + node_s
        for session, share in self._shares.get(row.name, {}).items():
            self._counted[SESSION, str(session), 0] += share * row.nodes * (until - start)
        self._pilots[row.name] = row.used, row.counted

    def tick(self, rows: Iterable[PilotRow], rooms: Mapping[str, Room], now: float) -> None:
        """Count, and write what is due."""
        self.count(rows, rooms, now)
        if now - self._written >= WRITE_S:
            self.write(now)

    def write(self, now: float) -> None:
        """Write what is counted; what cannot be written now is tried again."""
        self._written = now
        if not self._pilots and not self._counted:
            return
        usage = [(*key, node_s) for key, node_s in self._counted.items()]
        pilots = [(used, counted, name) for name, (used, counted) in self._pilots.items()]
        try:
            self._store.add_usage(usage, pilots)
        except sqlite3.Error as error:
            log.warning("used node-hours cannot be written down: %s; trying again", error)
            return
        self._counted.clear()
        self._pilots.clear()

    def accounts(
        self, rows: Sequence[PilotRow], rooms: Mapping[str, Room], now: float
    ) -> dict[str, Account]:
        """Return the accounts of the pools that have a budget."""
        found = {}
        for pool, budget in self._budgets.items():
            known = self._sums.get(pool)
            if known is None or now >= known[0].end:
                period = period_of(budget.per, now)
                unwritten = sum(
                    node_s
                    for (kind, name, day), node_s in self._counted.items()
                    if (kind, name) == (POOL, pool) and day >= period.first_day
                )
                known = period, used_since(self._store, pool, period.first_day) + unwritten
                self._sums[pool] = known
            period, used = known
            mine = (row for row in rows if row.pool == pool)
            committed = sum(committed_s(row, rooms.get(row.name), now, period.end) for row in mine)
            found[pool] = Account(budget, used, committed, period.end)
        return found

    def session_accounts(self) -> dict[int, Account]:
        """Return the accounts of the open sessions that have a budget."""
        return {
            session: account._replace(
                used=account.used + self._counted.get((SESSION, str(session), 0), 0.0)
            )
            for session, account in recorded_session_accounts(self._store).items()
        }


def recorded_session_accounts(reader: Reader) -> dict[int, Account]:
    """Return the accounts of open sessions that have a budget, as far as they are written."""
    return {
        row["id"]: Account(NodeBudget(row["budget"]), row["used"])
        for row in reader.rows("session_budgets", {})
    }


def limits(pools: Sequence[PoolLimits], accounts: Mapping[str, Account]) -> list[PoolLimits]:
    """Return the limits of pools as their budgets change them."""
    return [
        msgspec.structs.replace(
            pool,
            budget=BudgetLimit(
                account.nodes(pool.walltime_s), is_used_up=account.is_used_up, text=account.words
            ),
        )
        if (account := accounts.get(pool.name)) is not None
        else pool
        for pool in pools
    ]


def used_since(reader: Reader, pool: str, day: int) -> float:
    """Return the node-seconds that a pool has used since a day, as far as they are written."""
    rows = reader.rows("usage_since", {"kind": POOL, "name": pool, "day": day})
    return float(rows[0]["node_s"] or 0.0)


def committed_s(row: PilotRow, room: Room | None, now: float, until: float) -> float:
    """Return the node-seconds that a pilot uses at most from now until a moment, at the latest."""
    if row.own:
        return 0.0
    if room is not None and room.ends_at:
        ends_at = room.ends_at
    else:
        start = row.job_runs_since or row.started if row.state == RUNNING else None
        ends_at = (start or now) + (row.walltime or math.inf)
    seconds = max(0.0, min(ends_at, until) - now)
    return row.nodes * seconds if seconds != math.inf else 0.0


def recorded_accounts(
    reader: Reader, budgets: Mapping[str, NodeBudget], now: float
) -> dict[str, Account]:
    """Return the accounts of pools as the database has them, for when no head runs."""
    rows = [PilotRow(**row) for row in reader.rows("pilots_alive", {})]
    found = {}
    for pool, budget in budgets.items():
        period = period_of(budget.per, now)
        committed = sum(committed_s(row, None, now, period.end) for row in rows if row.pool == pool)
        used = used_since(reader, pool, period.first_day)
        found[pool] = Account(budget, used, committed, period.end)
    return found
