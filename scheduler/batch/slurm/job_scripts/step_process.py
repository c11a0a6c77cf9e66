"""One process of a step that `srun_program` starts: pinned, with its variables and its streams.

It is run by its path, on the node where the process is to be, and needs the standard library alone.
It becomes the command, other than where each line of its output gets a label.
"""

# ruff: noqa: PTH120  # pathlib would double the time that each process needs to start

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from typing import Any

if __package__:
    from pilot.scheduler.batch.slurm.job_scripts.srun_options import Wrong, expand
else:
    sys.path.insert(0, os.path.dirname(__file__))
    from srun_options import Wrong, expand  # type: ignore[import-not-found, no-redef]  # by its path

_RANK = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")


def fill(pattern: str, values: dict[str, Any]) -> str:
    """Fill in the patterns of a file's name that are among the values, by their letters."""

    def filled(found: re.Match[str]) -> str:
        width, letter = found[1], found[2]
        if letter not in values:
            return found[0]
        value = values[letter]
        return str(value).zfill(min(int(width or 0), 10)) if isinstance(value, int) else value

    return re.sub(r"%(\d*)([A-Za-z])", filled, pattern)


def be_process(about: dict[str, Any], command: list[str], rank: int) -> int:
    """Become a process of a step; return its exit status where that is not possible."""
    counts = about["counts"]
    node, local = _place_of(about, rank)
    os.environ.update(about["variables"])
    os.environ.update(
        SLURM_PROCID=str(rank),
        SLURM_LOCALID=str(local),
        SLURM_NODEID=str(node),
        SLURMD_NODENAME=about["nodes"][node],
        SLURM_TASK_PID=str(os.getpid()),
    )
    cores, each = about["cores"][node], about["each"]
    mine = cores[local * each : (local + 1) * each] if each else cores
    if "is_remote" in about:
        # However Slurm binds its processes: the cores are counted among all that the job has here.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
    if mine:
        real = sorted(os.sched_getaffinity(0))
        with contextlib.suppress(OSError, IndexError):  # then it runs where it is
            os.sched_setaffinity(0, mine if about["is_first"][node] else [real[n] for n in mine])
    patterns = {**about["patterns"], "t": rank, "n": node, "N": about["nodes"][node]}
    _redirect(about["streams"], patterns, sum(counts))
    if about["multi"]:
        command = _of_rank(command, rank)
    if about["label"]:
        return _labelled(f"{rank:>{about['label']}}: ".encode(), command)
    return _execute(command)


def _place_of(about: dict[str, Any], rank: int) -> tuple[int, int]:
    """Return the node of a rank among those of the step, and the rank's number there."""
    name, local = os.environ.get("SLURMD_NODENAME", ""), os.environ.get("SLURM_LOCALID", "")
    if "is_remote" in about and name in about["nodes"] and local.isdecimal():
        return about["nodes"].index(name), int(local)
    for node, count in enumerate(about["counts"]):
        if rank < count:
            return node, rank
        rank -= count
    return 0, 0


def _redirect(streams: dict[str, str], patterns: dict[str, Any], tasks: int) -> None:
    for name, number in (("input", 0), ("output", 1), ("error", 2)):
        pattern = streams.get(name)
        if pattern is None:
            continue
        path = os.devnull if pattern == "none" else fill(pattern, patterns)
        flags = os.O_RDONLY
        if number:
            one = tasks == 1 or re.search(r"%\d*[tnN]", pattern)
            flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if one else os.O_APPEND)
        file = os.open(path, flags, 0o666)
        os.dup2(file, number)
        os.close(file)
        if name == "output" and "error" not in streams:
            os.dup2(1, 2)


def _of_rank(command: list[str], rank: int) -> list[str]:
    """Return the words of a rank in a file of several programs (``--multi-prog``)."""
    import shlex

    with open(command[0], encoding="utf-8") as file:
        for line in file:
            words = shlex.split(line, comments=True)
            if words and (words[0] == "*" or rank in _ranks(words[0])):
                offset = str(rank - _ranks(words[0])[0])
                return [w.replace("%t", str(rank)).replace("%o", offset) for w in words[1:]]
    raise Wrong(f"{command[0]} has no program for task {rank}")


def _ranks(listed: str) -> list[int]:
    return [int(n) for n in expand(f"[{listed}]")] if listed != "*" else [0]


def _labelled(label: bytes, command: list[str]) -> int:
    """Run a command, with a label before each line of what it writes."""
    import subprocess
    import threading

    def copy(source: Any, number: int) -> None:
        for line in source:
            os.write(number, label + (line if line.endswith(b"\n") else line + b"\n"))

    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        return _not_started(command, error)
    threads = [
        threading.Thread(target=copy, args=pair)
        for pair in ((process.stdout, 1), (process.stderr, 2))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    status = process.wait()
    return status if status >= 0 else 128 - status


def _execute(command: list[str]) -> int:
    try:
        os.execvp(command[0], command)
    except OSError as error:
        return _not_started(command, error)


def _not_started(command: list[str], error: OSError) -> int:
    sys.stderr.write(f"srun: error: {command[0]} cannot be started: {error.strerror}\n")
    return error.errno or 1


def main(words: list[str]) -> int:
    """Be the process that the first word describes."""
    about = json.loads(words[0])
    rank = next((os.environ[each] for each in _RANK if each in os.environ), "0")
    about["is_remote"] = "SLURM_PROCID" in os.environ
    try:
        return be_process(about, words[1:], int(rank))
    except (Wrong, OSError) as error:
        sys.stderr.write(f"srun: error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
