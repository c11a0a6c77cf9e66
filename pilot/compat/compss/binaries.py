"""``@binary``, and the decorators of other languages whose tasks are programs: ``@julia``,
``@ompss``."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from pilot.compat.compss.decoration import LayerOf, TaskFunction, as_task_function
from pilot.compat.compss.errors import PyCOMPSsException
from pilot.compat.compss.given import read_given
from pilot.compat.compss.layers import Layer
from pilot.compat.compss.programs import Binary, Program, expanded, is_true

_PLACE = ("working_dir", "fail_by_exit_value")


def program_of(decorator: str, given: Mapping[str, Any], *words: str) -> Program:
    """Return a program as a decorator describes it, with what the environment has now.

    Parameters
    ----------
    decorator
        Its name, for messages.
    given
        ``args``, ``working_dir``, ``fail_by_exit_value``, as far as they are given.
    words
        The first words of the program.

    Raises
    ------
    PyCOMPSsException
        A variable of the environment is missing, or a value means nothing.
    """

    def text(name: str, value: Any) -> str:
        if not isinstance(value, (str, int, float)):
            raise PyCOMPSsException(f"@{decorator}({name}={value!r:.60}): give a text")
        return expanded(str(value), f"@{decorator}: {name}", is_needed=name != "args")

    args = given.get("args", given.get("params"))
    fails = given.get("fail_by_exit_value", True)
    return Program(
        tuple(text("binary", word) for word in words),
        None if args is None else text("args", args),
        text("working_dir", given.get("working_dir") or ""),
        is_true(fails, f"@{decorator}: fail_by_exit_value"),
    )


def set_body(
    decorated: Any, decorator: str, layer_of: LayerOf, given: Mapping[str, Any]
) -> TaskFunction:
    """Have a task run something in place of its function, or around it.

    Parameters
    ----------
    decorated
        The task.
    decorator
        The name of the decorator.
    layer_of
        A function of a module, which makes the layer when the task is called first.
    given
        What it gets, after the task.
    """
    made = as_task_function(decorated, decorator)
    if "body" in made.layered:
        raise PyCOMPSsException(
            f"@{decorator}: {made.__qualname__} is a program already, by another decorator"
        )
    made.put_around("body", layer_of, given)
    return made


def binary(*args: Any, **given: Any) -> Callable[[Any], TaskFunction]:
    """Have a task run a program: ``@binary(binary="grep", working_dir="/tmp")``.

    Its words are the parameters, in their order; the result is its exit status.

    Parameters
    ----------
    **given
        `binary`; `args`, a text with parameters as ``{{name}}`` in place of all of them;
        `working_dir`; `fail_by_exit_value`, False where an exit status but 0 is no failure.

    Raises
    ------
    PyCOMPSsException
        `binary` is missing.
    """
    read = read_given(
        "binary", args, given, ["binary"], [*_PLACE, "args", "params"], ["engine", "image"]
    )
    return lambda decorated: set_body(decorated, "binary", binary_layer, read)


def binary_layer(made: TaskFunction, given: Mapping[str, Any]) -> Layer:
    """Return what runs in place of a function below ``@binary``."""
    del made
    return Binary(program_of("binary", given, given["binary"]))


def ompss(*args: Any, **given: Any) -> Callable[[Any], TaskFunction]:
    """Have a task run a program that was built with OmpSs, as ``@binary`` does.

    Raises
    ------
    PyCOMPSsException
        `binary` is missing.
    """
    read = read_given("ompss", args, given, ["binary"], _PLACE, ["computing_nodes"])
    return lambda decorated: set_body(decorated, "ompss", binary_layer, read)


def julia(*args: Any, **given: Any) -> Callable[[Any], TaskFunction]:
    """Have a task run a script by Julia: ``@julia(script="solve.jl")``.

    Parameters
    ----------
    **given
        `script`; `executor`, default ``julia``; `args` of that; `working_dir`;
        `fail_by_exit_value`.

    Raises
    ------
    PyCOMPSsException
        `script` is missing.
    """
    known = [*_PLACE, "executor", "args"]
    read = read_given("julia", args, given, ["script"], known, ["computing_nodes"])
    return lambda decorated: set_body(decorated, "julia", julia_layer, read)


def julia_layer(made: TaskFunction, given: Mapping[str, Any]) -> Layer:
    """Return what runs in place of a function below ``@julia``."""
    del made
    options = shlex.split(str(given.get("args") or ""))
    place = {name: given[name] for name in _PLACE if name in given}
    words = [given.get("executor", "julia"), *options, given["script"]]
    return Binary(program_of("julia", place, *words))
