"""Reductions: a task with a collection as a tree of tasks, each over a chunk of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pilot.compat.compss.calls import Call, Host
from pilot.compat.compss.errors import PyCOMPSsException
from pilot.compat.compss.signatures import evaluate

if TYPE_CHECKING:
    from pilot.compat.compss.decoration import TaskFunction


def reduce_chunks(
    app: Host, function: TaskFunction, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Submit the tree; return what stands for its result.

    Raises
    ------
    PyCOMPSsException
        There is no collection that is read, or the size of a chunk means nothing.
    """
    plan = function.plan
    names = plan.signature.names
    name = next((n for n, p in plan.parameters.items() if p.is_collection and not p.writes), "")
    place = names.index(name) if name in names else -1
    if name in kwargs:
        items = list(kwargs[name])
    elif 0 <= place < len(args):
        items = list(args[place])
    else:
        raise PyCOMPSsException(f"@reduction of {function.__name__}: no COLLECTION_IN was given")
    size = function.said["chunk_size"]
    named = {**dict(zip(names, args, strict=False)), **kwargs}
    if isinstance(size, str):
        size = evaluate(size, function.function, named)
    size = int(size)
    if size < 2:
        raise PyCOMPSsException(f"@reduction(chunk_size={size}): a chunk has at least 2 elements")

    def submit(chunk: list[Any]) -> Any:
        if name in kwargs:
            return Call(app, function, args, {**kwargs, name: chunk}).submit()
        changed = (*args[:place], chunk, *args[place + 1 :])
        return Call(app, function, changed, dict(kwargs)).submit()

    while len(items) > size:
        chunks = [items[n : n + size] for n in range(0, len(items), size)]
        # One that is left alone goes on as it is.
        items = [submit(chunk) if len(chunk) > 1 else chunk[0] for chunk in chunks]
    return submit(items)
