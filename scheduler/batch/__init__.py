"""The batch systems, behind one interface.

`kind` has the properties of a batch system that are known without asking it, `base` the requests
to it; `choose` lists the batch systems, each in its own package: `slurm` runs Slurm's commands,
`local` runs pilots as processes of this machine. `script` renders a pilot's job script (pure).
"""

from __future__ import annotations

from pilot.scheduler.batch.base import (
    NO_PREFIX,
    Allocation,
    BatchError,
    BatchSystem,
    BatchUnavailable,
    JobDirectives,
    JobRequest,
    JobStatus,
    Phase,
    Prediction,
    Predicts,
    ShrinkRefused,
    Stuck,
    SubmitRefused,
    WhyEnded,
)
from pilot.scheduler.batch.choose import find_kind, open_batch
from pilot.scheduler.batch.kind import BatchKind, Keys, MpiWay

__all__ = [
    "NO_PREFIX",
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
    "Prediction",
    "Predicts",
    "ShrinkRefused",
    "Stuck",
    "SubmitRefused",
    "WhyEnded",
    "find_kind",
    "open_batch",
]
