"""A pilot's job script, for any batch system. Pure: a request goes in, text comes out.

A person can read the script, and run it by hand.

Invariants:

- Nothing in a request can become shell code but `JobRequest.setup`, which is.
- The command takes the place of the shell (``exec``), so that the warning before the end of the
  walltime reaches it.
- The command learns all that it must know of its job from ``PILOT_*`` variables, so it need not
  know which batch system runs it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import NamedTuple

from pilot.scheduler.batch.base import JobRequest


class JobFacts(NamedTuple):
    """Facts that a job learns of itself: shell expressions, which are written unquoted."""

    #: The batch system's id of the job.
    job_id: str
    #: The job's nodes, as `BatchKind.node_names` reads them.
    nodelist: str
    #: The end of the walltime, in seconds since 1970; ``0``: unknown.
    ends_at: str
    #: The number of restarts under the same id.
    restart_count: str = "0"
    #: The node that the script runs on, by its name in `nodelist`; empty: it may be bound to a part
    #: of that node.
    node: str = ""


def render(request: JobRequest, facts: JobFacts, header: Iterable[str] = ()) -> str:
    """Write the job script of a request.

    Parameters
    ----------
    request
        The job to run.
    facts
        The facts that the job learns of itself.
    header
        Lines for the batch system, which are comments to the shell.
    """
    told = {
        "PILOT_JOB_ID": facts.job_id,
        "PILOT_RESTART_COUNT": facts.restart_count,
        "PILOT_NODELIST": facts.nodelist,
        "PILOT_NODE": facts.node,
        "PILOT_JOB_ENDS_AT": facts.ends_at,
    }
    lines = ["#!/bin/bash", *header]
    lines += ["", "# What this job is, for the command below."]
    lines += [f"export {name}={expression}" for name, expression in told.items()]
    if request.variables:
        lines += ["", "# The site's environment."]
        lines += [f"export {name}={shlex.quote(text)}" for name, text in request.variables.items()]
    if request.setup.strip():
        lines += ["", "# The site's setup.", request.setup.strip("\n")]
    lines += ["", "exec " + shlex.join(request.command), ""]
    return "\n".join(lines)
