"""W3, graphs: (a) a chain of 1,000 tasks; (b) 100 fork-joins 1 → 50 → 1, independent and in a row;
(c) HTC Mock, a random tree of 10,000 tasks on 100 levels that submit each other.

Who does what in (a) and (b) is told in `graphs`. In (c) nobody is beside Pilot:
`ProcessPoolExecutor` has no tasks that submit tasks.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pilot
from bench import graphs, measure
from bench.contenders import Contender, medians
from bench.loads import LIMIT_S, WARM_S
from bench.ours import Pilot
from bench.stage import Stage, rest

ROUNDS = 3
EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def run(stage: Stage) -> None:
    """Measure."""
    links = stage.count(1_000, 100)
    joins = stage.count(100, 10)
    shape = f"{joins} fork-joins 1 → {graphs.WIDTH} → 1"

    def measurement(contender: Contender) -> dict[str, float | None]:
        return {
            f"(a) chain of {links:,}": contender.do("chain", count=links),
            f"(b) {shape}, independent": contender.do("joins_apart", count=joins),
            f"(b) {shape}, in a row": contender.do("joins_in_row", count=joins),
        }

    samples = stage.contest("W3", measurement, stage.count(ROUNDS, 1))
    for case in samples[Pilot.name][0]:
        rates = medians(samples, case)
        stage.findings.add("W3", case, "tasks/s", rates[Pilot.name], rest(rates))
    stage.findings.data["W3"] = samples
    _htc_mock(stage)


def _htc_mock(stage: Stage) -> None:
    sys.path.insert(0, str(EXAMPLES))  # before sessions are made: workers look there, too
    htc_mock = importlib.import_module("htc_mock")
    mock = htc_mock.Mock(tasks=stage.count(10_000, 1_000), levels=stage.count(100, 20))
    expected = htc_mock.expected(mock)
    rates = []
    with stage.site() as site:
        for _ in range(stage.count(ROUNDS, 1)):
            with pilot.Session(site, name="bench") as session:
                htc_mock.run(session, htc_mock.Mock(tasks=300, levels=4), WARM_S)
                found, elapsed_s = htc_mock.run(session, mock, LIMIT_S)
            if found != expected:
                raise RuntimeError(f"HTC Mock: {found} is not {expected}")
            rates.append(mock.tasks / elapsed_s)
    title = f"(c) HTC Mock, {mock.tasks:,} tasks on {mock.levels} levels"
    stage.findings.add("W3", title, "tasks/s", measure.median(rates))
    stage.findings.data["W3c"] = rates
