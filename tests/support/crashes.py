"""Every way in which a task can go wrong, in a module that workers can import.

What ends its process, or does not end, has started another program before: that must not stay.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any


class HeldError(Exception):
    """An exception that cannot be pickled: it has a lock."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class TwoWordsError(Exception):
    """An exception that can be pickled, but not made again from that."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} {other}")


def start_a_program() -> None:
    """It would run for long after its task."""
    subprocess.Popen(["sleep", "1000"])


# --- what ends as an error ------------------------------------------------------------------------


def error() -> None:
    raise ValueError("as told")


def unpicklable_error() -> None:
    raise HeldError("it holds a lock")


def error_of_two_words() -> None:
    raise TwoWordsError("not made", "again")


def unpicklable_result() -> Any:
    return threading.Lock()


def too_much_memory() -> int:
    """Python is refused what it asks for, as by ``ulimit -v`` or a full machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, before[1]))
    try:
        return len(bytearray(4 << 30))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# --- what ends its process ------------------------------------------------------------------------


def leave() -> None:
    start_a_program()
    os._exit(7)


def kill_itself() -> None:
    """As the kernel does it where memory is out."""
    start_a_program()
    os.kill(os.getpid(), signal.SIGKILL)


def eat_memory(cgroup: str) -> int:
    """More than the control group has: the kernel ends the process."""
    start_a_program()
    Path(cgroup, "cgroup.procs").write_text(str(os.getpid()))
    return len(bytearray(1 << 30))


def follow_null() -> None:
    """A real segmentation fault."""
    start_a_program()
    ctypes.string_at(0)


# --- what does not end ----------------------------------------------------------------------------


def loop() -> None:
    start_a_program()
    while True:
        pass


def loop_deaf() -> None:
    """It takes no notice of SIGTERM."""
    start_a_program()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(0.1)


def loop_polite() -> None:
    """It takes SIGTERM for a reason to clean up, and to raise."""
    start_a_program()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt("told to end")

    signal.signal(signal.SIGTERM, stop)
    while True:
        time.sleep(0.1)


# --- ranks ----------------------------------------------------------------------------------------


def sum_of_ranks() -> int:
    from mpi4py import MPI

    return int(MPI.COMM_WORLD.allreduce(1))


def rank_dies() -> None:
    from mpi4py import MPI

    start_a_program()
    if MPI.COMM_WORLD.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    MPI.COMM_WORLD.barrier()


def abort() -> None:
    from mpi4py import MPI

    start_a_program()
    MPI.COMM_WORLD.barrier()
    if MPI.COMM_WORLD.rank == 1:
        MPI.COMM_WORLD.Abort(13)
        time.sleep(1000)  # that of MPICH may come back, before the launcher ends the rank
    MPI.COMM_WORLD.barrier()


def rank_hangs() -> None:
    from mpi4py import MPI

    start_a_program()
    if MPI.COMM_WORLD.rank == 1:
        time.sleep(1000)
    MPI.COMM_WORLD.barrier()


def lose_the_launcher() -> None:
    """The launcher's process on this host is gone, and cannot clean up any more."""
    start_a_program()
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)
