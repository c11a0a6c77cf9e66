"""Shapes: how many nodes one pilot asks for, and for how long, by when it could start. Pure.

A pool wishes for a pilot of some nodes, with the pool's walltime. Where the queue is long that may
wait for hours, while half of it could start at once: so the batch system is asked when it would
start the wish, and what the work allows in its place: fewer nodes, or a shorter walltime, which
fits into the gaps that backfill fills.

Invariants
----------
- A shape is never larger or longer than the wish, and never smaller or shorter than the work allows
  (`Shape.least_nodes`, `Shape.least_walltime_s`).
- What is not known is no reason to change the wish.
- No more than four shapes are asked about.
- Where only fewer nodes or a shorter time start at once, the rest is asked for by itself: the pool
  still lacks it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pilot.formatting import counted, duration
from pilot.scheduler.assignment import DRAIN_S, START_S, UNKNOWN_S

#: A start within so many seconds is one at once.
AT_ONCE_S = 10.0
#: The least part of the nodes, and of the walltime, that a pilot is asked for with: smaller and
#: shorter ones would be too many.
LEAST_PART = 4
#: The shortest walltime that a pool's is shortened to, in seconds.
LEAST_WALLTIME_S = 600.0
#: The part of the walltime that a shorter one must save, to be worth anything.
WORTH_SAVING = 0.25


class Shape(NamedTuple):
    """The nodes and the walltime of a pilot, each from the least to the most."""

    nodes: int
    walltime_s: float
    least_nodes: int
    least_walltime_s: float

    @property
    def is_exact(self) -> bool:
        """True if the batch system is left no choice."""
        return self.least_nodes >= self.nodes and self.least_walltime_s >= self.walltime_s

    def __str__(self) -> str:
        nodes = counted(self.nodes, "node")
        if self.least_nodes < self.nodes:
            nodes = f"{self.least_nodes} to {nodes}"
        time = duration(self.walltime_s)
        if self.least_walltime_s < self.walltime_s:
            time = f"{duration(self.least_walltime_s)} to {time}"
        return f"{nodes} for {time}"


class Forecast(NamedTuple):
    """The answer of the batch system to a shape that is not submitted."""

    #: The seconds until it would start; None: unknown.
    wait_s: float | None = None
    #: The reason why it would not be taken; empty: it would.
    refused: str = ""

    @property
    def is_at_once(self) -> bool:
        """True if it would start now."""
        return self.wait_s is not None and self.wait_s <= AT_ONCE_S


def least_nodes(nodes: int, at_once: int) -> int:
    """Return the fewest nodes that are worth to be asked for in the place of so many.

    Parameters
    ----------
    nodes
        The nodes of the wish.
    at_once
        The nodes that a task needs at once which no other pilot can hold; 0: there is none.
    """
    return min(nodes, max(at_once, -(-nodes // LEAST_PART)))


def least_walltime_s(walltime_s: float, waiting: Sequence[tuple[float | None, float]]) -> float:
    """Return the shortest walltime, in seconds, that the work allows in the place of the pool's.

    Parameters
    ----------
    walltime_s
        The pool's walltime; 0: no end.
    waiting
        For each class of tasks that wait: the mean time of one, in seconds, None if it is unknown;
        and the walltime that is kept for it.
    """
    if not waiting or not walltime_s:
        return walltime_s
    if any(mean_s is None and kept_s <= UNKNOWN_S for mean_s, kept_s in waiting):
        return walltime_s  # one of them may take as long as it likes
    longest_s = max(kept_s for _, kept_s in waiting)
    least_s = max(walltime_s / LEAST_PART, LEAST_WALLTIME_S, longest_s + START_S + DRAIN_S)
    return least_s if least_s <= (1.0 - WORTH_SAVING) * walltime_s else walltime_s


def candidates(wish: Shape) -> list[Shape]:
    """Return the shapes to ask about, what is liked best first; one alone: there is no choice."""
    nodes, walltime_s = wish.nodes, wish.walltime_s
    found = [Shape(nodes, walltime_s, nodes, walltime_s)]
    if fewer := wish.least_nodes < nodes:
        found.append(wish._replace(least_walltime_s=walltime_s))
    if shorter := wish.least_walltime_s < walltime_s:
        found.append(wish._replace(least_nodes=nodes))
    if fewer and shorter:
        found.append(wish)
    return found


def choose(wish: Shape, forecasts: Mapping[Shape, Forecast]) -> tuple[Shape, str]:
    """Return the shape to submit, and why it is not simply the wish; empty: it is.

    Parameters
    ----------
    wish
        The largest and the least that is asked for.
    forecasts
        What was answered to `candidates`, as far as these were asked about.
    """
    exact, *others = candidates(wish)
    whole = forecasts.get(exact, Forecast())
    if whole.is_at_once or (whole.wait_s is None and not whole.refused):
        return exact, ""
    if whole.refused:
        instead = f"{exact} would be refused ({whole.refused})"
    else:
        instead = f"{exact} would start in {duration(whole.wait_s or 0.0)}"
    known = [(shape, its) for shape in others if (its := forecasts.get(shape)) and not its.refused]
    if whole.refused:
        # The most of it would be refused as well: it is asked for as it was asked about.
        known = [(shape._replace(walltime_s=shape.least_walltime_s), its) for shape, its in known]
    for shape, its in known:
        if its.is_at_once:
            return shape, f"{instead}, this starts at once"
    waits = [(its.wait_s, shape) for shape, its in known if its.wait_s is not None]
    if not waits:
        return exact, ""
    if whole.refused:
        wait_s, shape = min(waits, key=lambda each: each[0])
        return shape, f"{instead}, this would start in {duration(wait_s)}"
    # Nothing starts at once: what leaves the most open may be backfilled, and loses nothing.
    return waits[-1][1], f"{instead}, and this may fit into a gap before that"


def asked_about(wish: Shape, forecasts: Mapping[Shape, Forecast]) -> Iterator[Shape]:
    """Yield the next shape to ask about, as long as that may change what is chosen."""
    for shape in candidates(wish):
        yield shape
        its = forecasts.get(shape, Forecast())
        if its.is_at_once or (its.wait_s is None and not its.refused):
            return
