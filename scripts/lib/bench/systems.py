"""What a contender of W1 to W3 can do, and Pilot as one of them.

Each workload is written once against `System`; so all contenders run the same functions, in the
same order, and their results are checked by the same lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import pilot


class System(Protocol):
    """Something that runs functions elsewhere."""

    #: What tables call it.
    name: str
    #: Whether arguments may be futures, so that it resolves dependencies by itself.
    takes_futures: bool

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Hand one call over; returns its future."""

    def submit_many(
        self, function: Callable[..., Any], rows: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """Hand several calls over, in the way that is fastest for this system."""

    def values(self, futures: Sequence[Any], timeout_s: float) -> list[Any]:
        """Wait for all futures and return their values; raises where that takes longer."""


class Pilot:
    """Pilot, through a session that is open."""

    name = "pilot"
    takes_futures = True

    def __init__(self, session: pilot.Session) -> None:
        self.session = session

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """One task."""
        return self.session.submit(function, *args)

    def submit_many(
        self, function: Callable[..., Any], rows: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """One frame of tasks."""
        return self.session.submit_many(function, rows)

    def values(self, futures: Sequence[Any], timeout_s: float) -> list[Any]:
        """Their values."""
        return pilot.gather(futures, timeout=timeout_s)
