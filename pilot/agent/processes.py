"""Processes that the agent starts: how they end with it, are ended, and are read."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from pilot.process import die_with_parent


def child_of_agent() -> None:
    """Prepare a child of the agent, between fork and exec, to end with it."""
    die_with_parent(signal.SIGTERM)


def kill_group(pid: int, number: int = signal.SIGKILL) -> None:
    """Signal the process group of a process, if it is there and ours."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def tail(path: Path, size: int = 4096) -> str:
    """Return the end of a log; nothing if it cannot be read."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
