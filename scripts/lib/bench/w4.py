"""W4, commands: 2,000 times ``/bin/true`` as shell tasks, beside ``xargs -P`` and bare spawning."""

from __future__ import annotations

from collections.abc import Mapping

import pilot
from bench import references
from bench.contenders import Contender, Local, medians
from bench.loads import LIMIT_S, TRUE, WARM_S
from bench.ours import Pilot
from bench.stage import Stage, rest

ROUNDS = 3


def run(stage: Stage) -> None:
    """Measure."""
    count = stage.count(2_000, 200)
    workers = stage.workers
    case = f"{count:,} times {TRUE[0]}"

    def measurement(contender: Contender) -> Mapping[str, float | None]:
        return {case: contender.do("commands", count=count)}

    rounds = stage.count(ROUNDS, 1)
    xargs, loops = f"xargs -P {workers}", f"{workers} posix_spawn loops"
    samples: dict[str, list[Mapping[str, float | None]]] = {Pilot.name: [], xargs: [], loops: []}
    for _ in range(rounds):
        # Each on its own, and the spawning processes gone before the session's threads are there.
        samples[xargs].append({case: references.xargs_rate(count, workers, LIMIT_S)})
        samples[loops].append({case: references.spawn_loops_rate(count, workers, LIMIT_S)})
        with stage.site() as site, pilot.Session(site, name="bench") as session:
            system = Pilot(session)
            system.commands(TRUE, 20 * workers, WARM_S)
            samples[Pilot.name].append(measurement(Local(system)))
    samples |= stage.contest_of_peers("W4", measurement, rounds)
    rates = medians(samples, case)
    stage.findings.add("W4", case, "tasks/s", rates[Pilot.name], rest(rates))
    stage.findings.data["W4"] = samples
