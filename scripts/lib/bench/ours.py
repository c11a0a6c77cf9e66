"""Pilot, as a contender."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Any

import pilot


class Pilot:
    """Pilot, used through an open session."""

    name = "pilot"
    takes_futures = True

    def __init__(self, session: pilot.Session) -> None:
        self.session = session

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Submit one task."""
        return self.session.submit(function, *args)

    def submit_many(
        self, function: Callable[..., Any], rows: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """Submit tasks in one frame."""
        return self.session.submit_many(function, rows)

    def values(self, futures: Sequence[Any], timeout_s: float) -> list[Any]:
        """Return the values of futures."""
        return list(pilot.gather(futures, timeout=timeout_s))

    def wait(self, futures: Sequence[Any], timeout_s: float) -> None:
        """Wait until all have ended, and read nothing."""
        if concurrent.futures.wait(futures, timeout_s).not_done:
            raise TimeoutError(f"{self.name} was not done after {timeout_s:.0f} s")

    def release(self, futures: Sequence[Any]) -> None:
        """Release results."""
        if hasattr(self.session, "release"):
            self.session.release(futures)

    def commands(self, argv: Sequence[str], count: int, timeout_s: float) -> None:
        """Run shell tasks, in one frame."""
        command = pilot.shell(list(argv), name=argv[0])
        ended = self.values(self.submit_many(command, [()] * count), timeout_s)
        if any(result.returncode for result in ended):
            raise RuntimeError(f"{argv[0]} failed")
