"""Options of PymoniK's tasks, and what they are here.

Where they are said counts in this order: the instance, the decorator, ``task_options=`` of a call,
``pmk_…`` of a call.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final


@dataclass
class TaskOptions:
    """Options of tasks, by the names that ArmoniK has for them."""

    max_duration: timedelta = timedelta(seconds=300)
    priority: int = 1
    max_retries: int = 5
    partition_id: str | None = None
    application_name: str | None = None
    application_version: str | None = None
    application_namespace: str | None = None
    application_service: str | None = None
    engine_type: str | None = None
    options: dict[str, str] = field(default_factory=dict)


#: The options that mean something here; of the others nothing is told.
MEANT: Final = ("max_duration", "priority", "max_retries", "partition_id")
#: The name of the partition where none is given.
USUAL_PARTITION: Final = "pymonik"
_PREFIX = "pmk_"
#: Keywords of calls that say something else than a value for the function.
_OF_CALLS = {f"{_PREFIX}{name}": name for name in (*MEANT, "options")}


def take_keywords(keywords: dict[str, Any]) -> dict[str, Any]:
    """Take the options out of the keywords of a call, and return them by their own names."""
    return {name: keywords.pop(key) for key, name in _OF_CALLS.items() if key in keywords}


def said_by(options: Any) -> dict[str, Any]:
    """Return what an object with options says, such as `TaskOptions` or ArmoniK's own."""
    if options is None:
        return {}
    found = {name: getattr(options, name, None) for name in MEANT}
    return {name: value for name, value in found.items() if value is not None}


_warned: set[str] = set()


def of_pilot(said: Mapping[str, Any], pools: Iterable[str]) -> dict[str, Any]:
    """Return Pilot's options for those of PymoniK.

    Parameters
    ----------
    said
        What was said: `max_duration` (seconds, or a `timedelta`), `priority`, `max_retries`, which
        counts tries after a task's process has died, and `partition_id`, which names a pool.
    pools
        The pools of the site. A partition that is none of them means any pool.
    """
    found: dict[str, Any] = {}
    if "max_duration" in said:
        given = said["max_duration"]
        found["time_limit"] = given if isinstance(given, timedelta) else float(given)
    if "priority" in said:
        found["priority"] = int(said["priority"])
    if "max_retries" in said:
        found["max_crashes"] = max(0, int(said["max_retries"]))
    partition = said.get("partition_id")
    if partition and partition in pools:
        found["pool"] = partition
    elif partition and partition != USUAL_PARTITION and partition not in _warned:
        _warned.add(partition)
        warnings.warn(
            f"there is no pool {partition!r} on this site: tasks of this partition run in any pool",
            stacklevel=4,
        )
    return found
