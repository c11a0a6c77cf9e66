"""Which nodes, cores and other things a task gets: the agent's half of two-level scheduling. Pure.

Invariants: no core, and nothing that has an index, is in two shares at a time, unless each has a
part of it, and these are not more than one together; no node gives more of anything than it has;
the ranks of a task are laid out in blocks, node after node; a plain task is put where it leaves the
larger holes to those that need them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from pilot.scheduler.amounts import MEMORY, MOST, UNIT, Amount, Amounts, amount_text
from pilot.scheduler.resources import Count, NodeShape, Resources, Supply, ranks_of_indices


class Portion(msgspec.Struct, frozen=True, array_like=True):
    """What the ranks of a share get of one named thing."""

    name: str
    #: Of each rank.
    amount: Amount
    ranks: Count = 1
    #: Which ones, in the order of the ranks; empty where they are not told apart.
    indices: tuple[str, ...] = ()

    @property
    def of_each(self) -> int:
        """How much of each index is taken."""
        return min(self.amount, UNIT)

    def of_rank(self, rank: int) -> Portion:
        """What one rank gets; it is counted from 0 on this node."""
        count = max(1, self.amount // UNIT)
        return Portion(self.name, self.amount, 1, self.indices[rank * count : (rank + 1) * count])

    def __str__(self) -> str:
        text = amount_text(self.name, self.amount * self.ranks)
        return f"{text} ({','.join(self.indices)})" if self.indices else text


class NodeAllocation:
    """What one node gives to a task: cores by number, and other things, for all of its ranks."""

    __slots__ = ("cores", "named", "node", "ranks")

    def __init__(
        self, node: str, ranks: int, cores: tuple[int, ...], named: tuple[Portion, ...] = ()
    ) -> None:
        self.node = node
        self.ranks = ranks
        #: In the order of its ranks.
        self.cores = cores
        self.named = named

    @property
    def indexed(self) -> tuple[Portion, ...]:
        """Those that are told apart: a process can have been started for them."""
        return tuple(portion for portion in self.named if portion.indices)

    def __repr__(self) -> str:
        named = "".join(f", {portion}" for portion in self.named)
        return f"NodeAllocation({self.node}: {self.ranks} ranks on cores {self.cores}{named})"


class Sum:
    """What is free of something that is only an amount."""

    __slots__ = ("free",)

    def __init__(self, amount: int) -> None:
        self.free = amount

    def fit(self, amount: int) -> int:
        """How many ranks that need so much each fit now."""
        return self.free // amount

    def obstacle(self, portion: Portion) -> str | None:
        """What keeps a portion from being taken; None: nothing does."""
        return None if self.free >= portion.amount * portion.ranks else ""

    def cut(self, name: str, amount: int, ranks: int) -> Portion:
        """A portion for so many ranks; it is not taken yet."""
        return Portion(name, amount, ranks)

    def take(self, portion: Portion) -> None:
        """Give a portion away."""
        self.free -= portion.amount * portion.ranks

    def release(self, portion: Portion) -> None:
        """Take a portion back."""
        self.free += portion.amount * portion.ranks


class Indexed:
    """What is free of things that are told apart, each in parts of `UNIT`."""

    __slots__ = ("free",)

    def __init__(self, indices: Iterable[str]) -> None:
        self.free = dict.fromkeys(indices, UNIT)

    def fit(self, amount: int) -> int:
        """How many ranks that need so much each fit now."""
        return ranks_of_indices(self.free.values(), amount)

    def obstacle(self, portion: Portion) -> str | None:
        """The first index that keeps a portion from being taken; None: nothing does."""
        each, free = portion.of_each, self.free
        if each == UNIT:
            return next((index for index in portion.indices if free[index] < UNIT), None)
        for index in portion.indices:
            if free[index] < each * portion.indices.count(index):
                return index
        return None

    def cut(self, name: str, amount: int, ranks: int) -> Portion:
        """A portion of the first that are free, or of the fullest where it is a part of one."""
        if amount >= UNIT:
            whole = [index for index, left in self.free.items() if left == UNIT]
            return Portion(name, amount, ranks, tuple(whole[: ranks * amount // UNIT]))
        # Those of which least is left first, so that whole ones stay whole.
        chosen: list[str] = []
        for index, left in sorted(self.free.items(), key=lambda item: item[1]):
            chosen += [index] * min(left // amount, ranks - len(chosen))
        return Portion(name, amount, ranks, tuple(chosen))

    def take(self, portion: Portion) -> None:
        """Give a portion away."""
        for index in portion.indices:
            self.free[index] -= portion.of_each

    def release(self, portion: Portion) -> None:
        """Take a portion back."""
        for index in portion.indices:
            self.free[index] += portion.of_each


def _stock(supply: Supply) -> Sum | Indexed:
    return Indexed(supply.indices) if supply.indices else Sum(supply.amount)


class FreeNode:
    """What is free on a node."""

    __slots__ = ("cores", "name", "named", "position", "shape")

    def __init__(self, name: str, shape: NodeShape, position: int = 0) -> None:
        self.name = name
        #: Its place in the batch system's list of the job's nodes.
        self.position = position
        self.shape = shape
        self.cores = set(range(shape.cores))
        #: What is not in here the node does not have, or, as memory, does not count.
        self.named = {supply.name: _stock(supply) for supply in shape.named}

    def fit(self, need: Resources) -> int:
        """How many ranks fit now."""
        fit = len(self.cores) // need.cores if need.cores else need.ranks
        return min(fit, self.fit_named(need.named)) if need.named else fit

    def fit_named(self, amounts: Amounts) -> int:
        """How many ranks fit by other things than cores; at least one of these is given."""
        fits = []
        for name, amount in amounts:
            stock = self.named.get(name)
            if stock is not None:
                fits.append(stock.fit(amount))
            elif name != MEMORY:
                return 0
        return min(fits, default=MOST)

    def obstacle(self, share: NodeAllocation) -> tuple[str, str] | None:
        """What keeps a share from being taken, as one of `things`; None where nothing does."""
        if not self.cores.issuperset(share.cores):
            return "", str(next(core for core in share.cores if core not in self.cores))
        for portion in share.named:
            stock = self.named.get(portion.name)
            if stock is not None:
                index = stock.obstacle(portion)
                if index is not None:
                    return portion.name, index
        return None

    def take(self, share: NodeAllocation) -> None:
        """Give a share away."""
        self.cores.difference_update(share.cores)
        for portion in share.named:
            if (stock := self.named.get(portion.name)) is not None:
                stock.take(portion)

    def release(self, share: NodeAllocation) -> None:
        """Take a share back."""
        self.cores.update(share.cores)
        for portion in share.named:
            if (stock := self.named.get(portion.name)) is not None:
                stock.release(portion)

    def cut(self, need: Resources, ranks: int) -> NodeAllocation:
        """A share for so many ranks, of the lowest numbers that are free; it is not taken yet."""
        cores = tuple(sorted(self.cores)[: need.cores * ranks])
        return NodeAllocation(self.name, ranks, cores, self.cut_named(need.named, ranks))

    def cut_named(self, amounts: Amounts, ranks: int = 1) -> tuple[Portion, ...]:
        """The part of a share that is not cores."""
        named = self.named
        return tuple(
            named[name].cut(name, amount, ranks) for name, amount in amounts if name in named
        )


def things(share: NodeAllocation) -> Collection[tuple[str, str]]:
    """All that is in a share, by name and index: cores have no name, amounts no index."""
    found = [("", str(core)) for core in share.cores]
    for portion in share.named:
        found += [(portion.name, index) for index in dict.fromkeys(portion.indices or ("",))]
    return found


def place(need: Resources, nodes: Iterable[FreeNode]) -> list[NodeAllocation] | None:
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
