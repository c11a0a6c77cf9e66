"""A pilot's job script. Pure: a request goes in, text comes out.

A person can read the script, and run it by hand with ``sbatch``. The local adapter runs the same
script, where the ``#SBATCH`` lines are comments.

Invariants:

- Nothing in a request can become shell code but `JobRequest.setup`, which is.
- The command takes the place of the shell (``exec``), so that the warning before the end of the
  walltime reaches it.
- The command learns all that it must know of its job from ``PILOT_*`` variables, so it need not
  know which batch system runs it.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping

from scheduler.batch.base import JobRequest
from scheduler.resources import format_walltime

_SAFE = re.compile(r"[A-Za-z0-9_@%+=:,./\[\]&|*()!-]*")


def render(request: JobRequest, facts: Mapping[str, str]) -> str:
    """The job script of a request.

    Parameters
    ----------
    request
        What to run.
    facts
        What the job knows of itself: environment variables and the shell expressions that give
        their values. The expressions are written as they are.

    Raises
    ------
    ValueError
        A directive cannot be written on one line.
    """
    lines = ["#!/bin/bash"]
    lines += [f"#SBATCH {quote_directive(option)}" for option in directives(request)]
    lines += ["", "# What this job is, for the command below."]
    lines += [f"export {name}={expression}" for name, expression in facts.items()]
    if request.variables:
        lines += ["", "# The site's environment."]
        lines += [f"export {name}={shlex.quote(text)}" for name, text in request.variables.items()]
    if request.setup.strip():
        lines += ["", "# The site's setup.", request.setup.strip("\n")]
    lines += ["", "exec " + shlex.join(request.command), ""]
    return "\n".join(lines)


def directives(request: JobRequest) -> list[str]:
    """The options of a request for ``sbatch``, each as one text without quotes."""
    asked = request.directives
    options = [
        f"--job-name={request.name}",
        f"--nodes={request.nodes}",
        # One slot per core rather than one task with many cores: mpirun counts tasks as its slots.
        f"--ntasks-per-node={asked.cores_per_node}",
        f"--time={format_walltime(math.ceil(request.walltime_s))}",
        # Only to the script's own process: it has the time until then to drain.
        f"--signal=B:USR1@{max(1, min(65535, round(request.warning_s)))}",
        # In the pattern of the file name, % begins a field.
        f"--chdir={request.directory}",
        f"--output={str(request.directory).replace('%', '%%')}/%j.out",
        # A preempted pilot comes back under its id, and goes on in the same file.
        "--requeue",
        "--open-mode=append",
    ]
    if request.nodes > 1:
        # A failed node must not end the work on the others.
        options.append("--no-kill")
    named = ("partition", "account", "qos", "constraint", "reservation")
    options += [f"--{name}={getattr(asked, name)}" for name in named if getattr(asked, name)]
    if asked.memory_per_node_mib:
        options.append(f"--mem={asked.memory_per_node_mib}M")
    if asked.gpus_per_node:
        options.append(f"--gres=gpu:{asked.gpus_per_node}")
    # Last, so that the site's own options win.
    return [*options, *asked.sbatch_options]


def quote_directive(option: str) -> str:
    r"""An option as ``sbatch`` reads it from a ``#SBATCH`` line: ``\`` escapes, also in quotes.

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
