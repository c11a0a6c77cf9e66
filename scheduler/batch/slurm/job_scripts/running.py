"""What a script for ``sbatch`` finds where it runs: variables, names of files, ``srun``. Pure.

The number of a job (``SLURM_JOB_ID``) is made of the session and the number of the task, so that it
can be read back: task 3.17 is 100300017, and all of session 3 is 100300000. It is larger than any
number of Slurm's own jobs: ``scancel $SLURM_JOB_ID`` meets none of these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pilot.scheduler.batch.job_scripts import Programs, ScriptPlace, StepFacts
from pilot.scheduler.batch.slurm.job_scripts.reading import OWN_JOBS, PER_SESSION

#: Numbers of jobs are below this, where they can be: programs read them into 32 bits.
_MOST = 1 << 31
#: Variables that say how Slurm is reached, and so are no job's.
_NOT_OF_JOBS = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_TIME_FORMAT")
_PATTERN = re.compile(r"%(\d*)([%A-Za-z])")
#: The widest that a number in the name of a file is made.
_WIDEST = 10
#: The program that stands in for Slurm's.
_PROGRAM = str(Path(__file__).with_name("srun_program.py"))
#: The program around each process that this starts.
_PROCESS = str(Path(__file__).with_name("step_process.py"))


def is_of_job(variable: str) -> bool:
    """Tell whether a variable is one of a job of Slurm."""
    if variable in _NOT_OF_JOBS:
        return False
    return variable.startswith(("SLURM_", "SLURMD_", "SRUN_", "SBATCH_"))


def job_number(session: int, number: int) -> int:
    """Return the number of a task as that of a job; of a session where `number` is 0."""
    if number < PER_SESSION and (found := OWN_JOBS + session * PER_SESSION + number) < _MOST:
        return found
    return session << 32 | number


def script_variables(asked: Mapping[str, str], place: ScriptPlace) -> dict[str, str]:
    """Return the variables of a script, as sbatch sets them."""
    job = str(job_number(place.session, place.number))
    nodes, tasks = len(place.nodes), int(asked["tasks"])
    named = ",".join(place.nodes)
    here = place.nodes[0]
    found = {
        "ENVIRONMENT": "BATCH",
        "SLURM_JOB_ID": job,
        "SLURM_JOBID": job,
        "SLURM_JOB_NAME": place.name,
        "SLURM_JOB_NODELIST": named,
        "SLURM_NODELIST": named,
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_NNODES": str(nodes),
        "SLURM_CPUS_ON_NODE": str(place.cores),
        "SLURM_JOB_CPUS_PER_NODE": _per_node([place.cores] * nodes),
        "SLURM_TASKS_PER_NODE": _per_node(spread(tasks, nodes)),
        "SLURM_JOB_PARTITION": asked.get("partition", place.pool),
        "SLURM_JOB_START_TIME": str(int(place.started)),
        "SLURM_SUBMIT_DIR": asked.get("submit_dir", ""),
        "SLURM_SUBMIT_HOST": asked.get("submit_host", ""),
        "SLURM_JOB_USER": place.user,
        "SLURMD_NODENAME": here,
        "SLURM_NODEID": "0",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_GTIDS": "0",
        "SLURM_TOPOLOGY_ADDR": here,
        "SLURM_TOPOLOGY_ADDR_PATTERN": "node",
    }
    if place.ends:
        found["SLURM_JOB_END_TIME"] = str(int(place.ends))
    if "says_tasks" in asked or "says_tasks_per_node" in asked:
        found |= {"SLURM_NTASKS": str(tasks), "SLURM_NPROCS": str(tasks)}
    if "says_tasks_per_node" in asked:
        found["SLURM_NTASKS_PER_NODE"] = asked["tasks_per_node"]
    if "says_cores_per_task" in asked:
        found["SLURM_CPUS_PER_TASK"] = asked["cores_per_task"]
    if "memory" in asked:
        found["SLURM_MEM_PER_NODE"] = asked["memory"]
    if "memory_per_core" in asked:
        found["SLURM_MEM_PER_CPU"] = asked["memory_per_core"]
    for name in ("account", "qos"):
        if name in asked:
            found[f"SLURM_JOB_{name.upper()}"] = asked[name]
    if "distribution" in asked:
        found["SLURM_DISTRIBUTION"] = asked["distribution"]
    if place.gpus:
        found |= {
            "SLURM_JOB_GPUS": ",".join(place.gpus),
            "SLURM_GPUS_ON_NODE": str(len(place.gpus)),
        }
    if "gpus" in asked:
        found["SLURM_GPUS"] = asked["gpus"]
    if place.attempt > 1:
        found["SLURM_RESTART_COUNT"] = str(place.attempt - 1)
    if place.index:
        found |= {
            "SLURM_ARRAY_JOB_ID": str(job_number(place.session, 0)),
            "SLURM_ARRAY_TASK_ID": place.index,
            "SLURM_ARRAY_TASK_COUNT": asked["array_count"],
            "SLURM_ARRAY_TASK_MIN": asked["array_min"],
            "SLURM_ARRAY_TASK_MAX": asked["array_max"],
            "SLURM_ARRAY_TASK_STEP": asked["array_step"],
        }
    return found


def spread(tasks: int, nodes: int) -> list[int]:
    """Return how many of the tasks each node has, as equally as can be."""
    return [tasks // nodes + (node < tasks % nodes) for node in range(nodes)]


def _per_node(counts: list[int]) -> str:
    """Write numbers of the nodes as Slurm does: ``4(x2),3``."""
    words: list[str] = []
    while counts:
        same = next((n for n, each in enumerate(counts) if each != counts[0]), len(counts))
        words.append(f"{counts[0]}(x{same})" if same > 1 else str(counts[0]))
        counts = counts[same:]
    return ",".join(words)


def file_name(pattern: str, place: ScriptPlace) -> str:
    """Return the name of a file, with ``%j`` and the like filled in as for a batch script."""
    if "\\" in pattern:
        return pattern.replace("\\", "")  # Slurm's way to say that nothing is to be filled in
    job = job_number(place.session, place.number)
    index = int(place.index) if place.index else 4294967294  # what Slurm has there
    numbers = {
        "j": job,
        "A": job_number(place.session, 0) if place.index else job,
        "a": index,
        "b": index % 10,
        "n": 0,
        "t": 0,
        "r": place.attempt - 1,
    }
    texts = {
        "J": str(job),
        "N": place.nodes[0].partition(".")[0],
        "s": "batch",
        "u": place.user,
        "x": place.name,
    }

    def filled(found: re.Match[str]) -> str:
        width, letter = found[1], found[2]
        if letter in numbers:
            return str(numbers[letter]).zfill(min(int(width or 0), _WIDEST))
        return "%" if letter == "%" else texts.get(letter, found[0])

    return _PATTERN.sub(filled, pattern)


def step_programs(asked: Mapping[str, str], place: ScriptPlace, facts: StepFacts) -> Programs:
    """Return the programs in place of Slurm's, and what they know of the script."""
    return Programs(
        files={"srun": _PROGRAM, "scontrol": _PROGRAM},
        facts={
            "python": facts.python,
            "process": _PROCESS,
            "nodes": list(place.nodes),
            "cores_per_node": place.cores,
            "cores": [list(each) for each in facts.cores],
            "variables": script_variables(asked, place),
            "job": facts.job,
            "has_launcher": facts.launcher == "srun",
            "options": list(facts.launcher_options),
            "mpirun": list(facts.mpirun),
            "mpi_variables": facts.mpi_variables,
            "user": place.user,
        },
    )
