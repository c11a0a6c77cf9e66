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
    #: What its job has or asks for; of these, a pilot that works may have lost some.
    nodes: int
    walltime: float
    state: PilotState
    job: str | None
    reason: str
    created: float
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    #: Time of its last sign of life; 0: it has not reported to this head.
    heard: float = 0.0
    idle_s: float = 0.0
    draining: bool = False
    #: The batch system's reason for its state, and when it expects it to start.
    waits_for: str = ""
    expected: float | None = None
    #: Since when the batch system says that its job runs; None: it does not.
    job_runs_since: float | None = None
    #: It has nodes, and stands still.
    suspended: bool = False
    #: Since when lists of jobs leave it out although they should have it, and it has not spoken.
    missing_since: float | None = None
    #: It has run a task, or ended one.
    worked: bool = False
    #: The head has told it to end, or taken it out of the queue: its end is no accident.
    told: bool = False
    #: When its job was cancelled; 0: it was not.
    cancelled_at: float = 0.0
    #: It is the allocation of the head's user, which is not ours to end.
    own: bool = False


class ProvisioningView(NamedTuple):
    """The prospects of pilots to come: what elasticity and the batch system know."""

    #: The batch system, for its words.
    kind: BatchKind
    pools: Sequence[PoolLimits] = ()
    supply: Sequence[PilotSupply] = ()
    rows: Mapping[str, PilotRow] = MappingProxyType({})
    #: By pool.
    refused: Mapping[str, Refusal] = MappingProxyType({})
    #: Why nothing is known from the batch system now, and since when; empty: it answers.
    silence: str = ""
    silent_since: float = 0.0
    #: Pilots that ended without having worked, by pool.
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
