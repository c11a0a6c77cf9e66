"""The share of its nodes that Slurm gave a job, from ``scontrol`` or the job's variables. Pure.

Invariants
----------
- Of nodes with different shares the least counts: what is told may be used on each of them.
- What Slurm does not say is unknown (None), and never taken for all that the node has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pilot.scheduler.batch.base import Allocation, BatchError, BatchUnavailable
from pilot.scheduler.batch.slurm.nodelist import expand_nodelist
from pilot.scheduler.batch.slurm.times import parse_time

#: A node, or several that are alike, in the details of a job: its CPUs, MiB and devices.
_SHARE = re.compile(
    r"\bNodes=(\S+) CPU_IDs=(\S*) Mem=(\d+)(?: GRES(?:_IDX)?=(\S*))?",
)
#: ``gpu:2``, ``gpu:a100:2(IDX:0-1)``, ``gpu(IDX:0-1)``.
_GPUS = re.compile(r"\bgpu(?::[^,:()]+)??(?::(\d+))?(?:\(IDX:([^)]*)\))?(?=,|$)")
#: The repeated counts of ``4(x2),2``.
_COUNT = re.compile(r"(\d+)(?:\(x(\d+)\))?")


def read_allocation(job_id: str, output: str, user: int) -> Allocation:
    """Return what a job has, from the output of ``scontrol --details --oneliner show job``.

    Raises
    ------
    BatchError
        The job cannot be taken for a pilot; the message says why.
    BatchUnavailable
        The output is not understood.
    """
    records = [line for line in output.splitlines() if line.startswith("JobId=")]
    if not records:
        raise BatchUnavailable(f"scontrol told nothing of job {job_id}")
    if len(records) > 1 or _field(records[0], "HetJobId") or _field(records[0], "PackJobId"):
        raise BatchError(
            f"job {job_id} is heterogeneous: the nodes of its parts differ, and each part is a job "
            "of its own to steps; make an allocation of one kind of nodes"
        )
    (record,) = records
    owner = re.search(r"\((\d+)\)", _field(record, "UserId"))
    if owner is None or int(owner[1]) != user:
        raise BatchError(f"job {job_id} is not yours: it is of {_field(record, 'UserId')}")
    state = _field(record, "JobState")
    if state != "RUNNING":
        raise BatchError(
            f"job {job_id} is {state}, not RUNNING: its nodes can be used while it runs"
        )
    # The job's name stands before, and may hold anything.
    shares = _SHARE.findall(record.partition(" NumNodes=")[2])
    nodes = _field(record, "NodeList")
    try:
        count = len(expand_nodelist(nodes))
    except ValueError as error:
        raise BatchUnavailable(f"the nodes of job {job_id} are not understood: {error}") from error
    if not shares:
        raise BatchUnavailable(f"scontrol told no CPUs of job {job_id} on its nodes")
    restarts, ends = _field(record, "Restarts"), _field(record, "EndTime")
    return Allocation(
        job_id,
        nodes,
        count,
        int(restarts) if restarts.isdecimal() else 0,
        parse_time(ends),
        cores=min(_indices(cpus) for _, cpus, _, _ in shares),
        memory_mib=min(int(memory) for _, _, memory, _ in shares) or None,
        gpus=min(_gpus(devices) for _, _, _, devices in shares),
    )


def allocation_here(environment: Mapping[str, str]) -> Allocation | None:
    """Return the job of a process from the variables that Slurm sets; None if it is in no job."""
    job_id = environment.get("SLURM_JOB_ID", "")
    if not job_id:
        return None
    cores = _least(environment.get("SLURM_JOB_CPUS_PER_NODE", ""))
    memory = _number(environment.get("SLURM_MEM_PER_NODE", ""))
    if not memory and cores:
        memory = _number(environment.get("SLURM_MEM_PER_CPU", "")) * cores
    gpus = environment.get("SLURM_GPUS_ON_NODE", "")
    listed = environment.get("SLURM_JOB_GPUS", "")
    ends = environment.get("SLURM_JOB_END_TIME", "")
    return Allocation(
        job_id,
        environment.get("SLURM_JOB_NODELIST", ""),
        _number(environment.get("SLURM_JOB_NUM_NODES", "")) or 1,
        _number(environment.get("SLURM_RESTART_COUNT", "")),
        float(ends) if ends.isdecimal() else None,
        cores=cores or None,
        memory_mib=memory or None,
        gpus=int(gpus) if gpus.isdecimal() else _indices(listed),
        parts=_number(environment.get("SLURM_HET_SIZE", "")) or 1,
    )


def _field(record: str, name: str) -> str:
    match = re.search(rf"(?:^| ){name}=(\S*)", record)
    return match[1] if match else ""


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _indices(text: str) -> int:
    """Count the indices in a list such as ``0-3,8``."""
    total = 0
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise BatchUnavailable(f"{text!r:.80} is no list of indices")
        total += int(last or first) - int(first) + 1
    return total


def _gpus(devices: str) -> int:
    """Count the GPUs in the devices of a node."""
    return sum(
        _indices(indices) if indices else int(count or 1)
        for count, indices in _GPUS.findall(devices)
    )


def _least(counts: str) -> int:
    """Return the least number in counts such as ``4(x2),2``; 0: none is told."""
    return min((int(count) for count, _ in _COUNT.findall(counts)), default=0)
