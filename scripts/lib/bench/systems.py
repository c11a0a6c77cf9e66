"""The kinds of contender that the loads (`loads`) are written for.

So all contenders run the same functions, in the same order, and their results are checked by the
same lines. Nothing here or in `loads` imports Pilot: the processes of peers use it, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class System(Protocol):
    """A system that runs functions elsewhere and returns their values."""

    #: What tables call it.
    name: str
    #: Whether arguments may be futures, so that it resolves dependencies by itself.
    takes_futures: bool

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Submit one call; return its future."""

    def submit_many(
        self, function: Callable[..., Any], rows: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """Submit several calls, in the way that is fastest for this system."""

    def values(self, futures: Sequence[Any], timeout_s: float) -> list[Any]:
        """Wait for all futures and return their values; raise an error if that takes longer."""


@runtime_checkable
class BlockSystem(System, Protocol):
    """A system that keeps large values where they are until they are asked for, or released."""

    def wait(self, futures: Sequence[Any], timeout_s: float) -> None:
        """Wait until all have ended, and read no values; raise an error if that takes longer."""

    def release(self, futures: Sequence[Any]) -> None:
        """Tell the system that nobody will ask for these again, where it can be told."""

    def traffic(self) -> dict[str, float]:
        """Return the bytes that its processes have ``written`` to disks so far, and those that
        were ``moved`` into the processes that run functions."""


@runtime_checkable
class Launcher(Protocol):
    """A system whose tasks report no more than that they have ended well."""

    #: What tables call it.
    name: str

    def launch(self, needs: Sequence[Sequence[int]], timeout_s: float) -> None:
        """Run the least task of the system once for each entry, after the tasks whose numbers are
        in the entry; return when all have ended. Raise an error if one fails or that takes
        longer."""


@runtime_checkable
class Commander(Protocol):
    """A system with its own way of running commands; others run them by functions."""

    def commands(self, argv: Sequence[str], count: int, timeout_s: float) -> None:
        """Run a command so many times; raise an error if one fails or that takes longer."""
