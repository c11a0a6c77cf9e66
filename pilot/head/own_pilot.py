"""The agents in allocations that a user has made: the job that the head runs in, or another one.

In the head's own job the agent is a child of the head; in another one it is a step of that job,
which goes on when the head ends.

Invariant: an agent is told what the batch system has given the job on each node, not what the pool
says, and uses no more.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

import msgspec

from pilot.head.outlook import PilotRow
from pilot.inherited import GIVEN, digests
from pilot.interpreter import command_of_site
from pilot.launchers import node_worker
from pilot.scheduler.amounts import CORELESS, GPUS, MEMORY, UNIT
from pilot.scheduler.batch import Allocation
from pilot.scheduler.resources import NodeShape, node_shape
from pilot.site import Site

#: The reason recorded in the database for such a pilot: the next head recognizes it by that.
OWN = "the head's own allocation"
#: The same, for one that the head is not in.
ADOPTED = "an allocation that was adopted"


def agent_command(site: Site, name: str, pool: str) -> list[str]:
    """Return the command that starts the agent of a pilot."""
    python = site.config.environment.python
    return command_of_site(python, "agent", str(site.directory), name, "--pool", pool)


def start_agent(site: Site, row: PilotRow, allocation: Allocation) -> subprocess.Popen[bytes]:
    """Start the agent of the head's own allocation."""
    # The allocation's own script may be bound to a part of this node, or be elsewhere.
    variables = _variables(site, row, allocation, node="")
    return _start(site, row, agent_command(site, row.name, row.pool), variables)


def start_agent_in(site: Site, row: PilotRow, allocation: Allocation) -> subprocess.Popen[bytes]:
    """Start the agent of an allocation that the head is not in, on its first node.

    Raises
    ------
    ValueError
        The nodes of the allocation are not understood.
    """
    kind, environment = site.config.kind, site.config.environment
    host = kind.node_names(allocation.nodelist)[0]
    command = agent_command(site, row.name, row.pool)
    if environment.setup.strip():
        setup = environment.setup.strip("\n")
        command = ["bash", "-c", f'{setup}\nexec "$@"', "bash", *command]
    launch = node_worker(kind.node_launcher, host, command, kind.step_options(allocation.job_id))
    variables = {
        **environment.variables,
        **_variables(site, row, allocation, node=host),
        **launch.env,
    }
    return _start(site, row, launch.argv, variables)


def _variables(site: Site, row: PilotRow, allocation: Allocation, node: str) -> dict[str, str]:
    """Return what an agent must know of its job."""
    shape = shape_of(site.config.pools[row.pool].shape, allocation)
    return {
        "PILOT_JOB_ID": allocation.job_id,
        "PILOT_RESTART_COUNT": str(allocation.restart_count),
        "PILOT_NODELIST": allocation.nodelist or os.uname().nodename,
        "PILOT_NODE": node,
        "PILOT_JOB_ENDS_AT": str(allocation.ends_at or 0),
        GIVEN: digests(os.environ),
        "PILOT_NODE_SHAPE": msgspec.json.encode(shape).decode(),
    }


def _start(
    site: Site, row: PilotRow, command: Sequence[str], variables: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    with (site.jobs / f"{row.name}.out").open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
        )


def shape_of(pool: NodeShape, allocation: Allocation) -> NodeShape:
    """Return what tasks may use of each node of an allocation: no more than it has.

    Parameters
    ----------
    pool
        What the pool's nodes offer, for what the batch system does not tell.
    allocation
        The job.
    """
    if allocation.cores is None:
        return pool
    supply = pool.supply(MEMORY)
    memory_mib = supply.amount // UNIT if supply is not None else 0
    if allocation.memory_mib is not None:
        memory_mib = allocation.memory_mib
    elif allocation.cores < pool.cores:
        memory_mib = memory_mib * allocation.cores // pool.cores
    # What else a site declares is of whole nodes.
    others = [each for each in pool.named if each.name not in (MEMORY, GPUS, CORELESS)]
    is_whole = allocation.cores >= pool.cores
    places = pool.supply(CORELESS)
    return node_shape(
        allocation.cores,
        memory_mib,
        allocation.gpus or 0,
        others if is_whole else (),
        places.amount // UNIT if places is not None else 0,
    )


def own_allocation(site: Site, job: str) -> Allocation:
    """Return the job that this process runs in, as far as it knows; maybe this node alone."""
    told = site.config.kind.own_allocation(os.environ)
    return Allocation(job, "") if told is None else told._replace(job_id=job)
