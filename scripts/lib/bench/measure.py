"""Arithmetic on samples, and facts of ``/proc`` about processes: processor time, peak memory,
owner.

The arithmetic is pure; whoever reads ``/proc`` gets 0 for a process that is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
#: How long processes may take to be gone that are killed, in seconds.
_KILL_S = 20.0


class DeadlineError(Exception):
    """An error of a workload that took longer than it may."""


class Deadline:
    """A time by which something must be over.

    Parameters
    ----------
    seconds
        From now on.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._seconds = seconds

    def left_s(self) -> float:
        """Return the seconds that are left.

        Raises
        ------
        DeadlineError
            None are.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeadlineError(f"it was not over after {self._seconds:g} s")
        return left


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which `percent` % of the values are, interpolated between neighbours.

    Raises
    ------
    ValueError
        There are no values, or `percent` is not from 0 to 100.
    """
    if not values:
        raise ValueError("no values have no percentile")
    if not 0 <= percent <= 100:
        raise ValueError(f"{percent} is no percentage")
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def median(values: Sequence[float]) -> float:
    """Return the 50th percentile."""
    return percentile(values, 50)


def cumulative(values: Sequence[float]) -> list[tuple[float, float]]:
    """Return the distribution: each value in order, with the share of values up to and including
    it."""
    return [(value, (n + 1) / len(values)) for n, value in enumerate(sorted(values))]


def cpu_s(pid: int) -> float:
    """Return the processor seconds that a process has used, in all its threads."""
    return _ticks(pid, 11) * _TICK_S


def children_cpu_s(pid: int) -> float:
    """Return the processor seconds of those children of a process that have ended."""
    return _ticks(pid, 13) * _TICK_S


def _ticks(pid: int, first: int) -> int:
    """Return the sum of user and system time in ticks; `first` is the place of user time in
    ``/proc/PID/stat``."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat[stat.rindex(")") + 2 :].split()
    return int(fields[first]) + int(fields[first + 1])


def switches(pid: int) -> int:
    """Return how many times the threads of a process have waited for something."""
    return sum(
        _field(path, "voluntary_ctxt_switches:")
        for path in Path(f"/proc/{pid}/task").glob("*/status")
    )


def written(pid: int) -> int:
    """Return the bytes that a process has written to disks."""
    return _field(Path(f"/proc/{pid}/io"), "write_bytes:")


def read(pid: int) -> int:
    """Return the bytes that a process has read by system calls, from wherever they came; what it
    has mapped, or received from sockets, is not among them."""
    return _field(Path(f"/proc/{pid}/io"), "rchar:")


def shared_mib(pids: Iterable[int]) -> float:
    """Return the memory of processes together in MiB; what several of them have in common counts
    once in all (``Pss``)."""
    return sum(_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") for pid in pids) / 1024


def size_mib(directory: Path) -> float:
    """Return the size in MiB of the files below a directory that are there when they are looked
    at."""
    size = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):
            size += path.stat().st_size if path.is_file() else 0
    return size / (1 << 20)


def _field(path: Path, name: str) -> int:
    """Return the number behind a word; 0 if the process is gone."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def memory_mib(pid: int, field: str = "VmHWM") -> float:
    """Return the memory of a process in MiB: ``VmHWM`` at its peak, ``VmRSS`` now."""
    return _field(Path(f"/proc/{pid}/status"), f"{field}:") / 1024


def processes(names: Iterable[str]) -> dict[str, list[int]]:
    """Find the processes of pilots: role (``agent``, ``node``, ``executor``, ``rank``) → process
    ids.

    Parameters
    ----------
    names
        Names of the pilots, which are the last word of their processes' titles.
    """
    wanted = set(names)
    found: dict[str, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
        except OSError:
            continue  # it has ended meanwhile
        if len(words) > 2 and words[0] == "pilot" and words[-1] in wanted:
            found.setdefault(words[1], []).append(int(path.parent.name))
    return found


def end_processes(directory: Path) -> None:
    """Kill all processes that belong to a directory, until none are left: some may be starting
    others meanwhile.

    Parameters
    ----------
    directory
        One that was made for this purpose under a name that nothing else has.

    Raises
    ------
    DeadlineError
        There are always new ones.
    """
    deadline = Deadline(_KILL_S)
    while found := processes_of(directory):
        deadline.left_s()
        for pid in found:
            # The number may be another process's by now: what the descriptor holds is looked at.
            with contextlib.suppress(ProcessLookupError):
                process = os.pidfd_open(pid)
                try:
                    if _belongs(pid, str(directory)):
                        signal.pidfd_send_signal(process, signal.SIGKILL)
                finally:
                    os.close(process)
        time.sleep(0.01)


def processes_of(directory: Path) -> list[int]:
    """Return the processes that belong to a directory: they work in it, or have a variable in their
    environment that begins with it. This process and ended ones are left out."""
    numbers = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in numbers if pid != os.getpid() and _belongs(pid, str(directory))]


def _belongs(pid: int, directory: str) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        here = str(Path(f"/proc/{pid}/cwd").readlink())
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False  # it has ended meanwhile, or is not ours to look at
    if stat[stat.rindex(")") + 2] in "ZX":
        return False
    values = [variable.partition(b"=")[2].decode(errors="replace") for variable in variables]
    return any(f"{value}/".startswith(f"{directory}/") for value in (here, *values))
