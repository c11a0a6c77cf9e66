"""``@multinode``: a function that has several nodes, and starts on the others what it likes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pilot.client.context import running_context
from pilot.compat.compss.decoration import TaskFunction, as_task_function
from pilot.compat.compss.errors import PyCOMPSsException
from pilot.compat.compss.given import read_given
from pilot.compat.compss.layers import CallShape, Layer, WorkOut


class OnNodes(Layer, frozen=True):
    """Several nodes around a function, which it finds in its environment."""

    nodes: Any

    @property
    def values(self) -> tuple[Any, ...]:
        """The values that may differ between calls."""
        return (self.nodes,)

    def adapt(self, options: dict[str, Any], work_out: WorkOut) -> None:
        """Ask for the nodes."""
        count = int(work_out("computing_nodes", self.nodes))
        if count < 1:
            raise PyCOMPSsException(f"@multinode(computing_nodes={count}): give at least 1")
        options["nodes"] = count
        options["cores"] = max(1, options.get("cores", 1))

    def over(self, function: Any, call: CallShape, is_task: bool) -> Callable[..., Any]:
        """Return what has the function know of its nodes."""
        del call, is_task
        return partial(_run_knowing, function)


def _run_knowing(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    context = running_context()
    hosts = (socket.gethostname(),) if context is None else context.nodes
    cores = 1 if context is None else max(1, context.resources.cores)
    told = variables(hosts, cores)
    before = dict(os.environ)
    os.environ.update(told)
    try:
        return function(*args, **kwargs)
    finally:
        for name in told:
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


def variables(hosts: tuple[str, ...], cores: int) -> dict[str, str]:
    """Return what tells a function its nodes: variables of COMPSs, and of Slurm."""
    nodes, names = str(len(hosts)), ",".join(hosts)
    each = f"{cores}(x{nodes})"
    return {
        "COMPSS_NUM_NODES": nodes,
        "COMPSS_HOSTNAMES": names,
        "COMPSS_NUM_THREADS": str(cores),
        "OMP_NUM_THREADS": str(cores),
        "SLURM_NTASKS": str(cores * len(hosts)),
        "SLURM_NNODES": nodes,
        "SLURM_JOB_NUM_NODES": nodes,
        "SLURM_NODELIST": names,
        "SLURM_JOB_NODELIST": names,
        "SLURM_TASKS_PER_NODE": each,
        "SLURM_CPUS_PER_NODE": each,
    }


def multinode(*args: Any, **given: Any) -> Callable[[Any], TaskFunction]:
    """Have a task get several nodes: ``@multinode(computing_nodes=2)``.

    It runs on the first; its environment tells it all of them, as ``COMPSS_HOSTNAMES``.

    Parameters
    ----------
    **given
        `computing_nodes`, a number, or a text as constraints have.
    """
    read = read_given("multinode", args, given, (), ["computing_nodes"])

    def decorate(decorated: Any) -> TaskFunction:
        made = as_task_function(decorated, "multinode")
        made.put_around("nodes", nodes_layer, read)
        return made

    return decorate


def nodes_layer(made: TaskFunction, given: Mapping[str, Any]) -> OnNodes:
    """Return what is around a function below ``@multinode``."""
    del made
    return OnNodes(given.get("computing_nodes", 1))
