"""What runs in a task of PymoniK: the function, with what it needs around it.

Invariant: a worker imports this module, so it loads nothing that a plain task would not need.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from pilot.client.task import import_object


def task_body(
    module: str, name: str, function: Any, needs_context: bool, partition: str
) -> Callable[..., Any]:
    """Return the function that a worker calls.

    It refers to nothing but names and constants, so it is pickled once.

    Parameters
    ----------
    module, name
        Where workers find the task; empty: they get the function.
    function
        The function, where it goes by value.
    needs_context
        True if the function gets a context first.
    partition
        The partition that the context tells.
    """

    def body(*args: Any, **kwargs: Any) -> Any:
        called = import_object(module, name).func if module else function
        return run_task(called, needs_context, partition, args, kwargs)

    return body


def run_task(
    function: Callable[..., Any],
    needs_context: bool,
    partition: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Run a function in a task, and return its result, or the future of a child's."""
    from pilot.compat.pymonik.handles import ResultHandle
    from pilot.compat.pymonik.materials import Materialize, put_in_place
    from pilot.compat.pymonik.session import worker_instance

    for given in (*args, *kwargs.values()):
        if isinstance(given, Materialize):
            try:
                put_in_place(given)
            except Exception as error:
                logging.getLogger("pymonik").error("could not materialize %r: %s", given, error)
            given.contents = None
    with worker_instance() as instance:
        if needs_context:
            from pilot.compat.pymonik.context import PymonikContext

            args = (PymonikContext(instance.environment, partition), *args)
        result = function(*args, **kwargs)
        if instance.delegated is not None:
            return instance.delegated
    return result.future if isinstance(result, ResultHandle) else result
