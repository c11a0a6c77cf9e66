"""How results look: tables and fields for people, JSON for programs, times and sizes in words.

Tables are drawn by rich on a terminal; elsewhere they are plain text in columns. What is not the
answer itself (`note`) goes to stderr, so that stdout can be piped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

#: Colours of the words that stand for states and outcomes, on a terminal.
_COLOURS = {
    "COMPLETED": "green",
    "RUNNING": "cyan",
    "OPEN": "cyan",
    "ok": "green",
    "FAILED": "red",
    "TIMED_OUT": "red",
    "ABORTED": "red",
    "error": "red",
    "crash": "red",
    "timeout": "red",
    "CANCELLED": "yellow",
    "QUEUED": "yellow",
    "interrupted": "yellow",
}


def note(message: str) -> None:
    """Tell the person something beside the answer."""
    click.echo(f"pilot: {message}", err=True)


def print_json(data: Any) -> None:
    """Print plain data as JSON."""
    import json

    click.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows in columns; columns of numbers are aligned to the right."""
    cells = [["-" if cell is None or cell == "" else cell for cell in row] for row in rows]
    numeric = [
        bool(cells) and all(isinstance(row[column], (int, float)) for row in cells)
        for column in range(len(headings))
    ]
    texts = [[str(cell) for cell in row] for row in cells]
    if sys.stdout.isatty():
        _print_rich(headings, texts, numeric)
        return
    lines = [[heading.upper() for heading in headings], *texts]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        aligned = (
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(line, widths, numeric, strict=True)
        )
        click.echo("  ".join(aligned).rstrip())


def _print_rich(
    headings: Sequence[str], texts: Iterable[Sequence[str]], numeric: Sequence[bool]
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading, is_number in zip(headings, numeric, strict=True):
        table.add_column(heading.upper(), justify="right" if is_number else "left", overflow="fold")
    for row in texts:
        table.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    Console().print(table)


def print_fields(fields: Mapping[str, object]) -> None:
    """Print one thing: a line for each of its fields that has a value."""
    shown = {key: str(value) for key, value in fields.items() if value not in (None, "")}
    width = max(map(len, shown), default=0)
    for key, text in shown.items():
        first, *rest = text.splitlines() or [""]
        colour = _COLOURS.get(first)
        click.echo(f"{key:{width}}  {click.style(first, fg=colour) if colour else first}")
        for line in rest:
            click.echo(f"{'':{width}}  {line}")


# --- times and sizes -----------------------------------------------------------------------------


def duration(seconds: float | None) -> str:
    """A length of time: ``3.2 ms``, ``12.5 s``, ``3m 20s``, ``2h 05m``, ``3d 04h``."""
    if seconds is None:
        return ""
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.1f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h {minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d {hours:02d}h"


def moment(when: float | None) -> str:
    """A point in time, by the clock here."""
    return "" if when is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


def ago(when: float | None, now: float | None = None) -> str:
    """How long ago something was: ``12s ago``, ``5m ago``, ``3h ago``, ``2d ago``."""
    if when is None:
        return ""
    seconds = max(0, int((time.time() if now is None else now) - when))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit} ago"
    return f"{seconds}s ago"


def amount(size: int) -> str:
    """A number of bytes: ``17 B``, ``1.2 MiB``."""
    number = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def counted(number: int, noun: str) -> str:
    """``1 task``, ``2 tasks``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
