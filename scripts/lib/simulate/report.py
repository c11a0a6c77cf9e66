"""The output of ``scripts/simulate``: a table, and traces as CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from simulate.run import Outcome


class Row(NamedTuple):
    """An outcome; `variant` tells cases of a scenario apart, such as the rate of preemption."""

    variant: str
    outcome: Outcome


_HEADINGS = (
    "policy",
    "makespan s",
    "/ best",
    "mean wait s",
    "jobs",
    "held node-h",
    "used/held",
    "starting",
    "idle",
    "lost",
)


def table(rows: Sequence[Row], variant: str = "") -> str:
    """Format outcomes as aligned text; `variant` names what tells the cases apart, if anything."""
    lines = [((variant,) if variant else ()) + _HEADINGS]
    for row in rows:
        its = row.outcome
        best = min(other.outcome.makespan_s for other in rows if other.variant == row.variant)
        finished = math.isfinite(its.makespan_s)
        lines.append(
            ((row.variant,) if variant else ())
            + (
                its.policy,
                f"{its.makespan_s:,.0f}" if finished else f"{its.ended}/{its.tasks} tasks",
                f"{its.makespan_s / best:.2f}" if finished else "-",
                f"{its.mean_wait_s:,.0f}" if math.isfinite(its.mean_wait_s) else "-",
                f"{its.jobs:,}",
                f"{its.held_s / 3600:,.1f}",
                f"{its.share:.3f}",
                *(_part(part_s, its) for part_s in (its.starting_s, its.idle_s, its.lost_s)),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = 2 if variant else 1
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _part(part_s: float, its: Outcome) -> str:
    return f"{part_s / its.held_s:.3f}" if its.held_s else "-"


def write_trace(path: Path, rows: Iterable[Row]) -> None:
    """Write all samples as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("variant", "policy", "seconds", "held", "used", "backlog_node_s"))
        for row in rows:
            for its in row.outcome.samples:
                writer.writerow(
                    (
                        row.variant,
                        row.outcome.policy,
                        f"{its.at_s:.1f}",
                        f"{its.held:g}",
                        f"{its.used:g}",
                        f"{its.backlog_node_s:.1f}",
                    )
                )
