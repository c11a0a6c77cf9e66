"""How a pilot's agent starts one node worker on one host.

Invariant: each node worker is a process of its own to whoever starts it; on Slurm, a step of its
own. Slurm kills every step that has a part on a node that leaves the job, so a step over all nodes
would end with the first node released.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pilot.launchers.base import Launch
from pilot.launchers.srun import SRUN, STEP_OPTIONS


def _local(command: Sequence[str], _host: str, _options: Sequence[str]) -> Launch:
    return Launch(tuple(command), {})


def _srun(command: Sequence[str], host: str, options: Sequence[str]) -> Launch:
    step = ("--nodes=1", "--ntasks=1", f"--nodelist={host}", "--mpi=none")
    return Launch((*SRUN, *STEP_OPTIONS, *step, *options, *command), {})


_BUILDERS: dict[str, Callable[[Sequence[str], str, Sequence[str]], Launch]] = {
    "local": _local,
    "srun": _srun,
}

#: Every kind that `node_worker` knows.
NODE_LAUNCHERS = tuple(_BUILDERS)


def node_worker(
    kind: str, host: str, command: Sequence[str], options: Sequence[str] = ()
) -> Launch:
    """Say how to start `command`, a node worker, once on `host`.

    Parameters
    ----------
    kind
        One of `NODE_LAUNCHERS`: ``local`` starts it directly, so on the host of the caller;
        ``srun`` as a step that may use all that the job has on the host, without binding.
    host
        Name of the host, as the batch system writes it.
    command
        Program and arguments of the node worker.
    options
        The site's options for the step.

    Raises
    ------
    ValueError
        No such kind.
    """
    if kind not in _BUILDERS:
        raise ValueError(f"unknown node launcher {kind!r}; known are {', '.join(NODE_LAUNCHERS)}")
    return _BUILDERS[kind](command, host, options)
