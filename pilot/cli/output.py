"""Output of results: tables and fields for people, JSON for programs.

Tables fit the terminal, a line for each row; elsewhere they are plain text in columns. Names are
printed with control characters escaped: a row is one line, and no terminal takes them for
commands. Notes beside the answer (`note`) go to stderr, so that stdout can be piped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from pilot.formatting import ago, amount, counted, duration, moment, shortened_cell, text_width
from pilot.notes import note
from pilot.texts import printable

#: The widest that a column is that may be cut.
CELL_MOST = 60

#: Colours of the words that stand for states and outcomes, on a terminal.
_COLOURS = {
    "COMPLETED": "green",
    "RUNNING": "cyan",
    "OPEN": "cyan",
    "completed": "green",
    "warning": "yellow",
    "problem": "red",
    "failed": "red",
    "aborted": "red",
    "cancelled": "yellow",
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


def say(text: str) -> None:
    """Print lines that may hold any text of users."""
    for line in text.split("\n"):
        click.echo(printable(line.expandtabs()))


def print_json(data: Any) -> None:
    """Print plain data as JSON."""
    click.echo(json_text(data, indent=2))


def json_text(data: Any, indent: int | None = None) -> str:
    """Return plain data as JSON that stdout can encode.

    Other characters, such as bytes of a file name that are not UTF-8, are escaped as in JSON.
    """
    import json

    import msgspec

    # Python's own indents ten times as slowly.
    text = json.dumps(data, ensure_ascii=False, default=str)
    if indent is not None:
        try:
            text = msgspec.json.format(text, indent=indent)
        except (msgspec.DecodeError, UnicodeEncodeError):  # NaN, or half a character: rare
            text = json.dumps(data, indent=indent, ensure_ascii=False, default=str)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(data, indent=indent, default=str)
    return text


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    cut: Mapping[str, int] | None = None,
    drop: Sequence[str] = (),
) -> None:
    """Print rows in columns, a line for each; columns of numbers are aligned to the right.

    Parameters
    ----------
    headings, rows
        The headings of the columns, and the rows of cells.
    cut
        Columns that may be cut: always at `CELL_MOST`, and down to this many characters where
        the terminal is too narrow.
    drop
        Columns that are left out, in this order, where that is not enough.
    """
    cells = [["-" if cell is None or cell == "" else cell for cell in row] for row in rows]
    numeric = [
        bool(cells) and all(isinstance(row[column], (int, float)) for row in cells)
        for column in range(len(headings))
    ]
    texts = [[printable(str(cell)) for cell in row] for row in cells]
    columns = [
        Column(
            [heading.upper(), *(row[number] for row in texts)],
            (cut or {}).get(heading),
            numeric[number],
        )
        for number, heading in enumerate(headings)
    ]
    order = {heading: place for place, heading in enumerate(drop)}
    chosen = dict(zip(headings, columns, strict=True))
    if sys.stdout.isatty():
        import shutil  # late, as all that a command may not need

        width = shutil.get_terminal_size().columns
        for heading in sorted(order, key=lambda each: order[each]):
            if least_width(chosen.values()) <= width:
                break
            del chosen[heading]
        fit(list(chosen.values()), width)
    _print_columns(list(chosen.values()))


class Column:
    """A column of a table: its texts, the heading first, and the width at which it is shown.

    Parameters
    ----------
    texts
        The heading, and a text for each row.
    least
        The least width, where the column is narrowed.
    is_number
        True for a column that is aligned to the right.
    """

    def __init__(self, texts: Sequence[str], least: int | None, is_number: bool) -> None:
        self.texts = texts
        self.may_be_cut = least is not None
        self.is_number = is_number
        self.width = max(map(text_width, texts))
        if self.may_be_cut:
            self.width = min(self.width, CELL_MOST)
        #: The least width that it can be shown in.
        self.least = self.width if least is None else min(self.width, least)


def least_width(columns: Iterable[Column]) -> int:
    """Return the least width of a table of these columns."""
    return sum(column.least + 2 for column in columns) - 2


def fit(columns: Sequence[Column], width: int) -> None:
    """Narrow columns that may be cut, the widest first, until the table has this width."""
    too_much = sum(column.width + 2 for column in columns) - 2 - width
    while too_much > 0:
        widest = max(columns, key=lambda column: column.width - column.least)
        if widest.width == widest.least:
            return
        widest.width -= 1
        too_much -= 1


def _print_columns(columns: Sequence[Column]) -> None:
    on_terminal = sys.stdout.isatty()
    for number, row in enumerate(zip(*(column.texts for column in columns), strict=True)):
        line = []
        for column, text in zip(columns, row, strict=True):
            shown = shortened_cell(text, column.width) if column.may_be_cut else text
            pad = " " * (column.width - text_width(shown))
            if on_terminal:
                shown = click.style(shown, bold=True) if number == 0 else coloured(shown)
            line.append(pad + shown if column.is_number else shown + pad)
        click.echo("  ".join(line).rstrip())


def first_line(text: str) -> str:
    """Return the first line of a text that is not empty, shortened."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= 200 else f"{line[:197]}..."


def print_fields(fields: Mapping[str, object]) -> None:
    """Print the fields of one thing that have a value, each in a line."""
    shown = {key: str(value) for key, value in fields.items() if value not in (None, "")}
    width = max(map(len, shown), default=0)
    for key, text in shown.items():
        first, *rest = text.splitlines() or [""]
        click.echo(f"{key:{width}}  {coloured(printable(first))}")
        for line in rest:
            click.echo(f"{'':{width}}  {printable(line)}")


def coloured(word: str) -> str:
    """Return a state, or an outcome, in its colour on a terminal."""
    colour = _COLOURS.get(word.strip())
    return click.style(word, fg=colour) if colour else word


def last_words(error: dict[str, Any]) -> str:
    """Return the error of a task with its details, without repeating the message."""
    said, detail = f"{error['type']}: {error['message']}", error["detail"].strip()
    if not detail or detail in said:
        return said
    if error["message"].strip() in detail:
        return detail if error["type"] in detail else f"{error['type']}: {detail}"
    return f"{said}\n\n{detail}"


__all__ = [
    "ago",
    "amount",
    "coloured",
    "counted",
    "duration",
    "first_line",
    "json_text",
    "last_words",
    "moment",
    "note",
    "print_fields",
    "print_json",
    "print_table",
    "say",
]
