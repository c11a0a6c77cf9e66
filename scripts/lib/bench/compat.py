"""COMPAT, programs for PyCOMPSs: what their layer costs beside Pilot's own API.

The processor time of the calling thread for a call of a task, and for one that has a collection of
futures; and the rate of a chain of tasks that change one small object, until the last value is
there. Each beside the same by the own API.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pilot
from bench import compat_tasks, measure
from bench.stage import Stage, one_pool
from pilot.compat.compss import application, running

ROUNDS = 3
CALLS = 5_000
ELEMENTS = 10_000
LIMIT_S = 120.0


def run(stage: Stage) -> None:
    """Measure."""
    calls, elements = stage.count(CALLS, 500), stage.count(ELEMENTS, 1_000)
    text = one_pool(stage.site_text, cores_per_node=2)
    with stage.site(text) as site:
        app = running.current = application.Application("bench", site=site)
        try:
            _measure(stage, app, calls, elements)
        finally:
            application.stop()


def _measure(stage: Stage, app: application.Application, calls: int, elements: int) -> None:
    session = app.session
    app.wait_on(compat_tasks.same(1))
    session.submit(compat_tasks.own_same, 1).result(LIMIT_S)
    samples: dict[str, list[float]] = {}
    for _ in range(stage.count(ROUNDS, 1)):
        for name, found in (
            ("call", _call_us(app, compat_tasks.same, calls)),
            ("submit", _call_us(app, lambda n: session.submit(compat_tasks.own_same, n), calls)),
            ("chain", _chain(app, calls)),
            ("own chain", _own_chain(session, calls)),
            ("collection", _collection_ms(app, elements)),
            ("own collection", _own_collection_ms(session, elements)),
        ):
            samples.setdefault(name, []).append(found)
    medians = {name: measure.median(each) for name, each in samples.items()}
    add = stage.findings.add
    others = {"submit": medians["submit"]}
    add("COMPAT", "call of a task", "µs of CPU", medians["call"], others, more_is_better=False)
    others = {"submit": medians["own chain"]}
    add("COMPAT", f"chain of {calls} INOUT steps", "steps/s", medians["chain"], others)
    others = {"submit": medians["own collection"]}
    title = f"call with {elements} futures in a collection"
    add("COMPAT", title, "ms of CPU", medians["collection"], others, more_is_better=False)
    stage.findings.data["COMPAT"] = samples


def _call_us(app: application.Application, call: Callable[[int], Any], calls: int) -> float:
    begin = time.thread_time()
    kept = [call(number) for number in range(calls)]
    cost = time.thread_time() - begin
    app.barrier()
    app.session.flush(LIMIT_S)
    for each in kept:
        if isinstance(each, pilot.Future):
            each.result(LIMIT_S)
    return 1e6 * cost / calls


def _chain(app: application.Application, steps: int) -> float:
    block = [0]
    begin = time.perf_counter()
    for _ in range(steps):
        compat_tasks.step(block)
    if app.wait_on(block) != [steps]:
        raise RuntimeError("the last value is not what the steps make")
    return steps / (time.perf_counter() - begin)


def _own_chain(session: pilot.Session, steps: int) -> float:
    begin = time.perf_counter()
    block: Any = [0]
    for _ in range(steps):
        block = session.submit(compat_tasks.own_step, block)
    if block.result(LIMIT_S) != [steps]:
        raise RuntimeError("the last value is not what the steps make")
    return steps / (time.perf_counter() - begin)


def _collection_ms(app: application.Application, elements: int) -> float:
    items = [compat_tasks.same(number) for number in range(elements)]
    app.barrier()
    begin = time.thread_time()
    counted = compat_tasks.count(items)
    cost = time.thread_time() - begin
    if app.wait_on(counted) != elements:
        raise RuntimeError("not all elements were counted")
    return 1e3 * cost


def _own_collection_ms(session: pilot.Session, elements: int) -> float:
    rows = [(number,) for number in range(elements)]
    items = session.submit_many(compat_tasks.own_same, rows)
    pilot.gather(items, timeout=LIMIT_S)
    begin = time.thread_time()
    counted = session.submit(compat_tasks.own_count, items)
    cost = time.thread_time() - begin
    if counted.result(LIMIT_S) != elements:
        raise RuntimeError("not all elements were counted")
    return 1e3 * cost
