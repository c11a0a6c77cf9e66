"""ALLTOALL, large values from everywhere to everywhere: 16 tasks, four for each of 4 nodes, make
four blocks of 32 MiB each; 16 others gather four blocks each, one from a maker of each node.

The whole graph is submitted at once; the clock stops when the last one has gathered. All blocks
are kept, so that they are on the disk before anybody hears of a sum; or they are released as soon
as all is submitted, so that they need not be written.

Beside it the same tasks, which save their blocks in files on the shared file system by ``np.save``
and return the names: with ``fsync``, which is what blocks that are kept are worth, and without.
Without a Slurm: all on one node.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pilot
from bench import arrays, measure
from bench.loads import WARM_S
from bench.measure import Deadline
from bench.ours import Pilot
from bench.stage import Stage, one_pool, traffic

NODES, LANES = 4, 4
#: How many blocks each task makes, and how many it gathers.
PARTS = NODES
ROUNDS = 3
LIMIT_S = 240.0
#: 64-bit floats in 1 MiB.
MIB = (1 << 20) // 8
#: The ways of Pilot, and those by hand.
KEPT, RELEASED = "kept", "released"
DURABLE, PLAIN = "np.save with fsync, np.load", "np.save, np.load"


def run(stage: Stage) -> None:
    """Measure."""
    if stage.slurm is None:
        stage.findings.miss("ALLTOALL", f"on {NODES} nodes", stage.no_slurm)
        text = one_pool(stage.site_text, cores_per_node=NODES * LANES)
    else:
        text = one_pool(
            stage.slurm.site_text, min_nodes=NODES, max_nodes=NODES, nodes_per_pilot=NODES
        )
    size_mib = stage.count(32, 2)
    samples: dict[str, list[dict[str, float]]] = {}
    for _ in range(stage.count(ROUNDS, 1)):
        # Each round has a site of its own, so that the files of the one before are gone.
        with stage.site(text) as site, pilot.Session(site, name="bench") as session:
            system = Pilot(session)
            ways = _ways(system, str(stage.directory))
            # All executors are there, with NumPy and HDF5, and have done it with small blocks.
            for way in (*ways.values(), ways[KEPT]):
                _check(way(MIB, WARM_S), MIB)
            for name, way in ways.items():
                stage.say(name)
                before = traffic(site)
                begin = time.perf_counter()
                totals = way(size_mib * MIB, LIMIT_S)
                elapsed_s = time.perf_counter() - begin
                after = traffic(site)
                _check(totals, size_mib * MIB)
                used = {key: (after[key] - before[key]) / (1 << 20) for key in after}
                samples.setdefault(name, []).append({"s": elapsed_s, **used})
    where = "4 nodes" if stage.slurm else "one node"
    moved_mib = NODES * LANES * PARTS * size_mib
    title = f"{NODES * LANES} tasks to {NODES * LANES} on {where}, {moved_mib:,} MiB in all"
    for figure, unit, key in (
        ("time", "s", "s"),
        ("written to disks", "MiB", "written"),
        ("read by executors", "MiB", "moved"),
    ):
        found = {name: measure.median([one[key] for one in each]) for name, each in samples.items()}
        others = {name: found[name] for name in (DURABLE, PLAIN)}
        for ours in (KEPT, RELEASED):
            case = f"{title}, {ours}: {figure}"
            stage.findings.add("ALLTOALL", case, unit, found[ours], others, more_is_better=False)
    stage.findings.data["ALLTOALL"] = samples


def _ways(system: Pilot, directory: str) -> dict[str, Callable[[int, float], list[float]]]:
    """Return the ways by their names: each takes the size of a block and a limit in seconds."""
    return {
        KEPT: partial(_values, system, releases=False),
        DURABLE: partial(_files, system, directory, durable=True),
        RELEASED: partial(_values, system, releases=True),
        PLAIN: partial(_files, system, directory, durable=False),
    }


def _values(system: Pilot, floats: int, limit_s: float, *, releases: bool) -> list[float]:
    """Hand the blocks over as values."""
    deadline = Deadline(limit_s)
    make = pilot.task(returns=PARTS)(arrays.made_parts)
    made = [system.submit(make, number, PARTS, floats) for number in range(NODES * LANES)]
    gathered = [
        system.submit(arrays.gathered, *(maker[part] for maker in lane))
        for lane, part in _lanes(made)
    ]
    blocks = [block for maker in made for block in maker]
    if releases:
        system.release(blocks)
    totals = system.values(gathered, deadline.left_s())
    if not releases:
        system.release(blocks)  # the next way has the disk for itself
    return totals


def _files(
    system: Pilot, directory: str, floats: int, limit_s: float, *, durable: bool
) -> list[float]:
    """Hand the blocks over as files."""
    deadline = Deadline(limit_s)
    made = [
        system.submit(arrays.saved_parts, number, PARTS, floats, directory, durable)
        for number in range(NODES * LANES)
    ]
    gathered = [
        system.submit(arrays.gathered_from_files, part, lane) for lane, part in _lanes(made)
    ]
    return system.values(gathered, deadline.left_s())


def _lanes(made: list[Any]) -> list[tuple[list[Any], int]]:
    """Return what each task gathers: makers of which there is one for each node, and which part of
    theirs."""
    return [(made[lane::LANES], part) for part in range(PARTS) for lane in range(LANES)]


def _check(totals: list[float], floats: int) -> None:
    counted = floats * (floats - 1) // 2
    expected = [
        float(PARTS * counted + floats * sum(number * PARTS + part for number in lane))
        for lane, part in _lanes(list(range(NODES * LANES)))
    ]
    if any(abs(total - sum_) > 1e-9 * sum_ for total, sum_ in zip(totals, expected, strict=True)):
        raise RuntimeError("the tasks did not gather what was made")
