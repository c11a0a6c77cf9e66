"""The references beside Pilot in the same run: abilities of the system itself and of Python's
library.

Rates are in tasks per second. Whoever adds a reference sees that it does the same work as the tasks
that it stands beside.
"""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench import tasks


class ProcessPool:
    """A local pool of processes, `concurrent.futures.ProcessPoolExecutor`: nothing is durable."""

    name = "ProcessPoolExecutor"
    takes_futures = False

    def __init__(self, executor: concurrent.futures.ProcessPoolExecutor) -> None:
        self._executor = executor

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Submit one call."""
        return self._executor.submit(function, *args)

    def submit_many(
        self, function: Callable[..., Any], rows: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """Submit calls one by one: there is no other way that gives futures."""
        return [self._executor.submit(function, *row) for row in rows]

    def values(self, futures: Sequence[Any], timeout_s: float) -> list[Any]:
        """Return the values of futures."""
        if concurrent.futures.wait(futures, timeout_s).not_done:
            raise TimeoutError(f"{self.name} was not done after {timeout_s:.0f} s")
        return [future.result() for future in futures]


@contextmanager
def process_pool(workers: int) -> Iterator[ProcessPool]:
    """Open a pool of so many processes."""
    with concurrent.futures.ProcessPoolExecutor(workers) as executor:
        yield ProcessPool(executor)


def xargs_rate(count: int, workers: int, timeout_s: float) -> float:
    """Run so many ``/bin/true`` by ``xargs -P``, `workers` at a time; return commands per
    second."""
    numbers = "\n".join(map(str, range(count)))
    begin = time.perf_counter()
    subprocess.run(
        ["xargs", "-n", "1", "-P", str(workers), "/bin/true"],
        input=numbers.encode(),
        check=True,
        timeout=timeout_s,
    )
    return count / (time.perf_counter() - begin)


def spawn_loops_rate(count: int, workers: int, timeout_s: float) -> float:
    """Run `workers` processes that each start ``/bin/true`` in a loop; return commands per
    second."""
    each = -(-count // workers)
    with concurrent.futures.ProcessPoolExecutor(workers) as executor:
        list(executor.map(tasks.spawn_loop, [1] * workers, timeout=timeout_s))
        begin = time.perf_counter()
        done = sum(executor.map(tasks.spawn_loop, [each] * workers, timeout=timeout_s))
        return done / (time.perf_counter() - begin)


class Loop(NamedTuple):
    """The result of a loop of commands."""

    #: Runs per second.
    rate: float
    #: Runs that failed and were made again.
    repeated: int


def command_loop(
    command: Sequence[str],
    count: int,
    at_once: int,
    timeout_s: float,
    env: Mapping[str, str],
    retries: int,
) -> Loop:
    """Run a command `count` times, so many at a time, each started when another has ended.

    Raises
    ------
    RuntimeError
        One failed more than `retries` times; the message has its last words.
    """
    failures: list[str] = []

    def run() -> None:
        for attempt in range(1 + retries):
            done = subprocess.run(
                list(command),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout_s,
                env={**os.environ, **env},
            )
            if not done.returncode:
                return
            if attempt < retries:
                failures.append(done.stderr)
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-1000:]}")

    begin = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(at_once) as threads:
        runs = [threads.submit(run) for _ in range(count)]
        try:
            for one in runs:
                one.result()
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return Loop(count / (time.perf_counter() - begin), len(failures))


def hdf5_mb_per_s(count: int, floats: int, path: Path) -> float:
    """Write arrays of so many 64-bit floats into one file with h5py, fsync, read them again.

    Returns
    -------
    float
        Megabytes (10⁶ bytes) of arrays per second of writing and reading together.
    """
    import h5py

    begin = time.perf_counter()
    with h5py.File(path, "w") as file:
        for index in range(count):
            file[f"task/{index}"] = tasks.array(index, floats)
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    with h5py.File(path, "r") as file:
        for index in range(count):
            found = file[f"task/{index}"][()]
            if found[0] != index or found[-1] != index:
                raise RuntimeError(f"array {index} is not what was written")
    elapsed_s = time.perf_counter() - begin
    path.unlink()
    return count * floats * 8 / 1e6 / elapsed_s


def sbatch_s(python: str, directory: Path, options: Sequence[str], timeout_s: float) -> float:
    """Return the seconds from ``sbatch`` of ``python -c pass`` until it has run."""
    mark = directory / f"sbatch-{time.time_ns()}"
    command = f"{python} -c pass && touch {mark}"
    begin = time.perf_counter()
    subprocess.run(
        [
            "sbatch",
            "--quiet",
            f"--chdir={directory}",
            "--output=/dev/null",
            *options,
            f"--wrap={command}",
        ],
        check=True,
        timeout=timeout_s,
        stdout=subprocess.DEVNULL,
    )
    while not mark.exists():
        if time.perf_counter() - begin > timeout_s:
            raise TimeoutError(f"the job of sbatch had not run after {timeout_s:.0f} s")
        time.sleep(0.002)
    elapsed_s = time.perf_counter() - begin
    mark.unlink()
    return elapsed_s
