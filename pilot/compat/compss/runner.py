"""The code that runs in a task of PyCOMPSs: the function, and what its results are.

The results are, in this order: each object that it takes by turns with others, what it returns,
each object or leaf that it writes, and None where it has files (others wait for that). One is as
it is, several are a tuple.

Invariant: a worker imports this module, so it loads nothing that a plain task would not need.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pilot.client.task import import_object
from pilot.compat.compss.errors import COMPSsException
from pilot.compat.compss.running import NESTED
from pilot.compat.compss.shapes import leaves
from pilot.compat.compss.values import EmptyReturn
from pilot.compat.compss.work import Work

if TYPE_CHECKING:
    from pilot.compat.compss.layers import Layers


def plain_body(module: str, name: str, function: Any, returns: int) -> Callable[..., Any]:
    """Return what a worker calls for a task that only reads; see `full_body`."""

    def body(*args: Any) -> Any:
        called = import_object(module, name).function if module else function
        if NESTED in os.environ:
            return run(called, Work(returns), args, {})
        return returned(called(*args), returns)

    return body


def writing_body(
    module: str, name: str, function: Any, work: tuple[Any, ...]
) -> Callable[..., Any]:
    """Return what a worker calls for a task that writes objects, the same ones in each call."""

    def body(*args: Any) -> Any:
        called = import_object(module, name).function if module else function
        return run(called, Work(*work), args, {})

    return body


def full_body(
    module: str, name: str, function: Any, layers: Layers | None = None
) -> Callable[..., Any]:
    """Return what a worker calls for any task.

    It refers to nothing but names and constants, so it is pickled once.

    Parameters
    ----------
    module, name
        Where workers find the task; empty: they get the function.
    function
        The function, where it goes by value.
    layers
        What is around it, or in its place.
    """

    def body(work: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        called = import_object(module, name).function if module else function
        if layers is not None:
            called = layers.over(called)
        return run(called, work, args, kwargs)

    return body


def run(
    function: Callable[..., Any], work: Work, args: Iterable[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Run a function in a task, and return the results of the task."""
    values, named = list(args), dict(kwargs)
    if not work.files:
        found = _found(lambda: _results(function, work, values, named))
    else:
        from pilot.compat.compss.sandbox import make_sandbox

        for path, token in work.tokens:
            if token is not None:
                _restore(path, token)
        with make_sandbox(work.files, work.policy, work.defaults) as sandbox:
            sandbox.put_paths(values, named)
            failed = sandbox.note_failure
            found = _found(lambda: _results(function, work, values, named, failed))
    if work.has_token:
        found.append(_keep(work) if work.is_kept else None)
    return found[0] if len(found) == 1 else tuple(found) if found else None


def _keep(work: Work) -> Any:
    from pilot.compat.compss.checkpoints import keep
    from pilot.compat.compss.parameters import WRITES

    return keep(use.path for use in work.files if use.direction in WRITES)


def _restore(path: str, token: Any) -> None:
    from pilot.compat.compss.checkpoints import restore

    restore(path, token)


def _found(compute: Callable[[], list[Any]]) -> list[Any]:
    if NESTED not in os.environ:
        return compute()
    # By its name, as tasks find functions: that module is the program's half, which sends this one.
    found: list[Any] = import_object("pilot.compat.compss.nesting", "results_of")(compute)
    return found


def _results(
    function: Callable[..., Any],
    work: Work,
    args: list[Any],
    kwargs: dict[str, Any],
    failed: Callable[[], object] = bool,
) -> list[Any]:
    defaults: Mapping[str, Any] = {}
    try:
        result = function(*args, **kwargs)
    except COMPSsException:
        raise
    except Exception:
        if work.policy != "ignore":
            raise
        traceback.print_exc()
        failed()
        defaults = work.defaults or {}
        result = defaults.get("returns")
        if work.returns > 1 and not isinstance(result, (tuple, list)):
            result = [result] * work.returns

    def now(where: int | str) -> Any:
        value = args[where] if isinstance(where, int) else kwargs[where]
        name = work.names[where] if isinstance(where, int) else where
        return defaults.get(name, value)

    found = [now(where) for where in work.turned]
    found += several(result, work.returns)
    for where, shape in work.written:
        found += leaves(now(where), shape)
    return found


def returned(result: Any, count: int) -> Any:
    """Return the results of a task that only returns."""
    if count == 1:
        return result
    return tuple(several(result, count)) if count else None


def several(result: Any, count: int) -> list[Any]:
    """Return exactly so many results of what a function has returned."""
    if count == 1:
        return [result]
    if count == 0:
        return []
    items = list(result) if isinstance(result, (tuple, list)) else [result]
    return (items + [EmptyReturn()] * count)[:count]
