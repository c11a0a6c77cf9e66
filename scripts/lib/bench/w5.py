"""W5, MPI: functions of several ranks on warm worlds, idle worlds, and programs, over two nodes.

MPI functions (mpi4py) of two ranks, one on each node: with the start of their worlds, on one world,
and on as many as fit; and of 2, 3 and 4 ranks in random order, beside the same shapes one after the
other. MPI programs are started anew each time, as a loop of ``srun`` in the same allocation does.
Without a Slurm: all on this machine, beside a loop of ``mpiexec``.

The start of an MPI program through a launcher fails now and then on a machine that is too busy (its
ranks do not find each other): it is tried again on both sides, and the report says how often.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import pilot
from bench import measure, mpi_references, tasks
from bench.measure import Deadline
from bench.references import Loop
from bench.stage import Stage, asking, cpu_by_role, one_pool, site_processes
from pilot.site import Site

NODES, CORES = 2, 4
RANKS = 2
#: Worlds of one core for each rank that fit.
WORLDS = 4
SHAPES = (2, 3, 4)
LIMIT_S = 300.0
IDLE_S = 10.0
ROUNDS = 3
RETRIES = 3


def run(stage: Stage) -> None:
    """Measure."""
    if stage.slurm is None:
        stage.findings.miss("W5", f"on {NODES} nodes", stage.no_slurm)
        # The machine may have fewer cores: then its ranks share them.
        text = one_pool(stage.site_text, cores_per_node=NODES * CORES)
    else:
        text = one_pool(
            stage.slurm.site_text, min_nodes=NODES, max_nodes=NODES, nodes_per_pilot=NODES
        )
    spread: dict[str, Any] = {} if stage.slurm is None else {"ranks_per_node": 1}
    where = "on one node" if stage.slurm is None else "over 2 nodes"
    with stage.site(text) as site, pilot.Session(site, name="bench") as session:
        bench = _Functions(stage, session)
        # The allocation is there when a plain task has run.
        session.submit(tasks.nothing).result(bench.deadline.left_s())
        stage.say("functions")
        few = stage.count(40, 8)
        cold = bench.rate(few, [bench.function(ranks=RANKS, **spread)])
        stage.findings.add(
            "W5", f"{few} {RANKS}-rank functions {where}, with the start", "tasks/s", cold
        )
        with mpi_references.started(stage, NODES) as references:
            _warm(stage, bench, references, site, where, spread)
            _mix(stage, bench, where)
            _idle(stage, site)
            _programs(stage, session, references, site, where, spread)


class _Functions:
    """A client that submits MPI functions and checks their results."""

    def __init__(self, stage: Stage, session: pilot.Session) -> None:
        self._stage = stage
        self._session = session
        self.deadline = Deadline(LIMIT_S)

    def function(self, **options: Any) -> Any:
        """Return the MPI function that is measured, with these resources."""
        return pilot.mpi(**options)(tasks.sum_over_ranks)

    def rate(self, count: int, functions: Sequence[Any]) -> float:
        """Run `count` calls of these functions in turn; return tasks per second."""
        session = self._session
        begin = time.perf_counter()
        futures = [session.submit(functions[n % len(functions)], n) for n in range(count)]
        values = pilot.gather(futures, timeout=self.deadline.left_s())
        rate = count / (time.perf_counter() - begin)
        if any(total != ranks * number for number, (ranks, total) in enumerate(values)):
            raise RuntimeError("the ranks did not compute what they should")
        return rate

    def plain_rate(self, count: int) -> float:
        """Run functions without MPI; return tasks per second."""
        begin = time.perf_counter()
        futures = self._session.submit_many(tasks.nothing, [()] * count)
        pilot.gather(futures, timeout=self.deadline.left_s())
        return count / (time.perf_counter() - begin)


def _warm(
    stage: Stage,
    bench: _Functions,
    references: mpi_references.References,
    site: Site,
    where: str,
    spread: dict[str, Any],
) -> None:
    """Measure functions on one world and on as many as fit, beside resident ranks and plain
    functions."""
    count = stage.count(2_000, 200)
    cores = CORES if spread else NODES * CORES // RANKS
    for worlds, need in ((1, {"cores": cores}), (WORLDS, {})):
        stage.say(f"functions, warm, worlds: {worlds}")
        function = bench.function(ranks=RANKS, **spread, **need)
        bench.rate(max(40, count // 10), [function])
        samples: dict[str, list[float]] = {}
        used: list[dict[str, float]] = []
        for _ in range(stage.count(ROUNDS, 1)):
            roles = site_processes(site)
            before = cpu_by_role(roles)
            samples.setdefault("", []).append(bench.rate(count, [function]))
            after = cpu_by_role(roles)
            used.append({role: (after[role] - before[role]) / count for role in before})
            for name, rate in (
                ("ranks that stay in MPI", references.resident_rate(count, worlds, LIMIT_S)),
                ("functions without MPI", bench.plain_rate(count)),
            ):
                samples.setdefault(name, []).append(rate)
        title = f"{count:,} {RANKS}-rank functions {where}, warm, worlds: {worlds}"
        rates = {name: measure.median(each) for name, each in samples.items()}
        stage.findings.add("W5", title, "tasks/s", rates.pop(""), rates)
        for role in ("client", "head", "agent", "rank"):
            spent = 1e6 * measure.median([one.get(role, 0.0) for one in used])
            case = f"processor time, {role}, worlds: {worlds}"
            stage.findings.add("W5", case, "µs/task", spent, more_is_better=False)


def _mix(stage: Stage, bench: _Functions, where: str) -> None:
    """Measure shapes in random order, beside the same tasks sorted by shape."""
    stage.say("functions, a mix of shapes")
    count = stage.count(1_800, 180)
    functions = [bench.function(ranks=ranks) for ranks in SHAPES]
    order = [functions[n % len(functions)] for n in range(count)]
    random.Random(5).shuffle(order)
    for _ in range(2):
        bench.rate(count, order)
    mixed, alone = [], []
    for _ in range(stage.count(ROUNDS, 1)):
        mixed.append(bench.rate(count, order))
        share = count // len(functions)
        alone.append(count / sum(share / bench.rate(share, [one]) for one in functions))
    shapes = ", ".join(map(str, SHAPES))
    stage.findings.add(
        "W5",
        f"{count:,} functions of {shapes} ranks {where}, in random order",
        "tasks/s",
        measure.median(mixed),
        {"one shape after the other": measure.median(alone)},
    )


def _idle(stage: Stage, site: Site) -> None:
    """Measure the cost of warm ranks that have nothing to do."""
    stage.say("idle worlds")
    ranks = site_processes(site).get("rank", [])
    before = sum(map(measure.cpu_s, ranks))
    time.sleep(IDLE_S)
    used = 100 * (sum(map(measure.cpu_s, ranks)) - before) / IDLE_S
    case = f"{len(ranks)} idle ranks together, {IDLE_S:.0f} s"
    stage.findings.add("W5", case, "% of a core", used, more_is_better=False)


def _programs(
    stage: Stage,
    session: pilot.Session,
    references: mpi_references.References,
    site: Site,
    where: str,
    spread: dict[str, Any],
) -> None:
    """Measure programs that start MPI anew, as many at once as fit."""
    stage.say("programs")
    count = stage.count(20, 8)
    program = pilot.shell(
        list(mpi_references.PROGRAM), name="mpi-program", ranks=RANKS, retries=RETRIES, **spread
    )
    deadline = Deadline(LIMIT_S)
    rates: list[float] = []
    attempts = 0
    loops: dict[str, list[Loop]] = {}
    for _ in range(stage.count(ROUNDS, 1)):
        begin = time.perf_counter()
        futures = session.submit_many(program, [()] * count)
        ended = pilot.gather(futures, timeout=deadline.left_s())
        rates.append(count / (time.perf_counter() - begin))
        if any(result.returncode for result in ended):
            raise RuntimeError("an MPI program failed")
        with asking(site) as ask:
            attempts += sum(ask("task", task=future.task_id)["attempts"] for future in futures)
        for many, runs in ((1, count // 4), (WORLDS, count)):
            for name, loop in references.loop(runs, many, LIMIT_S, RETRIES).items():
                loops.setdefault(name, []).append(loop)
    others = {name: measure.median([loop.rate for loop in each]) for name, each in loops.items()}
    case = f"{count} {RANKS}-rank programs {where}"
    stage.findings.add("W5", case, "tasks/s", measure.median(rates), others)
    stage.findings.add(
        "W5",
        f"starts of programs that failed, {where}",
        "",
        attempts - count * len(rates),
        {name: sum(loop.repeated for loop in each) for name, each in loops.items()},
        more_is_better=False,
    )
