"""``@software``: decorators that a JSON file describes."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pilot.compat.compss.binaries import binary
from pilot.compat.compss.containers import container
from pilot.compat.compss.decoration import TaskFunction, constraint
from pilot.compat.compss.errors import PyCOMPSsException
from pilot.compat.compss.files import path_of
from pilot.compat.compss.given import read_given
from pilot.compat.compss.mpi_tasks import mpi, mpmd_mpi
from pilot.compat.compss.nested_programs import compss
from pilot.compat.compss.parameters import NAMED
from pilot.compat.compss.several_nodes import multinode
from pilot.compat.compss.surroundings import epilog, prolog
from pilot.compat.compss.web_services import http

#: What the file may have above a task, in its ``execution``.
_TYPES: Mapping[str, Any] = {
    "binary": binary,
    "mpi": mpi,
    "mpmd_mpi": mpmd_mpi,
    "multinode": multinode,
    "http": http,
    "compss": compss,
}
#: And beside it.
_BESIDE: Mapping[str, Any] = {
    "constraints": constraint,
    "container": container,
    "prolog": prolog,
    "epilog": epilog,
}


def software(*args: Any, **given: Any) -> Callable[[Any], TaskFunction]:
    """Have a file say what a task is: ``@software(config_file="solve.json")``.

    It is above ``@task``, or in its place where the file has ``parameters``. The file is read at
    the first call.

    Parameters
    ----------
    **given
        `config_file`.

    Raises
    ------
    PyCOMPSsException
        `config_file` is missing.
    """
    read = read_given("software", args, given, ["config_file"])
    path = path_of(read["config_file"])

    def decorate(decorated: Any) -> TaskFunction:
        made = decorated if isinstance(decorated, TaskFunction) else TaskFunction(decorated, {})
        made.say(config=(configure, path))
        return made

    return decorate


def configure(made: TaskFunction, path: str) -> None:
    """Read the file that says what a task is, and make it that.

    Raises
    ------
    PyCOMPSsException
        It cannot be read, or means nothing.
    """
    try:
        read = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise PyCOMPSsException(f"@software: {path} cannot be read: {error}") from None
    if not isinstance(read, Mapping) or not all(isinstance(part, dict) for part in read.values()):
        raise PyCOMPSsException(f"@software: {path} is no object of objects")
    execution = dict(read.get("execution", {}))
    kind = str(execution.pop("type", "task")).lower()
    if kind == "workflow":
        made.say(is_workflow=True)
        return
    if kind != "task" and kind not in _TYPES:
        raise PyCOMPSsException(
            f"@software: {path}: there is no type {kind!r}; there are task, workflow, "
            + ", ".join(_TYPES)
        )
    for name, value in read.get("parameters", {}).items():
        made.given.setdefault(name, _named(name, value))
    made.check()
    if kind in _TYPES:
        _TYPES[kind](**execution)(made)
    for name, decorator in _BESIDE.items():
        if read.get(name):
            decorator(**read[name])(made)


def _named(name: str, value: Any) -> Any:
    """Return what a text in the file stands for."""
    if not isinstance(value, str):
        return value
    if name == "returns":
        found = getattr(builtins, value, None)
        return found if isinstance(found, type) else value
    return NAMED.get(value, value)
