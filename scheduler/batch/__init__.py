"""The adapters to the batch system, behind one interface.

`base` is the interface and its words; `script` renders a pilot's job script (pure); `slurm` talks
to Slurm's command line; `local` runs pilots as processes of this machine, each under its keeper
(`local_job`); `nodelist` reads Slurm's host lists (pure). `open_batch` in `choose` picks the
adapter that a site names.
"""

from __future__ import annotations

from scheduler.batch.base import (
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
from scheduler.batch.choose import open_batch
from scheduler.batch.nodelist import expand_nodelist

__all__ = [
    "BatchError",
    "BatchSystem",
    "BatchUnavailable",
    "JobDirectives",
    "JobRequest",
    "JobStatus",
    "Phase",
    "ShrinkRefused",
    "SubmitRefused",
    "WhyEnded",
    "expand_nodelist",
    "open_batch",
]
