"""Slurm: its properties that are known without asking it; `commands` speaks to it.

`nodelist` reads its host lists, `script` writes its job scripts. Works with Slurm from 20.02 on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilot.scheduler.batch.kind import Allocation, BatchKind, Keys, MpiWay
from pilot.scheduler.batch.slurm.nodelist import expand_nodelist

if TYPE_CHECKING:
    from pilot.scheduler.batch.slurm.commands import SlurmBatch

#: Slurm's commonest reasons, in words; others speak for themselves.
_REASONS = {
    "Resources": "not enough free nodes",
    "Priority": "jobs of higher priority go first",
    "Dependency": "another job has to end first",
    "BeginTime": "it may not start yet; a job that was requeued is held back for a while",
    "JobHeldUser": "it is held; `scontrol release {job}` lets it go",
    "JobHeldAdmin": "an administrator holds it",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is closed",
    "PartitionTimeLimit": "its walltime is longer than the partition allows",
    "PartitionNodeLimit": "it asks for more nodes than the partition allows",
    "ReqNodeNotAvail": "nodes that it could have are down, drained or reserved",
    "Reservation": "its reservation has not begun",
    "Licenses": "no license is free",
}
_LIMIT_OF_SITE = re.compile(r"(QOS|Assoc|Max)\w*")


class SlurmMannersKeys(Keys, frozen=True, kw_only=True):
    """Keys of the section ``slurm``."""

    #: The cluster that Slurm's commands speak to, as their option -M; empty: the default one.
    cluster: str = ""


class SlurmPoolKeys(Keys, frozen=True, kw_only=True):
    """Keys of a pool."""

    #: Slurm partition; empty: the cluster's default.
    partition: str = ""
    #: Slurm account to charge.
    account: str = ""
    #: Slurm quality of service.
    qos: str = ""
    #: Features that nodes must have, as Slurm's --constraint.
    constraint: str = ""
    #: Slurm reservation.
    reservation: str = ""
    #: More options for sbatch, each as one text ("--exclusive").
    sbatch_options: tuple[str, ...] = ()


class Slurm(BatchKind):
    """Slurm, by its command line."""

    name = "slurm"
    manners_keys = SlurmMannersKeys
    pool_keys = SlurmPoolKeys
    cores_hint = "see CPUTot of 'scontrol show node'"

    ends_processes_singly = True
    launcher = "srun"
    node_launcher = "srun"
    mpi_listing = ("srun", "--mpi=list")

    title = "Slurm"
    unlisted = "squeue does not list its job, and sacct does not know how it ended"
    asking_keys = "account, partition and the like"
    losing_keys = "slurm.cluster, where jobs go to a cluster that is not the one asked"
    mpi_advice = (
        "`srun --mpi=list` shows Slurm's; set one of them in site.yaml (mpi: {launcher: srun, "
        'options: ["--mpi=pmix"]}), or the own launcher of the library (mpi: {launcher: '
        "mpiexec}), or have it tried out (mpi: {launcher: auto}, without options)"
    )

    def pool_faults(self, pool: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Return texts that cannot stand in the header of a job script."""
        for key in ("partition", "account", "qos", "constraint", "reservation"):
            if not getattr(pool, key).isprintable():
                yield (key,), "has a character that cannot be printed; write it on one line"
        for index, option in enumerate(pool.sbatch_options):
            if not option.startswith("-") or not option.isprintable():
                yield (
                    ("sbatch_options", index),
                    f"{option!r} is not an option of sbatch; write it as '--name=value'",
                )

    def open(self, manners: Any, directory: Path) -> SlurmBatch:  # noqa: ARG002
        """Return an adapter that runs Slurm's commands; nothing is kept."""
        from pilot.scheduler.batch.slurm.commands import SlurmBatch

        return SlurmBatch(manners.command_limit_s, manners.cluster)

    def node_names(self, nodelist: str) -> list[str]:
        """Read a host list, such as ``n[1-3,07],gpu01``."""
        return expand_nodelist(nodelist)

    def own_allocation(self, environment: Mapping[str, str]) -> Allocation | None:
        """Read the variables that Slurm sets for a job; only releases after 22.05 give its end."""
        job_id = environment.get("SLURM_JOB_ID", "")
        if not job_id:
            return None
        nodes = environment.get("SLURM_JOB_NUM_NODES", "1")
        restarts = environment.get("SLURM_RESTART_COUNT", "0")
        ends_at = environment.get("SLURM_JOB_END_TIME", "")
        return Allocation(
            job_id,
            environment.get("SLURM_JOB_NODELIST", ""),
            int(nodes) if nodes.isdecimal() else 1,
            int(restarts) if restarts.isdecimal() else 0,
            float(ends_at) if ends_at.isdecimal() else None,
        )

    def mpi_ways(self, listed: str) -> list[MpiWay]:
        """Return Slurm's own way, each that it names, and the launcher of the MPI library."""
        named = (MpiWay("srun", (f"--mpi={kind}",)) for kind in kinds_of_mpi(listed))
        return [MpiWay("srun"), *named, MpiWay("mpiexec")]

    def meaning(self, reason: str, job_id: str) -> str:
        """Return the meaning of the commonest reasons."""
        word = reason.partition(",")[0].strip()
        if word in _REASONS:
            return _REASONS[word].format(job=job_id)
        if _LIMIT_OF_SITE.fullmatch(word):
            return "a limit of your account, partition or quality of service"
        return ""

    def release_advice(self, reason: str, job_id: str) -> str:
        """Return how to release a job that its user holds."""
        if reason != "JobHeldUser":
            return ""
        return f"`scontrol release {job_id}` lets the job go"

    def resume_advice(self, job_id: str) -> str:
        """Return how to resume a suspended job."""
        return f"`scontrol resume {job_id}`, by whoever suspended it, lets it go on"


def kinds_of_mpi(listed: str) -> list[str]:
    """Return the kinds that ``srun --mpi=list`` names, in the order in which to try them."""
    found: list[str] = []
    for line in listed.splitlines():
        word = re.sub(r"^\s*srun:\s*", "", line).strip()
        if re.fullmatch(r"[a-z][a-z0-9_]*", word) and word not in ("none", "openmpi", *found):
            found.append(word)
    return sorted(found, key=lambda kind: (not kind.startswith("pmi"), kind != "pmix"))
