"""What a contender can be: the three kinds of thing that the loads (`loads`) are written for.

So all contenders run the same functions, in the same order, and their results are checked by the
same lines. Nothing here or in `loads` imports Pilot: the processes of peers use it, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class System(Protocol):
    """Something that runs functions elsewhere and brings their values."""

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


@runtime_checkable
class Launcher(Protocol):
    """Something whose tasks say no more than that they have ended well."""

    #: What tables call it.
    name: str

    def launch(self, needs: Sequence[Sequence[int]], timeout_s: float) -> None:
        """Run the least task that it has once for each entry, after the ones that this entry
        numbers, and return when all have ended; raises where one fails or that takes longer."""


@runtime_checkable
class Commander(Protocol):
    """Something that has a way of its own to run commands. The others call a function that does."""

    def commands(self, argv: Sequence[str], count: int, timeout_s: float) -> None:
        """Run a command so many times; raises where one fails or that takes longer."""
