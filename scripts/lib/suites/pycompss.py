"""PyCOMPSs' own test programs: each is run, and judged, by the scripts that come with it.

A program's `execution` starts it by the command that it is given, and its `result` looks at what
was printed and written, and at files of COMPSs' runtime. The command is `suites/standin.py`: it
runs the program on Pilot, and writes those files as far as they say what tasks have done.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pilot.compat import search_directory
from suites import standin
from suites.runs import Runs, run_to_end
from suites.verdicts import KINDS, LEFT_OUT, Verdict, judge, table

HELP = "PyCOMPSs' test programs; names such as 0_basic2"

#: Where programs are, below the snapshot; a snapshot may also be the directory of programs itself.
_PLACES = (
    *("tests/sources/local/python", "tests/sources/local/fault_tolerance"),
    *("python", "fault_tolerance", "."),
)
#: What programs write to, and never empty.
_SHARED = tuple(Path("/tmp") / name for name in ("sharedDisk", "checkpointing"))
#: Where COMPSs has its workers, which `execution` makes.
_WORKERS = tuple(Path("/tmp") / f"COMPSsWorker{number:02}" for number in range(1, 9))
_TIME_S = 400.0


def _programs(snapshot: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for place in _PLACES:
        for script in (snapshot / place).glob("*/execution"):
            name = script.parent.name
            if place.endswith("fault_tolerance") and not name.endswith("_python"):
                continue  # of other languages
            found.setdefault(name, script.parent)
    return found


def find(snapshot: Path, wanted: Sequence[str]) -> list[str]:
    """Return the names of the programs that are to run."""
    found = sorted(_programs(snapshot))
    return [name for name in found if name in wanted or not (wanted or name in LEFT_OUT)]


def run(runs: Runs) -> int:
    """Run programs; return 1 if one fails."""
    programs = _programs(runs.snapshot)
    if there := [path for path in (*_SHARED, *_WORKERS) if path.exists()]:
        print(f"{there[0]} is there: programs write to it; move it away first", file=sys.stderr)
        return 2
    rows: list[tuple[str, Verdict]] = []
    try:
        for name in runs.names:
            verdict = _run(runs, name, programs[name])
            rows.append((name, verdict))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    finally:
        for path in (*_SHARED, *_WORKERS):
            shutil.rmtree(path, ignore_errors=True)
    print(table(rows))
    counts = {kind: sum(verdict.kind == kind for _, verdict in rows) for kind in KINDS}
    print(", ".join(f"{count} {kind}" for kind, count in counts.items() if count))
    return int(bool(counts["fail"]))


def _commands(runs: Runs, directory: Path) -> Path:
    """Make the commands by which scripts and programs start others; return ``runcompss``."""
    python, ours = shlex.quote(runs.python), shlex.quote(standin.__file__)
    texts = {
        "runcompss": f'exec {python} {ours} "$@"',
        # They also say `python3 -m pycompss`.
        "python3": f'case "$1 $2" in "-m pycompss") shift 2; exec {python} {ours} "$@";; esac\n'
        f'exec {python} "$@"',
    }
    for name, text in texts.items():
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o755)
    return directory / "runcompss"


def _run(runs: Runs, name: str, source: Path) -> Verdict:
    for path in _SHARED:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    with tempfile.TemporaryDirectory(prefix="pilot-suites-") as made:
        directory = Path(made)
        base, logs, kept = directory / "base", directory / "logs", directory / "kept"
        shutil.copytree(source, base, symlinks=True)
        for each in (logs, kept, directory / "bin"):
            each.mkdir()
        for script in ("execution", "result"):
            (base / script).chmod(0o755)
        command = _commands(runs, directory / "bin")
        ends = directory / "ends"
        environment = runs.environment()
        for variable, first in (
            ("PATH", str(command.parent)),
            ("PYTHONPATH", search_directory()),
        ):
            paths = [first, *filter(None, environment.get(variable, "").split(os.pathsep))]
            environment[variable] = os.pathsep.join(paths)
        environment |= {standin.ENDS: str(ends), "COMPSS_HOME": str(directory)}
        words = ["bash", str(base / "execution"), str(command), "", "", str(base), str(logs)]
        words += [str(kept), "0", "python3"]
        begin = time.monotonic()
        with (directory / "output").open("wb") as output:
            status = run_to_end(words, base, environment, output, runs.time_s or _TIME_S)
        text = (directory / "output").read_text(errors="replace")
        for log in sorted(kept.glob("*log")):
            text += log.read_text(errors="replace")
        statuses = [int(word) for word in ends.read_text().split()] if ends.exists() else []
        if kept_at := os.environ.get("PILOT_SUITES_KEEP"):
            (Path(kept_at) / f"{name}.txt").write_text(text)
    # Escapes of terminals are no words.
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return judge(name, status, statuses, text, time.monotonic() - begin)
