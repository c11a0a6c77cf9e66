"""Who is measured: something in this process, or a peer in its own, asked for the same loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from bench import measure
from bench.loads import LOADS
from bench.systems import System


class Contender(Protocol):
    """Something that can be given loads."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def system(self) -> System | None:
        """What it is, where that is in this process."""

    def do(self, load: str, **arguments: Any) -> Any:
        """What a load found (see `loads`), or None if it has no such thing."""


class Local:
    """A system in this process."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.name = system.name

    def do(self, load: str, **arguments: Any) -> Any:
        """What a load found."""
        return LOADS[load](self.system, **arguments)


def medians(
    samples: Mapping[str, Sequence[Mapping[str, float | None]]], case: str
) -> dict[str, float | None]:
    """Contender → the median of a case over its rounds, None where it has no such thing."""
    found = {name: [one[case] for one in rounds] for name, rounds in samples.items()}
    return {
        name: measure.median([value for value in values if value is not None])
        if any(value is not None for value in values)
        else None
        for name, values in found.items()
    }
