"""Programs for PyCOMPSs as tests run them: as commands of a shell, on a site."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.sites import SiteUnderTest


def environment_on(site: SiteUnderTest) -> dict[str, str]:
    """The environment of a program on a site."""
    return {
        **os.environ,
        "PILOT_SITE": str(site.directory),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


def run(environment: dict[str, str], cwd: Path, *command: str, status: int = 0) -> tuple[str, str]:
    """What a command prints, which ends with this status."""
    if command[0] == "runcompss":  # also where Pilot was installed before it had this command
        command = (sys.executable, "-m", "pilot.compat.compss.commands", *command[1:])
    told = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=120, check=False
    )
    assert told.returncode == status, told.stdout + told.stderr
    return told.stdout, told.stderr


def run_text(
    environment: dict[str, str], cwd: Path, program: str, *words: str, status: int = 0
) -> tuple[str, str]:
    """What a program prints, given as text; the words are flags, or behind ``--`` its own."""
    (cwd / "program.py").write_text(program)
    place = words.index("--") if "--" in words else len(words)
    command = ("runcompss", *words[:place], "program.py", *words[place + 1 :])
    return run(environment, cwd, *command, status=status)
