"""Functions on tasks: `pycompss.functions`."""

from __future__ import annotations

import functools
import os
import random
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pilot.compat.compss.api import compss_wait_on
from pilot.compat.compss.decoration import task


def merge_reduce(function: Callable[[Any, Any], Any], data: Iterable[Any]) -> Any:
    """Merge two elements at a time, as a tree, until one is left; return that.

    Raises
    ------
    ValueError
        There are no elements.
    """
    waiting = deque(data)
    if not waiting:
        raise ValueError("merge_reduce: there is nothing to merge")
    while len(waiting) > 1:
        first, second = waiting.popleft(), waiting.popleft()
        waiting.append(function(first, second))
    return waiting[0]


def merge_n_reduce(function: Callable[..., Any], arity: int, data: Iterable[Any]) -> Any:
    """Merge `arity` elements at a time, as a tree, until one is left; return that.

    Raises
    ------
    ValueError
        There are no elements, or it merges less than two.
    """
    waiting = deque(data)
    if not waiting or arity < 2:
        raise ValueError("merge_n_reduce needs elements, and merges at least 2 at a time")
    while len(waiting) > 1:
        count = min(arity, len(waiting))
        waiting.append(function(*(waiting.popleft() for _ in range(count))))
    return waiting[0]


def map_wait(
    func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None
) -> list[Any]:
    """Call a function with each element, or each piece of so many, and wait for the results."""
    given: Iterable[Any] = iterable
    if chunksize:
        listed = list(iterable)
        given = [listed[n : n + chunksize] for n in range(0, len(listed), chunksize)]
    found: list[Any] = compss_wait_on([func(each) for each in given])
    return found


# --- data ----------------------------------------------------------------------------------------


@task(returns=1)
def fragment(dimension: int, size: int, seed: Any, distribution: str) -> Any:
    """Return a fragment of random data, the same one for the same seed."""
    numbers = random.Random(seed)
    draws: dict[str, Callable[[], float]] = {
        "random": numbers.random,
        "normal": lambda: numbers.gauss(0.0, 1.0),
        "uniform": lambda: numbers.uniform(-1.0, 1.0),
    }
    draw = draws[distribution]
    return [[draw() for _ in range(dimension)] for _ in range(size)]


def generator(
    size: tuple[int, int],
    num_frag: int,
    seed: Any = 0,
    distribution: str = "random",
    wait: bool = False,
) -> Any:
    """Make fragments of random data, each by a task.

    Parameters
    ----------
    size
        The number of elements of all fragments together, and their dimension.
    num_frag
        The number of fragments.
    seed
        Each fragment is the same one for the same seed.
    distribution
        ``random`` (from 0 to 1), ``normal``, or ``uniform`` (from -1 to 1).
    wait
        Return the data; otherwise their futures.

    Raises
    ------
    ValueError
        There is no such distribution.
    """
    if distribution not in ("random", "normal", "uniform"):
        raise ValueError(f"distribution={distribution!r}: give random, normal or uniform")
    made = [fragment(size[1], size[0] // num_frag, seed, distribution) for _ in range(num_frag)]
    return compss_wait_on(made) if wait else made


def chunks(lst: Sequence[Any], number: int, balanced: bool = False) -> Iterator[Any]:
    """Yield pieces of so many elements; `balanced`: the rest is given to the first ones."""
    rest = len(lst) % number if balanced else 0
    at = 0
    while at < len(lst):
        size = number + (rest > 0)
        rest -= rest > 0
        yield lst[at : at + size]
        at += size


# --- decorators ----------------------------------------------------------------------------------


class TimeIt:
    """A decorator that has a function return a list: its result, and the seconds that it took.

    Below ``@task`` it measures the task, above it the call. It takes no arguments that count.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs

    def __call__(self, function: Callable[..., Any]) -> Callable[..., list[Any]]:
        """Return the function that is measured."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> list[Any]:
            begin = time.monotonic()
            return [function(*args, **kwargs), time.monotonic() - begin]

        return timed


class Profile:
    """A decorator, for below ``@task``, that tells time and memory of each call.

    Lines go to the file that ``$COMPSS_PROFILING_FILE`` names, or else to standard output.

    Parameters
    ----------
    full_report
        Lines with names; otherwise the values alone, in one line.
    precision
        The number of decimal places of MiB.
    backend
        Of no meaning: the system tells.
    """

    def __init__(
        self, full_report: bool = True, precision: int = 1, backend: str = "psutil"
    ) -> None:
        del backend
        self.full_report, self.precision = full_report, precision

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function that is measured."""

        @functools.wraps(function)
        def profiled(*args: Any, **kwargs: Any) -> Any:
            begin, before = time.time(), _peak_mib()
            try:
                return function(*args, **kwargs)
            finally:
                self._tell(function, begin, before)

        return profiled

    def _tell(self, function: Callable[..., Any], begin: float, before: float) -> None:
        took, peak = time.time() - begin, _peak_mib()
        name = getattr(function, "__name__", str(function))
        low, high = (f"{mib:.{self.precision}f}" for mib in (before, peak))
        line = f"{begin:.7f} {name} {took} {low} {high} MiB\n"
        if self.full_report:
            line = (
                f"Function: {name}\nTask start time: {begin}\nElapsed time: {took}\n"
                f"Peak memory before: {low} MiB\nPeak memory: {high} MiB\n"
            )
        if path := os.environ.get("COMPSS_PROFILING_FILE"):
            with open(path, "a") as file:
                file.write(line)
        else:
            sys.stdout.write(line)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
