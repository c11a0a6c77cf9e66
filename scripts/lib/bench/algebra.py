"""The common part of MATMUL and CHOLESKY: Pilot, by its own API and as a program for PyCOMPSs,
Dask, the same program without Pilot, and NumPy side by side, on the same cores.

Time is that of the loads (`blocked`). Written is what all processes of Pilot's site, or Dask's
workers, have written to disks meanwhile, and for Pilot also what is in its results directory.
Moved is what executors have read from files, and what Dask's workers got from each other.
"""

from __future__ import annotations

import pilot
from bench import dense, measure, peer_process, peers
from bench.contenders import Local
from bench.layer import plain_program, program_on_pilot
from bench.loads import warm
from bench.ours import Pilot
from bench.stage import Stage, traffic_and_size
from bench.systems import BlockSystem
from pilot.site import Site

ROUNDS = 2
#: Blocks in a row, and rows of a block: 8 MiB.
COUNT, SIZE = 8, 1024
QUICK_COUNT, QUICK_SIZE = 4, 256
NUMPY_S = 300.0
MIB = 1 << 20


class Metered(Pilot):
    """Pilot on a site that is there for it alone."""

    def __init__(self, session: pilot.Session, site: Site) -> None:
        super().__init__(session)
        self._site = site

    def traffic(self) -> dict[str, float]:
        """Return what the site's processes have written and read."""
        return traffic_and_size(self._site)


def measure_algebra(stage: Stage, load: str, what: str) -> None:
    """Measure a load of `blocked`."""
    count = stage.count(COUNT, QUICK_COUNT)
    size = stage.count(SIZE, QUICK_SIZE)
    expected = stage.directory / "expected.npy"
    arguments = {"count": count, "size": size, "expected": str(expected)}
    samples: dict[str, list[dict[str, float]]] = {Pilot.name: []}
    threads = f"NumPy, {stage.workers} threads"
    for _ in range(stage.count(ROUNDS, 1)):
        stage.say("NumPy")
        took_s = dense.seconds(load, count, size, stage.workers, expected, NUMPY_S)
        samples.setdefault(threads, []).append({"s": took_s})
        stage.say("Pilot")
        with stage.site() as site, pilot.Session(site, name="bench") as session:
            system: BlockSystem = Metered(session, site)
            warm(system, stage.workers)
            samples[Pilot.name].append(Local(system).do(load, **arguments))
        stage.say("a program for PyCOMPSs, on Pilot and by itself")
        with program_on_pilot(stage) as program:
            warm(program, stage.workers)
            samples.setdefault(program.name, []).append(Local(program).do(load, **arguments))
        alone = plain_program()
        samples.setdefault(alone.name, []).append(Local(alone).do(load, **arguments))
        if why := peers.why_not("dask"):
            continue
        stage.say("Dask")
        with peer_process.opened("dask", stage.workers, load, stage.directory) as peer:
            samples.setdefault(peer.name, []).append(peer.do(load, **arguments))
    if why:
        stage.findings.miss(load.upper(), "Dask distributed", why)
    title = f"{what}, {count} by {count} blocks of {size * size * 8 / MIB:g} MiB"
    for figure, unit, key, factor in (
        ("time", "s", "s", 1.0),
        ("written to disks", "MiB", "written", 1 / MIB),
        ("results directory", "MiB", "kept", 1 / MIB),
        ("moved to tasks", "MiB", "moved", 1 / MIB),
    ):
        found = {
            name: factor * measure.median([one[key] for one in each])
            for name, each in samples.items()
            if key in each[0]
        }
        ours = found.pop(Pilot.name)
        case = f"{title}: {figure}"
        stage.findings.add(load.upper(), case, unit, ours, found, more_is_better=False)
    stage.findings.data[load.upper()] = samples
