"""CHAIN, large values that change: 50 steps on one block, each in place, on one node.

The whole chain is submitted at once; the clock stops when the last step has ended, before the
client reads its block. With one executor, and with two. All blocks are kept, or each is released as
soon as the next step is submitted.

Beside it the ways of a program without a task system: two processes that take turns, and hand the
block over as a pickle on the local disk (no ``fsync``), as a file in ``/dev/shm`` that the next one
reads, or as one that each of them maps and changes in place; and a loop in one process.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pilot
from bench import arrays, measure
from bench.loads import warm
from bench.measure import Deadline
from bench.ours import Pilot
from bench.stage import Stage, one_pool, traffic

ROUNDS = 3
STEPS = 50
#: 64-bit floats in 1 MiB.
MIB = (1 << 20) // 8
LIMIT_S = 120.0
EXECUTORS = (1, 2)
#: Whether blocks are released: this and earlier commits are measured side by side.
WHETHER = (False, True) if hasattr(pilot.Session, "release") else (False,)
SHARED_MEMORY = Path("/dev/shm")
#: How a block is saved, changed and loaded.
WAYS: dict[str, tuple[Callable[..., None], Callable[..., None], Callable[..., arrays.Block]]] = {
    "pickle": (arrays.save_pickle, arrays.pickled_step, arrays.load_pickle),
    "plain": (arrays.save_plain, arrays.plain_step, arrays.load_plain),
    "shared": (arrays.save_plain, arrays.shared_step, arrays.load_plain),
}


def run(stage: Stage) -> None:
    """Measure."""
    steps = stage.count(STEPS, 10)
    for size_mib in (1, stage.count(64, 8)):
        samples: dict[str, list[float]] = {}
        written: dict[str, list[float]] = {}
        for _ in range(stage.count(ROUNDS, 1)):
            for name, step_s in _by_hand(stage, steps, size_mib * MIB).items():
                samples.setdefault(name, []).append(step_s)
            for executors, releases in itertools.product(EXECUTORS, WHETHER):
                kept = "released" if releases else "kept"
                case = f"{steps} steps on {size_mib} MiB, {kept}, executors: {executors}"
                stage.say(case)
                step_s, disk_mib = _through_pilot(
                    stage, executors, steps, size_mib * MIB, releases=releases
                )
                samples.setdefault(case, []).append(step_s)
                written.setdefault(case, []).append(disk_mib)
        medians = {name: 1e3 * measure.median(each) for name, each in samples.items()}
        others = {name: medians[name] for name in medians if name not in written}
        for case in written:
            stage.findings.add(
                "CHAIN", case, "ms/step", medians[case], others, more_is_better=False
            )
            title = f"{case}: written to disks"
            disk = measure.median(written[case])
            stage.findings.add("CHAIN", title, "MiB", disk, more_is_better=False)
        stage.findings.data[f"CHAIN {size_mib}"] = {"step_s": samples, "written_mib": written}


def _through_pilot(
    stage: Stage, executors: int, steps: int, floats: int, *, releases: bool
) -> tuple[float, float]:
    """Return the seconds of a step, and the MiB that all steps have written to disks."""
    text = one_pool(stage.site_text, cores_per_node=executors)
    with stage.site(text) as site, pilot.Session(site, name="bench") as session:
        system, deadline = Pilot(session), Deadline(LIMIT_S)
        warm(system, executors)
        # The way of a block is warm, too: NumPy and HDF5 are loaded.
        first = [session.submit(arrays.made, number, MIB) for number in range(4 * executors)]
        system.wait([session.submit(arrays.one_up, block) for block in first], deadline.left_s())
        block = session.submit(arrays.made, 0, floats)
        system.wait([block], deadline.left_s())
        before = traffic(site)["written"]
        begin = time.perf_counter()
        for _ in range(steps):
            block, replaced = session.submit(arrays.one_up, block), block
            if releases:
                system.release([replaced])
        system.wait([block], deadline.left_s())
        step_s = (time.perf_counter() - begin) / steps
        written = traffic(site)["written"] - before
        if not arrays.is_made(block.result(deadline.left_s()), steps):
            raise RuntimeError("the last block is not what the steps make")
    return step_s, written / (1 << 20)


def _by_hand(stage: Stage, steps: int, floats: int) -> dict[str, float]:
    """Return the seconds of a step of each of the ways beside Pilot."""
    return {
        "pickle on the local disk": _in_turns("pickle", stage.directory, steps, floats),
        "file in /dev/shm": _in_turns("plain", SHARED_MEMORY, steps, floats),
        "mapped from /dev/shm, in place": _in_turns("shared", SHARED_MEMORY, steps, floats),
        "in memory": _in_memory(steps, floats),
    }


def _in_turns(way: str, parent: Path, steps: int, floats: int) -> float:
    """Return the seconds of a step between two processes that take turns."""
    save, step, load = WAYS[way]
    with tempfile.TemporaryDirectory(prefix="pilot-bench-chain-", dir=parent) as directory:
        names = [f"{directory}/{number}" for number in range(steps + 1)]
        with _process() as one, _process() as other:
            for process in (one, other):
                process.submit(arrays.made, 0, 1).result(LIMIT_S)
            save(arrays.made(0, floats), names[0])
            begin = time.perf_counter()
            for number in range(steps):
                process = (other, one)[number % 2]
                process.submit(step, names[number], names[number + 1]).result(LIMIT_S)
            elapsed_s = time.perf_counter() - begin
            if not arrays.is_made(load(names[-1]), steps):
                raise RuntimeError("the last block is not what the steps make")
    return elapsed_s / steps


def _process() -> concurrent.futures.ProcessPoolExecutor:
    return concurrent.futures.ProcessPoolExecutor(1)


def _in_memory(steps: int, floats: int) -> float:
    block = arrays.made(0, floats)
    begin = time.perf_counter()
    for _ in range(steps):
        block = arrays.one_up(block)
    elapsed_s = time.perf_counter() - begin
    if not arrays.is_made(block, steps):
        raise RuntimeError("the last block is not what the steps make")
    return elapsed_s / steps
