"""The pictures of simulations: nodes held and used, and the backlog, over time; and the part of
what was held that was used, over the rate of preemption."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pictures import legend, panels, prepare, save, style

from simulate.ledger import Sample
from simulate.report import Row

#: The most points of a line: more make no difference to the eye, and a large file.
POINTS = 240


def draw_times(path: Path, rows: Sequence[Row]) -> None:
    """Draw a panel for each policy, with the nodes held and used, and one with all backlogs."""
    prepare()
    figure, axes = panels(len(rows) + 1, 7.0, 1.2 * len(rows) + 1.6, down=True)
    longest_s = max(row.outcome.samples[-1].at_s for row in rows)
    unit, name = (3600.0, "hours") if longest_s > 3 * 3600 else (60.0, "minutes")
    *above, last = axes
    # A pool that is kept until long after the work has nothing to show.
    ends = [row.outcome.makespan_s for row in rows]
    last.set_xlim(0, 1.08 * min(longest_s, max(ends)) / unit)
    for number, (ax, row) in enumerate(zip(above, rows, strict=True)):
        its = row.outcome
        samples = _thinned(its.samples)
        at = [each.at_s / unit for each in samples]
        for values, shade, label in (
            ([each.held for each in samples], 0.25, "held"),
            ([each.used for each in samples], 0.8, "used"),
        ):
            ax.fill_between(at, values, color=f"C{number}", alpha=shade, lw=0, label=label)
        ax.set_title(f"{its.policy}: used / held {its.share:.2f}", fontsize="small", loc="left")
        ax.set_ylim(bottom=0)
        waiting = [each.backlog_node_s / 3600 for each in samples]
        last.plot(at, waiting, label=its.policy, **style(number))
    above[len(above) // 2].set_ylabel("nodes held (pale) and used (dark)")
    last.set(xlabel=name, ylabel="backlog,\nnode-hours")
    last.set_ylim(bottom=0)
    legend(figure, last)
    save(figure, path)


def _thinned(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples that differ from the one before or after; of many, every so many."""
    every = max(1, -(-len(samples) // POINTS))
    some = [*samples[::every], samples[-1]]
    inner = zip(some, some[1:], some[2:], strict=False)
    kept = [its for before, its, after in inner if not before[1:] == its[1:] == after[1:]]
    return [some[0], *kept, some[-1]]


def draw_rates(path: Path, rows: Sequence[Row]) -> None:
    """Draw what was used of what was held, and how long the work took, over the rate."""
    prepare()
    figure, axes = panels(2, 7.0, 3.2, one_scale=False)
    policies = list(dict.fromkeys(row.outcome.policy for row in rows))
    for number, policy in enumerate(policies):
        its = [row for row in rows if row.outcome.policy == policy]
        at = [float(row.variant) for row in its]
        _line(axes[0], at, [row.outcome.share for row in its], policy, number)
        minutes = [row.outcome.makespan_s / 60 for row in its]
        _line(axes[1], at, minutes, policy, number)
    axes[0].set(ylabel="used / held", ylim=(0, 1.02))
    axes[1].set(ylabel="minutes for all work")
    for ax in axes:
        ax.set_xlabel("% of nodes taken away in a minute")
    legend(figure, axes[0])
    save(figure, path)


def _line(ax: Any, at: Sequence[float], values: Sequence[float], name: str, number: int) -> None:
    ax.plot(at, values, marker="o", ms=3, label=name, **style(number))
