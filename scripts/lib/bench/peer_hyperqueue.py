"""HyperQueue through its Python client: a local server with one worker, and no output kept.

A Python function runs in an interpreter of its own and gives no value back, so that a load's tasks
are functions that do nothing. The client's own wait looks every second; here it is asked anew every
2 ms (a look that finds something unfinished is ended by the exception of its callback).
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hyperqueue import Job  # type: ignore[import-not-found,import-untyped,unused-ignore]  # a peer
from hyperqueue.cluster import LocalCluster, WorkerConfig  # type: ignore[import-not-found,import-untyped,unused-ignore]  # a peer
from hyperqueue.task.function import PythonEnv  # type: ignore[import-not-found,import-untyped,unused-ignore]  # a peer

from bench import tasks
from bench.measure import Deadline

NAME = "HyperQueue"
LOADS = {
    "zero_work": 1 / 50,
    "latencies": 1 / 100,
    "chain": 1 / 20,
    "joins_apart": 1 / 25,
    "joins_in_row": 1 / 25,
    "commands": 1 / 2,
}
_LOOK_S = 0.002


class _UnfinishedError(Exception):
    pass


class HyperQueue:
    """A client of a running server."""

    name = NAME

    def __init__(self, client: Any, directory: Path) -> None:
        self._client = client
        self._directory = directory

    def launch(self, needs: Sequence[Sequence[int]], timeout_s: float) -> None:
        """Run Python functions in one job."""
        job = Job(default_workdir=self._directory)
        made: list[Any] = []
        for numbers in needs:
            before = [made[number] for number in numbers]
            made.append(job.function(tasks.nothing, stdout=None, stderr=None, deps=before))
        self._run(job, timeout_s)

    def commands(self, argv: Sequence[str], count: int, timeout_s: float) -> None:
        """Run programs in one job."""
        job = Job(default_workdir=self._directory)
        for _ in range(count):
            job.program(list(argv), stdout=None, stderr=None)
        self._run(job, timeout_s)

    def _run(self, job: Any, timeout_s: float) -> None:
        deadline = Deadline(timeout_s)
        number = self._client.submit(job).id
        while True:
            deadline.left_s()
            with contextlib.suppress(_UnfinishedError):
                failed = self._client.connection.wait_for_jobs((number,), _look)
                break
            time.sleep(_LOOK_S)
        if failed:
            raise RuntimeError(f"{self.name}: tasks of job {number} failed")
        self._client.forget(number)


def _look(jobs: dict[int, dict[str, Any]]) -> None:
    if not all(job["completed"] for job in jobs.values()):
        raise _UnfinishedError


@contextlib.contextmanager
def opened(workers: int, directory: Path, workload: str) -> Iterator[HyperQueue]:  # noqa: ARG001 - as for others
    """Start a server, and a worker with so many cores."""
    with LocalCluster(str(directory / "server"), WorkerConfig(cores=workers)) as cluster:
        yield HyperQueue(cluster.client(python_env=PythonEnv(sys.executable)), directory)
