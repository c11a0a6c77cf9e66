"""The references beside MPI tasks: loops of the launcher, and ranks that stay in MPI by hand.

Both run where Pilot's tasks do: in an allocation of as many nodes, else on this machine. Whatever
is started here has ended when the block of `started` is left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench import references
from bench.measure import Deadline
from bench.stage import Stage

RANKS = 2
#: The program of the loops: it starts MPI and uses it. A start on which two ranks do not find each
#: other would wait for long.
PROGRAM = (
    "timeout",
    "20",
    sys.executable,
    "-c",
    "from mpi4py import MPI; assert MPI.COMM_WORLD.allreduce(1) == 2",
)
_RESIDENT = Path(__file__).with_name("mpi_resident.py")


class References:
    """A starter of the references.

    Parameters
    ----------
    launcher
        What comes before a command that is to run on `RANKS` ranks; empty where there is none.
    env
        Variables for it.
    """

    def __init__(self, launcher: list[str], env: dict[str, str]) -> None:
        self._launcher = launcher
        self._env = env

    def loop(
        self, count: int, at_once: int, limit_s: float, retries: int
    ) -> dict[str, references.Loop]:
        """Start `PROGRAM` `count` times, `at_once` at a time; return the loop by the launcher's
        name, or nothing."""
        if not self._launcher:
            return {}
        name = f"{Path(self._launcher[0]).name}, {at_once} at a time"
        command = [*self._launcher, *PROGRAM]
        return {name: references.command_loop(command, count, at_once, limit_s, self._env, retries)}

    def resident_rate(self, count: int, worlds: int, limit_s: float) -> float:
        """Make `count` calls in `worlds` resident worlds side by side; return calls per second."""
        each = -(-count // worlds)
        command = [*self._launcher, sys.executable, str(_RESIDENT), str(each)]
        env = {**os.environ, **self._env}
        with contextlib.ExitStack() as stack:
            ranks = []
            for _ in range(worlds if self._launcher else 0):
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True
                )
                stack.callback(_end, process)
                ranks.append(process)
            for process in ranks:
                _expect(process, "ready")
            begin = time.perf_counter()
            for process in ranks:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            for process in ranks:
                _expect(process, "done")
            rate = each * worlds / (time.perf_counter() - begin)
            for process in ranks:
                process.wait(limit_s)
        return rate if ranks else 0.0


def _expect(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    if (said := process.stdout.readline().strip()) != word:
        raise RuntimeError(f"resident ranks said {said!r} in place of {word!r}")


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait()


@contextlib.contextmanager
def started(stage: Stage, nodes: int) -> Iterator[References]:
    """Give the references, on so many nodes of the stage's Slurm, or on this machine."""
    if stage.slurm is None:
        launcher = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.defpath}")
        if launcher is None:
            stage.findings.miss("W5", "loops of mpiexec, resident ranks", "there is no mpiexec")
        yield References([launcher, "-n", str(RANKS)] if launcher else [], {})
        return
    with _allocation(stage, nodes) as job:
        step = ["srun", f"--jobid={job}", *stage.slurm.mpi_options, f"--chdir={stage.directory}"]
        step += [f"--nodes={RANKS}", f"--ntasks={RANKS}", "--cpus-per-task=1"]
        yield References([*step, "--mem=0", "--overlap"], stage.slurm.mpi_variables)


@contextlib.contextmanager
def _allocation(stage: Stage, nodes: int) -> Iterator[str]:
    """Allocate idle nodes for steps from outside, and release them at the end."""
    answer = subprocess.run(
        [
            "sbatch",
            "--parsable",
            f"--nodes={nodes}",
            "--exclusive",
            "--time=20",
            "--output=/dev/null",
            f"--chdir={stage.directory}",
            "--wrap=sleep 1200",
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
