"""The pilots as elasticity sees them: what they have, and for how long. Pure.

Invariants
----------
- A pilot counts with what it promises until it has come, and then with what it has. One that an
  administrator holds is not expected to come.
- A node of an allocation that a user has made counts as the part of one of the pool's that it is,
  and for no task that finds too little there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from pilot.head.outlook import RUNNING, PilotRow
from pilot.head.shrinking import idle_nodes_s
from pilot.scheduler.assignment import PilotRoom
from pilot.scheduler.batch import Stuck
from pilot.scheduler.elasticity import PilotSupply
from pilot.scheduler.resources import NodeShape, has_all
from pilot.scheduler.waits import MOST_S, Waits
from pilot.site_configs import SiteConfig


def supply_of(
    config: SiteConfig,
    rows: Mapping[str, PilotRow],
    rooms: Mapping[str, PilotRoom],
    waits: Mapping[str, Waits],
    here: Collection[str],
    now: float,
) -> list[PilotSupply]:
    """Return the pilots in the form that elasticity takes.

    Parameters
    ----------
    config
        The site.
    rows
        The pilots by name.
    rooms
        What pilots that have introduced themselves have said, by name.
    waits
        The last waits for nodes, by pool.
    here
        The names of pilots in the job that the head runs in.
    now
        The time.
    """
    waiting = _waiting(rows.values(), now)
    followed = {row.follows for row in rows.values()}
    found = []
    for row in rows.values():
        if row.left_alone:
            continue
        room = rooms.get(row.name)
        nodes = row.nodes
        shape: NodeShape | None = None  # what the pool promises
        if room is None:
            left_s = row.walltime or math.inf  # all that it will have
        else:
            left_s = room.ends_at - now if room.ends_at else math.inf
            nodes = min(nodes, room.nodes)
            whole = config.pools.get(row.pool)
            if row.own and whole is not None and not has_all(room.shape, whole.shape):
                shape = room.shape
            if row.own and whole is not None and room.shape.cores < whole.cores_per_node:
                # Parts of nodes serve as many tasks as that many whole ones; but a run in a job of
                # its own begins with that, however small it is.
                least = 1 if row.name in here else 0
                nodes = max(least, nodes * room.shape.cores // whole.cores_per_node)
        keeps_s = keep_s(config, waits[row.pool], row.pool, nodes, waiting.get(row.pool, ()))
        by_admin = row.stuck is Stuck.ADMIN
        supply = PilotSupply(
            row.name,
            row.pool,
            nodes,
            queued=row.state != RUNNING,
            held_back=row.held_back and row.state != RUNNING and row.started is not None,
            comes=not by_admin,
            idle_s=idle_s(row, room, now),
            # What an administrator holds is not asked for anew at each short gap in the work.
            keep_s=MOST_S if by_admin else keeps_s,
            idle_nodes_s=idle_nodes_s(row, now),
            # One that stands still takes no tasks; when it goes on, it is there as before.
            draining=row.draining or row.suspended,
            left_s=left_s,
            load=_load(room),
            held=row.nodes,
            shape=shape,
            own=row.own,
            may_be_followed=config.kind.has_successors
            and row.state == RUNNING
            and row.job is not None
            and not row.own
            and row.name not in followed,
        )
        found.append(supply)
    return found


def keep_s(
    config: SiteConfig, waits: Waits, pool: str, nodes: int, waiting: Iterable[tuple[int, float]]
) -> float:
    """Return for how long so many idle nodes of a pool are kept, in seconds."""
    its = config.pools.get(pool)
    given = None if its is None else its.idle_time_s
    return waits.keep_s(nodes, waiting) if given is None else given


def idle_s(row: PilotRow, room: PilotRoom | None, now: float) -> float:
    """Return for how long a pilot has been idle, by its last word and what it was given since; or
    for how long nothing has been left to do for one that is in the queue."""
    if row.state != RUNNING:
        return 0.0 if row.unwanted_since is None else max(0.0, now - row.unwanted_since)
    if not row.idle_s or _load(room):
        return 0.0
    return row.idle_s + max(0.0, now - row.heard) if row.heard else row.idle_s


def _load(room: PilotRoom | None) -> int:
    """Return the cores in use, and one where there are only tasks that have none now: such a pilot
    is not idle."""
    if room is None:
        return 0
    # What it holds without a core is work, too, and weighs next to nothing.
    return max(room.load, bool(room.coreless), room.has_waits)


def _waiting(rows: Iterable[PilotRow], now: float) -> dict[str, list[tuple[int, float]]]:
    """Return the nodes of each pilot that waits, and for how long it has, by pool.

    A wait tells what nodes cost as long as there is work for them; that of one whose job has had
    nodes, and lost them, or that starts when another one has ended, tells nothing.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row.started is None and not row.is_requeued and not row.follows:
            until = now if row.unwanted_since is None else row.unwanted_since
            found.setdefault(row.pool, []).append((row.nodes, until - row.created))
    return found
