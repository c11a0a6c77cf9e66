"""The graphs of W3: a chain, and fork-joins 1 → 50 → 1, independent and in a row.

A system that resolves dependencies by itself gets the whole graph at once. For one that does not,
the client submits each task when its inputs are there: at once in the chain and the row, by
callbacks where the joins are independent. Each function returns what came out and what should have.
"""

from __future__ import annotations

import concurrent.futures
import threading
from typing import Any

from bench import tasks
from bench.measure import Deadline
from bench.systems import Launcher, System

WIDTH = 50
#: A fork, its branches, and their join.
JOIN_TASKS = WIDTH + 2


def chain(system: System | Launcher, count: int, deadline: Deadline) -> tuple[Any, Any]:
    """Run a chain in which each task adds one to the result of the one before it."""
    if isinstance(system, Launcher):
        system.launch(
            [[number - 1] if number else [] for number in range(count)], deadline.left_s()
        )
        return None, None
    last: Any = 0
    if not system.takes_futures:
        for _ in range(count):
            last = system.submit(tasks.one_more, last).result(deadline.left_s())
        return last, count
    for _ in range(count):
        last = system.submit(tasks.one_more, last)
    return system.values([last], deadline.left_s()), [count]


def joins_apart(system: System | Launcher, count: int, deadline: Deadline) -> tuple[Any, Any]:
    """Run fork-joins in which each fork adds one to its number, and its join returns that."""
    if isinstance(system, Launcher):
        system.launch(_join_needs(count, in_row=False), deadline.left_s())
        return None, None
    if system.takes_futures:
        ends = [_fork_join(system, number) for number in range(count)]
    else:
        ends = [_JoinByCallbacks(system, number).end for number in range(count)]
    return system.values(ends, deadline.left_s()), list(range(1, count + 1))


def joins_in_row(system: System | Launcher, count: int, deadline: Deadline) -> tuple[Any, Any]:
    """Run fork-joins in which each fork adds one to the result of the join before it."""
    if isinstance(system, Launcher):
        system.launch(_join_needs(count, in_row=True), deadline.left_s())
        return None, None
    last: Any = 0
    if system.takes_futures:
        for _ in range(count):
            last = _fork_join(system, last)
        return system.values([last], deadline.left_s()), [count]
    for _ in range(count):
        fork = system.submit(tasks.one_more, last).result(deadline.left_s())
        futures = system.submit_many(tasks.branch, [(fork, index) for index in range(WIDTH)])
        parts = system.values(futures, deadline.left_s())
        last = system.submit(tasks.join, *parts).result(deadline.left_s())
    return last, count


def _join_needs(count: int, *, in_row: bool) -> list[list[int]]:
    """Return, for each task of `count` fork-joins, the numbers of the tasks that it needs."""
    needs: list[list[int]] = []
    for _ in range(count):
        fork = len(needs)
        needs.append([fork - 1] if in_row and fork else [])
        needs.extend([fork] for _ in range(WIDTH))
        needs.append(list(range(fork + 1, fork + 1 + WIDTH)))
    return needs


def _fork_join(system: System, number: Any) -> Any:
    fork = system.submit(tasks.one_more, number)
    parts = system.submit_many(tasks.branch, [(fork, index) for index in range(WIDTH)])
    return system.submit(tasks.join, *parts)


class _JoinByCallbacks:
    """A fork-join whose steps are submitted by the callbacks of the steps before."""

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
