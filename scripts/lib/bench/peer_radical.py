"""RADICAL-Pilot: a pilot of this machine, Raptor for functions, its executor for commands.

It resolves no dependencies, and gives bytes back as text. Raptor's master and worker each hold a
core of the pilot, so that it gets two more than there are to work with. Its agent is found by the
PATH of a login shell.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

NAME = "RADICAL-Pilot"
LOADS = {
    "zero_work": 1 / 100,
    "sent_as_one": 1 / 100,
    "latencies": 1 / 100,
    "commands": 1 / 20,
}
#: Profiles and logs are read when the library is imported.
os.environ.update(RADICAL_LOG_LVL="ERROR", RADICAL_REPORT="FALSE", RADICAL_PROFILE="FALSE")

import radical.pilot as rp  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: E402  # a peer


class Radical:
    """A running pilot."""

    name = NAME
    takes_futures = False

    def __init__(self, manager: Any, raptor: Any) -> None:
        self._manager = manager
        self._raptor = raptor

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Submit one function call."""
        return self.submit_many(function, [args])[0]

    def submit_many(
        self, function: Callable[..., Any], rows: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """Submit function calls in one request."""
        calls = [rp.PythonTask(function, args, {}) for args in rows]
        described = [
            rp.TaskDescription({"mode": rp.TASK_FUNCTION, "function": call}) for call in calls
        ]
        return list(self._raptor.submit_tasks(described))

    def values(self, futures: Sequence[Any], timeout_s: float) -> list[Any]:
        """Return the values of futures."""
        self._wait(futures, timeout_s)
        return [future.return_value for future in futures]

    def commands(self, argv: Sequence[str], count: int, timeout_s: float) -> None:
        """Run so many commands in one request."""
        program, *arguments = argv
        described = [
            rp.TaskDescription({"executable": program, "arguments": arguments})
            for _ in range(count)
        ]
        self._wait(self._manager.submit_tasks(described), timeout_s)

    def _wait(self, made: Sequence[Any], timeout_s: float) -> None:
        states = set(self._manager.wait_tasks([one.uid for one in made], timeout=timeout_s))
        if states != {rp.DONE}:
            raise RuntimeError(f"{self.name}: tasks ended as {', '.join(map(str, states))}")


@contextlib.contextmanager
def opened(workers: int, directory: Path, workload: str) -> Iterator[Radical]:  # noqa: ARG001 - as for others
    """Start a pilot with room for so many tasks."""
    names = ("PATH", "PYTHONPATH")
    lines = "".join(f"export {name}='{os.environ[name]}'\n" for name in names)
    (directory / ".bash_profile").write_text(lines)
    session = rp.Session()
    try:
        pilots, manager = rp.PilotManager(session=session), rp.TaskManager(session=session)
        described = rp.PilotDescription(
            {"resource": "local.localhost", "runtime": 30, "cores": workers + 2}
        )
        pilot = pilots.submit_pilots([described])[0]
        manager.add_pilots(pilot)
        raptor = pilot.submit_raptors(rp.TaskDescription({"mode": rp.RAPTOR_MASTER}))[0]
        raptor.submit_workers(
            rp.TaskDescription({"mode": rp.RAPTOR_WORKER, "cores_per_rank": workers})
        )
        yield Radical(manager, raptor)
        raptor.rpc("stop")
    finally:
        session.close(download=False)
