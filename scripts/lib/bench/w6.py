"""W6, the way to the first result: a head that has no pilot gets a task, through Slurm.

Beside it ``sbatch`` of ``python -c pass``, until that has run: what Slurm itself takes. A second
measure begins before there is a head. Without a Slurm: pilots are processes of this machine, and
beside them stands the start of a Python.

Slurm's controller begins jobs once a second, always at the same moment of it. Both sides take their
turns at moments that are spread evenly over a second: else one might always come just in time, and
the other just too late.
"""

from __future__ import annotations

import subprocess
import sys
import time

import pilot
from bench import measure, references, tasks
from bench.stage import Stage

ROUNDS = 11
LIMIT_S = 60.0


def run(stage: Stage) -> None:
    """Measure."""
    if stage.slurm is None:
        stage.findings.miss("W6", "through Slurm", stage.no_slurm)
    found: dict[str, list[float]] = {"pilot": [], "head": [], "reference": []}
    rounds = stage.count(ROUNDS, 2)
    for number in range(rounds):
        _await_moment(number / rounds)
        found["reference"].append(_reference_s(stage))
        with stage.site() as site:
            _await_moment(number / rounds)
            begin = time.perf_counter()
            with pilot.Session(site, name="bench") as session:
                opened = time.perf_counter()
                session.submit(tasks.nothing).result(LIMIT_S)
                ended = time.perf_counter()
        found["pilot"].append(ended - opened)
        found["head"].append(ended - begin)
    where = f"through {stage.slurm.name}" if stage.slurm else "on this machine"
    reference = "sbatch of python -c pass" if stage.slurm else "python -c pass"
    theirs = {reference: measure.median(found["reference"])}
    for case, name in (("no pilot", "pilot"), ("no head, no pilot", "head")):
        stage.findings.add(
            "W6",
            f"{case} → first result, {where}",
            "s",
            measure.median(found[name]),
            theirs,
            more_is_better=False,
        )
    stage.findings.data["W6"] = found


def _await_moment(moment: float) -> None:
    """Wait until `moment` of the current or next second of the clock."""
    time.sleep((moment - time.time()) % 1.0)


def _reference_s(stage: Stage) -> float:
    if stage.slurm is not None:
        return references.sbatch_s(sys.executable, stage.directory, (), LIMIT_S)
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True, timeout=LIMIT_S)
    return time.perf_counter() - begin
