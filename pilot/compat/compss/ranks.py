"""Ranks of MPI that a task asks for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from pilot.compat.compss.constraints import warn_once
from pilot.compat.compss.errors import PyCOMPSsException
from pilot.compat.compss.layers import WorkOut
from pilot.compat.compss.programs import expanded


class Ranks(NamedTuple):
    """The ranks of a task, as a decorator says them: numbers, or texts as constraints have."""

    processes: Any = 1
    #: Processes on each node; None: as it fits.
    per_node: Any = None
    #: True if a process is as many ranks as the task has computing units, with one core each.
    scales: bool = False

    @property
    def values(self) -> tuple[Any, ...]:
        """The values that may differ between calls."""
        return self.processes, self.per_node

    def adapt(self, options: dict[str, Any], work_out: WorkOut) -> None:
        """Ask for the ranks, which have the cores of the task each."""
        times = 1
        if self.scales:
            times, options["cores"] = max(1, options.get("cores", 1)), 1
        options["ranks"] = times * _count("processes", work_out("processes", self.processes))
        if self.per_node is not None:
            each = _count("processes_per_node", work_out("processes_per_node", self.per_node))
            options["ranks_per_node"] = min(options["ranks"], each * times)

    def count_here(self) -> int:
        """Return the number of ranks of a program that runs without a launcher."""
        text = expanded(str(self.processes), "@mpi: processes")
        return int(text) if text.isdecimal() else 1


def _count(name: str, given: float) -> int:
    if given < 1:
        raise PyCOMPSsException(f"@mpi({name}={given:g}): give at least 1")
    return int(given)


def fit_nodes(options: dict[str, Any], nodes: Iterable[int]) -> None:
    """Leave it to the pilot how many ranks a node gets where no pool has as many nodes.

    PyCOMPSs takes a node of many cores for several.

    Parameters
    ----------
    options
        The options of a task.
    nodes
        The most nodes that pilots of each pool have.
    """
    each = options.get("ranks_per_node")
    if each and math.ceil(options["ranks"] / each) > max(nodes, default=1):
        del options["ranks_per_node"]
        warn_once(
            "processes_per_node",
            f"processes_per_node={each}: no pool has so many nodes; ranks go where there is room",
        )
