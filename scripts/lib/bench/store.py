"""STORE, the database alone: the tasks per second that it accepts, and that it sees end.

The core makes what is to be written, one message's worth in each transaction, as in the head; only
what the store does with it is measured. Durable as in the head: each transaction reaches the disk.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from bench import core as rules
from bench import measure
from bench.stage import Stage
from pilot.head.core.core import Core
from pilot.head.core.events import AttemptsEnded, Effects, PilotJoined, TasksSubmitted
from pilot.head.store.batch import Batch
from pilot.head.store.store import Store
from pilot.model.tasks import Completion, Environment, TaskSpec, Template
from pilot.scheduler.resources import NodeShape, Resources
from pilot.wire.messages.client import OpenSession

ROUNDS = 5
#: So many tasks are written in a transaction.
SIZES = (1, 10, 100, 1_000)


def run(stage: Stage) -> None:
    """Measure."""
    samples: dict[str, list[float]] = {}
    for _ in range(stage.count(ROUNDS, 1)):
        for size in SIZES:
            count = min(stage.count(50_000, 5_000), 500 * size)
            with open_store(stage.directory / "tasks.db") as store:
                for step, rate in tasks_per_s(store, count, size).items():
                    samples.setdefault(f"{step}, {size:,} in a transaction", []).append(rate)
    for case, rates in samples.items():
        stage.findings.add("STORE", case, "tasks/s", measure.median(rates))
    stage.findings.data["STORE"] = samples


@contextlib.contextmanager
def open_store(path: Path) -> Iterator[Store]:
    """Open a fresh database, and remove it afterwards."""
    store = Store(path)
    try:
        yield store
    finally:
        store.close()
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()


def tasks_per_s(store: Store, count: int, size: int) -> dict[str, float]:
    """Return the tasks per second that are accepted, and that end, `size` of them per
    transaction."""
    core, event = Core([]), store.next_event()
    session = store.add_session(OpenSession(1, "bench", Environment("")), 0.0)
    kind = Template(1, session, "t", "python", b"f", Resources())
    core.apply(PilotJoined("p", "main", NodeShape(size), 1, 0.0, []), 0.0)
    took = {"taken on": 0.0, "ended": 0.0}

    def write(step: str, effects: Effects) -> None:
        nonlocal event
        begin = time.perf_counter()
        batch = Batch()
        batch.add_tasks(effects.accepted)
        batch.add_attempts(effects.attempts, 2.0)
        batch.add_ends(effects.ended)
        event = batch.add_changes(core.log.take(), event)
        failed: list[Exception | None] = []
        store.write(batch, failed.append)
        store.join()
        took[step] += time.perf_counter() - begin
        if failed != [None]:
            raise RuntimeError(f"the transaction failed: {failed}")

    for first in range(1, count + 1, size):
        tasks = [TaskSpec(number, 1, b"payload") for number in range(first, first + size)]
        write("taken on", core.apply(TasksSubmitted(session, [kind], tasks, {}), 1.0))
        ends = [
            Completion(each.id, each.attempt, "ok", rules.VALUES, started=1.0, ended=2.0, node="n")
            for given in core.assign(1.0).values()
            for each in given
        ]
        effects = core.apply(AttemptsEnded("p", ends), 2.0)
        if len(effects.ended) != size:
            raise RuntimeError(f"{len(effects.ended)} of {size} tasks have ended")
        write("ended", effects)
    return {step: count / seconds for step, seconds in took.items()}
