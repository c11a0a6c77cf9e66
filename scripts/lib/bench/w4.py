"""W4, commands: 2,000 times ``/bin/true`` as shell tasks, beside ``xargs -P`` and bare spawning."""

from __future__ import annotations

import time

import pilot
from bench import measure, references
from bench.measure import Deadline
from bench.stage import WARM_S, Stage

ROUNDS = 3
LIMIT_S = 120.0


def run(stage: Stage) -> None:
    """Measure."""
    count = stage.count(2_000, 200)
    workers = stage.workers
    true = pilot.shell(["/bin/true"], name="true")
    ours: list[float] = []
    names = (f"xargs -P {workers}", f"{workers} posix_spawn loops")
    theirs: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(stage.count(ROUNDS, 1)):
        # Each on its own, and the spawning processes gone before the session's threads are there.
        theirs[names[0]].append(references.xargs_rate(count, workers, LIMIT_S))
        theirs[names[1]].append(references.spawn_loops_rate(count, workers, LIMIT_S))
        with stage.site() as site, pilot.Session(site, name="bench") as session:
            pilot.gather(session.submit_many(true, [()] * (20 * workers)), timeout=WARM_S)
            deadline = Deadline(LIMIT_S)
            begin = time.perf_counter()
            futures = session.submit_many(true, [()] * count)
            ended = pilot.gather(futures, timeout=deadline.left_s())
            ours.append(count / (time.perf_counter() - begin))
            if any(result.returncode for result in ended):
                raise RuntimeError("/bin/true failed")
    stage.findings.add(
        "W4",
        f"{count:,} times /bin/true",
        "tasks/s",
        measure.median(ours),
        {name: measure.median(rates) for name, rates in theirs.items()},
    )
    stage.findings.data["W4"] = {"pilot": ours, **theirs}
