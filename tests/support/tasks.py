"""Functions that tests run as tasks, in a module that workers can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any


def square(x: float) -> float:
    return x * x


def add(a: float, b: float) -> float:
    return a + b


def echo(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def fail(message: str = "as told") -> None:
    raise ValueError(message)


def pause(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def note_run(directory: str, number: int, seconds: float = 0.0) -> int:
    """Leave one mark for each time that this is run."""
    path = Path(directory) / str(number)
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(seconds)
    return number


def wait_for_file(mark: str, wanted: str, deadline_s: float = 60.0) -> str:
    """Make the file `mark`, and return when the file `wanted` is there."""
    Path(mark).touch()
    end = time.monotonic() + deadline_s
    while not Path(wanted).exists():
        if time.monotonic() > end:
            raise TimeoutError(wanted)
        time.sleep(0.01)
    return mark


def note_run_once_blocked(directory: str, number: int, seconds: float, lock: str, go: str) -> int:
    """As `note_run`; the first one that makes the file `lock`, if it is named, waits for `go`."""
    if lock:
        try:
            Path(lock).touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            wait_for_file(lock, go)
    return note_run(directory, number, seconds)


def leave_without_a_word(status: int = 3) -> None:
    os._exit(status)


def kill_itself(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


def process_id(*_: object) -> int:
    return os.getpid()


def world_size() -> int:
    """How many ranks MPI finds."""
    from mpi4py import MPI

    return int(MPI.COMM_WORLD.size)
