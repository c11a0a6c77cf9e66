"""The contenders of a measurement: a system in this process, or a peer in its own, with the same
loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from bench import measure
from bench.loads import LOADS
from bench.systems import System


class Contender(Protocol):
    """A contender that loads can be given to."""

    @property
    def name(self) -> str:
        """The contender's name in tables."""

    @property
    def system(self) -> System | None:
        """The system, if it is in this process."""

    def do(self, load: str, **arguments: Any) -> Any:
        """Run a load and return its figures (see `loads`), or None if the contender has no such
        load."""


class Local:
    """A system in this process."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.name = system.name

    def do(self, load: str, **arguments: Any) -> Any:
        """Run a load and return its figures."""
        return LOADS[load](self.system, **arguments)


def medians(
    samples: Mapping[str, Sequence[Mapping[str, float | None]]], case: str
) -> dict[str, float | None]:
    """Return the median of a case over its rounds by contender, None where it has no such case."""
    found = {name: [one[case] for one in rounds] for name, rounds in samples.items()}
    return {
        name: measure.median([value for value in values if value is not None])
        if any(value is not None for value in values)
        else None
        for name, values in found.items()
    }
