"""The records of pilots, and what is known of pilots to come. Pure.

`fleet` keeps these, the answers to "why" and the lists show them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from pilot.head.setbacks import Losses, Refusal
from pilot.model.states import PilotState
from pilot.scheduler.batch import BatchKind
from pilot.scheduler.elasticity import PilotSupply, PoolLimits
from pilot.site_configs import SiteConfig

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
    #: The time since which the batch system lists the job as running; None: it does not.
    job_runs_since: float | None = None
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
            pool.idle_time_s,
        )
        for name, pool in config.pools.items()
    ]
