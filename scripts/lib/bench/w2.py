"""W2, latency: batches of 1, 10 and 100 zero-work tasks, warm, one batch after the other.

A batch's latency is from before its submission to its last result in the client.
"""

from __future__ import annotations

from bench import measure
from bench.contenders import Contender
from bench.ours import Pilot
from bench.stage import Stage, rest

#: Size of a batch → how many of them.
BATCHES = {1: 1000, 10: 700, 100: 300}
PERCENTS = (50, 95, 99)


def run(stage: Stage) -> None:
    """Measure."""

    def measurement(contender: Contender) -> dict[int, list[float] | None]:
        return {
            size: contender.do("latencies", count=stage.count(count, count // 10), size=size)
            for size, count in BATCHES.items()
        }

    samples = stage.contest("W2", measurement, 1)
    for size in BATCHES:
        for percent in PERCENTS:
            found: dict[str, float | None] = {}
            for name, (one,) in samples.items():
                values = one[size]
                found[name] = 1e3 * measure.percentile(values, percent) if values else None
            stage.findings.add(
                "W2",
                f"batch of {size}, p{percent}",
                "ms",
                found[Pilot.name],
                rest(found),
                more_is_better=False,
            )
    stage.findings.data["W2"] = {
        str(size): {name: one[size] for name, (one,) in samples.items() if one[size]}
        for size in BATCHES
    }
