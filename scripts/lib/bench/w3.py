"""W3, graphs: (a) a chain of 1,000 tasks; (b) 100 fork-joins 1 → 50 → 1, independent and in a row;
(c) HTC Mock, a random tree of 10,000 tasks on 100 levels that submit each other.

A system that resolves dependencies by itself gets the whole graph at once. For one that does not,
the client submits each task when its inputs are there: at once in the chain and the row, by
callbacks where the joins are independent. In (c) nobody is beside Pilot: `ProcessPoolExecutor` has
no tasks that submit tasks.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pilot
from bench import measure, tasks
from bench.measure import Deadline
from bench.stage import WARM_S, Stage, rest
from bench.systems import Pilot, System

ROUNDS = 3
LIMIT_S = 120.0
WIDTH = 50
EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def run(stage: Stage) -> None:
    """Measure."""
    links = stage.count(1_000, 100)
    joins = stage.count(100, 10)

    def measurement(system: System) -> dict[str, float]:
        chain_s = _timed(_chain if system.takes_futures else _chain_by_client, system, links)
        apart_s = _timed(_apart if system.takes_futures else _apart_by_client, system, joins)
        row_s = _timed(_row if system.takes_futures else _row_by_client, system, joins)
        shape = f"{joins} fork-joins 1 → {WIDTH} → 1"
        return {
            f"(a) chain of {links:,}": links / chain_s,
            f"(b) {shape}, independent": joins * (WIDTH + 2) / apart_s,
            f"(b) {shape}, in a row": joins * (WIDTH + 2) / row_s,
        }

    samples = stage.contest("W3", measurement, stage.count(ROUNDS, 1))
    for case in samples[Pilot.name][0]:
        rates = {
            name: measure.median([one[case] for one in each]) for name, each in samples.items()
        }
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


def _timed(work: Any, system: System, count: int) -> float:
    deadline = Deadline(LIMIT_S)
    begin = time.perf_counter()
    found, expected = work(system, count, deadline)
    elapsed_s = time.perf_counter() - begin
    if found != expected:
        raise RuntimeError(f"{system.name}: the answer is {found}, not {expected}")
    return elapsed_s


# --- by the system -------------------------------------------------------------------------------


def _chain(system: System, count: int, deadline: Deadline) -> tuple[Any, Any]:
    last: Any = 0
    for _ in range(count):
        last = system.submit(tasks.one_more, last)
    return system.values([last], deadline.left_s()), [count]


def _fork_join(system: System, number: Any) -> Any:
    fork = system.submit(tasks.one_more, number)
    parts = system.submit_many(tasks.branch, [(fork, index) for index in range(WIDTH)])
    return system.submit(tasks.join, *parts)


def _apart(system: System, count: int, deadline: Deadline) -> tuple[Any, Any]:
    ends = [_fork_join(system, number) for number in range(count)]
    return system.values(ends, deadline.left_s()), list(range(1, count + 1))


def _row(system: System, count: int, deadline: Deadline) -> tuple[Any, Any]:
    last: Any = 0
    for _ in range(count):
        last = _fork_join(system, last)
    return system.values([last], deadline.left_s()), [count]


# --- by the client -------------------------------------------------------------------------------


def _chain_by_client(system: System, count: int, deadline: Deadline) -> tuple[Any, Any]:
    last = 0
    for _ in range(count):
        last = system.submit(tasks.one_more, last).result(deadline.left_s())
    return last, count


def _row_by_client(system: System, count: int, deadline: Deadline) -> tuple[Any, Any]:
    last = 0
    for _ in range(count):
        fork = system.submit(tasks.one_more, last).result(deadline.left_s())
        futures = system.submit_many(tasks.branch, [(fork, index) for index in range(WIDTH)])
        parts = system.values(futures, deadline.left_s())
        last = system.submit(tasks.join, *parts).result(deadline.left_s())
    return last, count


def _apart_by_client(system: System, count: int, deadline: Deadline) -> tuple[Any, Any]:
    ends = [_JoinByCallbacks(system, number).end for number in range(count)]
    return system.values(ends, deadline.left_s()), list(range(1, count + 1))


class _JoinByCallbacks:
    """A fork-join whose steps are submitted by the callbacks of those before."""

    def __init__(self, system: System, number: int) -> None:
        self._system = system
        self._lock = threading.Lock()
        self._parts: list[Any] = []
        self._missing = WIDTH
        #: The future of the join's value.
        self.end: concurrent.futures.Future[Any] = concurrent.futures.Future()
        system.submit(tasks.one_more, number).add_done_callback(self._forked)

    def _forked(self, fork: Any) -> None:
        try:
            value = fork.result()
            self._parts = self._system.submit_many(
                tasks.branch, [(value, index) for index in range(WIDTH)]
            )
            for part in self._parts:
                part.add_done_callback(self._one_is_there)
        except BaseException as error:
            self.end.set_exception(error)

    def _one_is_there(self, _: Any) -> None:
        with self._lock:
            self._missing -= 1
            if self._missing:
                return
        try:
            values = [part.result() for part in self._parts]
            self._system.submit(tasks.join, *values).add_done_callback(self._joined)
        except BaseException as error:
            self.end.set_exception(error)

    def _joined(self, join: Any) -> None:
        try:
            self.end.set_result(join.result())
        except BaseException as error:
            self.end.set_exception(error)
