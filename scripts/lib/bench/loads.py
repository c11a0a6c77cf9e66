"""The loads of W1 to W4 and of the curves: the work of a contender while a clock runs.

Each is written once, for everything that `systems` describes, and gives plain figures, so that a
peer can be asked for it through a pipe. Every result is checked. Graphs are in `graphs`, linear
algebra in `blocked`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bench import blocked, graphs, tasks
from bench.measure import Deadline
from bench.systems import Commander, Launcher, System

#: How long the first tasks may take, which wait for processes to start, in seconds.
WARM_S = 120.0
#: How long any other load may take, in seconds.
LIMIT_S = 120.0
TRUE = ("/bin/true",)


def warm(system: System | Launcher, workers: int) -> None:
    """Start all processes of a system, and load the functions there."""
    if isinstance(system, Launcher):
        return system.launch([()] * (2 * workers), WARM_S)
    for _ in range(3):
        system.values(system.submit_many(tasks.nothing, [()] * (50 * workers)), WARM_S)
    return None


def zero_work(system: System | Launcher, count: int) -> float:
    """Run tasks that do nothing, submitted one by one; return tasks per second."""
    begin = time.perf_counter()
    if isinstance(system, Launcher):
        system.launch([()] * count, LIMIT_S)
        return count / (time.perf_counter() - begin)
    futures = [system.submit(tasks.nothing) for _ in range(count)]
    values = system.values(futures, LIMIT_S)
    elapsed_s = time.perf_counter() - begin
    _check(values, [None] * count)
    return count / elapsed_s


def data(system: System, count: int, size: int) -> float:
    """Run tasks that return the `size` bytes they get, submitted one by one; return tasks per
    second."""
    content = b"x" * size
    begin = time.perf_counter()
    futures = [system.submit(tasks.same, content) for _ in range(count)]
    values = system.values(futures, LIMIT_S)
    elapsed_s = time.perf_counter() - begin
    _check(values, [content] * count)
    return count / elapsed_s


def sent_as_one(system: System, count: int) -> float:
    """Run tasks that do almost nothing, submitted together; return tasks per second."""
    begin = time.perf_counter()
    futures = system.submit_many(tasks.one_more, [(n,) for n in range(count)])
    values = system.values(futures, LIMIT_S)
    elapsed_s = time.perf_counter() - begin
    _check(values, list(range(1, count + 1)))
    return count / elapsed_s


def sleeps(system: System, count: int, length_s: float) -> float:
    """Run tasks that sleep, submitted together; return tasks per second."""
    begin = time.perf_counter()
    futures = system.submit_many(tasks.sleep, [(length_s,)] * count)
    values = system.values(futures, LIMIT_S)
    elapsed_s = time.perf_counter() - begin
    _check(values, [length_s] * count)
    return count / elapsed_s


def latencies(system: System | Launcher, count: int, size: int) -> list[float]:
    """Run batches of `size` tasks that do nothing, one after the other; return each one's latency
    in seconds, from before its submission to its last result."""
    return [_batch_s(system, size) for _ in range(count)]


def commands(system: System | Launcher, count: int) -> float:
    """Run ``/bin/true`` so many times; return commands per second."""
    begin = time.perf_counter()
    if isinstance(system, Commander):
        system.commands(TRUE, count, LIMIT_S)
    else:
        assert isinstance(system, System)
        futures = system.submit_many(tasks.command, [(TRUE,)] * count)
        _check(system.values(futures, LIMIT_S), [0] * count)
    return count / (time.perf_counter() - begin)


def chain(system: System | Launcher, count: int) -> float:
    """Run a chain of so many tasks; return tasks per second."""
    return _graph(graphs.chain, system, count, count)


def joins_apart(system: System | Launcher, count: int) -> float:
    """Run so many independent fork-joins; return tasks per second."""
    return _graph(graphs.joins_apart, system, count, count * graphs.JOIN_TASKS)


def joins_in_row(system: System | Launcher, count: int) -> float:
    """Run so many fork-joins of which each join feeds the next fork; return tasks per second."""
    return _graph(graphs.joins_in_row, system, count, count * graphs.JOIN_TASKS)


def _graph(work: Callable[..., Any], system: System | Launcher, count: int, size: int) -> float:
    deadline = Deadline(LIMIT_S)
    begin = time.perf_counter()
    found, expected = work(system, count, deadline)
    elapsed_s = time.perf_counter() - begin
    _check(found, expected)
    return size / elapsed_s


def _batch_s(system: System | Launcher, size: int) -> float:
    begin = time.perf_counter()
    if isinstance(system, Launcher):
        system.launch([()] * size, LIMIT_S)
        return time.perf_counter() - begin
    values = system.values(system.submit_many(tasks.nothing, [()] * size), LIMIT_S)
    elapsed_s = time.perf_counter() - begin
    _check(values, [None] * size)
    return elapsed_s


def _check(found: Any, expected: Any) -> None:
    if found != expected:
        raise RuntimeError("results are not what they should be")


#: Name → load. Each takes a system, `count`, and what else its signature says.
LOADS: dict[str, Callable[..., Any]] = {
    load.__name__: load
    for load in (
        zero_work,
        data,
        sent_as_one,
        sleeps,
        latencies,
        commands,
        chain,
        joins_apart,
        joins_in_row,
        blocked.matmul,
        blocked.cholesky,
    )
}
