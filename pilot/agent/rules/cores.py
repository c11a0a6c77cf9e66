"""The nodes of a pilot, and which of their cores, GPUs and memory are free. Pure.

Invariants
----------
- A core or GPU has one user at a time: who takes a share gives the same one back, once.
- `free` is the number of free cores of all nodes that are up, at any time.
- Who asked to be told of what is in the way of a share is told once, when that is free.
- What it costs to take or give back is up to the share, and to who waits for what is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pilot.scheduler.placement import FreeNode, Share, place
from pilot.scheduler.resources import NodeShape, Resources

#: What may be in the way of a share on its node: ``("core", 3)``, ``("gpu", 0)``, or memory.
_Thing = tuple[str, int]
_MEMORY: _Thing = ("memory", 0)


class Cores:
    """The nodes, and what is free on them; `hosts` are also those that have not reported yet."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self.hosts = list(hosts)
        #: Those that are up.
        self.nodes: dict[str, FreeNode] = {}
        self.free = 0
        #: Those where nothing new is started for now.
        self.resting: set[str] = set()
        self._waiting: dict[str, dict[_Thing, list[Callable[[], None]]]] = {}

    def add_node(self, name: str, shape: NodeShape, position: int) -> bool:
        """A node is up; False where it was already. `position` is its place in the list of nodes
        of the batch system."""
        if name not in self.hosts:
            self.hosts.append(name)
        if name in self.nodes:
            return False
        self.nodes[name] = FreeNode(name, shape, position)
        self.free += shape.cores
        return True

    def lose_node(self, name: str) -> None:
        """A node is gone, with whatever is taken of it."""
        if name in self.hosts:
            self.hosts.remove(name)
        if node := self.nodes.pop(name, None):
            self.free -= len(node.cores)
        self.resting.discard(name)
        self._waiting.pop(name, None)

    def place(self, need: Resources) -> list[Share] | None:
        """Where a task can run now, or None where it has to wait. Nothing is taken."""
        if not self.free:
            return None
        nodes = self.nodes.values()
        if self.resting:
            return place(need, [node for node in nodes if node.name not in self.resting])
        return place(need, nodes)

    def first_taken(self, shares: tuple[Share, ...]) -> Share | None:
        """The first of these shares that cannot be taken; None where all can."""
        nodes = self.nodes
        for share in shares:
            node = nodes.get(share.node)
            if node is None or not node.holds(share):
                return share
        return None

    def take(self, share: Share) -> None:
        """Give a share away."""
        self.nodes[share.node].take(share)
        self.free -= len(share.cores)

    def give_back(self, share: Share) -> None:
        """Take a share back; its node may be gone."""
        node = self.nodes.get(share.node)
        if node is None:
            return
        node.give_back(share)
        self.free += len(share.cores)
        if waiting := self._waiting.get(share.node):
            for thing in _things(share):
                for tell in waiting.pop(thing, ()):
                    tell()

    def when_free(self, share: Share, tell: Callable[[], None]) -> None:
        """Call `tell` when something is given back that is in the way of a share now."""
        node = self.nodes.get(share.node)
        if node is None:
            return
        taken = [("core", core) for core in share.cores if core not in node.cores]
        taken += [("gpu", gpu) for gpu in share.gpus if gpu not in node.gpus]
        thing = taken[0] if taken else _MEMORY
        self._waiting.setdefault(share.node, {}).setdefault(thing, []).append(tell)


def _things(share: Share) -> list[_Thing]:
    return [
        *(("core", core) for core in share.cores),
        *(("gpu", gpu) for gpu in share.gpus),
        _MEMORY,
    ]
