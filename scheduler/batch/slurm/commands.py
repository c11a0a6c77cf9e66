"""Slurm by its command line: ``sbatch``, ``squeue``, ``scontrol``, ``scancel``, ``sacct``.

Pure functions make the commands and read their answers; `SlurmBatch` runs the commands and decides
nothing.

Invariants:

- A command that fails, or takes too long, gives no answer: nothing of its output is used.
- A line that cannot be read is ignored, and the other lines count: names of other jobs may hold
  line breaks, and wrappers may add words.
- The user's own defaults (``SQUEUE_PARTITION``, ``SBATCH_ACCOUNT``…) change nothing: the site file
  and the job script say all. Of a job that the adapter itself runs in, nothing passes to new jobs.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from pilot.scheduler.batch.base import (
    BatchError,
    BatchUnavailable,
    JobDirectives,
    JobRequest,
    JobStatus,
    Phase,
    ShrinkRefused,
    SubmitRefused,
    WhyEnded,
)
from pilot.scheduler.batch.slurm.nodelist import NO_NODES, expand_nodelist
from pilot.scheduler.batch.slurm.script import job_script


class _Meaning(NamedTuple):
    """The meaning of a state of Slurm for a pilot."""

    phase: Phase
    why_ended: WhyEnded | None = None


#: Every job state and state flag of Slurm, up to 25.05.
STATES: Mapping[str, _Meaning] = {
    # Waits. After a preemption or a node's failure a job is queued again under the same id.
    "PENDING": _Meaning(Phase.QUEUED),
    "REQUEUED": _Meaning(Phase.QUEUED),
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
_SEPARATOR = "\x1f"
_QUEUE_FIELDS = (
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
_ACCOUNTING_FIELDS = "JobIDRaw,State,ExitCode,Submit,Start,End,NodeList,JobName"

# The name that sacct shows while a job's end is in accounting, but its start still on the way.
_NO_NAME_YET = "allocation"

#: The characters of a command's output that a message shows.
_TOLD = 1000

# With these, Slurm's own failures to answer are told from its answers "no".
_NO_ANSWER = re.compile(
    r"unable to contact|timed out|connection refused|connect failure|communication"
    r"|connection reset|connection timed|socket|zero bytes|transport endpoint|standby mode"
    r"|not responding|authentication|munge|temporarily|rate limit|try again later|no route"
    r"|could not establish a configuration source|network|incompatible.*protocol",
    re.IGNORECASE,
)
_NOT_THERE = re.compile(
    r"invalid job id|already completing or completed|job.*not found", re.IGNORECASE
)

# What clients need to find their Slurm; all other SLURM_* belong to a job around this process.
_KEPT_VARIABLES = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"}
_FOREIGN_VARIABLES = ("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SRUN_")


class SlurmBatch:
    """Pilots as jobs of a Slurm cluster. See `pilot.scheduler.batch.base.BatchSystem`.

    Parameters
    ----------
    command_limit_s
        The time after which a command is given up, in seconds.
    cluster
        The cluster that commands are sent to; empty: their default.
    """

    def __init__(self, command_limit_s: float = 30.0, cluster: str = "") -> None:
        self._command_limit_s = command_limit_s
        self._cluster = ("-M", cluster) if cluster else ()

    def submit(self, request: JobRequest) -> str:
        """Submit a job; its script is kept as ``<name>.sh`` beside its output."""
        text = job_script(request)
        path = request.directory / f"{request.name}.sh"
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise SubmitRefused(
                f"{path} cannot be written: {error.strerror}; the job was not submitted"
            ) from error
        answer = self._run(["sbatch", "--parsable"], stdin=text)
        if answer.status != 0:
            told = answer.errors.strip() or f"sbatch ended with status {answer.status}"
            if _NO_ANSWER.search(told):
                raise BatchUnavailable(f"Slurm did not answer when {request.name} was sent: {told}")
            raise SubmitRefused(f"Slurm refused {request.name} ({path}): {told}")
        return parse_submitted(answer.output)

    def jobs(self, name_prefix: str, job_ids: Collection[str] = ()) -> dict[str, JobStatus]:
        """Return this user's jobs with this prefix of the name, or these ids, by one ``squeue``."""
        answer = self._run(
            [
                "squeue",
                f"--user={os.getuid()}",
                "--states=all",
                "--noheader",
                "--Format=" + ",".join(f"{f}:{w}{_SEPARATOR}" for f, w in _QUEUE_FIELDS),
            ]
        )
        if answer.status != 0:
            raise BatchUnavailable(f"squeue gave no answer: {_told(answer)}")
        listed = parse_queue(answer.output)
        return {
            job.job_id: job
            for job in listed
            if job.name.startswith(name_prefix) or job.job_id in job_ids
        }

    def account(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        """Return the accounting records of jobs; empty if there is no accounting."""
        ids = sorted(set(job_ids))
        if not ids:
            return {}
        try:
            answer = self._run(
                [
                    "sacct",
                    "--allocations",
                    "--noheader",
                    "--parsable2",
                    f"--delimiter={_SEPARATOR}",
                    f"--format={_ACCOUNTING_FIELDS}",
                    "--jobs=" + ",".join(ids),
                ]
            )
        except BatchUnavailable:
            return {}
        if answer.status != 0:
            return {}
        return {job.job_id: job for job in parse_accounting(answer.output) if job.job_id in ids}

    def ends_at(self, job_id: str) -> float | None:
        """Return the end of the job's walltime as ``squeue`` gives it."""
        try:
            answer = self._run(["squeue", "--noheader", "-j", job_id, "-o", "%e"])
        except BatchUnavailable:
            return None
        times = map(parse_time, map(str.strip, answer.output.splitlines()))
        return next((time for time in times if time), None) if answer.status == 0 else None

    def cancel(self, job_ids: Iterable[str]) -> None:
        """Cancel jobs by one ``scancel``."""
        ids = sorted(set(job_ids))
        if not ids:
            return
        answer = self._run(["scancel", "--", *ids])
        if answer.status == 0:
            return
        for line in _told(answer).splitlines():
            if _NOT_THERE.search(line):
                continue
            if _NO_ANSWER.search(line) or not answer.errors:
                raise BatchUnavailable(f"Slurm did not answer: {line}")
            raise BatchError(f"Slurm did not cancel {', '.join(ids)}: {line}")

    def release_nodes(self, job_id: str, keep: Sequence[str]) -> None:
        """Shrink a job by ``scontrol update``."""
        if not keep:
            raise ShrinkRefused(f"job {job_id} cannot give back all its nodes; cancel it")
        answer = self._run(["scontrol", "update", f"JobId={job_id}", f"NodeList={','.join(keep)}"])
        if answer.status != 0:
            told = _told(answer)
            if _NO_ANSWER.search(told):
                raise BatchUnavailable(f"Slurm did not answer: {told}")
            raise ShrinkRefused(f"job {job_id} keeps its nodes: {told}")

    def check(self, pools: Mapping[str, JobDirectives]) -> str:
        """Check that the partitions that pools name exist, by one ``sinfo``."""
        answer = self._run(["sinfo", "--all", "--noheader", "--format=%R"])
        if answer.status != 0:
            raise BatchUnavailable(f"sinfo gave no answer: {_told(answer)}")
        return missing_partitions(pools, answer.output)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _run(self, command: Sequence[str], stdin: str = "") -> _Answer:
        # scontrol writes scripts into its working directory when a job shrinks.
        with _scratch() as scratch:
            try:
                done = subprocess.run(
                    [command[0], *self._cluster, *command[1:]],
                    input=stdin,
                    capture_output=True,
                    encoding="utf-8",
                    errors="replace",
                    timeout=self._command_limit_s,
                    env=command_environment(os.environ, command[0]),
                    cwd=scratch,
                    check=False,
                )
            except FileNotFoundError as error:
                raise BatchUnavailable(
                    f"{command[0]} was not found in PATH: is this a login node of a Slurm cluster? "
                    "Load the site's Slurm module, or use a site with 'batch: local'"
                ) from error
            except subprocess.TimeoutExpired as error:
                raise BatchUnavailable(
                    f"{command[0]} gave no answer within {self._command_limit_s:g} s"
                ) from error
            except OSError as error:
                raise BatchUnavailable(f"{command[0]} could not be run: {error}") from error
        return _Answer(done.returncode, done.stdout, done.stderr)


def _scratch() -> tempfile.TemporaryDirectory[str]:
    """Make a temporary directory, in another place if ``$TMPDIR`` has gone.

    Raises
    ------
    BatchUnavailable
        No directory is writable.
    """
    try:
        if not Path(tempfile.gettempdir()).is_dir():
            tempfile.tempdir = None  # Python looks again
        return tempfile.TemporaryDirectory(prefix="pilot-slurm-")
    except OSError as error:
        raise BatchUnavailable(
            f"no temporary directory can be made on this machine ({error}), which the commands of "
            "Slurm are run in; set TMPDIR to one that can be written, and start the head again"
        ) from error


class _Answer(NamedTuple):
    status: int
    output: str
    errors: str


def _told(answer: _Answer) -> str:
    said = answer.errors.strip() or answer.output.strip() or f"exit status {answer.status}"
    return _cut(said)


def _cut(text: str) -> str:
    """Return a text shortened for a message, in length and width."""
    text = re.sub(r"[ \t]{3,}", "  ", text)
    return text if len(text) <= _TOLD else f"{text[: _TOLD // 2]} … {text[-_TOLD // 2 :]}"


# --- what is said --------------------------------------------------------------------------------


def command_environment(environment: Mapping[str, str], command: str) -> dict[str, str]:
    """Return the environment for a Slurm command, without a user's defaults and job variables."""
    kept = {
        name: value
        for name, value in environment.items()
        if name in _KEPT_VARIABLES or not name.startswith(_FOREIGN_VARIABLES)
    }
    if command in ("squeue", "sacct"):
        kept["SLURM_TIME_FORMAT"] = "%s"  # seconds since 1970, whatever the time zone
    return kept


# --- what is read --------------------------------------------------------------------------------


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
    raise BatchUnavailable(f"sbatch gave no job id but {_cut(output)!r}")


def parse_queue(output: str) -> list[JobStatus]:
    """Return the jobs in the output of ``squeue``, in the format that `SlurmBatch.jobs` asks for.

    Lines that are not in that format are left out.
    """
    jobs = []
    for line in output.split("\n"):
        fields = [part.strip() for part in line.split(_SEPARATOR)]
        if len(fields) != len(_QUEUE_FIELDS) + 1 or not _JOB_ID.fullmatch(fields[0]):
            continue
        job_id, state, reason, submitted, start, end, restarts, exit_code = fields[:8]
        count, nodes, name = fields[8:11]
        jobs.append(
            _status(
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
        )
    return jobs


def parse_accounting(output: str) -> list[JobStatus]:
    """Return the jobs in the output of ``sacct``, in the format of `SlurmBatch.account`."""
    jobs = []
    for line in output.split("\n"):
        fields = line.split(_SEPARATOR)
        if len(fields) != len(_ACCOUNTING_FIELDS.split(",")):
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
        node_count=_first_number(count),
        submitted_at=parse_time(submitted),
        # Of a job that was cancelled in the queue, Slurm says that it started when it ended.
        started_at=None if queued or (ended and not has_nodes) else parse_time(start),
        expected_at=parse_time(start) if queued else None,
        ends_at=None if queued else parse_time(end),
        restart_count=int(restarts) if re.fullmatch(r"[0-9]{1,9}", restarts) else 0,
        exit_status=parse_exit_status(exit_code) if ended else None,
        why_ended=meaning.why_ended,
    )


def _first_number(text: str) -> int:
    """Return the number that a text begins with (``2-4``: the least requested); 0 if none."""
    match = re.match(r"\d{1,9}", text)
    return int(match[0]) if match else 0


def parse_time(text: str) -> float | None:
    """Return a time of Slurm in seconds since 1970, from a number or local time in ISO format."""
    if re.fullmatch(r"[0-9]{1,18}", text):
        return float(text) or None
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None  # "N/A", "Unknown", "None"


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
