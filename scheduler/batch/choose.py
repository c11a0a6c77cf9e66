"""Which adapter a site asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from scheduler.batch.base import BatchSystem


class _SlurmManners(Protocol):
    @property
    def command_limit_s(self) -> float: ...
    @property
    def cluster(self) -> str: ...


class BatchChoice(Protocol):
    """The part of a site's configuration that says which batch system it has."""

    @property
    def batch(self) -> str: ...
    @property
    def slurm(self) -> _SlurmManners: ...


def open_batch(config: BatchChoice, directory: Path) -> BatchSystem:
    """The adapter that a site's configuration names.

    Parameters
    ----------
    config
        A site's configuration.
    directory
        Where the local adapter keeps its records of jobs; made if it is not there.

    Raises
    ------
    ValueError
        No adapter has this name.
    """
    if config.batch == "local":
        from scheduler.batch.local import LocalBatch

        return LocalBatch(directory)
    if config.batch == "slurm":
        from scheduler.batch.slurm import SlurmBatch

        return SlurmBatch(config.slurm.command_limit_s, config.slurm.cluster)
    raise ValueError(f"no batch system is named {config.batch!r}; there are local and slurm")
