"""A third batch system, in one file: its jobs are processes of this machine, in a queue of files.

It shares no word with Slurm: ids are ``job:7@toy``, a job's nodes are written ``host+host~twin``
(the twin is a second node, and the same machine), its variables begin with ``TOY_``. A site file
names it as ``support.toy_batch:Toy``. As a program, this file is the process that keeps one job.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pilot.launchers.base import Launch, Placement
from pilot.launchers.mpirun import find_mpi
from pilot.scheduler.batch import (
    Allocation,
    BatchError,
    BatchKind,
    BatchUnavailable,
    JobDirectives,
    JobRequest,
    JobStatus,
    Keys,
    Phase,
    ShrinkRefused,
    SubmitRefused,
    WhyEnded,
)
from pilot.scheduler.batch.script import JobFacts, render


class ToyMannersKeys(Keys, frozen=True, kw_only=True):
    """Keys of the section ``toy``."""

    #: Where the queue is; empty: where Pilot has its records.
    queue: str = ""


class ToyPoolKeys(Keys, frozen=True, kw_only=True):
    """Keys of a pool."""

    #: Who pays: nobody does for "beggars", who get nothing.
    purse: str = "mine"


class Toy(BatchKind):
    """What is known of it."""

    name = "toy"
    manners_keys = ToyMannersKeys
    pool_keys = ToyPoolKeys
    cores_hint = "count them"

    ends_processes_singly = True
    launcher = "support.toy_batch:ToyLauncher"
    node_launcher = "support.toy_batch:start_on_node"

    title = "the Toy"
    unlisted = "the Toy has lost its job"
    asking_keys = "purse"

    def open(self, manners: Any, directory: Path) -> ToyBatch:
        """Work in the queue's directory."""
        return ToyBatch(Path(manners.queue or directory))

    def pool_faults(self, pool: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Want a purse of one word."""
        if not pool.purse.isalnum():
            yield ("purse",), f"{pool.purse!r} is no purse; write one word"

    def node_names(self, nodelist: str) -> list[str]:
        """Read ``host+host~twin``."""
        if not all(nodelist.split("+")):
            raise ValueError(f"{nodelist!r} names no nodes of the Toy")
        return nodelist.split("+")

    def own_allocation(self, environment: Mapping[str, str]) -> Allocation | None:
        """Read what `keep` tells its job."""
        if "TOY_JOB" not in environment:
            return None
        nodelist = environment["TOY_NODES"]
        nodes = len(self.node_names(nodelist))
        ends_at = float(environment["TOY_DEADLINE"])
        return Allocation(environment["TOY_JOB"], nodelist, nodes, ends_at=ends_at)

    def meaning(self, reason: str, job_id: str) -> str:
        """Say what it waits for."""
        return {"asleep": f"the Toy sleeps; wake it for {job_id}"}.get(reason, "")

    def release_advice(self, reason: str, job_id: str) -> str:
        """Say what wakes it."""
        return f"remove the file asleep, and {job_id} starts" if reason == "asleep" else ""


class ToyLauncher:
    """Ranks on this machine, whichever nodes they are to be on."""

    name = "toy"

    def __init__(self, options: tuple[str, ...]) -> None:
        self._options = options

    def launch(
        self, command: Sequence[str], placement: Placement, *, env: Mapping[str, str]
    ) -> Launch:
        """Start them all here."""
        _, program = find_mpi()
        here = (program, *self._options, "-n", str(placement.ranks))
        return Launch((*here, *command), dict(env))


def start_on_node(command: Sequence[str], host: str, _options: Sequence[str]) -> Launch:
    """Start a node worker on a node that is this machine as well."""
    return Launch(("env", f"TOY_NODE={host}", *command), {})


class ToyBatch:
    """The queue: a directory for each job, with a file for each thing that is known of it.

    A file ``asleep`` beside them keeps jobs from starting; each question wakes those up that
    may start.
    """

    def __init__(self, queue: Path) -> None:
        self._queue = queue

    def check(self, pools: Mapping[str, JobDirectives]) -> str:
        """Find pools without money."""
        poor = [name for name, pool in pools.items() if getattr(pool, "purse", "") == "beggars"]
        return f"the Toy gives nothing to {', '.join(poor)}" if poor else ""

    def submit(self, request: JobRequest) -> str:
        """Put a job into the queue."""
        asked: Any = request.directives
        if request.nodes > 2 or asked.purse == "beggars":
            raise SubmitRefused(f"invalid: {request.nodes} nodes of 2 for {asked.purse}")
        facts = JobFacts(
            job_id='"$TOY_JOB"',
            nodelist='"$TOY_NODES"',
            ends_at='"$TOY_DEADLINE"',
            node='"${TOY_NODES%%+*}"',
        )
        text = render(request, facts, [f"#TOY purse={shlex.quote(asked.purse)}"])
        path = request.directory / f"{request.name}.sh"
        try:
            path.write_text(text)
            self._queue.mkdir(parents=True, exist_ok=True)
            number, record = self._new_record()
        except OSError as error:
            raise SubmitRefused(f"{error.filename}: {error.strerror}") from error
        job_id = f"job:{number}@toy"
        asked_for = {
            "id": job_id,
            "name": request.name,
            "nodes": request.nodes,
            "script": str(path),
            "output": str(request.directory / f"{job_id}.out"),
            "directory": str(request.directory),
            "walltime": request.walltime_s,
            "warning": request.warning_s,
            "queued": time.time(),
        }
        _put(record, "asked", asked_for)
        self._wake()
        return job_id

    def jobs(self, name_prefix: str, job_ids: Collection[str] = ()) -> dict[str, JobStatus]:
        """List the queue."""
        self._wake()
        return {
            job.job_id: job
            for job in map(_status, self._records())
            if job.name.startswith(name_prefix) or job.job_id in job_ids
        }

    def account(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        """Tell what the queue tells."""
        try:
            return self.jobs("\0", set(job_ids))
        except BatchUnavailable:
            return {}

    def allocation(self, job_id: str) -> Allocation:
        """Tell what the queue tells."""
        status = self.account([job_id]).get(job_id)
        if status is None:
            raise BatchError(f"there is no job {job_id}")
        return Allocation(job_id, ",".join(status.nodes), ends_at=status.ends_at)

    def cancel(self, job_ids: Iterable[str]) -> None:
        """Leave a note for those who keep the jobs."""
        wanted = set(job_ids)
        for record in self._records():
            asked = _get(record, "asked")
            if asked["id"] in wanted and not _get(record, "over"):
                (record / "cancel").touch()
                if not _get(record, "going"):
                    _put(record, "over", {"at": time.time(), "why": "cancelled", "exit": None})

    def release_nodes(self, job_id: str, keep: Sequence[str]) -> None:
        """Refuse."""
        raise ShrinkRefused(f"{job_id} keeps its toys; cancel it for {len(keep)}")

    def close(self) -> None:
        """Nothing is held."""

    def _new_record(self) -> tuple[int, Path]:
        number = 1 + len(list(self._queue.glob("*.toy")))
        while True:
            record = self._queue / f"{number}.toy"
            try:
                record.mkdir()
            except FileExistsError:
                number += 1
            else:
                return number, record

    def _records(self) -> list[Path]:
        try:
            found = sorted(self._queue.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise BatchUnavailable(f"the Toy's queue cannot be read: {error}") from error
        return [record for record in found if record.suffix == ".toy" and _get(record, "asked")]

    def _wake(self) -> None:
        if (self._queue / "asleep").exists():
            return
        for record in self._records():
            if _get(record, "over"):
                continue
            try:
                (record / "started").touch(exist_ok=False)
            except FileExistsError:
                continue
            command = [sys.executable, __file__, str(record)]
            subprocess.run(command, stdin=subprocess.DEVNULL, check=False)


def _status(record: Path) -> JobStatus:
    asked, going, over = (_get(record, name) for name in ("asked", "going", "over"))
    if over:
        phase, state = Phase.ENDED, "OVER"
    elif going:
        phase, state = Phase.RUNNING, "GOING"
    else:
        phase, state = Phase.QUEUED, "WAITING"
    return JobStatus(
        job_id=asked["id"],
        name=asked["name"],
        phase=phase,
        state=state,
        reason="asleep" if phase is Phase.QUEUED else "",
        nodes=tuple(going["nodes"].split("+")) if going else (),
        node_count=asked["nodes"],
        submitted_at=asked["queued"],
        started_at=going.get("at"),
        ends_at=over.get("at") or going.get("ends"),
        exit_status=over.get("exit"),
        why_ended=WhyEnded(over["why"]) if over else None,
    )


def _get(record: Path, name: str) -> dict[str, Any]:
    """What a file of a job says; empty where it is not there."""
    try:
        found: dict[str, Any] = json.loads((record / name).read_text())
    except FileNotFoundError:
        return {}
    return found


def _put(record: Path, name: str, said: dict[str, Any]) -> None:
    temporary = record / f"{name}.{os.getpid()}"
    temporary.write_text(json.dumps(said))
    temporary.replace(record / name)


def keep(record: Path) -> None:
    """Run the script of a job, hold its limits, and write how it ended."""
    asked = SimpleNamespace(**_get(record, "asked"))
    host, start = socket.gethostname(), time.time()
    end = start + asked.walltime
    nodes = "+".join([host, f"{host}~twin"][: asked.nodes])
    variables = {"TOY_JOB": asked.id, "TOY_NODES": nodes, "TOY_DEADLINE": str(end)}
    with open(asked.output, "ab") as output:
        script = subprocess.Popen(
            ["/bin/bash", asked.script],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=asked.directory,
            env={**os.environ, **variables},
            start_new_session=True,
        )
    _put(record, "going", {"at": start, "ends": end, "nodes": nodes, "pid": script.pid})
    warned, killed_at, why = False, float("inf"), ""
    while script.poll() is None:
        now = time.time()
        if not warned and now >= max(start, end - asked.warning):
            warned = True
            os.kill(script.pid, signal.SIGUSR1)
        if not why and ((record / "cancel").exists() or now >= end):
            why = "timeout" if now >= end else "cancelled"
            os.killpg(script.pid, signal.SIGTERM)
            killed_at = now + 10.0
        if now >= killed_at:
            os.killpg(script.pid, signal.SIGKILL)
        time.sleep(0.02)
    status = script.returncode if script.returncode >= 0 else 128 - script.returncode
    why = why or ("failed" if status else "completed")
    _put(record, "over", {"at": time.time(), "why": why, "exit": status})


def main(record: Path) -> None:
    """Leave a process that keeps the job, and return when the job has started."""
    if pid := os.fork():
        while not _get(record, "going") and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.005)
        return
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    keep(record)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
