"""The command ``scripts/suites``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from suites.reports import Report, read_report, table, worse

#: Files that need what cannot be had from a registry of packages, or a graphics card.
_LEFT_OUT = ("test_tensor", "test_distributed_pytorch", "test_distributed_eddl")


def main(words: Sequence[str] | None = None) -> int:
    """Run a suite; return the exit status: 1 if a test fails that passes as plain Python."""
    parser = argparse.ArgumentParser(prog="scripts/suites", description=__doc__)
    parser.add_argument("suite", choices=["dislib"])
    parser.add_argument("snapshot", type=Path, help="the directory with the sources of the suite")
    parser.add_argument("files", nargs="*", help="names such as test_array; default: all")
    parser.add_argument(
        "--python", default=sys.executable, help="a Python that has Pilot and what the suite needs"
    )
    parser.add_argument(
        "--time", type=float, default=1800.0, help="seconds that each run of a file may take"
    )
    given = parser.parse_args(words)
    tests = given.snapshot / "tests"
    found = sorted(path.stem for path in tests.glob("test_*.py"))
    names = given.files or [name for name in found if name not in _LEFT_OUT]
    if unknown := [name for name in names if name not in found]:
        parser.error(f"there is no {unknown[0]} in {tests}")
    rows: list[tuple[str, Report | None, Report | None]] = []
    is_worse = False
    for name in names:
        ours = _run(given, name, on_pilot=True)
        control = _run(given, name, on_pilot=False)
        rows.append((name, ours, control))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
        for test in [] if ours is None or control is None else worse(ours, control):
            print(f"  worse: {test}", flush=True)
            is_worse = True
        is_worse |= ours is None and control is not None
    print(table(rows))
    return int(is_worse)


def _run(given: argparse.Namespace, name: str, *, on_pilot: bool) -> Report | None:
    launcher = ["-m", "pilot.compat.compss.commands"] if on_pilot else []
    with tempfile.TemporaryDirectory(prefix="pilot-suites-") as directory:
        xml = Path(directory) / "report.xml"
        told = Path(directory) / "output"
        command = [given.python, *launcher, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [f"--junitxml={xml}", f"tests/{name}.py"]
        environment = {"ComputingUnits": "1", **os.environ}
        if not on_pilot:
            path = subprocess.run(
                [given.python, "-m", "pilot", "compat", "path"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            environment["PYTHONPATH"] = os.pathsep.join(
                filter(None, [path, os.environ.get("PYTHONPATH", "")])
            )
        with told.open("wb") as output:
            try:
                subprocess.run(
                    command,
                    cwd=given.snapshot,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=given.time,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                print(f"  {name}: no end after {given.time:g} s", file=sys.stderr)
        if not xml.exists():
            print(told.read_text(errors="replace")[-2000:], file=sys.stderr)
            return None
        return read_report(xml.read_text())
