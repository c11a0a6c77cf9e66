"""The program that job scripts find as ``srun``: it starts processes on the script's own cores.

It is run by its path (``python -I -S``), once for each ``srun`` of a script, so it needs the
standard library alone, and becomes what it starts wherever it can. ``steps.json`` in
``$PILOT_SCRIPT`` says what the script has; beside it is a file for each core, locked by the step
that uses it, so steps that run side by side share none, and wait for each other as in Slurm. A lock
ends with its processes.

One process on the script's node is started directly. More are started by Slurm's own srun, with
``--overlap`` and on the nodes of the script only; where there is no Slurm, by an MPI library's
mpirun, or else one by one. Around each of them is `step_process`, which pins it and sets the
variables of its step.
"""

# ruff: noqa: PTH113, PTH118, PTH119, PTH120  # pathlib would double the time that srun needs to start

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import sys
import time
from typing import Any, NamedTuple

if __package__:
    from pilot.scheduler.batch.slurm.job_scripts.srun_options import Wrong, expand, parse, whole
    from pilot.scheduler.batch.slurm.job_scripts.step_process import be_process, fill
else:
    sys.path.insert(0, os.path.dirname(__file__))
    from srun_options import (  # type: ignore[import-not-found, no-redef]  # by its path
        Wrong,
        expand,
        parse,
        whole,
    )
    from step_process import be_process, fill  # type: ignore[import-not-found, no-redef]  # as above

#: As `pilot.scheduler.batch.job_scripts.SCRIPT_PLACE`.
PLACE = "PILOT_SCRIPT"
#: Options that Slurm's own srun gets as they are.
_PASSED = {
    *("bcast", "compress", "export", "kill-on-bad-exit", "label", "mpi", "open-mode"),
    *("preserve-env", "propagate", "pty", "quiet", "resv-ports", "time", "unbuffered", "wait"),
    *("task-prolog", "task-epilog", "network", "cpu-freq", "mem-bind", "verbose"),
}
#: Daemons of MPI libraries, which start ranks on all cores of the script on their node.
_DAEMONS = {"orted", "prted", "hydra_pmi_proxy", "hydra_bstrap_proxy", "pmi_proxy", "mpispawn"}
#: How long is waited for cores between two looks, in seconds, at first and at most.
_FIRST_S, _MOST_S = 0.02, 0.5


class Step(NamedTuple):
    """A step: its processes on nodes, and their cores."""

    #: For each node that it has, its place among the script's, how many processes, and their cores.
    shares: list[tuple[int, int, list[int]]]
    cores_per_task: int
    #: True if all processes of a node have all of its cores.
    is_free: bool

    @property
    def tasks(self) -> int:
        """The number of its processes."""
        return sum(count for _, count, _ in self.shares)


def lay_out(options: dict[str, str], facts: dict[str, Any], free: list[list[int]]) -> Step | None:
    """Return the step that the options ask for, on free cores; None: there are too few now.

    Parameters
    ----------
    free
        For each node of the script the places of the cores that may be used.

    Raises
    ------
    Wrong
        The script has not so much.
    """
    names = facts["nodes"]
    wanted = list(range(len(names)))[whole(options, "relative") :]
    if "nodelist" in options:
        asked = expand(options["nodelist"])
        if missing := [name for name in asked if name not in names]:
            raise Wrong(f"{', '.join(missing)}: not among this script's nodes, {', '.join(names)}")
        wanted = [names.index(name) for name in asked]
    left_out = expand(options.get("exclude", ""))
    wanted = [node for node in wanted if names[node] not in left_out]
    nodes = whole(options, "nodes")
    per_node = whole(options, "ntasks-per-node")
    tasks = whole(options, "ntasks")
    if not tasks and per_node:
        tasks = per_node * (nodes or len(wanted))
    tasks = tasks or whole({}, "ntasks", "SLURM_NTASKS") or nodes or len(wanted)
    if nodes > len(wanted):
        raise Wrong(f"{nodes} nodes were asked for, of the {len(wanted)} that there are")
    each = whole(options, "cpus-per-task", "SRUN_CPUS_PER_TASK") or whole(
        {}, "cpus-per-task", "SLURM_CPUS_PER_TASK"
    )
    each = each or 1
    is_free = "overcommit" in options or options.get("cpu-bind", "").endswith("none")
    most = [len(cores) // each for cores in free]
    if is_free:
        most = [tasks] * len(free)
    if per_node:
        most = [min(per_node, count) for count in most]
    # As Slurm does: as equal as can be, over the nodes that there are, in blocks.
    counts = dict.fromkeys(wanted, 0)
    usable = [node for node in wanted if most[node]]
    if nodes or tasks < len(wanted):
        usable.sort(key=lambda node: -most[node])
        usable = sorted(usable[: nodes or tasks])
    if len(usable) < nodes:
        return None
    left = tasks
    while left:
        before = left
        for node in usable:
            if left and counts[node] < most[node]:
                counts[node] += 1
                left -= 1
        if left == before:
            return None
    shares = [
        (node, count, free[node] if is_free else free[node][: count * each])
        for node, count in counts.items()
        if count
    ]
    return Step(shares, each, is_free)


def all_cores(facts: dict[str, Any]) -> list[list[int]]:
    """Return the places of the cores of each node."""
    return [list(range(facts["cores_per_node"])) for _ in facts["nodes"]]


def take(options: dict[str, str], facts: dict[str, Any], place: str) -> tuple[Step, int]:
    """Wait for cores and return the step and its number; locks on them stay with this process.

    Raises
    ------
    Wrong
        The script has not so many.
    """
    everything = all_cores(facts)
    possible = lay_out(options, facts, everything)
    if possible is None:
        raise Wrong("more processors requested than the script has (see -n, -c and --overcommit)")
    shares_all = possible.is_free or "overlap" in options or "SLURM_OVERLAP" in os.environ
    pause = _FIRST_S
    while True:
        with open(os.path.join(place, "steps"), "a+", encoding="ascii") as counter:
            fcntl.flock(counter, fcntl.LOCK_EX)
            step = possible if shares_all else _locked(options, facts, place)
            if step is not None:
                counter.seek(0)
                number = int(counter.read() or 0)
                counter.seek(0)
                counter.truncate()
                counter.write(str(number + 1))
                return step, number
        time.sleep(pause)
        pause = min(2 * pause, _MOST_S)


def _locked(options: dict[str, str], facts: dict[str, Any], place: str) -> Step | None:
    """Return a step on cores that nobody uses, which are locked then; None: there are too few."""
    held: dict[tuple[int, int], int] = {}
    for node, cores in enumerate(all_cores(facts)):
        for core in cores:
            name = os.path.join(place, f"core-{node}-{core}")
            file = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held[node, core] = file
            except OSError:
                os.close(file)
    free = [[c for n, c in held if n == node] for node in range(len(facts["nodes"]))]
    step = lay_out(options, facts, free)
    used = {(node, core) for node, _, cores in step.shares for core in cores} if step else set()
    for key, file in held.items():
        if key in used:
            os.set_inheritable(file, True)
        else:
            os.close(file)
    return step


def known_patterns(facts: dict[str, Any], number: int) -> dict[str, Any]:
    """Return what is filled in for a step as a whole."""
    variables = facts["variables"]
    job = int(variables["SLURM_JOB_ID"])
    return {
        "j": job,
        "A": int(variables.get("SLURM_ARRAY_JOB_ID", job)),
        "a": int(variables.get("SLURM_ARRAY_TASK_ID", 4294967294)),
        "J": f"{job}.{number}",
        "s": number,
        "x": variables["SLURM_JOB_NAME"],
        "u": facts["user"],
    }


def process_facts(
    options: dict[str, str], facts: dict[str, Any], step: Step, number: int
) -> dict[str, Any]:
    """Return what each process of a step is to know."""
    names = facts["nodes"]
    on = [names[node] for node, _, _ in step.shares]
    variables = {
        **facts["variables"],
        "SLURM_NTASKS": str(step.tasks),
        "SLURM_NPROCS": str(step.tasks),
        "SLURM_STEP_NUM_TASKS": str(step.tasks),
        "SLURM_STEP_ID": str(number),
        "SLURM_STEPID": str(number),
        "SLURM_STEP_NODELIST": ",".join(on),
        "SLURM_STEP_NUM_NODES": str(len(on)),
        "SLURM_STEP_TASKS_PER_NODE": ",".join(str(count) for _, count, _ in step.shares),
    }
    return {
        "variables": variables,
        "nodes": on,
        "counts": [count for _, count, _ in step.shares],
        "cores": [
            [facts["cores"][node][core] for core in cores] if facts["cores"] else []
            for node, _, cores in step.shares
        ],
        # Of the script's own node they are the system's numbers, of others places among its own.
        "is_first": [node == 0 for node, _, _ in step.shares],
        "each": 0 if step.is_free else step.cores_per_task,
        "multi": "multi-prog" in options,
        "patterns": known_patterns(facts, number),
        "streams": {},
        "label": 0,
    }


def start(options: dict[str, str], command: list[str], facts: dict[str, Any]) -> int:
    """Start a step; return its exit status where this process does not become it."""
    if not command:
        raise Wrong("no command was given to execute")
    if os.path.basename(command[0]) in _DAEMONS:
        options = {**options, "overcommit": "", "overlap": ""}
    step, number = take(options, facts, os.environ[PLACE])
    about = process_facts(options, facts, step, number)
    here = len(step.shares) == 1 and step.shares[0][0] == 0
    if step.tasks == 1 and here and "pty" not in options:
        about["streams"] = _streams(options)
        about["label"] = 1 if "label" in options else 0
        return be_process(about, command, 0)
    words = [facts["python"], "-I", "-S", facts["process"]]
    if facts["has_launcher"]:
        exec_srun(options, command, facts, step, about, words)
    about["streams"] = _streams(options)
    about["label"] = len(str(step.tasks - 1)) if "label" in options else 0
    for stream in ("output", "error"):
        _empty(about, stream)
    if "chdir" in options:
        os.chdir(options["chdir"])
    if facts["mpirun"]:
        environment = {**_without_job(os.environ, facts), **facts["mpi_variables"]}
        argv = [*facts["mpirun"], "-n", str(step.tasks), *words, json.dumps(about), *command]
        os.execvpe(argv[0], argv, environment)
    return _one_by_one(about, command, step.tasks)


def exec_srun(
    options: dict[str, str],
    command: list[str],
    facts: dict[str, Any],
    step: Step,
    about: dict[str, Any],
    words: list[str],
) -> None:
    """Become Slurm's own srun."""
    names, counts = about["nodes"], set(about["counts"])
    argv = [_real("srun"), "--overlap", "--mem=0", f"--ntasks={step.tasks}"]
    if len(counts) == 1:
        how = options.get("distribution", "block").partition(":")[0]
        argv += [f"--nodes={len(names)}", f"--ntasks-per-node={counts.pop()}"]
        argv += [f"--nodelist={','.join(names)}"]
        argv += [f"--distribution={how if how in ('block', 'cyclic') else 'block'}"]
    else:
        repeated = [
            n for n, count in zip(names, about["counts"], strict=True) for _ in range(count)
        ]
        argv += [f"--nodelist={','.join(repeated)}", "--distribution=arbitrary"]
    if step.is_free:
        argv.append("--overcommit")
    argv += [o for o in facts["options"] if not ("mpi" in options and o.startswith("--mpi"))]
    for name, value in options.items():
        if name in _PASSED and not (name == "mpi" and value == "none" and not value):
            argv.append(f"--{name}={value}" if value else f"--{name}")
    for name, value in _streams(options).items():
        argv.append(f"--{name}={fill(value, about['patterns'])}")
    if "export" not in options:
        argv.append("--export=ALL")
    if "chdir" in options:
        argv.append(f"--chdir={options['chdir']}")
    environment = {**_without_job(os.environ, facts), **facts["job"]}
    argv += [*words, json.dumps(about), *command]
    os.execvpe(argv[0], argv, environment)


def _streams(options: dict[str, str]) -> dict[str, str]:
    return {
        name: options[name]
        for name in ("input", "output", "error")
        if options.get(name) not in (None, "all")
    }


def _empty(about: dict[str, Any], stream: str) -> None:
    """Empty a file that all processes of a step append to."""
    pattern = about["streams"].get(stream, "")
    if pattern and not re.search(r"%\d*[tnN]", pattern) and pattern != "none":
        with open(fill(pattern, about["patterns"]), "wb"):
            pass


def _without_job(environment: Any, facts: dict[str, Any]) -> dict[str, str]:
    return {name: v for name, v in environment.items() if name not in facts["variables"]}


def _real(program: str) -> str:
    """Return the path of Slurm's own program."""
    own = os.path.join(os.environ.get(PLACE, ""), "bin")
    for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(directory, program)
        if directory != own and os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    raise Wrong(f"{program} of Slurm is not on the PATH")


def _one_by_one(about: dict[str, Any], command: list[str], tasks: int) -> int:
    """Start the processes by forks, and return the highest of their statuses."""
    pids = []
    for rank in range(tasks):
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(be_process(about, command, rank))
            finally:
                os._exit(1)
        pids.append(pid)

    def pass_on(signum: int, _: object) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, pass_on)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    return max(status if status >= 0 else 128 - status for status in statuses)


# --- the whole


def show_hosts(words: list[str]) -> int:
    """Answer ``scontrol show hostnames``, and leave all else to Slurm's own."""
    if words[:1] == ["show"] and len(words) > 1 and "hostnames".startswith(words[1]):
        hosts = expand(words[2] if len(words) > 2 else os.environ["SLURM_JOB_NODELIST"])
        sys.stdout.write("".join(f"{host}\n" for host in hosts))
        return 0
    os.execv(_real("scontrol"), ["scontrol", *words])
    raise AssertionError  # it has become another program


def main(words: list[str]) -> int:
    """Run the program."""
    name = words.pop(0)
    try:
        if name == "scontrol":
            return show_hosts(words)
        try:
            with open(os.path.join(os.environ[PLACE], "steps.json"), encoding="utf-8") as file:
                facts = json.load(file)
        except (KeyError, OSError):
            raise Wrong(
                "in a script that Pilot runs it works on the script's first node alone"
            ) from None
        options, command = parse(words)
        if "version" in options:
            sys.stdout.write("srun of Pilot\n")
            return 0
        return start(options, command, facts)
    except Wrong as error:
        sys.stderr.write(f"{name}: error: {error}\n")
    except OSError as error:
        sys.stderr.write(f"{name}: error: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
