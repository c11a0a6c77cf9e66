"""``scripts/suites mpi4py SNAPSHOT``: mpi4py's own tests as an MPI task, on a fresh world and twice
on a warm one, beside a bare ``mpiexec``.

The tests must be of the release of mpi4py that is installed. What fails in the second run of a
process without Pilot, too, is no fault of warm ranks: mpi4py has 32 error handlers for a process,
and gives none back.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pilot
from pilot.launchers.mpirun import find_mpi
from suites import mpi4py_ranks
from suites.mpi4py_ranks import Outcomes
from suites.reports import Report, worse

#: The rows: a run, and the one that it is compared with.
_BARE, _AGAIN = "bare mpiexec", "again, in the same processes"
_FRESH, _WARM, _WARM_AGAIN = "fresh world", "warm world", "again, on the same ranks"
_CONTROLS = {_FRESH: _BARE, _WARM: _BARE, _WARM_AGAIN: _AGAIN}


#: Gives the site that was named, or one of its own.
OpenSite = Callable[["str | None"], AbstractContextManager[str]]


def main(words: Sequence[str], open_site: OpenSite) -> int:
    """Run the tests; return the exit status: 1 if one fails that passes without Pilot."""
    parser = argparse.ArgumentParser(prog="scripts/suites mpi4py", description=__doc__)
    parser.add_argument("snapshot", type=Path, help="the directory with the sources of mpi4py")
    parser.add_argument("files", nargs="*", help="names such as test_comm; default: all")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--site", help="the site of the tasks; default: one of its own")
    parser.add_argument("--time", type=float, default=1800.0, help="seconds that each run may take")
    given = parser.parse_args(words)
    tests = given.snapshot.resolve() / "test"
    if unknown := [name for name in given.files if not (tests / f"{name}.py").exists()]:
        parser.error(f"there is no {unknown[0]} in {tests}")
    if not (tests / "mpiunittest.py").exists():
        parser.error(f"there are no tests of mpi4py in {tests}")
    runs = _bare(given, tests)
    with open_site(given.site) as site:
        runs.update(_on_pilot(given, tests, site))
    print(table(runs))
    failed = {name: failures(runs, name) for name in _CONTROLS}
    for name, tests_of_run in failed.items():
        for test, why in tests_of_run.items():
            print(f"  worse on a {name}: {test}: {why}")
    return int(any(failed.values()) or any(name not in runs for name in (_BARE, *_CONTROLS)))


Runs = dict[str, tuple[Outcomes, float]]


def table(runs: Runs) -> str:
    """Return a row for each run."""
    lines = [
        "| run | passed | failed | skipped | s | worse than without Pilot |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in (_BARE, _AGAIN, *_CONTROLS):
        if name not in runs:
            lines.append(f"| {name} | - | - | - | - | - |")
            continue
        report = _report(runs[name])
        counts = [str(report.count(kind)) for kind in ("passed", "failed", "skipped")]
        more = str(len(failures(runs, name))) if name in _CONTROLS else ""
        lines.append(f"| {' | '.join([name, *counts, f'{report.seconds:.0f}', more])} |")
    return "\n".join(lines)


def failures(runs: Runs, name: str) -> dict[str, str]:
    """Return the tests that have passed without Pilot only, and why they have not in this run."""
    control = _CONTROLS[name]
    if name not in runs or control not in runs:
        return {}
    outcomes = runs[name][0]
    found = worse(_report(runs[name]), _report(runs[control]))
    return {test: outcomes.get(test, ("", "it did not run"))[1] for test in found}


def _report(run: tuple[Outcomes, float]) -> Report:
    outcomes, seconds = run
    return Report({name: outcome for name, (outcome, _) in outcomes.items()}, seconds)


def _bare(given: argparse.Namespace, tests: Path) -> Runs:
    """Run the tests twice in one mpiexec without Pilot."""
    _, mpiexec = find_mpi()
    with tempfile.TemporaryDirectory(prefix="pilot-suites-") as directory:
        out = Path(directory) / "found.json"
        script = [sys.executable, mpi4py_ranks.__file__, str(tests), "2", str(out), *given.files]
        try:
            subprocess.run(
                [mpiexec, "-n", str(given.ranks), *script],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                timeout=2 * given.time,
                check=False,
            )
        except subprocess.TimeoutExpired:
            print(f"  bare mpiexec: no end after {2 * given.time:g} s", file=sys.stderr)
        if not out.exists():
            return {}
        found = [(outcomes, seconds) for outcomes, seconds in json.loads(out.read_text())]
        return dict(zip((_BARE, _AGAIN), found, strict=True))


def _on_pilot(given: argparse.Namespace, tests: Path, site: str) -> Runs:
    runs: Runs = {}
    library = str(Path(mpi4py_ranks.__file__).parents[1])
    task = pilot.mpi(ranks=given.ranks, time_limit=given.time, max_crashes=0)(
        mpi4py_ranks.run_tests
    )
    with pilot.Session(site, sys_path=[library]) as session:
        for name in _CONTROLS:
            isolation = "fresh" if name == _FRESH else "shared"
            future = session.submit(task.options(isolation=isolation), str(tests), given.files)
            try:
                if (run := future.result()) is not None:
                    runs[name] = run
            except pilot.PilotError as error:
                print(f"  {name}: {error}", file=sys.stderr)
    return runs
