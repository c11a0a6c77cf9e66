"""W2, latency: batches of 1, 10 and 100 zero-work tasks, warm, one batch after the other.

A batch's latency is from before its submission to its last result in the client.
"""

from __future__ import annotations

import time

from bench import measure, plot, tasks
from bench.stage import Stage, rest
from bench.systems import Pilot, System

#: Size of a batch → how many of them.
BATCHES = {1: 1000, 10: 700, 100: 300}
LIMIT_S = 60.0
PERCENTS = (50, 95, 99)


def run(stage: Stage) -> None:
    """Measure."""

    def measurement(system: System) -> dict[int, list[float]]:
        return {
            size: [_batch_s(system, size) for _ in range(stage.count(count, count // 10))]
            for size, count in BATCHES.items()
        }

    samples = stage.contest("W2", measurement, 1)
    for size in BATCHES:
        for percent in PERCENTS:
            found = {
                name: 1e3 * measure.percentile(each[0][size], percent)
                for name, each in samples.items()
            }
            stage.findings.add(
                "W2",
                f"batch of {size}, p{percent}",
                "ms",
                found[Pilot.name],
                rest(found),
                more_is_better=False,
            )
    stage.findings.data["W2"] = {
        str(size): {name: each[0][size] for name, each in samples.items()} for size in BATCHES
    }
    if why := plot.why_not():
        stage.findings.miss("W2", "picture of the distributions", why)


def _batch_s(system: System, size: int) -> float:
    begin = time.perf_counter()
    values = system.values(system.submit_many(tasks.nothing, [()] * size), LIMIT_S)
    elapsed_s = time.perf_counter() - begin
    if values != [None] * size:
        raise RuntimeError("results are not what they should be")
    return elapsed_s
