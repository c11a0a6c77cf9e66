"""Bookings: the nodes that a task of several cores will have, and from when. Pure.

This is the reservation of EASY backfilling (D. Lifka, *The ANL/IBM SP Scheduling System*, 1995):
the task that has waited longest gets one, all others may go before it as long as they do not delay
it. What runs is thought to end when others of its class did; where nobody knows that, never.

Invariants
----------
- A booking is on nodes that hold the task once all has ended that is thought to end by its time.
- No booking begins later than the time by which the last of what runs is thought to end.
- The cost is that of sorting what runs; it does not depend on what waits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from pilot.scheduler.placement import FreeNode, NodeAllocation, place
from pilot.scheduler.resources import Resources


class Stay(NamedTuple):
    """The allocation of something that runs, since when, and until when that is thought to last."""

    share: NodeAllocation
    since: float
    #: Seconds since the epoch; inf: nobody knows.
    until: float


class Booking(NamedTuple):
    """The ranks that a task will have on each node, and the time at which it is thought to begin.

    That is -inf where there is room for it already, and inf where nobody knows.
    """

    starts_at: float
    ranks: dict[str, int]


def book(need: Resources, nodes: Iterable[FreeNode], stays: Iterable[Stay]) -> Booking | None:
    """Return the earliest booking for a task; None if these nodes are too few for it.

    Parameters
    ----------
    need
        The resources that the task needs.
    nodes
        The nodes, with what is free now. They stay as they are.
    stays
        What runs there.
    """
    later = {node.name: node.copy() for node in nodes}
    fits = {name: _counted(need, node) for name, node in later.items()}
    total = sum(fits.values())
    starts_at = -math.inf
    for stay in sorted(stays, key=lambda stay: stay.until):
        if total >= need.ranks:
            break
        node = later.get(stay.share.node)
        if node is None:
            continue
        node.release(stay.share)
        fit = _counted(need, node)
        total += fit - fits[node.name]
        fits[node.name] = fit
        starts_at = stay.until
    shares = place(need, later.values())
    if shares is None:
        return None
    return Booking(starts_at, {share.node: share.ranks for share in shares})


def _counted(need: Resources, node: FreeNode) -> int:
    """Return how many ranks a node counts for: with a given layout so many, or none."""
    fit = node.fit(need)
    each = need.ranks_per_node
    return min(fit, need.ranks) if not each else each if fit >= each else 0
