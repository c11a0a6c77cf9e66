"""FANOUT, one large value that many tasks read: 20 tasks on one node, all of which hold it at a
time.

The value is the result of a task, or was put by the client. The clock runs from the submission of
the readers to the last one's end. Beside the time: how often the value was read (bytes that the
pilot's processes have read, divided by its size; what is mapped is not read), and the memory of
all its processes beyond what they had before it was made (``Pss``, at its peak, and what is new in
``/dev/shm``: what they have mapped from there is in both), as multiples of the value.

Beside it: as many processes that load the value from one file by ``np.load``, and that map it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import pilot
from bench import arrays, measure
from bench.loads import WARM_S
from bench.measure import Deadline
from bench.stage import Stage, one_pool, site_processes

READERS = 20
MIB = (1 << 20) // 8
LIMIT_S = 180.0
#: How often memory is looked at, in seconds.
LOOK_S = 0.1
SHARED_MEMORY = "/dev/shm"


def run(stage: Stage) -> None:
    """Measure."""
    size_mib = stage.count(256, 16)
    value = arrays.made(1, size_mib * MIB)
    found: dict[str, dict[str, float]] = {}
    # The processes by hand first: they are forked before there are threads.
    for name, mapped in (("np.load", False), ("np.load, mapped", True)):
        stage.say(name)
        found[name] = _by_hand(stage, value, mapped)
    ours: dict[str, dict[str, float]] = {}
    for case, put in (("the result of a task", False), ("a value that was put", True)):
        stage.say(case)
        ours[case] = _through_pilot(stage, value, put)
    for case, figures in ours.items():
        for figure, unit in (
            ("time", "s"),
            ("read", "times the value"),
            ("memory", "times the value"),
            ("new in /dev/shm", "times the value"),
        ):
            title = f"{READERS} readers of {size_mib} MiB, {case}: {figure}"
            others = {name: its[figure] for name, its in found.items()}
            stage.findings.add("FANOUT", title, unit, figures[figure], others, more_is_better=False)
    stage.findings.data["FANOUT"] = {**ours, **found}


def _through_pilot(stage: Stage, value: arrays.Block, put: bool) -> dict[str, float]:
    text = one_pool(stage.site_text, cores_per_node=READERS)
    with stage.site(text) as site, pilot.Session(site, name="bench") as session:
        # All executors are there, with NumPy and HDF5, when all have met over something small.
        small = session.submit(arrays.made, 1, MIB)
        _meet(stage, lambda *where: session.submit(arrays.met, small, *where), WARM_S)
        roles = site_processes(site)
        pids = [pid for role, its in roles.items() if role != "head" for pid in its]
        # Where the value is kept before it is read counts, too.
        before = _Memory.now(pids)
        if put:
            future = session.put(value)
            session.flush(LIMIT_S)
        else:
            future = session.submit(arrays.made, 1, len(value))
            concurrent.futures.wait([future], LIMIT_S)
        with _watched(pids, value, before) as figures:
            totals = _meet(stage, lambda *where: session.submit(arrays.met, future, *where))
        _check(totals, value)
    return figures


def _by_hand(stage: Stage, value: arrays.Block, mapped: bool) -> dict[str, float]:
    path = str(stage.directory / "value.npy")
    with concurrent.futures.ProcessPoolExecutor(READERS) as pool:
        for size in (MIB, len(value)):
            np.save(path, value[:size])

            def reader(*where: Any) -> concurrent.futures.Future[float]:
                return pool.submit(arrays.met_over_file, path, mapped, *where)

            if size == MIB:
                _meet(stage, reader, WARM_S)
                continue
            pids = [p.pid for p in multiprocessing.active_children() if p.pid is not None]
            with _watched(pids, value, _Memory.now(pids)) as figures:
                totals = _meet(stage, reader)
            _check(totals, value)
    Path(path).unlink()
    return figures


def _meet(
    stage: Stage,
    reader: Callable[[int, str, int], concurrent.futures.Future[float]],
    limit_s: float = LIMIT_S,
) -> list[float]:
    """Run as many readers as there are, until all have met; return what they found."""
    deadline = Deadline(limit_s)
    with tempfile.TemporaryDirectory(prefix="met-", dir=stage.directory) as directory:
        futures = [reader(index, directory, READERS) for index in range(READERS)]
        return [future.result(deadline.left_s()) for future in futures]


def _check(totals: list[float], value: arrays.Block) -> None:
    if totals != [float(value.sum())] * READERS:
        raise RuntimeError("the readers did not find what is there")


@contextlib.contextmanager
def _watched(pids: list[int], value: arrays.Block, before: _Memory) -> Iterator[dict[str, float]]:
    """Give a dict that gets the figures of the block when it is left, and the memory that was
    taken since `before`."""
    size_mib = value.nbytes / (1 << 20)
    read = sum(map(measure.read, pids))
    looks, over = [_Memory.now(pids)], threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            looks.append(_Memory.now(pids))

    watcher = threading.Thread(target=look)
    watcher.start()
    figures: dict[str, float] = {}
    begin = time.perf_counter()
    try:
        yield figures
        figures["time"] = time.perf_counter() - begin
    finally:
        over.set()
        watcher.join()
    figures["read"] = (sum(map(measure.read, pids)) - read) / value.nbytes
    figures["memory"] = (max(one.mib for one in looks) - before.mib) / size_mib
    figures["new in /dev/shm"] = (max(one.files_mib for one in looks) - before.files_mib) / size_mib


class _Memory(NamedTuple):
    """The memory of processes together, and of the files in ``/dev/shm``, in MiB."""

    mib: float
    files_mib: float

    @classmethod
    def now(cls, pids: list[int]) -> _Memory:
        space = os.statvfs(SHARED_MEMORY)
        files = (space.f_blocks - space.f_bfree) * space.f_frsize
        return cls(measure.shared_mib(pids), files / (1 << 20))
