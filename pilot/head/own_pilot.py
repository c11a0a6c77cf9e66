"""The agent in the allocation that the head runs in: a child of the head, in the same job."""

from __future__ import annotations

import os
import subprocess
import sys

from pilot.head.outlook import PilotRow
from pilot.interpreter import pilot_command
from pilot.scheduler.batch import Allocation
from pilot.site import Site

#: The reason recorded in the database for such a pilot: the next head recognizes it by that.
OWN = "the head's own allocation"


def agent_command(site: Site, name: str, pool: str) -> list[str]:
    """Return the command that starts the agent of a pilot."""
    python = site.config.environment.python
    return pilot_command(
        "agent",
        str(site.directory),
        name,
        "--pool",
        pool,
        python=sys.executable if python == "auto" else python,
    )


def start_agent(
    site: Site, row: PilotRow, allocation: Allocation, ends_at: float | None
) -> subprocess.Popen[bytes]:
    """Start the agent of the head's own allocation.

    Parameters
    ----------
    site
        The site.
    row
        The pilot.
    allocation
        The job.
    ends_at
        When the job's walltime ends, by the wall clock; None: nobody knows.
    """
    variables = {
        "PILOT_JOB_ID": allocation.job_id,
        "PILOT_RESTART_COUNT": str(allocation.restart_count),
        "PILOT_NODELIST": allocation.nodelist or os.uname().nodename,
        # The allocation's own script may be bound to a part of this node, or be elsewhere.
        "PILOT_NODE": "",
        "PILOT_JOB_ENDS_AT": str(ends_at or 0),
    }
    with (site.jobs / f"{row.name}.out").open("ab") as output:
        return subprocess.Popen(
            agent_command(site, row.name, row.pool),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
        )


def own_allocation(site: Site, job: str) -> Allocation:
    """Return the job that this process runs in, as far as it knows; maybe this node alone."""
    told = site.config.kind.own_allocation(os.environ)
    return Allocation(job, "") if told is None else told._replace(job_id=job)
