"""Measure what bursts, preemption and walltimes cost on the virtual cluster, by its accounting.

    scripts/virtual-cluster up
    eval "$(scripts/virtual-cluster env)"
    scripts/taken preemption                       # 8 urgent jobs take 2 of 4 nodes, for 20 s each
    scripts/taken preemption --nodes-per-pilot 1
    scripts/taken walltime                         # pilots of 2 minutes, tasks of 30 s
    scripts/taken walltime --time-limit 40 --max-nodes 2
    scripts/taken bursts                           # 200, 40 and 100 tasks of 1 s, 60 s in between
    scripts/taken bursts --min-nodes 4             # all 4 nodes, all the time
    scripts/taken bursts --idle-time 1h            # nodes that were got once are kept

Needs the cluster for itself, a quiet machine, and an environment that has Pilot. It prints what was
held, what of it was useful (each step once), how attempts ended, which steps were made more than
once, and the longest time without a node.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compiling
import yaml

import pilot
from pilot.site import Site, create_site, open_site
from taken import accounting, tasks

CLUSTER = Path(__file__).resolve().parents[2] / "virtual-cluster"
#: Cores of a node of the virtual cluster.
CORES = 4
#: The bursts: tasks of one core, of two whole nodes, and of one core again; and what is between.
BURSTS, PAUSE_S = (200, 40, 100), 60.0
#: The urgent jobs: one each so many seconds, for so many, on so many nodes.
EVERY_S, URGENT_S, URGENT_NODES = 40.0, 20, 2
ACCOUNTED_S = 30.0


def main() -> int:
    """Run one experiment; return the exit status: 1 where a result is wrong."""
    arguments = _parser().parse_args()
    compiling.compile_pilot()
    shared = Path(json.loads(_run([str(CLUSTER), "status", "--json"]))["shared_directory"])
    home = Path(tempfile.mkdtemp(prefix="taken-", dir=shared))
    os.environ["PILOT_HOME"] = str(home)
    os.chdir(home)
    site = _site(home / "site", arguments)
    try:
        figures = _experiment(site, home, arguments)
    finally:
        stop = [sys.executable, "-m", "pilot", "--site", str(home / "site"), "head", "stop"]
        subprocess.run(stop, check=False, capture_output=True)
        if arguments.keep:
            print(f"the site is in {home}", file=sys.stderr)
        else:
            shutil.rmtree(home, ignore_errors=True)
    for name, value in figures.items():
        print(f"{name:28} {value}")
    return 0 if figures["wrong results"] == 0 else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("kind", choices=("bursts", "preemption", "walltime"))
    parser.add_argument("--nodes-per-pilot", type=int, default=4)
    parser.add_argument("--max-nodes", type=int, default=4)
    parser.add_argument("--min-nodes", type=int, default=0)
    parser.add_argument("--idle-time", default="auto", help="How long idle nodes are kept.")
    parser.add_argument("--tasks", type=int, help="Default: 100, or 10 minutes of work.")
    parser.add_argument("--mpi", type=int, default=60, help="MPI tasks; with preemption only.")
    parser.add_argument("--urgent", type=int, default=8, help="Urgent jobs.")
    parser.add_argument("--checkpoint-every", type=int, default=5, help="Steps of 1 s.")
    parser.add_argument("--time-limit", type=float, help="Of the tasks of 30 s; default: none.")
    parser.add_argument("--keep", action="store_true", help="Keep the site's directory.")
    return parser


def _site(directory: Path, arguments: argparse.Namespace) -> Site:
    create_site(directory, "virtual")
    path = directory / "site.yaml"
    config = yaml.safe_load(path.read_text())
    pool = config["pools"]["main"]
    nodes = min(arguments.nodes_per_pilot, arguments.max_nodes)
    pool.update(
        nodes_per_pilot=nodes,
        max_nodes=arguments.max_nodes,
        min_nodes=arguments.min_nodes,
        idle_time=arguments.idle_time,
    )
    if arguments.kind == "walltime":
        pool["walltime"] = "2m"
    config["pools"] = {"main": pool}
    path.write_text(yaml.safe_dump(config))
    return open_site(directory)


def _experiment(site: Site, home: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    notes = home / "notes"
    notes.mkdir()
    begin = time.time()
    with pilot.Session(site, sys_path=[Path(__file__).resolve().parents[1]]) as session:
        if arguments.kind == "preemption":
            wanted, useful_s = _submit_with_checkpoints(session, notes, arguments)
            end = threading.Event()
            thread = threading.Thread(target=_take_nodes, args=(arguments.urgent, end))
            thread.start()
            try:
                results = pilot.gather([future for future, _ in wanted])
            finally:
                end.set()
                thread.join()
        elif arguments.kind == "bursts":
            wanted, useful_s = _submit_bursts(session, notes)
            results = pilot.gather([future for future, _ in wanted])
        else:
            wanted, useful_s = _submit_blind(session, notes, arguments)
            results = pilot.gather([future for future, _ in wanted])
        makespan_s = time.time() - begin
        outcomes = _outcomes(session, [future for future, _ in wanted])
        lines = session.query("fleet", alive=False, limit=1000)
        jobs = [row["job"] for row in lines if row["job"]]
    _run([sys.executable, "-m", "pilot", "--site", str(site.directory), "head", "stop"])
    wrong = sum(result != steps for result, (_, steps) in zip(results, wanted, strict=True))
    held = _accounted(jobs)
    held_s = sum(span.node_s for span in held)
    repeated, made = _repeated(notes)
    gap_s = max(accounting.gaps(held, begin + makespan_s), default=0.0)
    return {
        "makespan, s": f"{makespan_s:.1f}",
        "wrong results": wrong,
        "attempts, by outcome": ", ".join(f"{n} {name}" for name, n in sorted(outcomes.items())),
        "steps made, and repeated": f"{made}, {repeated}",
        "jobs, and their lives": f"{len(set(jobs))}, {len(held)}",
        "held, node-s": f"{held_s:.0f}",
        "useful, node-s": f"{useful_s:.0f}",
        "useful / held": f"{useful_s / held_s:.3f}",
        "longest time without a node": f"{gap_s:.0f} s",
    }


def _submit_with_checkpoints(
    session: pilot.Session, notes: Path, arguments: argparse.Namespace
) -> tuple[list[tuple[pilot.Future[int], int]], float]:
    steps, together, count = 20, 5, arguments.tasks or 100
    # Pilots of one node run them on that.
    world = tasks.count_together.options(ranks_per_node=1 if arguments.nodes_per_pilot > 1 else 2)
    futures = [
        (session.submit(tasks.count, str(notes), f"c{n}", steps, arguments.checkpoint_every), steps)
        for n in range(count)
    ]
    futures += [
        (world.submit(str(notes), f"m{n}", together), together) for n in range(arguments.mpi)
    ]
    core_s = tasks.STEP_S * (count * steps + arguments.mpi * together * 4)
    return futures, core_s / CORES


def _submit_bursts(
    session: pilot.Session, notes: Path
) -> tuple[list[tuple[pilot.Future[int], int]], float]:
    """Submit each burst when the one before has ended, and the pause after it."""
    kinds: list[Callable[..., int]] = [tasks.count_blindly, tasks.wait_on_two_nodes]
    wanted: list[tuple[pilot.Future[int], int]] = []
    for number, count in enumerate(BURSTS):
        task = kinds[number % 2]
        if wanted:
            concurrent.futures.wait([future for future, _ in wanted])
            time.sleep(PAUSE_S)
        wanted += [(session.submit(task, str(notes), f"{number}x{n}", 1), 1) for n in range(count)]
    single, together, last = BURSTS
    return wanted, tasks.STEP_S * ((single + last) / CORES + together * 2)


def _submit_blind(
    session: pilot.Session, notes: Path, arguments: argparse.Namespace
) -> tuple[list[tuple[pilot.Future[int], int]], float]:
    steps = 30
    count = arguments.tasks or 600 * CORES * arguments.max_nodes // steps
    task = pilot.task(time_limit=arguments.time_limit)(tasks.count_blindly)
    futures = [(session.submit(task, str(notes), f"b{n}", steps), steps) for n in range(count)]
    return futures, tasks.STEP_S * count * steps / CORES


def _take_nodes(count: int, end: threading.Event) -> None:
    """Take nodes by jobs of the urgent partition, one after the other."""
    for _ in range(count):
        if end.wait(EVERY_S - URGENT_S):
            return
        options = ["--partition=urgent", f"--nodes={URGENT_NODES}", "--exclusive"]
        _run(["sbatch", "--wait", "--output=/dev/null", *options, "--wrap", f"sleep {URGENT_S}"])


def _outcomes(session: pilot.Session, futures: list[pilot.Future[int]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for future in futures:
        for row in session.query("task", task=future.task_id)["attempts_made"]:
            told = (row["error"] or "").startswith("Stopped")
            found[f"{row['outcome']}{' (stopped)' if told else ''}"] += 1
    return found


def _repeated(notes: Path) -> tuple[int, int]:
    """Return how many steps were made more than once, and how many were made in all."""
    made: Counter[tuple[str, str]] = Counter()
    for path in notes.iterdir():
        name = path.name.split("-")[0]
        made.update((name, step) for step in path.read_text().split())
    return sum(times - 1 for times in made.values()), made.total()


def _accounted(jobs: list[str]) -> list[accounting.Span]:
    """Return what the jobs held, once accounting knows the ends of all."""
    deadline = time.monotonic() + ACCOUNTED_S
    while True:
        environment = {**os.environ, "SLURM_TIME_FORMAT": "%s"}
        options = ["-X", "-n", "-P", "-D", f"--format={accounting.COLUMNS}", "-j", ",".join(jobs)]
        output = _run(["sacct", *options], environment)
        if "Unknown" not in output or time.monotonic() > deadline:
            return accounting.spans(output)
        time.sleep(1.0)


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout
