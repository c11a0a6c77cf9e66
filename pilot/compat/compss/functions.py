"""Functions on tasks: `pycompss.functions`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any


def merge_reduce(function: Callable[[Any, Any], Any], data: Iterable[Any]) -> Any:
    """Merge two elements at a time, as a tree, until one is left; return that.

    Raises
    ------
    ValueError
        There are no elements.
    """
    waiting = deque(data)
    if not waiting:
        raise ValueError("merge_reduce: there is nothing to merge")
    while len(waiting) > 1:
        first, second = waiting.popleft(), waiting.popleft()
        waiting.append(function(first, second))
    return waiting[0]


def merge_n_reduce(function: Callable[..., Any], arity: int, data: Iterable[Any]) -> Any:
    """Merge `arity` elements at a time, as a tree, until one is left; return that.

    Raises
    ------
    ValueError
        There are no elements, or it merges less than two.
    """
    waiting = deque(data)
    if not waiting or arity < 2:
        raise ValueError("merge_n_reduce needs elements, and merges at least 2 at a time")
    while len(waiting) > 1:
        count = min(arity, len(waiting))
        waiting.append(function(*(waiting.popleft() for _ in range(count))))
    return waiting[0]
