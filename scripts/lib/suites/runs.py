"""Runs of a suite: what all suites are told, and how a command of one is run to its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple


class Runs(NamedTuple):
    """The programs to be run, and the place."""

    snapshot: Path
    names: Sequence[str]
    #: A Python that has Pilot and what the suite needs.
    python: str
    site: str
    #: The seconds that each run may take; None: what the suite says.
    time_s: float | None

    def environment(self) -> dict[str, str]:
        """Return the variables of a run: its `python3` is that Python, its site that site."""
        directory = str(Path(self.python).absolute().parent)
        path = os.pathsep.join([directory, os.environ.get("PATH", os.defpath)])
        return {**os.environ, "PILOT_SITE": self.site, "PATH": path}


def run_to_end(
    command: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    output: IO[bytes],
    time_s: float,
) -> int | None:
    """Run a command, and all that it starts; return its exit status, None after too long."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.wait(time_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        # What it has left, too: programs start others.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
