"""The options of Pilot's tasks that a program's decorators mean: what a call needs, and what its
failure means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pilot.client.task import COMMAND, MPI_COMMAND
from pilot.compat.compss.constraints import options_of as options_of_constraints
from pilot.compat.compss.errors import PyCOMPSsException
from pilot.compat.compss.parameters import OUT, STREAM
from pilot.compat.compss.policies import options_of as options_of_policy
from pilot.compat.compss.signatures import evaluate

if TYPE_CHECKING:
    from pilot.compat.compss.decoration import TaskFunction
    from pilot.site_configs.schema import SiteConfig

#: The options that may differ between calls of a function.
DIFFERENT = ("cores", "memory", "gpus", "pool", "ranks", "ranks_per_node", "nodes")


def options_of_call(
    config: SiteConfig,
    function: TaskFunction,
    arguments: Mapping[str, Any],
    returns: int,
    total: int,
    first: int = 0,
) -> dict[str, Any]:
    """Return Pilot's options for a call.

    Parameters
    ----------
    config
        The site's configuration.
    function
        The function.
    arguments
        The arguments of the call, by name.
    returns, total
        The number of results of the function, and of the task.
    first
        The number of results that come before those that the function returns.
    """
    plan = function.plan
    options = options_of_policy(plan.policy, plan.defaults, returns, total, first)
    options |= {"name": function.__name__, "priority": plan.priority, "returns": max(1, total)}
    if any(p.kind == STREAM and p.direction == OUT for p in plan.parameters.values()):
        options["priority"] += 1  # before those who wait for what it produces
    return options | needs_of_call(config, function, arguments)


def needs_of_call(
    config: SiteConfig, function: TaskFunction, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return those of Pilot's options for a call that say what it needs to run."""
    plan = function.plan
    options: dict[str, Any] = {}
    if plan.time_limit is not None:
        options["time_limit"] = float(plan.time_limit)
    if plan.constraints:
        pools = config.pools
        options |= options_of_constraints(plan.constraints, function.function, arguments, pools)
    if "container" in function.said:
        from pilot.compat.compss.containers import container_option

        options["container"] = container_option(function.said["container"])
    if plan.layers is not None:
        from pilot.compat.compss.ranks import fit_nodes

        for layer in plan.layers.layers:
            layer.adapt(options, lambda name, value: _number(function, arguments, name, value))
        fit_nodes(options, (pool.nodes_per_pilot for pool in config.pools.values()))
    if "needs_no_core" in function.said and "ranks" not in options:
        options["cores"] = 0
    return options


def needs_of_version(
    config: SiteConfig, function: TaskFunction, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a function needs as a version of another one's task, which has nothing of that
    one's needs."""
    none: dict[str, Any] = {"cores": 1, "memory": 0, "gpus": 0, "pool": None, "container": None}
    if function.plan.kind in (COMMAND, MPI_COMMAND):
        none |= {"ranks": 1, "ranks_per_node": None}
    return {**none, **needs_of_call(config, function, arguments), "name": function.__name__}


def _number(function: TaskFunction, arguments: Mapping[str, Any], name: str, value: Any) -> float:
    """Return what a decorator says for a call, a number.

    Raises
    ------
    PyCOMPSsException
        It is none.
    """
    found = evaluate(value, function.function, arguments) if isinstance(value, str) else value
    try:
        return float(found)
    except (TypeError, ValueError):
        raise PyCOMPSsException(
            f"{function.__qualname__}: {name}={value!r:.100}: {found!r:.60} is no number"
        ) from None
