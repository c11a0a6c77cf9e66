"""Gantt pictures: which task had which cores and GPUs when, as SVG. Pure, and without a library.

A row is a core of a node, or a thing with an index, such as a GPU. Tasks of one name have one
colour.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from pilot.formatting import duration
from pilot.scheduler.placement_text import read_placement

#: So many attempts are drawn at most.
MOST_BARS = 20_000
#: In pixels.
_ROW, _LEFT, _TOP, _WIDTH, _LINE = 7, 110, 24, 900, 16
_COLOURS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8866", "#44bb99",
    "#bbcc33", "#77aadd", "#aa4499", "#999933",
)  # fmt: skip
_TICKS = (1, 2, 5)


class Bar(NamedTuple):
    """An attempt: its task, what it is called, when it ran, and where, as the database has it."""

    task: str
    name: str
    started: float
    ended: float
    placement: str


class _Row(NamedTuple):
    node: str
    #: Empty: a core.
    resource: str
    #: The number of the core, or the index of the thing.
    item: str


def picture(bars: Sequence[Bar]) -> str:
    """Return the picture of what attempts had; there is at least one."""
    begin, end = min(bar.started for bar in bars), max(bar.ended for bar in bars)
    scale = _WIDTH / max(end - begin, 1e-9)
    taken = [(bar, list(_rows_of(bar))) for bar in bars]
    used = {row for _, its in taken for row in its}
    rows = {row: y for y, row in enumerate(sorted(used | _idle_cores(used), key=_order))}
    names = sorted({bar.name for bar in bars})
    colours = {name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(names)}
    height = _TOP + _ROW * len(rows)
    shapes = []
    for bar, its in taken:
        x, width = (bar.started - begin) * scale, max((bar.ended - bar.started) * scale, 0.3)
        tip = html.escape(
            f"{bar.task} {bar.name}, {duration(bar.ended - bar.started)}", quote=False
        )
        for first, count in _runs(sorted(rows[row] for row in its)):
            shapes.append(
                f'<rect x="{_LEFT + x:.1f}" y="{_TOP + first * _ROW}" width="{width:.1f}" '
                f'height="{count * _ROW - 1}" fill="{colours[bar.name]}">'
                f"<title>{tip}</title></rect>"
            )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 20}" '
            f'height="{height + 24 + _LINE * len(names)}" font-family="sans-serif" font-size="10">',
            '<rect width="100%" height="100%" fill="white"/>',
            *_labels(rows),
            *_scale(end - begin, scale, height),
            *shapes,
            *_legend(names, colours, height + 20),
            "</svg>\n",
        ]
    )


def _rows_of(bar: Bar) -> Iterable[_Row]:
    for node, cores, indices in read_placement(bar.placement):
        yield from (_Row(node, "", str(core)) for core in cores)
        for resource, its in indices.items():
            yield from (_Row(node, resource, index) for index in its)


def _idle_cores(used: Iterable[_Row]) -> set[_Row]:
    """Return the cores below the highest one that is used on each node."""
    highest: dict[str, int] = {}
    for node, resource, index in used:
        if not resource:
            highest[node] = max(int(index), highest.get(node, 0))
    return {_Row(node, "", str(core)) for node, last in highest.items() for core in range(last)}


def _order(row: _Row) -> tuple[object, ...]:
    return _natural(row.node), row.resource, _natural(row.item)


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Return a key by which n2 comes before n10."""
    parts = re.findall(r"\d+|\D+", text)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def _runs(numbers: Iterable[int]) -> Iterable[tuple[int, int]]:
    """Iterate over runs of numbers: the first, and how many."""
    for _, run in groupby(enumerate(numbers), lambda item: item[1] - item[0]):
        its = list(run)
        yield its[0][1], len(its)


def _labels(rows: dict[_Row, int]) -> Iterable[str]:
    """Write the nodes and resources beside their rows, with a line above each node."""
    for (node, resource), group in groupby(rows, lambda row: (row.node, row.resource)):
        first = rows[next(iter(group))]
        y = _TOP + first * _ROW
        text = html.escape(f"  {resource}" if resource else node)
        yield f'<text x="4" y="{y + 8}" fill="#333">{text}</text>'
        if not resource:
            yield f'<path d="M4 {y - 0.5}H{_LEFT + _WIDTH}" stroke="#bbb"/>'


def _scale(length_s: float, scale: float, height: int) -> Iterable[str]:
    """Write the times above, in round steps."""
    step = next(
        tick * 10.0**power
        for power in range(-6, 12)
        for tick in _TICKS
        if tick * 10.0**power * scale >= 70
    )
    for number in range(int(length_s / step) + 1):
        x = _LEFT + number * step * scale
        yield f'<path d="M{x:.1f} {_TOP - 4}V{height}" stroke="#eee"/>'
        yield f'<text x="{x:.1f}" y="{_TOP - 8}" text-anchor="middle">{number * step:g} s</text>'


def _legend(names: Sequence[str], colours: dict[str, str], y: int) -> Iterable[str]:
    for number, name in enumerate(names):
        line = y + number * _LINE
        colour = colours[name]
        yield f'<rect x="{_LEFT}" y="{line - 8}" width="9" height="9" fill="{colour}"/>'
        yield f'<text x="{_LEFT + 14}" y="{line}">{html.escape(name)}</text>'
