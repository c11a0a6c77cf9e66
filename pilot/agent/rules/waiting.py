"""Executors whose tasks wait for others: what they give back, and when they have it again. Pure.

Invariants
----------
- An executor whose task waits holds no cores and, where the task needs none, no place. It holds all
  else that the task has: its memory is no less for the wait, and on GPUs it may have data.
- A task that needs no core goes on at once. All places may be taken, so for a while more such tasks
  run than there are places.
- A task that goes on gets as many cores as it had, on its node; others, where its own are taken.
- On a node where a task waits for its cores to go on, nothing else starts. These tasks are served
  in the order in which they asked, so each has its cores once what runs there has ended or waits.
- A pilot where no task waits pays nothing for any of this.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from pilot.agent.rules.cores import Cores
from pilot.scheduler.amounts import CORELESS
from pilot.scheduler.placement import NodeAllocation, Portion


class _Waiter(Protocol):
    """An executor, as far as it may wait."""

    id: int
    node: str
    #: The one share that it has, also while it waits.
    pinned: tuple[NodeAllocation, ...]


W = TypeVar("W", bound=_Waiter)


class Waiting(Generic[W]):
    """The executors of a pilot whose tasks wait for others, or for cores to go on."""

    def __init__(self, cores: Cores) -> None:
        self._cores = cores
        #: The share that each had, by its number; who has waited longest comes first.
        self._had: dict[int, NodeAllocation] = {}
        #: Node → those that have asked for their cores there.
        self._asking: dict[str, deque[W]] = {}
        #: Those that have asked, and need no cores.
        self.at_once: list[W] = []

    def __bool__(self) -> bool:
        return bool(self._had)

    def __contains__(self, executor: W) -> bool:
        return executor.id in self._had

    @property
    def latest_first(self) -> Iterator[int]:
        """The numbers of the executors, the one that began to wait last first."""
        return reversed(self._had)

    @property
    def asks(self) -> bool:
        """True if a task waits to go on."""
        return bool(self._asking or self.at_once)

    def begin(self, executor: W) -> None:
        """Give the cores, or the place, of an executor back."""
        (share,) = executor.pinned
        self._had[executor.id] = share
        self._exchange(executor, (), tuple(each for each in share.named if each.name != CORELESS))

    def ask(self, executor: W) -> None:
        """Have an executor get cores as soon as there are any."""
        if not self._had[executor.id].cores:
            self.at_once.append(executor)
            return
        self._asking.setdefault(executor.node, deque()).append(executor)
        self._cores.reserved.add(executor.node)

    def served(self) -> list[W]:
        """Give cores to those that ask for them, as far as there are any; return who goes on."""
        found, self.at_once = self.at_once, []
        for executor in found:
            self._exchange(executor, (), self._had.pop(executor.id).named)
        for node, asking in list(self._asking.items()):
            while asking:
                had = self._had[asking[0].id]
                cores = self._cores.like(node, had.cores)
                if cores is None:
                    break
                executor = asking.popleft()
                del self._had[executor.id]
                self._exchange(executor, cores, had.named)
                found.append(executor)
            if not asking:
                self._reserve_no_more(node)
        return found

    def forget(self, executor: W) -> bool:
        """Forget an executor that ends; return True if it had asked for its cores."""
        self._had.pop(executor.id, None)
        if executor in self.at_once:
            self.at_once.remove(executor)
            return False
        asking = self._asking.get(executor.node, ())
        if not asking or executor not in asking:
            return False
        asking.remove(executor)
        if not asking:
            self._reserve_no_more(executor.node)
        return True

    def _reserve_no_more(self, node: str) -> None:
        del self._asking[node]
        self._cores.reserved.discard(node)

    def _exchange(self, executor: W, cores: tuple[int, ...], named: tuple[Portion, ...]) -> None:
        (share,) = executor.pinned
        self._cores.release(share)
        executor.pinned = (NodeAllocation(share.node, share.ranks, cores, named),)
        self._cores.take(executor.pinned[0])
