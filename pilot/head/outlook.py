"""The records of pilots, and what is known of pilots to come. Pure.

`fleet` keeps these, the answers to "why" and the lists show them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from pilot.formatting import counted, duration
from pilot.head.setbacks import Losses, Refusal
from pilot.model.states import PilotState
from pilot.scheduler.batch import BatchKind, Stuck
from pilot.scheduler.budgets import Account, NodeBudget
from pilot.scheduler.elasticity import (
    ADMIN,
    AT_ONCE,
    BUDGET,
    ENOUGH,
    MAX_NODES,
    MAX_QUEUED,
    SCALED,
    Halt,
    PilotSupply,
    PoolLimits,
    PoolStatus,
)
from pilot.scheduler.waits import Waits
from pilot.site_configs import SiteConfig
from pilot.wire.messages.pilot import BookingInfo

#: The advice for a pilot that does not reach the head.
UNREACHED_ADVICE: Final = (
    "set head.address in site.yaml to a name, address or network interface of the head's machine "
    "that nodes reach, and start the head again (`pilot doctor --job` tries them)"
)

#: The time after which an obstacle between a queued job and its start does not pass, in seconds.
STUCK_S = 300.0

INTENDED: Final = "INTENDED"
QUEUED: Final = "QUEUED"
RUNNING: Final = "RUNNING"
ENDED: Final = "ENDED"


class PilotRow(msgspec.Struct):
    """A pilot as the database has it, with its live state."""

    name: str
    pool: str
    #: The job's nodes, granted or requested; a running pilot may have lost some of them.
    nodes: int
    walltime: float
    state: PilotState
    job: str | None
    reason: str
    created: float
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    #: The time of the last sign of life; 0: the pilot has not reported to this head.
    heard: float = 0.0
    idle_s: float = 0.0
    draining: bool = False
    #: The batch system's reason for the job's state, and the expected time of the start.
    waits_for: str = ""
    expected: float | None = None
    #: The obstacle between a queued job and its start, and the time since which it is there.
    stuck: Stuck | None = None
    stuck_since: float | None = None
    #: True if the batch system lets the queued job start no sooner than `expected`.
    held_back: bool = False
    #: True if its job has run before, and waits or runs anew.
    is_requeued: bool = False
    #: The time since which nothing is left for a pilot to do that is in the queue; None: it has
    #: work to come for.
    unwanted_since: float | None = None
    #: The time since which the batch system lists the job as running; None: it does not.
    job_runs_since: float | None = None
    #: The end of the job's walltime by the batch system's clock; None: it has not said.
    job_ends_at: float | None = None
    #: The end to which somebody has moved it, as long as the pilot does not know that.
    moved_to: float | None = None
    #: The addresses of this head that the pilot tries in vain, as it has written; or empty.
    unreached: str = ""
    #: True if the job has nodes, but is suspended.
    suspended: bool = False
    #: The time since which lists of jobs lack the pilot, and it has been silent.
    missing_since: float | None = None
    #: True if the pilot has run a task, or ended one.
    worked: bool = False
    #: True if the head has told the pilot to end, or cancelled its job: its end is intended.
    told: bool = False
    #: The time at which the job was cancelled; 0: it was not.
    cancelled_at: float = 0.0
    #: True for the allocation that the head's user made: the head never ends it.
    own: bool = False
    #: True for such a one that is silent, and that nobody counts on: it is kept until its job has
    #: ended, because its tasks may hold what the site has only once.
    left_alone: bool = False
    #: The pilot after whose end its job starts; empty: it waits for none.
    follows: str = ""
    #: The nodes that it could do without, and for how long each has been idle, in seconds.
    idle_nodes: Sequence[tuple[str, float]] = ()
    #: What it keeps for a task that waits there, as it said last.
    booking: BookingInfo | None = None
    #: The time before which no node is asked of the pilot: one is on its way back, or was refused.
    shrinks_after: float = 0.0
    #: True while the batch system is asked to take nodes back; and the time before which it is not
    #: asked again.
    shrinking: bool = False
    returns_after: float = 0.0
    #: True from a refusal to take nodes back until the pilot is asked for nodes again.
    shrink_refused: bool = False
    #: The node-seconds that are counted, and up to which time; None: none are being counted.
    used: float = 0.0
    counted: float | None = None
    #: The time at which the job ended, as the batch system says; None: nobody knows.
    job_ended_at: float | None = None


class ProvisioningView(NamedTuple):
    """The prospects of pilots to come: what elasticity and the batch system know."""

    #: The batch system, for its words.
    kind: BatchKind
    pools: Sequence[PoolLimits] = ()
    supply: Sequence[PilotSupply] = ()
    rows: Mapping[str, PilotRow] = MappingProxyType({})
    #: The last refusals, by pool.
    refused: Mapping[str, Refusal] = MappingProxyType({})
    #: The reason why the batch system gives no answer, and since when; empty: it answers.
    silence: str = ""
    silent_since: float = 0.0
    #: Pilots that ended without having run a task, by pool.
    losses: Mapping[str, Losses] = MappingProxyType({})
    #: The budgets of pools, and what is used of them.
    accounts: Mapping[str, Account] = MappingProxyType({})
    #: The same of open sessions.
    session_accounts: Mapping[int, Account] = MappingProxyType({})


def pool_limits(config: SiteConfig) -> list[PoolLimits]:
    """Return the pools of a site in the form that the scheduler takes."""
    return [
        PoolLimits(
            name,
            pool.shape,
            pool.min_nodes,
            pool.max_nodes,
            pool.nodes_per_pilot,
            pool.max_pilots_queued,
            pool.walltime_s,
            is_flexible=pool.flexible and config.kind.has_forecasts,
        )
        for name, pool in config.pools.items()
    ]


def patient(pools: Sequence[PoolLimits], waits: Mapping[str, Waits]) -> list[PoolLimits]:
    """Return the pools' limits, with less patience where nodes come soon."""
    return [
        msgspec.structs.replace(pool, patience_s=waits[pool.name].patience_s(pool.nodes_per_pilot))
        for pool in pools
    ]


def halted(pools: Sequence[PoolLimits], rows: Iterable[PilotRow]) -> list[PoolLimits]:
    """Return the pools' limits, without new pilots where an administrator holds one.

    Another one would go round that. A user's order that lets no pilots come is told before.
    """
    held: dict[str, list[str]] = {}
    for row in rows:
        if row.stuck is Stuck.ADMIN and row.job and not row.cancelled_at:
            held.setdefault(row.pool, []).append(row.job)
    return [
        msgspec.structs.replace(pool, halt=Halt(ADMIN, f"an administrator holds {_jobs(jobs)}"))
        if pool.halt is None and (jobs := held.get(pool.name))
        else pool
        for pool in pools
    ]


def _jobs(jobs: Sequence[str]) -> str:
    return f"job {jobs[0]}" + (f", and {len(jobs) - 1} more" if len(jobs) > 1 else "")


def hindrance(its: PoolStatus) -> str:
    """Return why a pool asks for no more nodes, in words; empty if it does ask."""
    pool = its.pool
    if its.blocked_by == SCALED:
        return f"pool {pool.name} has all that it may have: it is {pool.scaled}"
    if pool.halt is not None and its.blocked_by == pool.halt.kind:
        return f"pool {pool.name} gets no new pilots: {pool.halt.text}"
    if pool.budget is not None and its.blocked_by == BUDGET:
        return f"pool {pool.name} gets no new pilots: of its budget {pool.budget.text}"
    if its.blocked_by == MAX_NODES:
        return f"pool {pool.name} has all that it may have (max_nodes {pool.max_nodes})"
    if its.blocked_by == MAX_QUEUED:
        queued = counted(its.queued, "pilot")
        return (
            f"pool {pool.name} has {queued} in the queue, no more are submitted "
            f"(max_pilots_queued {pool.max_queued})"
        )
    if its.blocked_by == AT_ONCE:
        return (
            f"it needs {its.at_once} nodes at once, and of the {pool.max_nodes} that pool "
            f"{pool.name} may have, {max(0, its.free)} are not in use"
        )
    if its.blocked_by == ENOUGH:
        have = f"{counted(its.have, 'node')}, there or on the way"
        return f"pool {pool.name} has {have}, which is taken to be enough for its work"
    return ""


def obstacle(row: PilotRow, kind: BatchKind, now: float) -> str:
    """Return what keeps a pilot's job in the queue for good, as a sentence; empty: nothing does."""
    if row.stuck is None or row.stuck_since is None:
        return ""
    since_s = now - row.stuck_since
    if row.stuck is Stuck.LIMIT and since_s < STUCK_S:
        return ""  # others of the same account may end at any time
    said = f"{kind.title} says {row.waits_for}"
    if meaning := kind.meaning(row.waits_for, row.job or ""):
        said += f" ({meaning})"
    text = f"pilot {row.name} (job {row.job}) cannot start, since {duration(since_s)}: {said}"
    if row.stuck is Stuck.LIMIT:
        return text
    if row.stuck is Stuck.ADMIN:
        return f"{text}; until it is let go, no others are asked for in pool {row.pool}"
    return f"{text}; it is given up after {duration(STUCK_S)}, and another one is asked for"


def budgets_of(config: SiteConfig) -> dict[str, NodeBudget]:
    """Return the budgets of a site's pools, by name."""
    return {name: pool.budget for name, pool in config.pools.items() if pool.budget is not None}
