"""The files that the jobs of pilots write: the ends of their outputs, and what agents cannot say.

Invariant: a file that is not there, or cannot be read, says nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

from pilot.regular_files import NotRegularError, read_regular
from pilot.texts import printable, shortened

#: The bytes at the end of a job's output that are read.
OUTPUT_BYTES = 4096


def unreached_by(path: Path) -> str:
    """Return what a pilot has written of the addresses that it tries; empty: it reaches the head,
    or has not said anything."""
    try:
        text = read_regular(path, OUTPUT_BYTES).decode(errors="replace")
    except (OSError, NotRegularError):
        return ""
    return printable(shortened(text, OUTPUT_BYTES // 4))


def end_of(path: Path) -> str:
    """Return the end of a job's output; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - OUTPUT_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
