"""``@container``: a program, or the function itself, in a container."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from pilot.compat.compss.decoration import TaskFunction, as_task_function
from pilot.compat.compss.errors import NotSupportedError
from pilot.compat.compss.given import read_given
from pilot.compat.compss.programs import expanded
from pilot.launchers.containers import ENGINES


def container(*args: Any, **given: Any) -> Callable[[Any], TaskFunction]:
    """Have a task run in a container: ``@container(engine="SINGULARITY", image="a.sif")``.

    Parameters
    ----------
    **given
        `engine`, `image`, and `options` for the engine's command line.

    Raises
    ------
    PyCOMPSsException
        `engine` or `image` is missing.
    NotSupportedError
        Pilot does not know the engine.
    """
    hints = ["binary", "working_dir", "fail_by_exit_value"]
    read = read_given("container", args, given, ["engine", "image"], ["options"], hints)
    _engine_of(read)

    def decorate(decorated: Any) -> TaskFunction:
        made = as_task_function(decorated, "container")
        made.say(container=read)
        return made

    return decorate


def _engine_of(given: Mapping[str, Any]) -> str:
    engine = str(given["engine"]).lower()
    if engine not in ENGINES and not engine.startswith("$"):
        raise NotSupportedError(
            f"@container(engine={given['engine']!r})", f"there are {', '.join(ENGINES)}"
        )
    return engine


def container_option(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return Pilot's option for what ``@container`` has said."""
    engine = expanded(_engine_of(given), "@container: engine").lower()
    told = str(given.get("options") or "")
    options = expanded(told, "@container: options", is_needed=False)
    found = {"engine": engine, "image": expanded(str(given["image"]), "@container: image")}
    return {**found, "options": shlex.split(options)} if options else found
