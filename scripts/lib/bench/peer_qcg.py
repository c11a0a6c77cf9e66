"""QCG-PilotJob: a local manager that tells of ends as they come, and writes no log.

It knows commands only; a load's tasks are ``/bin/true``, in graphs too.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qcg.pilotjob.api.job import Jobs  # type: ignore[import-not-found,import-untyped,unused-ignore]  # a peer
from qcg.pilotjob.api.manager import LocalManager  # type: ignore[import-not-found,import-untyped,unused-ignore]  # a peer

NAME = "QCG-PilotJob"
LOADS = {"chain": 1.0, "joins_apart": 1.0, "joins_in_row": 1.0, "commands": 1.0}


class Qcg:
    """A running manager."""

    name = NAME

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._numbers = itertools.count()

    def launch(self, needs: Sequence[Sequence[int]], timeout_s: float) -> None:
        """Run jobs in one request."""
        first = next(self._numbers)
        names = [f"j{first}-{index}" for index in range(len(needs))]
        jobs = Jobs()
        for name, numbers in zip(names, needs, strict=True):
            jobs.add(name=name, exec="/bin/true", after=[names[number] for number in numbers])
        self._run(jobs, timeout_s)

    def commands(self, argv: Sequence[str], count: int, timeout_s: float) -> None:
        """Run one job with so many iterations."""
        program, *arguments = argv
        jobs = Jobs()
        name = f"j{next(self._numbers)}"
        jobs.add(name=name, exec=program, args=arguments, iteration=count, numCores=1)
        self._run(jobs, timeout_s)

    def _run(self, jobs: Any, timeout_s: float) -> None:
        names = self._manager.submit(jobs)
        states = set(self._manager.wait4(names, timeout_s).values())
        if states != {"SUCCEED"}:
            raise RuntimeError(f"{self.name}: jobs ended as {', '.join(map(str, states))}")
        self._manager.remove(names)


@contextlib.contextmanager
def opened(workers: int, directory: Path, workload: str) -> Iterator[Qcg]:  # noqa: ARG001 - as for others
    """Start a manager of so many cores of this machine."""
    manager = LocalManager(
        ["--nodes", str(workers), "--wd", str(directory), "--log", "critical"],
        {"log_file": str(directory / "api.log"), "log_level": "critical"},
    )
    try:
        yield Qcg(manager)
    finally:
        manager.finish()
