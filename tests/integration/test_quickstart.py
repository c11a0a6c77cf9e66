"""The quickstart does what it shows: its blocks run in order, and what it prints is compared."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support.sites import SiteUnderTest

QUICKSTART = Path(__file__).resolve().parents[2] / "docs" / "quickstart.md"
DEADLINE_S = 120.0
#: The machine on which the quickstart was written.
WRITTEN_ON = "vm"

_BLOCK = re.compile(
    r"(?:^`(?P<file>[\w.]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)
_TIME = re.compile(r"\b[\d.]+ (ms|s|min)\b")


def blocks() -> Iterator[tuple[str, str, str]]:
    """Give the kind of each block, its text, and the file that it is."""
    for found in _BLOCK.finditer(QUICKSTART.read_text()):
        yield found["kind"], found["text"], found["file"] or ""


def commands(console: str) -> Iterator[tuple[str, list[str]]]:
    """Give the commands of a block, each with the lines that it prints, where they are shown."""
    for part in re.split(r"^\$ ", console, flags=re.M)[1:]:
        command, *shown = part.splitlines()
        yield command, [line for line in shown if line.strip()]


def test_the_quickstart_prints_what_it_shows(local_site: SiteUnderTest, tmp_path: Path) -> None:
    bin_ = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "COLUMNS": "100"}

    def run(*command: str) -> list[str]:
        ended = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert ended.returncode == 0, f"{command}: {ended.stdout}"
        printed = ended.stdout.replace(local_site.mark, "local")
        printed = printed.replace(socket.gethostname(), WRITTEN_ON)
        return [_TIME.sub("TIME", line) for line in printed.splitlines() if line.strip()]

    compared = 0
    for kind, text, file in blocks():
        if file:
            (tmp_path / file).write_text(text)
        elif kind == "python":
            printed = run(sys.executable, "-c", text.replace("time.sleep(5)", "time.sleep(0)"))
            for shown in re.findall(r"^print\(.*#  *(.*?):", text, re.M):
                assert printed == [shown]
                compared += 1
        for command, lines in commands(text) if kind == "console" else ():
            if "pip install" in command or "venv" in command:
                continue
            if command.startswith("pilot result get"):  # the reader has waited for it
                run("pilot", "session", "wait", command.split()[-1].partition(".")[0])
            printed = run("sh", "-c", command)
            if lines:
                assert printed == [_TIME.sub("TIME", line) for line in lines], command
                compared += 1
            if command.startswith("pilot result get"):
                inline = re.findall(r"`(pilot\.Session\(.*\))`", QUICKSTART.read_text())
                for expression in inline:
                    assert run(sys.executable, "-c", f"import pilot; print({expression})") == lines
                    compared += 1
    assert compared >= 6
