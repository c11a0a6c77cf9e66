"""Which nodes, cores and GPUs a task gets: the agent's half of two-level scheduling. Pure.

Invariants: no core or GPU is in two shares at a time, and no node gives more memory than it has;
the ranks of a task are laid out in blocks, node after node; a plain task is put where it leaves the
larger holes to those that need them.
"""

from __future__ import annotations

from collections.abc import Iterable

from pilot.scheduler.resources import NodeShape, Resources, ranks_that_fit


class Share:
    """What one node gives to a task: cores and GPUs by number, in the order of its ranks."""

    __slots__ = ("cores", "gpus", "memory_mib", "node", "ranks")

    def __init__(
        self, node: str, ranks: int, cores: tuple[int, ...], gpus: tuple[int, ...], memory_mib: int
    ) -> None:
        self.node = node
        self.ranks = ranks
        self.cores = cores
        self.gpus = gpus
        self.memory_mib = memory_mib

    def __repr__(self) -> str:
        return f"Share({self.node}: {self.ranks} ranks on cores {self.cores}, GPUs {self.gpus})"


class FreeNode:
    """What is free on a node."""

    __slots__ = ("cores", "gpus", "memory_mib", "name", "position", "shape")

    def __init__(self, name: str, shape: NodeShape, position: int = 0) -> None:
        self.name = name
        #: Its place in the batch system's list of the job's nodes.
        self.position = position
        self.shape = shape
        self.cores = set(range(shape.cores))
        self.gpus = set(range(shape.gpus))
        #: None: memory is not counted on this node.
        self.memory_mib = shape.memory_mib or None

    def fit(self, need: Resources) -> int:
        """How many ranks fit now."""
        return ranks_that_fit(need, len(self.cores), self.memory_mib, len(self.gpus))

    def holds(self, share: Share) -> bool:
        """Whether exactly these cores and GPUs, and the memory, are free."""
        return (
            self.cores.issuperset(share.cores)
            and self.gpus.issuperset(share.gpus)
            and (self.memory_mib is None or self.memory_mib >= share.memory_mib)
        )

    def take(self, share: Share) -> None:
        """Give a share away."""
        self.cores.difference_update(share.cores)
        self.gpus.difference_update(share.gpus)
        if self.memory_mib is not None:
            self.memory_mib -= share.memory_mib

    def give_back(self, share: Share) -> None:
        """Take a share back."""
        self.cores.update(share.cores)
        self.gpus.update(share.gpus)
        if self.memory_mib is not None:
            self.memory_mib += share.memory_mib

    def cut(self, need: Resources, ranks: int) -> Share:
        """A share for so many ranks, of the lowest numbers that are free; it is not taken yet."""
        return Share(
            self.name,
            ranks,
            tuple(sorted(self.cores)[: need.cores * ranks]),
            tuple(sorted(self.gpus)[: need.gpus * ranks]),
            need.memory_mib * ranks,
        )


def place(need: Resources, nodes: Iterable[FreeNode]) -> list[Share] | None:
    """Where a task can run now, or None where it has to wait. Nothing is taken.

    With ``ranks_per_node`` every node gets exactly that many ranks (the last one the rest);
    otherwise as few nodes as possible are used. Shares come in the order of the nodes' positions:
    launchers number ranks in that order whatever they are asked.
    """
    chosen = _choose(need, nodes)
    if chosen is None:
        return None
    chosen.sort(key=lambda item: item[0].position)
    return [node.cut(need, ranks) for node, ranks in chosen]


def _choose(need: Resources, nodes: Iterable[FreeNode]) -> list[tuple[FreeNode, int]] | None:
    """The nodes, and how many ranks each gets."""
    fitting = [(fit, node) for node in nodes if (fit := node.fit(need)) > 0]
    if need.ranks_per_node:
        fitting = [(fit, node) for fit, node in fitting if fit >= need.ranks_per_node]
        fitting.sort(key=lambda item: (item[0], item[1].name))
        each = need.ranks_per_node
        chosen, left = [], need.ranks
        for _, node in fitting:
            chosen.append((node, min(each, left)))
            left -= each
            if left <= 0:
                return chosen
        return None
    whole = [(fit, node) for fit, node in fitting if fit >= need.ranks]
    if whole:
        _, node = min(whole, key=lambda item: (item[0], item[1].name))
        return [(node, need.ranks)]
    fitting.sort(key=lambda item: (-item[0], item[1].name))
    chosen, left = [], need.ranks
    for fit, node in fitting:
        chosen.append((node, min(fit, left)))
        left -= fit
        if left <= 0:
            return chosen
    return None
