"""Tasks of a program for PyCOMPSs, and the same by Pilot's own API."""

from __future__ import annotations

import pilot
from pilot.compat.compss.decoration import task
from pilot.compat.compss.parameters import NAMED


@task(returns=1)
def same(value: int) -> int:
    """Return the argument."""
    return value


@task(block=NAMED["INOUT"])
def step(block: list[int]) -> None:
    """Change a small object."""
    block[0] += 1


@task(items=NAMED["COLLECTION_IN"], returns=1)
def count(items: list[int]) -> int:
    """Return the number of elements."""
    return len(items)


@pilot.task
def own_same(value: int) -> int:
    """Return the argument."""
    return value


@pilot.task
def own_step(block: list[int]) -> list[int]:
    """Return a small object, changed."""
    block[0] += 1
    return block


@pilot.task
def own_count(items: list[int]) -> int:
    """Return the number of elements."""
    return len(items)
