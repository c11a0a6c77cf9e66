"""``@prolog`` and ``@epilog``: programs before and after a task, in its place.

They see its parameters, and its files as it does. That of a prolog which fails is a failure of the
task, unless ``fail_by_exit_value`` is False. An epilog runs after a task that has ended well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pilot.compat.compss.binaries import program_of
from pilot.compat.compss.decoration import TaskFunction, as_task_function
from pilot.compat.compss.given import read_given
from pilot.compat.compss.layers import CallShape, Layer
from pilot.compat.compss.programs import Program, run_words
from pilot.errors import CommandFailed


class Around(Layer, frozen=True):
    """Programs around a function, or around what runs in its place."""

    prolog: Program | None
    epilog: Program | None

    def over(self, function: Any, call: CallShape, is_task: bool) -> Callable[..., Any]:
        """Return what runs all three."""
        del is_task
        return partial(_run_around, self, function, call)


def _run_around(
    around: Around, function: Callable[..., Any], call: CallShape, /, *args: Any, **kwargs: Any
) -> Any:
    pairs = list(call.named(args, kwargs))
    if around.prolog is not None:
        _run(around.prolog, call, pairs)
    result = function(*args, **kwargs)
    if around.epilog is not None:
        _run(around.epilog, call, pairs)
    return result


def _run(program: Program, call: CallShape, pairs: list[tuple[str, Any]]) -> None:
    # On this node, outside of the task's container, and not on its ranks.
    status, told = run_words(program.line(call, pairs), "", {}, False)
    if status and program.fails:
        raise CommandFailed(told, status)


def prolog(*args: Any, **given: Any) -> Callable[[Any], TaskFunction]:
    """Have a program run before a task: ``@prolog(binary="date", args="-d {{day}}")``.

    Parameters
    ----------
    **given
        `binary`, `args`, and `fail_by_exit_value`, by which its failure is one of the task.
    """
    return _decorator("prolog", args, given, fails=True)


def epilog(*args: Any, **given: Any) -> Callable[[Any], TaskFunction]:
    """Have a program run after a task; see `prolog`. Its failure is one of the task only where
    `fail_by_exit_value` says so."""
    return _decorator("epilog", args, given, fails=False)


def _decorator(
    name: str, args: tuple[Any, ...], given: Mapping[str, Any], *, fails: bool
) -> Callable[[Any], TaskFunction]:
    read = read_given(name, args, given, ["binary"], ["args", "params", "fail_by_exit_value"])
    # Without `args` it gets nothing: the parameters are the task's.
    read = {"args": "", "fail_by_exit_value": fails, **read}

    def decorate(decorated: Any) -> TaskFunction:
        made = as_task_function(decorated, name)
        made.put_around(name, _prolog_layer if name == "prolog" else _epilog_layer, read)
        return made

    return decorate


def _prolog_layer(made: TaskFunction, given: Mapping[str, Any]) -> Around:
    del made
    return Around(program_of("prolog", given, given["binary"]), None)


def _epilog_layer(made: TaskFunction, given: Mapping[str, Any]) -> Around:
    del made
    return Around(None, program_of("epilog", given, given["binary"]))
