"""``@implement``: several functions for one result, of which the one that can start first runs.

A function says which other one it is an implementation of, by that one's module and name, and may
be defined before it. Each is a version of the other's task of Pilot, with its own needs; called
itself, it runs as itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pilot.compat.compss.alternatives import ALTERNATIVES
from pilot.compat.compss.decoration import TaskFunction, as_task_function
from pilot.compat.compss.given import read_given


def implement(*args: Any, **given: Any) -> Callable[[Any], TaskFunction]:
    """Have a task be another implementation of a function, which has other needs.

    Parameters
    ----------
    **given
        `source_class`, the module of the function (or the class, with its module), and `method`,
        its name.

    Raises
    ------
    PyCOMPSsException
        One of these is missing.
    """
    read = read_given("implement", args, given, ["source_class", "method"])

    def decorate(decorated: Any) -> TaskFunction:
        made = as_task_function(decorated, "implement")
        ALTERNATIVES.add(f"{read['source_class']}.{read['method']}", made)
        return made

    return decorate
