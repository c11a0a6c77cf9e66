"""Slurm by its command line: ``sbatch``, ``squeue``, ``scontrol``, ``scancel``, ``sacct``.

`SlurmBatch` runs the commands and decides nothing; `answers` reads what they print.

Invariants:

- A command that fails, or takes too long, gives no answer: nothing of its output is used.
- The user's own defaults (``SQUEUE_PARTITION``, ``SBATCH_ACCOUNT``…) change nothing: the site file
  and the job script say all. Of a job that the adapter itself runs in, nothing passes to new jobs.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from pilot.scheduler.batch.base import (
    Allocation,
    BatchError,
    BatchUnavailable,
    JobDirectives,
    JobRequest,
    JobStatus,
    Prediction,
    ShrinkRefused,
    SubmitRefused,
)
from pilot.scheduler.batch.slurm.allocation import read_allocation
from pilot.scheduler.batch.slurm.answers import (
    ACCOUNTING_FIELDS,
    QUEUE_FIELDS,
    SEPARATOR,
    cut,
    missing_partitions,
    parse_accounting,
    parse_queue,
    parse_start,
    parse_submitted,
)
from pilot.scheduler.batch.slurm.script import job_script

#: The most that is waited for the answer to a job that is not submitted, in seconds.
_PREDICT_S = 5.0

# With these, Slurm's own failures to answer are told from its answers "no".
_NO_ANSWER = re.compile(
    r"unable to contact|timed out|connection refused|connect failure|communication"
    r"|connection reset|connection timed|socket|zero bytes|transport endpoint|standby mode"
    r"|not responding|authentication|munge|temporarily|rate limit|try again later|no route"
    r"|could not establish a configuration source|unable to process configuration|network"
    r"|incompatible.*(protocol|versions)|stream version|message (send|receive) failure"
    r"|message length|zero length message|entire message|process (in|out).*file descriptor",
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

    def predict(self, request: JobRequest) -> Prediction:
        """Return when a job would start, as ``sbatch --test-only`` says."""
        least_s = request.least_walltime_s or request.walltime_s
        # It takes no account of --time-min.
        asked = msgspec.structs.replace(request, walltime_s=least_s, least_walltime_s=0.0)
        try:
            text = job_script(asked)
        except ValueError as error:
            return Prediction(refused=str(error))
        taken, said = self.try_submit(text, min(_PREDICT_S, self._command_limit_s))
        return Prediction(parse_start(said)) if taken else Prediction(refused=cut(said))

    def limit_nodes(self, job_id: str, nodes: int) -> None:
        """Set a waiting job's number of nodes by ``scontrol update``."""
        answer = self._run(["scontrol", "update", f"JobId={job_id}", f"NumNodes={nodes}"])
        if answer.status != 0:
            raise BatchError(f"job {job_id} may get more nodes than {nodes}: {_told(answer)}")

    def jobs(self, name_prefix: str, job_ids: Collection[str] = ()) -> dict[str, JobStatus]:
        """Return this user's jobs with this prefix of the name, or these ids, by one ``squeue``."""
        answer = self._run(
            [
                "squeue",
                f"--user={os.getuid()}",
                "--states=all",
                "--noheader",
                "--Format=" + ",".join(f"{f}:{w}{SEPARATOR}" for f, w in QUEUE_FIELDS),
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
                    f"--delimiter={SEPARATOR}",
                    f"--format={ACCOUNTING_FIELDS}",
                    "--jobs=" + ",".join(ids),
                ]
            )
        except BatchUnavailable:
            return {}
        if answer.status != 0:
            return {}
        return {job.job_id: job for job in parse_accounting(answer.output) if job.job_id in ids}

    def allocation(self, job_id: str) -> Allocation:
        """Return what a job has as ``scontrol`` gives it."""
        if not re.fullmatch(r"\d{1,18}", job_id):
            raise BatchError(f"{job_id!r:.60} is not the number of a job")
        answer = self._run(["scontrol", "--details", "--oneliner", "show", "job", job_id])
        if answer.status != 0:
            told = _told(answer)
            if _NOT_THERE.search(told):
                raise BatchError(f"Slurm knows no job {job_id}: {told}")
            raise BatchUnavailable(f"scontrol gave no answer: {told}")
        return read_allocation(job_id, answer.output, os.getuid())

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
            if "right now" in told:  # soon after its start: it is being written to accounting
                raise BatchUnavailable(f"Slurm takes no change of job {job_id} yet: {told}")
            raise ShrinkRefused(f"job {job_id} keeps its nodes: {told}")

    def check(self, pools: Mapping[str, JobDirectives]) -> str:
        """Check that the partitions that pools name exist, by one ``sinfo``."""
        answer = self._run(["sinfo", "--all", "--noheader", "--format=%R"])
        if answer.status != 0:
            raise BatchUnavailable(f"sinfo gave no answer: {_told(answer)}")
        return missing_partitions(pools, answer.output)

    def ask(self, *command: str) -> str:
        """Return the output of a command of Slurm that changes nothing.

        Raises
        ------
        BatchUnavailable
            It failed.
        """
        answer = self._run(command)
        if answer.status != 0:
            raise BatchUnavailable(f"{command[0]} gave no answer: {_told(answer)}")
        return answer.output

    def try_submit(self, script: str, limit_s: float = math.inf) -> tuple[bool, str]:
        """Ask what would become of a job script: whether it would be taken, and Slurm's words.

        Parameters
        ----------
        script
            The job script.
        limit_s
            The time to wait for an answer, in seconds, if that is less than for any command.

        Raises
        ------
        BatchUnavailable
            No answer.
        """
        answer = self._run(["sbatch", "--test-only"], script, limit_s)
        told = re.sub(r"^(sbatch|allocation failure): *(error: *)?", "", _told(answer), flags=re.M)
        if answer.status != 0 and _NO_ANSWER.search(told):
            raise BatchUnavailable(f"Slurm did not answer: {told}")
        return answer.status == 0, " ".join(told.split())

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _run(self, command: Sequence[str], stdin: str = "", limit_s: float = math.inf) -> _Answer:
        limit_s = min(limit_s, self._command_limit_s)
        # scontrol writes scripts into its working directory when a job shrinks.
        with _scratch() as scratch:
            try:
                done = subprocess.run(
                    [command[0], *self._cluster, *command[1:]],
                    input=stdin,
                    capture_output=True,
                    encoding="utf-8",
                    errors="replace",
                    timeout=limit_s,
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
                    f"{command[0]} gave no answer within {limit_s:g} s"
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
    return cut(said)


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
