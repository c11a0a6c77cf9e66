"""Shapes of collections: where the leaves are, as whoever called has them.

A shape is 0 for a leaf, a list of shapes for what is iterated, and a dict of them for a mapping. It
goes with a call, and the worker reads the leaves from these places, whatever the function has put
there: what replaces a leaf is a leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

Shape: TypeAlias = "int | list[Any] | dict[Any, Any]"

#: What is looked into at deeper levels; the outermost level is iterated whatever it is.
_NESTED = (list, tuple, set, frozenset)


def take_apart(
    value: Any,
    depth: int | None,
    is_leaf: Callable[[Any], bool],
    leaf: Callable[[Any], Any],
) -> tuple[Any, Shape]:
    """Return a collection with its leaves replaced, and its shape.

    Parameters
    ----------
    value
        The collection.
    depth
        How many levels there are; None: as many as there are containers.
    is_leaf
        Tells whether a container counts as one thing.
    leaf
        Returns what takes the place of a leaf.
    """
    return _apart(value, depth, is_leaf, leaf, is_first=True)


def _apart(
    value: Any,
    depth: int | None,
    is_leaf: Callable[[Any], bool],
    leaf: Callable[[Any], Any],
    is_first: bool = False,
) -> tuple[Any, Shape]:
    if depth is not None and depth <= 0:
        return leaf(value), 0
    is_mapping = isinstance(value, dict)
    if not is_first and (not (is_mapping or isinstance(value, _NESTED)) or is_leaf(value)):
        return leaf(value), 0
    below = None if depth is None else depth - 1
    if is_mapping:
        pairs = {key: _apart(item, below, is_leaf, leaf) for key, item in value.items()}
        return (
            {key: made for key, (made, _) in pairs.items()},
            {key: shape for key, (_, shape) in pairs.items()},
        )
    items = list(value)
    # Most are flat, and large ones are: so the kinds are looked at, and not each item.
    kinds = set(map(type, items))
    if below == 0 or not any(issubclass(kind, (dict, *_NESTED)) for kind in kinds):
        return _like(value, [leaf(item) for item in items]), [0] * len(items)
    parts = [_apart(item, below, is_leaf, leaf) for item in items]
    return _like(value, [made for made, _ in parts]), [shape for _, shape in parts]


def _like(value: Any, items: list[Any]) -> Any:
    """Return items as the kind of container that `value` is."""
    kind = type(value)
    return kind(items) if kind in (tuple, set, frozenset) else items


def leaves(value: Any, shape: Shape) -> Iterator[Any]:
    """Yield what is at the leaves of a shape."""
    if isinstance(shape, dict):
        for key, below in shape.items():
            yield from leaves(value[key], below)
    elif isinstance(shape, int):
        yield value
    else:
        items = list(value)
        for place, below in enumerate(shape):
            yield from leaves(items[place] if place < len(items) else None, below)
