"""What the records of a run say of its packing, beside an offline scheduler's schedule."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from pilot.scheduler.placement import FreeNode, NodeAllocation, place
from pilot.scheduler.placement_text import read_placement
from pilot.scheduler.resources import NodeShape, Resources


class Job(NamedTuple):
    """A task for an offline scheduler: what it needs, how long it takes, how many licences."""

    need: Resources
    took_s: float
    licences: int = 0


def used_twice(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what two attempts had at the same time, by the records of `placements`."""
    spans: defaultdict[tuple[str, str, str], list[tuple[float, float, str]]] = defaultdict(list)
    for row in rows:
        span = row["started"], row["ended"], row["id"]
        for node, cores, indices in read_placement(row["placement"]):
            for core in cores:
                spans[node, "core", str(core)].append(span)
            for name, its in indices.items():
                for index in its:
                    spans[node, name, index].append(span)
    return [
        f"{thing}: {first} and {second}"
        for thing, its in spans.items()
        for first, second in pairwise(sorted(its))
        if second[0] < first[1]
    ]


def most_at_once(spans: Iterable[tuple[float, float, int]]) -> int:
    """Return the most that spans (begin, end, amount) have together at any time."""
    changes = [(begin, amount) for begin, _, amount in spans]
    changes += [(end, -amount) for _, end, amount in spans]
    used = most = 0
    for _, amount in sorted(changes):  # of one moment what ends goes first
        used += amount
        most = max(most, used)
    return most


def list_schedule_s(jobs: Sequence[Job], shapes: Sequence[NodeShape], licences: int = 0) -> float:
    """Return the makespan of a list schedule: whatever fits starts, in this order, all known."""
    nodes = [FreeNode(f"n{number}", shape, number) for number, shape in enumerate(shapes)]
    by_name = {node.name: node for node in nodes}
    running: list[tuple[float, int, list[NodeAllocation], int]] = []
    waiting, now = list(enumerate(jobs)), 0.0
    while waiting or running:
        left = []
        full: set[tuple[Resources, int]] = set()
        for number, job in waiting:
            alike = job.need, job.licences
            shares = None
            if alike not in full and job.licences <= licences:
                shares = place(job.need, nodes)
            if shares is None:
                full.add(alike)
                left.append((number, job))
                continue
            for share in shares:
                by_name[share.node].take(share)
            licences -= job.licences
            heapq.heappush(running, (now + job.took_s, number, shares, job.licences))
        waiting = left
        now = running[0][0]
        while running and running[0][0] <= now:
            _, _, shares, its = heapq.heappop(running)
            licences += its
            for share in shares:
                by_name[share.node].release(share)
    return now
