"""The needs of a task, as programs say them: ``@constraint``.

Values are numbers, texts of numbers, ``$VARIABLE``, names of parameters or globals, or expressions
of parameters; they are worked out for each call where they are not numbers.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pilot.compat.compss.errors import PyCOMPSsException
from pilot.compat.compss.signatures import evaluate

_CORES: Final = "computing_units"
_MEMORY: Final = "memory_size"
_QUEUES: Final = "host_queues"
_MEANT: Final = (_CORES, _MEMORY, "processors", _QUEUES)
#: What has no meaning here, since a pool says it, or the site does.
_IGNORED: Final = (
    *("is_local", "app_software", "architecture", "operating_system_type", "processor_name"),
    *("processor_type", "processor_speed", "processor_architecture", "processor_property_name"),
    *("processor_property_value", "processor_internal_memory_size", "memory_type", "storage_size"),
    *("storage_type", "storage_bw", "operating_system_distribution", "operating_system_version"),
    *("wall_clock_limit", "network_bandwidth", "computing_nodes"),
)
_warned: set[str] = set()


def snake(name: str) -> str:
    """Return a name such as ``computingUnits`` as ``computing_units``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def warn_once(key: str, text: str) -> None:
    """Warn of a thing, and not again."""
    if key not in _warned:
        _warned.add(key)
        warnings.warn(text, stacklevel=3)


def read_constraints(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constraints that mean something, by their usual names.

    Raises
    ------
    PyCOMPSsException
        There is no such constraint.
    """
    found = {}
    for name, value in given.items():
        usual = snake(name)
        if usual in _MEANT:
            found[usual] = value
        elif usual in _IGNORED:
            warn_once(usual, f"@constraint({name}=…) has no meaning on Pilot, and is ignored")
        else:
            raise PyCOMPSsException(f"@constraint({name}=…): there is no such constraint")
    return found


def is_fixed(constraints: Mapping[str, Any]) -> bool:
    """Tell whether all calls need the same."""

    def fixed(value: Any) -> bool:
        if isinstance(value, (list, tuple)):
            return all(map(fixed, value))
        if isinstance(value, Mapping):
            return all(map(fixed, value.values()))
        # An environment does not change as arguments do.
        return not isinstance(value, str) or value.startswith("$") or _is_number(value)

    return all(fixed(value) for name, value in constraints.items() if name != _QUEUES)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def options_of(
    constraints: Mapping[str, Any],
    function: Any,
    arguments: Mapping[str, Any],
    pools: Iterable[str],
) -> dict[str, Any]:
    """Return Pilot's options for the constraints of a call.

    Parameters
    ----------
    constraints
        As `read_constraints` returns them.
    function
        The function, whose globals may be named.
    arguments
        The arguments of the call, by name.
    pools
        The pools of the site.

    Raises
    ------
    PyCOMPSsException
        A value means nothing.
    """

    def number(name: str, value: Any) -> float:
        found = evaluate(value, function, arguments) if isinstance(value, str) else value
        try:
            return float(found)
        except (TypeError, ValueError):
            raise PyCOMPSsException(
                f"@constraint({name}={value!r}): {found!r:.60} is no number"
            ) from None

    options: dict[str, Any] = {}
    if _CORES in constraints:
        options["cores"] = max(1, int(number(_CORES, constraints[_CORES])))
    if constraints.get(_MEMORY):
        options["memory"] = f"{number(_MEMORY, constraints[_MEMORY]):g}G"
    for processor in constraints.get("processors") or ():
        said = {snake(name): value for name, value in processor.items()}
        units = int(number(_CORES, said.get(_CORES, 1)))
        if str(said.get("processor_type", "CPU")).upper() == "GPU":
            options["gpus"] = options.get("gpus", 0) + units
        else:
            options["cores"] = max(1, units)
    for queue in _listed(constraints.get(_QUEUES)):
        if queue in pools:
            options["pool"] = queue
            break
    return options


def _listed(given: Any) -> list[str]:
    words = given.split(",") if isinstance(given, str) else given or ()
    return [str(word).strip() for word in words]
