"""The batch systems, behind one interface.

`kind` is what is known of a batch system without asking it, `base` what is asked of it; `choose`
has the list of those that there are, each in a package of its own: `slurm` speaks to Slurm's
command line, `local` runs pilots as processes of this machine. `script` renders a pilot's job
script (pure).
"""

from __future__ import annotations

from pilot.scheduler.batch.base import (
    BatchError,
    BatchSystem,
    BatchUnavailable,
    JobDirectives,
    JobRequest,
    JobStatus,
    Phase,
    ShrinkRefused,
    SubmitRefused,
    WhyEnded,
)
from pilot.scheduler.batch.choose import find_kind, open_batch
from pilot.scheduler.batch.kind import Allocation, BatchKind, Keys, MpiWay

__all__ = [
    "Allocation",
    "BatchError",
    "BatchKind",
    "BatchSystem",
    "BatchUnavailable",
    "JobDirectives",
    "JobRequest",
    "JobStatus",
    "Keys",
    "MpiWay",
    "Phase",
    "ShrinkRefused",
    "SubmitRefused",
    "WhyEnded",
    "find_kind",
    "open_batch",
]
