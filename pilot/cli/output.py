"""How results look: tables and fields for people, JSON for programs.

Tables are drawn by rich on a terminal; elsewhere they are plain text in columns. What is not the
answer itself (`note`) goes to stderr, so that stdout can be piped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from pilot.words import ago, amount, counted, duration, moment

#: Colours of the words that stand for states and outcomes, on a terminal.
_COLOURS = {
    "COMPLETED": "green",
    "RUNNING": "cyan",
    "OPEN": "cyan",
    "PAUSED": "yellow",
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
        click.echo(f"{key:{width}}  {coloured(first)}")
        for line in rest:
            click.echo(f"{'':{width}}  {line}")


def coloured(word: str) -> str:
    """A state, or an outcome, in its colour on a terminal."""
    colour = _COLOURS.get(word.strip())
    return click.style(word, fg=colour) if colour else word


__all__ = [
    "ago",
    "amount",
    "coloured",
    "counted",
    "duration",
    "moment",
    "note",
    "print_fields",
    "print_json",
    "print_table",
]
