"""W7, data: 1,000 results of 1 MiB NumPy each, made by tasks and read by the client, through HDF5.

Beside it h5py alone: one process writes the same arrays into one file, fsyncs, reads them again.
"""

from __future__ import annotations

import concurrent.futures
import time
from typing import Any

import pilot
from bench import measure, references, tasks
from bench.loads import warm
from bench.measure import Deadline
from bench.ours import Pilot
from bench.stage import Stage

ROUNDS = 3
LIMIT_S = 180.0
#: 64-bit floats in 1 MiB.
FLOATS = (1 << 20) // 8


def run(stage: Stage) -> None:
    """Measure."""
    count = stage.count(1_000, 100)
    ours, theirs = [], []
    for _ in range(stage.count(ROUNDS, 1)):
        theirs.append(references.hdf5_mb_per_s(count, FLOATS, stage.directory / "plain.h5"))
        with stage.site() as site, pilot.Session(site, name="bench") as session:
            warm(Pilot(session), stage.workers)
            # HDF5 is loaded on both sides before the clock starts, as it is for plain h5py.
            futures = session.submit_many(tasks.array, [(n, FLOATS) for n in range(4)])
            pilot.gather(futures, timeout=LIMIT_S)
            ours.append(count * FLOATS * 8 / 1e6 / _through_pilot_s(session, count))
    stage.findings.add(
        "W7",
        f"{count:,} results of 1 MiB",
        "MB/s",
        measure.median(ours),
        {"h5py alone": measure.median(theirs)},
    )
    stage.findings.data["W7"] = {"pilot": ours, "h5py": theirs}


def _through_pilot_s(session: pilot.Session, count: int) -> float:
    deadline = Deadline(LIMIT_S)
    begin = time.perf_counter()
    futures = session.submit_many(tasks.array, [(n, FLOATS) for n in range(count)])
    # A future keeps what was read from it: each is given up when its value was looked at, so that
    # the next one finds memory that is there already, as it does with h5py alone.
    waiting: dict[concurrent.futures.Future[Any], int] = {
        future: number for number, future in enumerate(futures)
    }
    del futures
    while waiting:
        done = concurrent.futures.wait(
            waiting, deadline.left_s(), concurrent.futures.FIRST_COMPLETED
        ).done
        while done:
            future = done.pop()
            number = waiting.pop(future)
            found = future.result()
            del future
            if found.shape != (FLOATS,) or found[0] != number or found[-1] != number:
                raise RuntimeError(f"array {number} is not what was made")
    return time.perf_counter() - begin
