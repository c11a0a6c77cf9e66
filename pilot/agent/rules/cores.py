"""The nodes of a pilot, and the free part of their cores and other resources. Pure.

Invariants
----------
- A core has one user at a time, as has every resource with an index: whatever takes a share gives
  the same share back, once.
- `free` is the number of free cores of all nodes that are up, at any time.
- A caller of `when_free` is told once, when the obstacle is free.
- The cost of taking or releasing a share depends on its size and on the callers that wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TypeAlias

from pilot.scheduler.placement import FreeNode, NodeAllocation, place, things
from pilot.scheduler.resources import NodeShape, Resources

#: What may be in the way of a share on its node: see `scheduler.placement.things`.
Thing: TypeAlias = tuple[str, str]
#: The node itself is no more.
GONE: Thing = ("", "")


class Cores:
    """The nodes of a pilot and their free resources; `hosts` includes nodes that have not reported
    yet."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self.hosts = list(hosts)
        #: The nodes that are up, by host.
        self.nodes: dict[str, FreeNode] = {}
        self.free = 0
        #: The nodes where nothing new is started for now.
        self.resting: set[str] = set()
        #: The nodes whose free cores are for tasks that have run there and go on.
        self.reserved: set[str] = set()
        self._waiting: dict[str, dict[Thing, list[Callable[[], None]]]] = {}
        #: The allocations that an idle node had had when it was seen idle first, and that time.
        self._idle: dict[str, tuple[int, float]] = {}

    def add_node(self, name: str, shape: NodeShape, position: int) -> bool:
        """Add a node that is up; return False if it was already. `position` is its place in the
        batch system's list of nodes."""
        if name not in self.hosts:
            self.hosts.append(name)
        if name in self.nodes:
            return False
        self.nodes[name] = FreeNode(name, shape, position)
        self.free += shape.cores
        return True

    def lose_node(self, name: str) -> None:
        """Remove a lost node, with everything that is taken on it."""
        if name in self.hosts:
            self.hosts.remove(name)
        if node := self.nodes.pop(name, None):
            self.free -= len(node.cores)
        self.resting.discard(name)
        self.reserved.discard(name)
        self._waiting.pop(name, None)

    def idle_s(self, now: float) -> dict[str, float]:
        """Return for how long nodes have been seen idle, in seconds; to be called at intervals.

        A node that was used between two calls is seen idle anew.
        """
        seen, self._idle = self._idle, {}
        for name, node in self.nodes.items():
            if not node.users:
                taken, since = seen.get(name, (node.taken, now))
                self._idle[name] = (taken, since) if taken == node.taken else (node.taken, now)
        return {name: now - since for name, (_, since) in self._idle.items()}

    def place(self, need: Resources, node: str = "") -> list[NodeAllocation] | None:
        """Find the shares on which a task can run now, on this node if one is named, or None if it
        has to wait. Nothing is taken."""
        if not self.free and need.cores:
            return None
        nodes: Collection[FreeNode] = self.nodes.values()
        if node:
            nodes = [self.nodes[node]] if node in self.nodes else []
        if self.resting or (self.reserved and need.cores):
            shut = self.resting | self.reserved if need.cores else self.resting
            return place(need, [node for node in nodes if node.name not in shut])
        return place(need, nodes)

    def like(self, name: str, cores: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return as many free cores of a node as these, or these if they are free; or None."""
        node = self.nodes.get(name)
        if node is None or len(node.cores) < len(cores):
            return None
        if node.cores.issuperset(cores):
            return cores
        return node.cut(Resources(len(cores)), 1).cores

    def in_the_way(self, shares: tuple[NodeAllocation, ...]) -> tuple[str, Thing] | None:
        """Find the first thing that keeps `shares` from being taken, with its node; None if nothing
        does."""
        nodes = self.nodes
        for share in shares:
            node = nodes.get(share.node)
            if node is None:
                return share.node, GONE
            if (thing := node.obstacle(share)) is not None:
                return share.node, thing
        return None

    def take(self, share: NodeAllocation) -> None:
        """Mark a share as taken."""
        self.nodes[share.node].take(share)
        self.free -= len(share.cores)

    def release(self, share: NodeAllocation) -> None:
        """Mark a share as free again; its node may be gone."""
        node = self.nodes.get(share.node)
        if node is None:
            return
        node.release(share)
        self.free += len(share.cores)
        if waiting := self._waiting.get(share.node):
            for thing in things(share):
                for tell in waiting.pop(thing, ()):
                    tell()

    def keep(self, share: NodeAllocation) -> None:
        """Have others not take a share, though nobody uses it."""
        self.take(share)
        node = self.nodes[share.node]
        node.users -= 1
        node.taken -= 1

    def unkeep(self, share: NodeAllocation) -> None:
        """Free a share that was kept; its node may be gone."""
        if (node := self.nodes.get(share.node)) is not None:
            node.users += 1
            self.release(share)

    def when_free(self, node: str, thing: Thing, tell: Callable[[], None]) -> None:
        """Call `tell` when the obstacle `thing` on a node becomes free; a missing node never
        does."""
        if thing is not GONE:
            self._waiting.setdefault(node, {}).setdefault(thing, []).append(tell)
