"""A pilot's job script for Slurm. Pure.

A person can run it by hand with ``sbatch``.
"""

from __future__ import annotations

import math
import re
from typing import Any

from pilot.scheduler.batch.base import JobRequest
from pilot.scheduler.batch.script import JobFacts, render

_SAFE = re.compile(r"[A-Za-z0-9_@%+=:,./\[\]&|*()!-]*")
_ASKS_FOR_MEMORY = re.compile(r"--mem(-per-cpu|-per-gpu)?([= ]|$)")


def job_script(request: JobRequest) -> str:
    """Write the job script of a request.

    Raises
    ------
    ValueError
        A directive cannot be written on one line.
    """
    # SLURM_JOB_END_TIME came after Slurm 22.05.
    ends_at = f"${{SLURM_JOB_END_TIME:-$(( $(date +%s) + {round(request.walltime_s)} ))}}"
    if _is_less(request.least_walltime_s, request.walltime_s):
        # How much of it Slurm has given, only Slurm knows; the variable has the least.
        ends_at = (
            "$(SLURM_TIME_FORMAT=%s timeout 10 squeue --noheader --jobs=$SLURM_JOB_ID --format=%e "
            f"2>/dev/null | grep -xE '[0-9]+' || echo {ends_at})"
        )
    facts = JobFacts(
        job_id='"$SLURM_JOB_ID"',
        restart_count='"${SLURM_RESTART_COUNT:-0}"',
        nodelist='"$SLURM_JOB_NODELIST"',
        node='"$SLURMD_NODENAME"',
        ends_at=f'"{ends_at}"',
    )
    options = directives(request)
    return render(request, facts, [f"#SBATCH {quote_directive(option)}" for option in options])


def directives(request: JobRequest) -> list[str]:
    """Return the ``sbatch`` options of a request, each as one text without quotes."""
    asked: Any = request.directives  # with the `SlurmPoolKeys`
    # Only to the script's own process: it has the time until then to drain.
    signal = f"--signal=B:USR1@{max(1, min(65535, round(request.warning_s)))}"
    options = [
        f"--job-name={request.name}",
        f"--nodes={_range(request)}",
        # One slot per core rather than one task with many cores: mpirun counts tasks as its slots.
        f"--ntasks-per-node={asked.cores_per_node}",
        f"--time={format_walltime(math.ceil(request.walltime_s))}",
        *([signal] if request.warning_s else ()),
        # In the pattern of the file name, % begins a field.
        f"--chdir={request.directory}",
        f"--output={str(request.directory).replace('%', '%%')}/%j.out",
        # A preempted pilot comes back under its id, and goes on in the same file.
        "--requeue" if request.restarts else "--no-requeue",
        "--open-mode=append",
    ]
    if _is_less(request.least_walltime_s, request.walltime_s):
        options.append(f"--time-min={format_walltime(math.ceil(request.least_walltime_s))}")
    if request.after:
        options.append(f"--dependency=afterany:{request.after}")
    if request.nodes > 1:
        # A failed node must not end the work on the others.
        options.append("--no-kill")
    named = ("partition", "account", "qos", "constraint", "reservation")
    options += [f"--{name}={getattr(asked, name)}" for name in named if getattr(asked, name)]
    # sbatch refuses --mem beside --mem-per-cpu: where the site asks for memory, it alone does.
    if not any(map(_ASKS_FOR_MEMORY.match, asked.sbatch_options)):
        if asked.memory_request == "all":
            options.append("--mem=0")  # sbatch's word for it
        elif asked.memory_request == "counted" and asked.memory_per_node_mib:
            options.append(f"--mem={asked.memory_per_node_mib}M")
    if asked.gpus_per_node:
        options.append(f"--gres=gpu:{asked.gpus_per_node}")
    # Last, so that the site's own options win.
    return [*options, *asked.sbatch_options]


def _range(request: JobRequest) -> str:
    if _is_less(request.least_nodes, request.nodes):
        return f"{request.least_nodes}-{request.nodes}"
    return str(request.nodes)


def _is_less(least: float, most: float) -> bool:
    return 0 < least < most


def quote_directive(option: str) -> str:
    r"""Return an option quoted for a ``#SBATCH`` line: ``\`` escapes, also in quotes.

    Raises
    ------
    ValueError
        The option does not fit on one line.
    """
    if not option.isprintable():
        raise ValueError(f"{option!r} cannot stand on a line of a job script")
    if _SAFE.fullmatch(option):
        return option
    return '"' + option.replace("\\", "\\\\").replace('"', '\\"') + '"'


def format_walltime(seconds: float) -> str:
    """Write seconds as ``D-HH:MM:SS`` or ``HH:MM:SS``."""
    days, rest = divmod(round(seconds), 86400)
    clock = f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock
