"""Pilots as processes of this machine: the batch system of a laptop or a single server.

Each job has a directory in the adapter's directory, named by its id::

    <directory>/<job id>/job.json       what was asked (written here, before the job starts)
                         status.json    where it is    (written by its keeper)

The whole state is in these files and in ``/proc``, so any process that opens the same directory
sees the same jobs. There is no queue: a job starts at once.

Invariants:

- A record without ``status.json`` is no job: it never started.
- A process is told by its id *and* its start time, so a reused id is never taken for a job.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pilot.scheduler.batch import script
from pilot.scheduler.batch.base import (
    Allocation,
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
from pilot.scheduler.batch.local import keeper

#: The time that `LocalBatch.jobs` lists an ended job, in seconds; Slurm's default MinJobAge.
LISTED_S = 300.0
#: Records of jobs that ended longer ago than this are removed, in seconds.
KEPT_S = 7 * 86400.0
_START_LIMIT_S = 30.0


class LocalBatch:
    """Pilots as processes of this machine. See `pilot.scheduler.batch.base.BatchSystem`.

    Parameters
    ----------
    directory
        The directory of the records of jobs; made if it is missing, but not its parents.
    kill_grace_s
        Time between SIGTERM and SIGKILL when a job is cancelled or its walltime ends, in seconds.
    """

    def __init__(self, directory: Path, kill_grace_s: float = 30.0) -> None:
        self._directory = directory.absolute()
        self._kill_grace_s = kill_grace_s
        self._long_ended: set[str] = set()

    def check(self, pools: Mapping[str, JobDirectives]) -> str:  # noqa: ARG002
        """Return no problem: this machine is there."""
        return ""

    def submit(self, request: JobRequest) -> str:
        """Start a job; its script is kept as ``<name>.sh`` beside its output."""
        if request.nodes != 1:
            raise SubmitRefused(
                f"{request.name} asks for {request.nodes} nodes; a local job has this machine only"
            )
        try:
            self._remove_old_records()
            job_id, record = self._new_record()
            path = request.directory / f"{request.name}.sh"
            path.write_text(script.render(request, _facts(job_id, request)), encoding="utf-8")
            job = {
                "name": request.name,
                "submitted_at": time.time(),
                "script": str(path),
                "directory": str(request.directory),
                "output": str(request.directory / f"{job_id}.out"),
                "walltime_s": request.walltime_s,
                "warning_s": request.warning_s,
                "kill_grace_s": self._kill_grace_s,
            }
            (record / "job.json").write_text(json.dumps(job), encoding="utf-8")
        except OSError as error:
            raise SubmitRefused(
                f"{request.name} cannot be started: {error.filename}: {error.strerror}"
            ) from error
        self._start_keeper(request.name, record)
        return job_id

    def jobs(self, name_prefix: str, job_ids: Collection[str] = ()) -> dict[str, JobStatus]:
        """Return the jobs in the directory with this prefix of the name, or these ids."""
        now = time.time()
        found: dict[str, JobStatus] = {}
        for job_id in self._ids():
            if job_id in self._long_ended:
                continue
            status = self._status(job_id)
            if status is None:
                continue
            if status.phase is Phase.ENDED and now - (status.ends_at or 0.0) > LISTED_S:
                self._long_ended.add(job_id)
            elif status.name.startswith(name_prefix) or job_id in job_ids:
                found[job_id] = status
        return found

    def account(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        """Return the status of jobs from their records."""
        found: dict[str, JobStatus] = {}
        for job_id in filter(str.isdecimal, set(job_ids)):
            try:
                status = self._status(job_id)
            except BatchUnavailable:
                continue
            if status is not None:
                found[job_id] = status
        return found

    def allocation(self, job_id: str) -> Allocation:  # noqa: ARG002
        """Refuse: there is nothing to allocate."""
        raise BatchError("pilots of this site are processes of this machine: none is adopted")

    def cancel(self, job_ids: Iterable[str]) -> None:
        """Tell the keepers of jobs to end them."""
        known = set(self._ids())
        for job_id in known.intersection(job_ids):
            status = self._read(job_id, "status.json")
            if status is None or "ended_at" in status or not _is_here(job_id, status):
                continue
            if _alive(status["keeper"]) is not None:
                _send(status["keeper"], signal.SIGTERM)

    def release_nodes(self, job_id: str, keep: Sequence[str]) -> None:  # noqa: ARG002
        """Raise `ShrinkRefused`: a local job has one node."""
        raise ShrinkRefused(f"job {job_id} has one node and keeps it; cancel it when it is idle")

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    # --- records ---------------------------------------------------------------------------------

    def _ids(self) -> list[str]:
        try:
            names = [entry.name for entry in self._directory.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise BatchUnavailable(
                f"{self._directory} cannot be read: {error.strerror}; nothing is known of its jobs"
            ) from error
        return sorted((name for name in names if name.isdecimal()), key=int)

    def _new_record(self) -> tuple[str, Path]:
        self._directory.mkdir(exist_ok=True)
        number = int((self._ids() or ["0"])[-1])
        while True:  # others may take the same number at the same time: mkdir lets one have it
            number += 1
            record = self._directory / str(number)
            try:
                record.mkdir()
            except FileExistsError:
                continue
            return str(number), record

    def _read(self, job_id: str, name: str) -> dict[str, Any] | None:
        path = self._directory / job_id / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise BatchUnavailable(f"{path} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise BatchUnavailable(f"{path} is not the record of a job")
        return content

    def _status(self, job_id: str) -> JobStatus | None:
        job, status = self._read(job_id, "job.json"), self._read(job_id, "status.json")
        if job is None or status is None:
            return None
        if "ended_at" not in status:
            here = _is_here(job_id, status)
            if not here or _alive(status["keeper"]) is None:
                # The keeper may have written the end and gone between the two looks.
                status = self._read(job_id, "status.json") or status
                if "ended_at" not in status:
                    return self._lost(job_id, job, status, here)
            else:
                return _running(job_id, job, status)
        why = WhyEnded(status["why"])
        return _describe(
            job_id,
            job,
            status,
            phase=Phase.ENDED,
            state="LOST" if why is WhyEnded.UNKNOWN else why.value.upper(),
            ends_at=status["ended_at"],
            exit_status=status["exit_status"],
            why_ended=why,
        )

    def _lost(
        self, job_id: str, job: dict[str, Any], status: dict[str, Any], here: bool
    ) -> JobStatus:
        """Record and return the end of a job whose keeper vanished: a reboot, or a kill."""
        if here:
            _kill_session(status["job"])
        ended = status | {"ended_at": time.time(), "exit_status": None, "why": "unknown"}
        path = self._directory / job_id / "status.json"
        temporary = path.with_name(f"status.json.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(ended), encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            raise BatchUnavailable(f"{path} cannot be written: {error.strerror}") from error
        return _describe(
            job_id,
            job,
            ended,
            phase=Phase.ENDED,
            state="LOST",
            reason="its keeper was killed" if here else "the machine was restarted",
            ends_at=ended["ended_at"],
            why_ended=WhyEnded.UNKNOWN,
        )

    def _remove_old_records(self) -> None:
        now = time.time()
        for job_id in self._ids()[:-1]:  # the last one keeps the count of ids going
            record = self._directory / job_id
            status = self._read(job_id, "status.json")
            if status is None:
                if now - record.stat().st_mtime > KEPT_S:
                    shutil.rmtree(record, ignore_errors=True)
            elif "ended_at" in status and now - status["ended_at"] > KEPT_S:
                shutil.rmtree(record, ignore_errors=True)
                self._long_ended.discard(job_id)

    # --- processes -------------------------------------------------------------------------------

    def _start_keeper(self, name: str, record: Path) -> None:
        """Start the keeper. It has left this process when the command returns."""
        # By its path and without site-packages: it starts fast and needs nothing installed.
        command = [sys.executable, "-I", "-S", keeper.__file__, str(record)]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=_START_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BatchUnavailable(f"{name} did not start within {_START_LIMIT_S:g} s") from error
        except OSError as error:
            raise SubmitRefused(f"{name} cannot be started: {error}") from error
        if done.returncode != 0:
            told = done.stderr.decode(errors="replace").strip()
            raise SubmitRefused(f"{name} cannot be started: {told}")


def _facts(job_id: str, request: JobRequest) -> script.JobFacts:
    """Write the facts that tell the pilot of its job."""
    return script.JobFacts(
        job_id=shlex.quote(job_id),
        nodelist='"$(hostname)"',
        node='"$PILOT_NODELIST"',
        ends_at=f"$(( $(date +%s) + {round(request.walltime_s)} ))",
    )


def _describe(job_id: str, job: dict[str, Any], status: dict[str, Any], **known: Any) -> JobStatus:
    return JobStatus(
        job_id=job_id,
        name=job["name"],
        nodes=(status["host"],),
        node_count=1,
        submitted_at=job["submitted_at"],
        started_at=status["started_at"],
        **known,
    )


def _running(job_id: str, job: dict[str, Any], status: dict[str, Any]) -> JobStatus:
    letter = _alive(status["job"])
    if letter is None:
        phase, state = Phase.ENDING, "COMPLETING"
    elif letter in "Tt":
        phase, state = Phase.SUSPENDED, "SUSPENDED"
    else:
        phase, state = Phase.RUNNING, "RUNNING"
    return _describe(job_id, job, status, phase=phase, state=state, ends_at=status["ends_at"])


def _is_here(job_id: str, status: dict[str, Any]) -> bool:
    """Tell whether a job's processes can be on this machine since its boot; False: they are gone.

    Raises
    ------
    BatchUnavailable
        The job was started on another machine, which alone can tell.
    """
    if status["boot_id"] == keeper.boot_id():
        return True
    if status["machine"] == keeper.machine():
        return False
    raise BatchUnavailable(
        f"local job {job_id} was started on {status['host']}, which alone knows of it: start the "
        "head there, or remove the job's record if that machine is gone"
    )


def _alive(process: dict[str, int]) -> str | None:
    """Return the state letter of a process; None if it has ended, or its id was used again."""
    found = keeper.process_state(process["pid"])
    if found is None or found.start_ticks != process["start_ticks"] or found.letter in "ZX":
        return None
    return found.letter


def _send(process: dict[str, int], number: int) -> None:
    try:
        os.kill(process["pid"], number)
    except ProcessLookupError:
        return  # it has ended by itself


def _kill_session(leader: dict[str, int]) -> None:
    """Kill the remaining processes of the session that a job's script led."""
    first = keeper.process_state(leader["pid"])
    if first is not None and first.start_ticks != leader["start_ticks"]:
        return  # the id is another's: then no process of the session is left
    for pid in keeper.all_processes():
        found = keeper.process_state(pid)
        if found is not None and found.session == leader["pid"]:
            _send({"pid": pid}, signal.SIGKILL)
