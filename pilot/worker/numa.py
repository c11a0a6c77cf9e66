"""The NUMA nodes of a machine: which of a pilot's cores share memory that is near to them.

The cores of a pilot's node are numbered from 0, in the order of the processors that the job may use
there (`pilot.process.Pinning`). What Linux says of processors is put into these numbers.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

#: Where Linux tells of them.
SYSFS = Path("/sys/devices/system/node")


def domains(
    cores: int, processors: Collection[int] | None = None, sysfs: Path = SYSFS
) -> tuple[tuple[int, ...], ...]:
    """Return the cores of each NUMA node; empty where there are not several, or nothing is told.

    Parameters
    ----------
    cores
        The number of cores that the pilot has on this node.
    processors
        The processors that it may use there; None: those of this process.
    sysfs
        The directory in which the kernel tells of NUMA nodes.
    """
    real = sorted(os.sched_getaffinity(0) if processors is None else processors)
    if cores > len(real):
        return ()  # they are not pinned: there are fewer processors than cores
    number = {processor: core for core, processor in enumerate(real[:cores])}
    found = []
    try:
        for directory in sorted(sysfs.glob("node[0-9]*")):
            listed = read_list((directory / "cpulist").read_text())
            if its := tuple(sorted(number[each] for each in listed if each in number)):
                found.append(its)
    except (OSError, ValueError):
        return ()
    return tuple(sorted(found)) if len(found) > 1 else ()


def read_list(text: str) -> list[int]:
    """Read a list of processors as the kernel writes it: ``0-3,8``.

    Raises
    ------
    ValueError
        It is none.
    """
    found: list[int] = []
    for run in text.strip().split(","):
        if run:
            first, dash, last = run.partition("-")
            found += range(int(first), int(last if dash else first) + 1)
    return found
