"""Slurm: its properties that are known without asking it; `commands` and `library` speak to it.

`answers` and `allocation` read what Slurm says, `nodelist` its host lists; `script` writes job
scripts. Works with Slurm from 20.02 on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pilot.scheduler.batch.base import Allocation, Stuck
from pilot.scheduler.batch.kind import BatchKind, Keys, MpiWay
from pilot.scheduler.batch.slurm.allocation import allocation_here
from pilot.scheduler.batch.slurm.nodelist import expand_nodelist
from pilot.scheduler.batch.slurm.reasons import meaning_of, stuck_by

if TYPE_CHECKING:
    from pilot.findings import AnyCheck
    from pilot.scheduler.batch.slurm.commands import SlurmBatch

#: Options of sbatch that a site file cannot set, and what to do instead.
_NOT_FOR_SITES = {
    "clusters": "write 'cluster' in the section 'slurm': then all commands speak to that cluster",
    "job-name": "Pilot finds its jobs by their names, which begin with slurm.job_name_prefix",
    "output": "Pilot reads what a job has written in <site>/jobs",
    "nodes": "Pilot asks for nodes as they are needed: see max_nodes and nodes_per_pilot",
    "time": "Pilot has to know it: write 'walltime' in the pool",
    "time-min": "Pilot asks for it where the work allows a shorter walltime: see 'flexible'",
    "array": "a pilot is one job",
    "wrap": "a pilot's job has a script of its own",
    "test-only": "no job would be submitted",
    "wait": "the head would wait with it; Pilot notices the end of a job by itself",
}
_SHORT_OPTIONS = {
    "M": "clusters",
    "J": "job-name",
    "o": "output",
    "N": "nodes",
    "t": "time",
    "a": "array",
    "W": "wait",
}


class SlurmMannersKeys(Keys, frozen=True, kw_only=True):
    """Keys of the section ``slurm``."""

    #: The cluster that Slurm's commands speak to, as their option -M; empty: the default one.
    cluster: str = ""
    #: What lists the jobs: pyslurm or the commands; auto: pyslurm where it is installed, of the
    #: cluster's release, and has not to list many jobs of others, too.
    interface: Literal["auto", "commands", "pyslurm"] = "auto"


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
    #: The memory that a job asks for on each node: counted (memory_per_node), all that the node
    #: has, or none, where the cluster gives it with the cores and refuses to be asked.
    memory_request: Literal["counted", "all", "none"] = "counted"
    #: More options for sbatch, each as one text ("--exclusive").
    sbatch_options: tuple[str, ...] = ()


class Slurm(BatchKind):
    """Slurm, by its command line or its library."""

    name = "slurm"
    manners_keys = SlurmMannersKeys
    pool_keys = SlurmPoolKeys
    head_keys = ("partition", "account", "qos", "reservation", "memory_request")
    cores_hint = "see CPUTot of 'scontrol show node'"

    has_successors = True
    has_forecasts = True
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

    def manners_faults(self, manners: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Return a cluster that is not one: the same job id may be of two jobs in two clusters."""
        if manners.cluster and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", manners.cluster):
            yield (
                ("cluster",),
                f"{manners.cluster!r} is not the name of one cluster; for jobs on several clusters "
                "make a site for each",
            )

    def pool_faults(self, pool: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Return texts that cannot stand in a job script, or that Pilot cannot work with."""
        for key in ("partition", "account", "qos", "constraint", "reservation"):
            if not getattr(pool, key).isprintable():
                yield (key,), "has a character that cannot be printed; write it on one line"
        for index, option in enumerate(pool.sbatch_options):
            if not option.startswith("-") or not option.isprintable():
                yield (
                    ("sbatch_options", index),
                    f"{option!r} is not an option of sbatch; write it as '--name=value'",
                )
            elif reason := _NOT_FOR_SITES.get(_long_name(option)):
                yield ("sbatch_options", index), f"{option!r} cannot be set here: {reason}"

    def open(self, manners: Any, directory: Path) -> SlurmBatch:  # noqa: ARG002
        """Return an adapter that runs Slurm's commands, or one that has its library too."""
        from pilot.scheduler.batch.slurm.commands import SlurmBatch
        from pilot.scheduler.batch.slurm.library import LibraryBatch, why_not

        if not why_not(manners.interface, manners.cluster):
            return LibraryBatch(manners.command_limit_s, insists=manners.interface == "pyslurm")
        return SlurmBatch(manners.command_limit_s, manners.cluster)

    def node_names(self, nodelist: str) -> list[str]:
        """Read a host list, such as ``n[1-3,07],gpu01``."""
        return expand_nodelist(nodelist)

    def own_allocation(self, environment: Mapping[str, str]) -> Allocation | None:
        """Read the variables that Slurm sets for a job; only releases after 22.05 give its end."""
        return allocation_here(environment)

    def step_options(self, job_id: str) -> tuple[str, ...]:
        """Name the job, as srun must be told outside of it."""
        return (f"--jobid={job_id}",)

    def mpi_ways(self, listed: str) -> list[MpiWay]:
        """Return Slurm's own way, each that it names, and the launcher of the MPI library."""
        named = (MpiWay("srun", (f"--mpi={kind}",)) for kind in kinds_of_mpi(listed))
        return [MpiWay("srun"), *named, MpiWay("mpiexec")]

    def checks(self, manners: Any, pools: Mapping[str, Any], directory: Path) -> Sequence[AnyCheck]:
        """Return the checks of Slurm's commands, and of what the pools ask for."""
        from pilot.scheduler.batch.slurm.checks import slurm_checks

        return slurm_checks(manners, pools, directory)

    def meaning(self, reason: str, job_id: str) -> str:
        """Return the meaning of the commonest reasons."""
        return meaning_of(reason, job_id)

    def release_advice(self, reason: str, job_id: str) -> str:
        """Return how to release a job that is held, and who can."""
        match stuck_by("", reason):
            case Stuck.HELD:
                return f"`scontrol release {job_id}` lets the job go"
            case Stuck.ADMIN:
                return (
                    f"ask the administrators why they hold job {job_id}: `scontrol release "
                    f"{job_id}`, by one of them, lets it go"
                )
        return ""

    def end_advice(self, job_id: str) -> str:
        """Return how to end an allocation that its user has made."""
        return f"`scancel {job_id}` ends the allocation"

    def resume_advice(self, job_id: str) -> str:
        """Return how to resume a suspended job."""
        return f"`scontrol resume {job_id}`, by whoever suspended it, lets it go on"


def _long_name(option: str) -> str:
    """Return the name of an option of sbatch, in its long form where that is known."""
    if option.startswith("--"):
        return re.split("[= ]", option[2:], maxsplit=1)[0]
    return _SHORT_OPTIONS.get(option[1:2], "")


def kinds_of_mpi(listed: str) -> list[str]:
    """Return the kinds that ``srun --mpi=list`` names, in the order in which to try them."""
    found: list[str] = []
    for line in listed.splitlines():
        word = re.sub(r"^\s*srun:\s*", "", line).strip()
        if re.fullmatch(r"[a-z][a-z0-9_]*", word) and word not in ("none", "openmpi", *found):
            found.append(word)
    return sorted(found, key=lambda kind: (not kind.startswith("pmi"), kind != "pmix"))
