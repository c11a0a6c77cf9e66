"""The checks of ``pilot doctor`` that are Slurm's: its commands, and what the pools ask for.

Nothing is submitted: ``sbatch --test-only`` says what would become of a job.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pilot.findings import AnyCheck, Check, Finding, ok, problem, warning
from pilot.formatting import duration
from pilot.scheduler.batch.base import NO_PREFIX, BatchUnavailable, JobRequest
from pilot.scheduler.batch.slurm.answers import release_of
from pilot.scheduler.batch.slurm.commands import SlurmBatch
from pilot.scheduler.batch.slurm.library import try_library
from pilot.scheduler.batch.slurm.script import format_walltime, job_script

#: The commands that Pilot uses; without those of the second row it does less.
_NEEDED = ("sbatch", "squeue", "scancel", "scontrol")
_USEFUL = {
    "sinfo": "whether the partitions of pools exist is not seen before a submission",
    "srun": "pilots of several nodes, and MPI programs by Slurm itself, start by it on the nodes",
    "sacct": "how jobs ended that squeue does not list any more is not known",
}
#: The first release that is known to work.
_OLDEST = (20, 2)
#: A command that takes longer is slow, in seconds.
_SLOW_S = 2.0
#: The most that is waited for one command, in seconds.
_COMMAND_S = 10.0


class Commands(msgspec.Struct, frozen=True, kw_only=True):
    """Slurm's commands here."""

    #: The path of each; None: it is not in PATH.
    paths: dict[str, str | None]
    #: The release, as a command tells it; empty: none does.
    version: str
    #: How long a list of this user's jobs took, in seconds.
    squeue_s: float
    #: The reason why there is none; empty: there is.
    error: str = ""
    #: True if an accounting database answers.
    accounts: bool = False
    #: The settings that matter, as ``scontrol show config`` tells them.
    settings: dict[str, str] = {}
    #: The version of pyslurm, if it lists the jobs; empty: ``squeue`` does.
    pyslurm: str = ""
    #: The reason why ``squeue`` lists the jobs.
    why_squeue: str = ""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of Slurm to a job that was not submitted."""

    nodes: int
    walltime_s: float
    took_s: float
    #: True if it would be taken.
    taken: bool
    #: What Slurm said.
    said: str


class Partition(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of nodes of a partition, as ``sinfo`` tells it."""

    name: str
    nodes: int
    cores: int
    memory_mib: int
    #: The longest walltime; 0: unlimited or unknown.
    walltime_s: float


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of Slurm to the request of a pool."""

    trial: Trial
    #: The nodes of its partitions.
    partitions: tuple[Partition, ...] = ()
    #: The accounts and partitions that this user has, as ``account/partition/qos``.
    associations: tuple[str, ...] = ()


def slurm_checks(manners: Any, pools: Mapping[str, Any], directory: Path) -> list[AnyCheck]:
    """Return the checks of Slurm's commands and of each pool."""
    limit_s = min(_COMMAND_S, manners.command_limit_s)
    batch = SlurmBatch(limit_s, manners.cluster)
    found: list[AnyCheck] = [
        Check(
            "commands",
            Commands,
            lambda: _commands(batch, manners),
            lambda its: judge_commands(its, manners.poll_interval_s, manners.interface),
            6 * limit_s,
        )
    ]
    for name, pool in pools.items():

        def gather(pool: Any = pool) -> Pool:
            return _pool(batch, pool, directory)

        def judge(its: Pool, name: str = name, pool: Any = pool) -> Iterator[Finding]:
            return judge_pool(its, name, pool)

        found.append(Check(f"pool {name}", Pool, gather, judge, 4 * limit_s))
    return found


# --- gathering -----------------------------------------------------------------------------------


def _commands(batch: SlurmBatch, manners: Any) -> Commands:
    paths = {name: shutil.which(name) for name in (*_NEEDED, *_USEFUL)}
    version, error, settings = "", "", {}
    begun = time.monotonic()
    try:
        batch.jobs(NO_PREFIX)
        squeue_s = time.monotonic() - begun
        version = batch.ask("sbatch", "--version").strip()
        settings = parse_settings(batch.ask("scontrol", "show", "config"))
    except BatchUnavailable as why:
        squeue_s, error = time.monotonic() - begun, str(why)
    accounts = False
    if paths["sacct"] and not error:
        try:
            batch.ask("sacct", "--noheader", "--allocations", "--format=JobID", "-j", "1")
            accounts = True
        except BatchUnavailable:
            pass  # there is no accounting
    pyslurm, why_squeue = ("", error) if error else try_library(manners)
    return Commands(
        pyslurm=pyslurm,
        why_squeue=why_squeue,
        paths=paths,
        version=version,
        squeue_s=squeue_s,
        error=error,
        accounts=accounts,
        settings=settings,
    )


def _pool(batch: SlurmBatch, pool: Any, directory: Path) -> Pool:
    request = JobRequest(
        name="pilot-doctor",
        command=("true",),
        nodes=pool.nodes_per_pilot,
        walltime_s=pool.walltime_s,
        directory=directory,
        directives=pool,
        warning_s=pool.warning_s,
    )
    begun = time.monotonic()
    taken, said = batch.try_submit(job_script(request))
    trial = Trial(
        nodes=request.nodes,
        walltime_s=request.walltime_s,
        took_s=time.monotonic() - begun,
        taken=taken,
        said=said,
    )
    partitions: list[Partition] = []
    associations: list[str] = []
    try:
        named = [f"--partition={pool.partition}"] if pool.partition else []
        told = batch.ask("sinfo", "--noheader", *named, "--format=%R|%D|%c|%m|%l")
        partitions = parse_partitions(told)
        if not taken:
            told = batch.ask(
                *("sacctmgr", "--noheader", "--parsable2", "show", "associations"),
                *(f"user={_user()}", "format=account,partition,qos"),
            )
            associations = [line.replace("|", "/") for line in told.splitlines() if line.strip()]
    except BatchUnavailable:
        pass  # these only explain
    return Pool(trial=trial, partitions=tuple(partitions), associations=tuple(associations[:20]))


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


# --- reading -------------------------------------------------------------------------------------

_SETTINGS = (
    "MinJobAge",
    "KillWait",
    "PreemptMode",
    "PropagateResourceLimits",
    "PropagateResourceLimitsExcept",
    "RequeueExit",
    "JobRequeue",
)


def parse_settings(output: str) -> dict[str, str]:
    """Read the settings that matter from ``scontrol show config``."""
    found = {}
    for line in output.splitlines():
        name, equals, value = line.partition("=")
        if equals and name.strip() in _SETTINGS:
            found[name.strip()] = value.strip()
    return found


def parse_partitions(output: str) -> list[Partition]:
    """Read the output of ``sinfo`` in the format ``%R|%D|%c|%m|%l``."""
    found = []
    for line in output.splitlines():
        fields = [field.strip() for field in line.split("|")]
        numbers = [re.match(r"\d+", field) for field in fields[1:4]]
        if len(fields) != 5 or not all(numbers):
            continue
        nodes, cores, memory = (int(match[0]) for match in numbers if match)
        found.append(
            Partition(
                name=fields[0],
                nodes=nodes,
                cores=cores,
                memory_mib=memory,
                walltime_s=parse_walltime(fields[4]),
            )
        )
    return found


def parse_walltime(text: str) -> float:
    """Read a walltime as Slurm writes it (``1-02:00:00``, ``30:00``); 0: unlimited or unknown."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", text.strip())
    if not match:
        return 0.0
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


# --- judging -------------------------------------------------------------------------------------


def judge_commands(
    its: Commands, poll_interval_s: float, interface: str = "auto"
) -> Iterator[Finding]:
    """Judge Slurm's commands here."""
    module = "load the site's Slurm module before the head starts"
    if missing := [name for name in _NEEDED if its.paths.get(name) is None]:
        yield problem(f"{', '.join(missing)} not found in PATH", module)
        return
    for name, lost in _USEFUL.items():
        if its.paths.get(name) is None:
            yield warning(f"{name} was not found in PATH: {lost}", module)
    if its.error:
        yield problem(its.error, "see that `squeue` works here")
        return
    release = release_of(its.version)
    if release is not None and release < _OLDEST:
        yield problem(f"{its.version} is older than 20.02", "use a cluster with a later Slurm")
    if its.squeue_s > _SLOW_S:
        yield warning(
            f"{its.version}: squeue takes {duration(its.squeue_s)}",
            "set slurm.poll_interval to 30s or more, and slurm.command_limit well above that",
        )
    else:
        yield ok(f"{its.version}; squeue takes {duration(its.squeue_s)}")
    if its.pyslurm:
        yield ok(f"pyslurm {its.pyslurm} lists the jobs; commands do all else")
    elif interface == "pyslurm":
        yield warning(
            f"squeue lists the jobs, though slurm.interface is pyslurm: {its.why_squeue}",
            "mend that, or take slurm.interface out of the site file",
        )
    elif its.why_squeue:
        yield ok(f"squeue lists the jobs: {its.why_squeue}")
    if not its.accounts:
        yield warning(
            "sacct has no accounting here: how a job ended is known while squeue lists it only",
            "nothing needs to be done",
        )
    age = re.match(r"\d+", its.settings.get("MinJobAge", ""))
    if age and int(age[0]) and int(age[0]) < 2 * poll_interval_s and not its.accounts:
        yield warning(
            f"Slurm forgets ended jobs after {age[0]} s (MinJobAge), and is asked every "
            f"{poll_interval_s:g} s",
            "set slurm.poll_interval to less than half of that",
        )
    kept = its.settings.get("PropagateResourceLimits", "")
    if kept and kept != "(null)":
        yield ok(f"limits (ulimit) that travel from here with a job: {kept}")


def judge_pool(its: Pool, name: str, pool: Any) -> Iterator[Finding]:
    """Judge what Slurm says of what a pool asks for."""
    trial = its.trial
    asks = f"{_count(trial.nodes)} for {format_walltime(trial.walltime_s)}"
    keys = "partition, account, qos, cores_per_node, memory_per_node, walltime, nodes_per_pilot"
    if not trial.taken:
        have = f"; you have (account/partition/qos): {', '.join(its.associations)}" * bool(
            its.associations
        )
        yield problem(
            f"Slurm would refuse {asks}: {trial.said}", f"mend {keys} of pools.{name}{have}"
        )
    elif (wrong := list(_beyond(its, name, pool))) or not trial.said:
        yield from wrong
        if not wrong:
            yield ok(f"Slurm would take {asks}")
    else:
        yield ok(f"Slurm would take {asks}: {trial.said}")


def _beyond(its: Pool, name: str, pool: Any) -> Iterator[Finding]:
    """Tell what no node of the partitions has: such jobs may be taken, and wait for ever."""
    kinds: Sequence[Partition] = its.partitions
    if not kinds:
        return
    most = max(kind.walltime_s or float("inf") for kind in kinds)
    if pool.walltime_s > most:
        yield problem(
            f"the walltime is {format_walltime(pool.walltime_s)}, and the partition allows "
            f"{format_walltime(most)}",
            f"set walltime of pools.{name} to that, or less",
        )
    cores = max(kind.cores for kind in kinds)
    if pool.cores_per_node > cores:
        yield problem(
            f"no node there has {pool.cores_per_node} cores; the largest has {cores}",
            f"set cores_per_node of pools.{name}",
        )
    elif cores >= 2 * pool.cores_per_node and "--exclusive" in pool.sbatch_options:
        yield warning(
            f"whole nodes are asked for (--exclusive), and {pool.cores_per_node} of {cores} cores "
            "are used",
            f"set cores_per_node of pools.{name}, if these are no hyper-threads",
        )
    nodes = sum(kind.nodes for kind in kinds)
    if pool.nodes_per_pilot > nodes:
        yield problem(
            f"the partition has {_count(nodes)}, and a pilot asks for {pool.nodes_per_pilot}",
            f"set nodes_per_pilot of pools.{name}",
        )


def _count(nodes: int) -> str:
    return f"{nodes} node{'s' * (nodes != 1)}"
