"""W5, MPI: 40 tasks of two ranks over two nodes each, inside one allocation of four nodes.

MPI functions (mpi4py) run on warm worlds; their first round, which starts the worlds, is a measure
of its own. MPI programs are started anew each time, as a loop of ``srun`` in the same allocation
does. Without a Slurm: two ranks on this machine, beside a loop of ``mpiexec``.

The start of an MPI program through a launcher fails now and then on a machine that is too busy (its
ranks do not find each other): it is tried again on both sides, and the report says how often.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pilot
from bench import references, tasks
from bench.measure import Deadline
from bench.stage import Stage, asking, one_pool

NODES = 4
RANKS = 2
LIMIT_S = 240.0
#: Warm functions are so short that more of them are needed for a rate.
WARM_ROUNDS = 10
RETRIES = 3


def run(stage: Stage) -> None:
    """Measure."""
    count = stage.count(40, 8)
    if stage.slurm is None:
        stage.findings.miss("W5", f"on {NODES} nodes", stage.no_slurm)
        _measure(stage, count, "on one node", "")
        return
    text = one_pool(stage.slurm.site_text, min_nodes=NODES, max_nodes=NODES, nodes_per_pilot=NODES)
    _measure(stage, count, f"over 2 of {NODES} nodes", text)


def _measure(stage: Stage, count: int, where: str, text: str) -> None:
    options: dict[str, Any] = {"ranks": RANKS}
    if text:
        options["ranks_per_node"] = 1
    function = pilot.mpi(**options)(tasks.sum_over_ranks)
    program = pilot.shell(
        list(references.MPI_PROGRAM), name="mpi-program", retries=RETRIES, **options
    )
    with stage.site(text) as site, pilot.Session(site, name="bench") as session:
        deadline = Deadline(LIMIT_S)
        # The allocation is there when a plain task has run.
        session.submit(tasks.nothing).result(deadline.left_s())
        stage.say("functions, first round")
        cold = _functions_rate(session, function, count, deadline)
        stage.say("functions, warm")
        warm = _functions_rate(session, function, count * WARM_ROUNDS, deadline)
        stage.say("programs")
        begin = time.perf_counter()
        futures = session.submit_many(program, [()] * count)
        ended = pilot.gather(futures, timeout=deadline.left_s())
        programs = count / (time.perf_counter() - begin)
        if any(result.returncode for result in ended):
            raise RuntimeError("an MPI program failed")
        with asking(site) as ask:
            attempts = [ask("task", task=future.task_id)["attempts"] for future in futures]
    stage.say("references")
    few = max(2, count // 4)
    loops = _references(stage, few)
    others = {name: loop.rate for name, loop in loops.items()}
    title = f"{RANKS}-rank"
    add = stage.findings.add
    add("W5", f"{count} {title} functions {where}, with the start", "tasks/s", cold, others)
    add("W5", f"{count * WARM_ROUNDS} {title} functions {where}, warm", "tasks/s", warm, others)
    add("W5", f"{count} {title} programs {where}", "tasks/s", programs, others)
    add(
        "W5",
        f"starts of programs that failed, {where}",
        "%",
        100 * (sum(attempts) / count - 1),
        {name: 100 * loop.repeated / few for name, loop in loops.items()},
        more_is_better=False,
    )


def _functions_rate(session: pilot.Session, function: Any, count: int, deadline: Deadline) -> float:
    begin = time.perf_counter()
    futures = session.submit_many(function, [(number,) for number in range(count)])
    values = pilot.gather(futures, timeout=deadline.left_s())
    rate = count / (time.perf_counter() - begin)
    if values != [(RANKS, RANKS * number) for number in range(count)]:
        raise RuntimeError("the ranks did not compute what they should")
    return rate


def _references(stage: Stage, few: int) -> dict[str, references.Loop]:
    """Loops that start the same program so many times, one at a time and as many as fit."""
    if stage.slurm is None:
        launcher = shutil.which("mpiexec")
        if launcher is None:
            stage.findings.miss("W5", "a loop of mpiexec", "there is no mpiexec on the PATH")
            return {}
        start = [launcher, "-n", str(RANKS), *references.MPI_PROGRAM]
        return {
            "mpiexec, one at a time": references.command_loop(start, few, 1, LIMIT_S, {}, RETRIES),
        }
    with _allocation(stage) as job:
        env = stage.slurm.mpi_variables
        start = [
            "srun",
            f"--jobid={job}",
            *stage.slurm.mpi_options,
            f"--nodes={RANKS}",
            f"--ntasks={RANKS}",
            "--cpus-per-task=1",
            "--mem=0",
            "--overlap",
            f"--chdir={stage.directory}",
            *references.MPI_PROGRAM,
        ]
        return {
            "srun, one at a time": references.command_loop(start, few, 1, LIMIT_S, env, RETRIES),
            f"srun, {NODES} at a time": references.command_loop(
                start, few, NODES, LIMIT_S, env, RETRIES
            ),
        }


@contextlib.contextmanager
def _allocation(stage: Stage) -> Iterator[str]:
    """Four nodes that do nothing, for steps from outside; given back at the end."""
    assert stage.slurm is not None
    answer = subprocess.run(
        [
            "sbatch",
            "--parsable",
            f"--nodes={NODES}",
            "--exclusive",
            "--time=10",
            "--output=/dev/null",
            f"--chdir={stage.directory}",
            "--wrap=sleep 600",
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    job = answer.stdout.strip().split(";")[0]
    try:
        deadline = Deadline(60.0)
        while _state(job) != "RUNNING":
            deadline.left_s()
            time.sleep(0.1)
        yield job
    finally:
        subprocess.run(["scancel", job], check=False, timeout=30)


def _state(job: str) -> str:
    return subprocess.run(
        ["squeue", "--noheader", "--format=%T", f"--jobs={job}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout.strip()
