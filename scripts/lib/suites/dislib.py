"""dislib's own tests: each file runs on Pilot, and as plain Python beside it.

What fails in both is not Pilot's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from suites.reports import Report, read_report, table, worse
from suites.runs import Runs, run_to_end

HELP = "dislib, by pytest; names such as test_array"

#: Files that need what cannot be had from a registry of packages, or a graphics card.
_LEFT_OUT = ("test_tensor", "test_distributed_pytorch", "test_distributed_eddl")
_TIME_S = 1800.0


def find(snapshot: Path, wanted: Sequence[str]) -> list[str]:
    """Return the names of the files that are to run."""
    found = sorted(path.stem for path in (snapshot / "tests").glob("test_*.py"))
    return [name for name in found if name in wanted or not (wanted or name in _LEFT_OUT)]


def run(runs: Runs) -> int:
    """Run files; return 1 if a test fails that passes as plain Python."""
    rows: list[tuple[str, Report | None, Report | None]] = []
    is_worse = False
    for name in runs.names:
        ours = _run(runs, name, on_pilot=True)
        control = _run(runs, name, on_pilot=False)
        rows.append((name, ours, control))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
        for test in [] if ours is None or control is None else worse(ours, control):
            print(f"  worse: {test}", flush=True)
            is_worse = True
        is_worse |= ours is None and control is not None
    print(table(rows))
    return int(is_worse)


def _run(runs: Runs, name: str, *, on_pilot: bool) -> Report | None:
    launcher = ["-m", "pilot.compat.compss.commands"] if on_pilot else []
    with tempfile.TemporaryDirectory(prefix="pilot-suites-") as directory:
        xml = Path(directory) / "report.xml"
        told = Path(directory) / "output"
        command = [runs.python, *launcher, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [f"--junitxml={xml}", f"tests/{name}.py"]
        environment = {"ComputingUnits": "1", **runs.environment()}
        if not on_pilot:
            path = subprocess.run(
                [runs.python, "-m", "pilot", "compat", "path"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            environment["PYTHONPATH"] = os.pathsep.join(
                filter(None, [path, os.environ.get("PYTHONPATH", "")])
            )
        time_s = runs.time_s or _TIME_S
        with told.open("wb") as output:
            status = run_to_end(command, runs.snapshot, environment, output, time_s)
        if status is None:
            print(f"  {name}: no end after {time_s:g} s", file=sys.stderr)
        if not xml.exists():
            print(told.read_text(errors="replace")[-2000:], file=sys.stderr)
            return None
        return read_report(xml.read_text())
