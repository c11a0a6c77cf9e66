"""Slurm's answers in the terms of `pilot.scheduler.batch.base`. Pure.

Invariant: a line that cannot be read is ignored, and the other lines count: names of other jobs may
hold line breaks, and wrappers may add words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pilot.scheduler.batch.base import BatchUnavailable, JobStatus, Phase, WhyEnded
from pilot.scheduler.batch.slurm.nodelist import NO_NODES, expand_nodelist
from pilot.scheduler.batch.slurm.reasons import is_held_back, stuck_by
from pilot.scheduler.batch.slurm.times import parse_time


class _Meaning(NamedTuple):
    """The meaning of a state of Slurm for a pilot."""

    phase: Phase
    why_ended: WhyEnded | None = None


#: Every job state and state flag of Slurm, from 20.11 to 25.11.
STATES: Mapping[str, _Meaning] = {
    # Waits. After a preemption or a node's failure a job is queued again under the same id.
    "PENDING": _Meaning(Phase.QUEUED),
    "REQUEUED": _Meaning(Phase.QUEUED),
    "REQUEUED_CRON": _Meaning(Phase.QUEUED),  # up to 20.11
    "REQUEUE_FED": _Meaning(Phase.QUEUED),
    "REQUEUE_HOLD": _Meaning(Phase.QUEUED),
    "RESV_DEL_HOLD": _Meaning(Phase.QUEUED),
    "SPECIAL_EXIT": _Meaning(Phase.QUEUED),
    # Has nodes; while they boot or are being set up, the agent does not run yet.
    "CONFIGURING": _Meaning(Phase.RUNNING),
    "POWER_UP_NODE": _Meaning(Phase.RUNNING),
    "EXPEDITING": _Meaning(Phase.QUEUED),
    "RUNNING": _Meaning(Phase.RUNNING),
    "RESIZING": _Meaning(Phase.RUNNING),
    "SIGNALING": _Meaning(Phase.RUNNING),
    "UPDATE_DB": _Meaning(Phase.RUNNING),
    # Stands still: SUSPENDED has given its cores to others, STOPPED keeps them.
    "SUSPENDED": _Meaning(Phase.SUSPENDED),
    "STOPPED": _Meaning(Phase.SUSPENDED),
    # Its processes are gone or being killed; whether it is queued again is not yet said.
    "COMPLETING": _Meaning(Phase.ENDING),
    "STAGE_OUT": _Meaning(Phase.ENDING),
    "LAUNCH_FAILED": _Meaning(Phase.ENDING),
    "RECONFIG_FAIL": _Meaning(Phase.ENDING),
    # Will not run again.
    "COMPLETED": _Meaning(Phase.ENDED, WhyEnded.COMPLETED),
    "FAILED": _Meaning(Phase.ENDED, WhyEnded.FAILED),
    "CANCELLED": _Meaning(Phase.ENDED, WhyEnded.CANCELLED),
    "REVOKED": _Meaning(Phase.ENDED, WhyEnded.CANCELLED),  # a sibling runs in another cluster
    "TIMEOUT": _Meaning(Phase.ENDED, WhyEnded.TIMEOUT),
    "DEADLINE": _Meaning(Phase.ENDED, WhyEnded.TIMEOUT),
    "PREEMPTED": _Meaning(Phase.ENDED, WhyEnded.PREEMPTED),
    "NODE_FAIL": _Meaning(Phase.ENDED, WhyEnded.NODE_FAILURE),
    "BOOT_FAIL": _Meaning(Phase.ENDED, WhyEnded.NODE_FAILURE),
    "OUT_OF_MEMORY": _Meaning(Phase.ENDED, WhyEnded.OUT_OF_MEMORY),
}

#: The meaning of an unknown state of a later Slurm: nothing is sent to such a job, or concluded.
_UNHEARD_OF = _Meaning(Phase.ENDING)

#: The id of a part of an array job: ``17_4``, ``17_[1-4%2]``.
_JOB_ID = re.compile(r"\d+([_+]\S*)?")

# The separator ends each field, so that a field may be empty, and cannot be typed into a name.
SEPARATOR = "\x1f"
QUEUE_FIELDS = (
    ("JobID", 64),
    ("State", 32),
    ("Reason", 128),
    ("SubmitTime", 32),
    ("StartTime", 32),
    ("EndTime", 32),
    ("RestartCnt", 16),
    ("exit_code", 32),
    ("NumNodes", 16),
    ("NodeList", 2048),
    ("Name", 256),
)
ACCOUNTING_FIELDS = "JobIDRaw,State,ExitCode,Submit,Start,End,NodeList,JobName"

# The name that sacct shows while a job's end is in accounting, but its start still on the way.
_NO_NAME_YET = "allocation"

#: The characters of a command's output that a message shows.
_TOLD = 1000


def missing_partitions(pools: Mapping[str, Any], output: str) -> str:
    """Name the partitions of pools that ``sinfo`` has not listed; empty if there are none."""
    # A cluster that is named with -M is told on a line of its own.
    lines = [line.strip() for line in output.splitlines()]
    there = sorted({line for line in lines if line and not line.startswith("CLUSTER:")})
    wrong = {
        name: pool.partition
        for name, pool in pools.items()
        if any(part and part not in there for part in pool.partition.split(","))
    }
    if not wrong:
        return ""
    named = ", ".join(f"{partition!r} (pool {name})" for name, partition in wrong.items())
    return f"Slurm has no partition {named}; it has {', '.join(there)}"


def parse_submitted(output: str) -> str:
    """Return the job id from the output of ``sbatch --parsable``: ``123`` or ``123;cluster``.

    Wrappers of a site say ``Submitted batch job 123 on cluster x``, or greet before. Where nothing
    looks like an id, one single number is one.

    Raises
    ------
    BatchUnavailable
        The output has no id, so the job may exist or not.
    """
    for line in reversed(output.splitlines()):
        if match := re.fullmatch(r"(\d+)(;\S*)?", line.strip()):
            return match[1]
    for pattern in (r"\bjob\s+(?:id\s*)?[:=#]?\s*(\d+)\b", r"(?<![\w.:-])(\d+)(?![\w.:-])"):
        if len(found := set(re.findall(pattern, output, re.IGNORECASE))) == 1:
            return str(found.pop())
    raise BatchUnavailable(f"sbatch gave no job id but {cut(output)!r}")


def parse_start(said: str) -> float | None:
    """Return the start of a job from what ``sbatch --test-only`` says; None: it does not say."""
    match = re.search(r"\bto start at (\S+)", said)
    return parse_time(match[1]) if match else None


def parse_queue(output: str) -> list[JobStatus]:
    """Return the jobs in the output of ``squeue``, in the format that `SlurmBatch.jobs` asks for.

    Lines that are not in that format are left out.
    """
    rows = [line.split(SEPARATOR) for line in output.split("\n")]
    # Each field is ended by the separator.
    jobs = [read_row(row[:-1]) for row in rows if len(row) == len(QUEUE_FIELDS) + 1]
    return [job for job in jobs if job is not None]


def read_row(row: Sequence[str]) -> JobStatus | None:
    """Return the job that a row of `QUEUE_FIELDS` tells of; None: it is no such row."""
    fields = [field.strip() for field in row]
    if not _JOB_ID.fullmatch(fields[0]):
        return None
    job_id, state, reason, submitted, start, end, restarts, exit_code = fields[:8]
    count, nodes, name = fields[8:]
    return _status(
        job_id=job_id,
        name=name,
        state=state,
        reason="" if reason == "None" else reason,
        submitted=submitted,
        start=start,
        end=end,
        restarts=restarts,
        exit_code=exit_code,
        nodes=nodes,
        count=count,
    )


def parse_accounting(output: str) -> list[JobStatus]:
    """Return the jobs in the output of ``sacct``, in the format of `SlurmBatch.account`.

    Before Slurm 25.11 it takes 128 off exit statuses from 128 on.
    """
    jobs = []
    for line in output.split("\n"):
        fields = line.split(SEPARATOR)
        if len(fields) != len(ACCOUNTING_FIELDS.split(",")):
            continue
        job_id, state, exit_code, submitted, start, end, nodes, name = fields
        if name == _NO_NAME_YET:
            continue
        jobs.append(
            _status(
                job_id=job_id,
                name=name,
                state=state.split()[0] if state.strip() else "",  # "CANCELLED by 1000"
                reason="",
                submitted=submitted,
                start=start,
                end=end,
                restarts="",
                exit_code=exit_code,
                nodes=nodes,
            )
        )
    return jobs


def _status(
    *,
    job_id: str,
    name: str,
    state: str,
    reason: str,
    submitted: str,
    start: str,
    end: str,
    restarts: str,
    exit_code: str,
    nodes: str,
    count: str = "",
) -> JobStatus:
    meaning = STATES.get(state, _UNHEARD_OF)
    queued = meaning.phase is Phase.QUEUED
    ended = meaning.phase is Phase.ENDED
    try:
        names = tuple(expand_nodelist(nodes))
    except ValueError:
        names = ()  # cut off where the column ends
    has_nodes = nodes not in NO_NODES
    return JobStatus(
        job_id=job_id,
        name=name,
        phase=meaning.phase,
        state=state,
        reason=reason,
        nodes=() if queued else names,
        node_count=_last_number(count),
        submitted_at=parse_time(submitted),
        # Of a job that was cancelled in the queue, Slurm says that it started when it ended.
        started_at=None if queued or (ended and not has_nodes) else parse_time(start),
        expected_at=parse_time(start) if queued else None,
        ends_at=None if queued else parse_time(end),
        restart_count=int(restarts) if re.fullmatch(r"[0-9]{1,9}", restarts) else 0,
        exit_status=parse_exit_status(exit_code) if ended else None,
        why_ended=meaning.why_ended,
        stuck=stuck_by(state, reason) if queued else None,
        held_back=queued and is_held_back(state, reason),
    )


def _last_number(text: str) -> int:
    """Return the last number of a count (``2-4``: the most requested); 0 if there is none."""
    match = re.match(r"(?:\d{1,9}-)?(\d{1,9})", text)
    return int(match[1]) if match else 0


def parse_exit_status(text: str) -> int | None:
    """Return Slurm's ``status:signal`` as a shell's exit status, 128 + N after signal N.

    ``squeue`` of some releases gives one number, as ``waitpid`` does.
    """
    if match := re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text):
        status, signal = int(match[1]), int(match[2])
    elif re.fullmatch(r"[0-9]{1,9}", text):
        status, signal = int(text) >> 8, int(text) & 0x7F
    else:
        return None
    return 128 + signal if signal else status


def release_of(version: str) -> tuple[int, int] | None:
    """Read the release from a text such as ``slurm 22.05.8``."""
    match = re.search(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else None


def cut(text: str) -> str:
    """Return a text shortened for a message, in length and width."""
    text = re.sub(r"[ \t]{3,}", "  ", text)
    return text if len(text) <= _TOLD else f"{text[: _TOLD // 2]} … {text[-_TOLD // 2 :]}"
