"""Many tasks of one command: ``pilot submit --array`` and ``--each-line``.

Pure: the options become the rows of a task array, and the words of the command have
parameters. Values are data: no shell reads them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pilot.client.command import ShellCommand

#: The variables that tell each task its index and line.
INDEX_VARIABLE, LINE_VARIABLE = "PILOT_ARRAY_TASK_ID", "PILOT_LINE"
#: An array has no more tasks than this.
TASKS_MOST = 1_000_000
#: The characters that a line has at most: Linux takes no longer argument.
LONGEST = 32 * os.sysconf("SC_PAGE_SIZE")

#: No number of a task is longer.
_DIGITS = 18
_RANGE = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")


@dataclass(frozen=True)
class Rows:
    """The parameters of an array: their names, and a row of values for each task."""

    names: tuple[str, ...]
    values: list[tuple[str, ...]]

    def __iter__(self) -> Iterator[dict[str, str]]:
        return (dict(zip(self.names, row, strict=True)) for row in self.values)


def array_rows(text: str) -> Rows:
    """Read an array as Slurm writes it: ``0-99``, ``0-99:2``, ``1,5,7``.

    Raises
    ------
    ValueError
        The text is not an array, names a task twice, or has too many tasks.
    """
    indices: dict[int, None] = {}
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        if found is None:
            limit = "; Pilot has no %: as many run as there are cores" if "%" in part else ""
            raise ValueError(f"{part!r}: write numbers and ranges, as 0-99, 0-99:2 or 1,5,7{limit}")
        if max(map(len, filter(None, found.groups()))) > _DIGITS:
            raise ValueError(f"{part[:40]!r}…: numbers have up to {_DIGITS} digits")
        first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
        if step < 1:
            raise ValueError(f"{part!r}: the step is 0; write FIRST-LAST:STEP with a step from 1")
        if last < first:
            raise ValueError(f"{part!r} has no numbers; write FIRST-LAST or FIRST-LAST:STEP")
        if len(indices) + (last - first) // step >= TASKS_MOST:
            raise ValueError(f"{text!r} has more than {TASKS_MOST:,} tasks")
        for number in range(first, last + 1, step):
            if number in indices:
                raise ValueError(f"{number} is there twice")
            indices[number] = None
    return Rows(("index",), [(str(index),) for index in indices])


def line_rows(lines: Iterable[str]) -> Rows:
    """Make a row of each line that is not empty, numbered from 0.

    Reading stops as soon as there is too much: the input may have no end.

    Raises
    ------
    ValueError
        There are no lines, there are too many, or a command cannot get one.
    """
    texts: list[str] = []
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise ValueError(f"line {number} has a NUL character: a command cannot get it")
        if len(line) > LONGEST:
            raise ValueError(
                f"line {number} is longer than the {LONGEST >> 10} KiB that a command can get"
            )
        if text := line.rstrip("\r\n"):
            texts.append(text)
        if len(texts) > TASKS_MOST:
            raise ValueError(f"it has more than {TASKS_MOST:,} lines")
    if not texts:
        raise ValueError("it has no lines")
    return Rows(("index", "line"), [(str(n), text) for n, text in enumerate(texts)])


def array_command(command: ShellCommand, names: Sequence[str]) -> ShellCommand:
    """Return the command with ``{index}`` and ``{line}`` in its words to be filled in.

    Everything else is unchanged; the array's environment variables have the same values.
    """
    from msgspec.structs import replace  # late, as all that a command may not need

    variables = {"index": INDEX_VARIABLE, "line": LINE_VARIABLE}
    return replace(command, filled=tuple((name, variables[name]) for name in names))


def check_name(name: str | None, names: Sequence[str]) -> None:
    """Check that a name contains nothing to be filled in.

    Raises
    ------
    ValueError
        The name has a parameter: the tasks of an array share one name.
    """
    for parameter in names:
        if name and f"{{{parameter}}}" in name:
            raise ValueError(
                f"{name!r}: the tasks of an array share one name, so {{{parameter}}} is not filled "
                "in there; lists show each as NAME[INDEX]"
            )


def array_path(path: str | None, names: Sequence[str]) -> str | None:
    """Return a file name as `pilot.shell` takes it, where only the array's names are parameters."""
    if path is None:
        return None
    return "".join(
        piece if is_parameter else piece.replace("{", "{{").replace("}", "}}")
        for piece, is_parameter in _pieces(path, names)
    )


def array_text(text: str, row: Mapping[str, str]) -> str:
    """Return a text with the values of a row in the places of their names."""
    return "".join(
        row[piece[1:-1]] if is_parameter else piece
        for piece, is_parameter in _pieces(text, list(row))
    )


def _pieces(text: str, names: Sequence[str]) -> Iterable[tuple[str, bool]]:
    """Split a text into literal parts and parameters."""
    pattern = "|".join(re.escape(f"{{{name}}}") for name in names)
    parts = re.split(f"({pattern})", text)
    return ((part, number % 2 == 1) for number, part in enumerate(parts))
