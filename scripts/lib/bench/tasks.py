"""The functions that run as tasks. The module imports nothing else, since workers import it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any


def nothing() -> None:
    """Do nothing."""


def same(data: bytes) -> bytes:
    """Return the argument."""
    return data


def one_more(number: int) -> int:
    """Return the next number: a link of a chain."""
    return number + 1


def branch(number: int, index: int) -> int:
    """Return the sum: one of the tasks between a fork and its join."""
    return number + index


def join(*parts: int) -> int:
    """Return the number that the fork gave, at the end of a fork-join: the first branch adds 0."""
    return min(parts)


def mark(index: int, directory: str) -> int:
    """Leave a trace of each execution, in one file for each process that executes."""
    file = os.open(f"{directory}/{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, b"%d\n" % index)
    finally:
        os.close(file)
    return index


def array(index: int, count: int) -> Any:
    """Return an array of `count` 64-bit floats, all equal to its index."""
    import numpy as np

    return np.full(count, float(index))


def sleep(length_s: float) -> float:
    """Sleep for a time in seconds."""
    time.sleep(length_s)
    return length_s


def command(argv: Sequence[str]) -> int:
    """Run a command; return its exit status."""
    import subprocess

    return subprocess.run(argv, check=False, stdin=subprocess.DEVNULL).returncode


def until_closed(fifo: str) -> None:
    """Wait until nobody has a named pipe open for writing any more."""
    with open(fifo, "rb") as file:
        file.read()


def spawn_loop(count: int) -> int:
    """Start ``/bin/true`` `count` times, one after the other, in the system's plainest way."""
    for _ in range(count):
        pid = os.posix_spawn("/bin/true", ["/bin/true"], os.environ)
        _, status = os.waitpid(pid, 0)
        if status:
            raise RuntimeError(f"/bin/true ended with status {status}")
    return count


def sum_over_ranks(number: int) -> tuple[int, int]:
    """Return the number of ranks, and the sum of `number` over them."""
    from mpi4py import MPI

    return MPI.COMM_WORLD.size, MPI.COMM_WORLD.allreduce(number)
