"""Idle executors or MPI worlds, and the search for one that can be used at once. Pure.

They hold no cores, so those of one may be taken by others. What is found in that state is put aside
until what is in its way is given back, so that it is looked at once, and not at each search: what a
search costs does not grow with how many are idle.

Invariants
----------
- An item that is taken has all its cores, GPUs and memory free.
- An item that is put aside comes back as soon as it may be usable; only `discard` forgets it.
- The item that became idle last is taken first: its memory is warm, and others may be closed.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Generic, Protocol, TypeVar

from pilot.agent.rules.cores import Cores
from pilot.scheduler.placement import NodeAllocation

#: Idle executors and worlds are closed after so many seconds.
IDLE_S = 60.0


class Reusable(Protocol):
    """An executor or world."""

    @property
    def id(self) -> int:
        """The number of the executor or world."""

    @property
    def use(self) -> Hashable:
        """The kind of work that the process can be used for."""

    @property
    def pinned(self) -> tuple[NodeAllocation, ...]:
        """The shares that must be free for the process to be used."""


T = TypeVar("T", bound=Reusable)


class WarmPool(Generic[T]):
    """A pool of idle executors or worlds, by their use."""

    def __init__(self, cores: Cores) -> None:
        self._cores = cores
        self._near: dict[Hashable, dict[int, T]] = {}
        self._aside: dict[Hashable, dict[int, T]] = {}

    def add(self, item: T) -> None:
        """Add an idle item."""
        self._near.setdefault(item.use, {})[item.id] = item

    def discard(self, item: T) -> None:
        """Remove an item from the pool; do nothing if it is not in there."""
        if not _remove(self._aside, item):
            _remove(self._near, item)

    def take(self, use: Hashable) -> T | None:
        """Remove and return an item for this use whose cores are free; None if there is none."""
        near = self._near.get(use)
        found = None
        while near and found is None:
            _, item = near.popitem()
            in_the_way = self._cores.in_the_way(item.pinned)
            if in_the_way is None:
                found = item
            else:
                self._aside.setdefault(use, {})[item.id] = item
                self._cores.when_free(*in_the_way, partial(self._come_back, item))
        if near is not None and not near:
            del self._near[use]
        return found

    def waits(self, use: Hashable) -> bool:
        """Tell whether an item for this use is known to have its cores taken by others."""
        return use in self._aside

    def _come_back(self, item: T) -> None:
        if _remove(self._aside, item):
            self.add(item)


def _remove(items: dict[Hashable, dict[int, T]], item: T) -> bool:
    """Remove an item, and tell whether it was there."""
    alike = items.get(item.use)
    if alike is None or alike.pop(item.id, None) is None:
        return False
    if not alike:
        del items[item.use]
    return True
