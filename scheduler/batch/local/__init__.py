"""The batch system of a laptop or a single server: pilots are processes of this machine.

`processes` starts and lists them, each under its `keeper`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilot.scheduler.batch.kind import BatchKind

if TYPE_CHECKING:
    from pilot.scheduler.batch.local.processes import LocalBatch


class Local(BatchKind):
    """The machine itself, without a batch system."""

    name = "local"
    is_local = True

    def open(self, manners: Any, directory: Path) -> LocalBatch:  # noqa: ARG002
        """Open the batch system, with its records of jobs in the directory."""
        from pilot.scheduler.batch.local.processes import LocalBatch

        return LocalBatch(directory)

    def resume_advice(self, job_id: str) -> str:  # noqa: ARG002
        """Return how to resume a stopped pilot."""
        return "SIGCONT to its processes lets it go on"
