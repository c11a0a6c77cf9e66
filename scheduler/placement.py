"""Placement of a task on nodes and cores: the agent's half of two-level scheduling. Pure.

Invariants: no core or index is in two allocations at a time, unless each has a part of the index,
and these parts are at most one together; no node gives more of anything than it has;
the ranks of a task are laid out in blocks, node after node; a plain task is put where it leaves the
larger holes to those that need them; on a machine of several NUMA nodes each rank has cores of one,
where that can be.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from pilot.scheduler.amounts import CORELESS, MEMORY, MOST, UNIT, Amount, Amounts, amount_text
from pilot.scheduler.features import satisfies
from pilot.scheduler.resources import Count, NodeShape, Resources, Supply, ranks_of_indices

#: What is in the way of all others on a node that one task has for itself.
WHOLE = ("", "whole")


class Portion(msgspec.Struct, frozen=True, array_like=True):
    """The part of one named resource that the ranks of an allocation get."""

    name: str
    #: The amount of each rank.
    amount: Amount
    ranks: Count = 1
    #: The indices, in the order of the ranks; empty for a resource without indices.
    indices: tuple[str, ...] = ()

    @property
    def of_each(self) -> int:
        """The amount taken of each index."""
        return min(self.amount, UNIT)

    def of_rank(self, rank: int) -> Portion:
        """Return the part of one rank; ranks are counted from 0 on this node."""
        count = max(1, self.amount // UNIT)
        return Portion(self.name, self.amount, 1, self.indices[rank * count : (rank + 1) * count])

    def __str__(self) -> str:
        text = amount_text(self.name, self.amount * self.ranks)
        return f"{text} ({','.join(self.indices)})" if self.indices else text


class NodeAllocation:
    """The part of a node given to a task, for all its ranks: cores by number, and the rest."""

    __slots__ = ("_text", "cores", "is_whole", "named", "node", "ranks")

    def __init__(
        self,
        node: str,
        ranks: int,
        cores: tuple[int, ...],
        named: tuple[Portion, ...] = (),
        is_whole: bool = False,
    ) -> None:
        self.node = node
        self.ranks = ranks
        #: The cores, in the order of the ranks.
        self.cores = cores
        self.named = named
        #: True if nobody else may have anything of the node.
        self.is_whole = is_whole
        self._text = ""

    @property
    def text(self) -> str:
        """What it has, without its node and amounts, as `placement_text` writes it."""
        if not self._text:
            indexed = (
                f"{portion.name}={','.join(dict.fromkeys(portion.indices))}"
                for portion in self.indexed
            )
            self._text = ";".join([runs_text(self.cores), *indexed])
        return self._text

    @property
    def indexed(self) -> tuple[Portion, ...]:
        """The portions with indices, such as GPUs: a process can have been started for them."""
        return tuple(portion for portion in self.named if portion.indices)

    def __repr__(self) -> str:
        named = "".join(f", {portion}" for portion in self.named)
        return f"NodeAllocation({self.node}: {self.ranks} ranks on cores {self.cores}{named})"


class Sum:
    """The free amount of a resource without indices."""

    __slots__ = ("free",)

    def __init__(self, amount: int) -> None:
        self.free = amount

    def fit(self, amount: int) -> int:
        """Return how many ranks fit now, at this amount each."""
        # Of places more may be taken than there are, for a while.
        return max(0, self.free // amount)

    def obstacle(self, portion: Portion) -> str | None:
        """Return what keeps a portion from being taken; None if it can be."""
        return None if self.free >= portion.amount * portion.ranks else ""

    def cut(self, name: str, amount: int, ranks: int) -> Portion:
        """Return a portion for so many ranks, without taking it."""
        return Portion(name, amount, ranks)

    def cut_available(self, name: str, amount: int, ranks: int) -> tuple[Portion, bool]:
        """Return as much of a portion as is free, and whether that is all of it."""
        whole = amount * ranks
        return Portion(name, min(self.free, whole)), self.free >= whole

    def copy(self) -> Sum:
        """Return another one with the same free amount."""
        return Sum(self.free)

    def take(self, portion: Portion) -> None:
        """Take a portion out of the free amount."""
        self.free -= portion.amount * portion.ranks

    def release(self, portion: Portion) -> None:
        """Put a portion back."""
        self.free += portion.amount * portion.ranks


class Indexed:
    """The free parts of a resource with indices, each in parts of `UNIT`."""

    __slots__ = ("free",)

    def __init__(self, indices: Iterable[str]) -> None:
        self.free = dict.fromkeys(indices, UNIT)

    def fit(self, amount: int) -> int:
        """Return how many ranks fit now, at this amount each."""
        return ranks_of_indices(self.free.values(), amount)

    def obstacle(self, portion: Portion) -> str | None:
        """Return the first index that keeps a portion from being taken; None if none does."""
        each, free = portion.of_each, self.free
        if each == UNIT:
            return next((index for index in portion.indices if free[index] < UNIT), None)
        for index in portion.indices:
            if free[index] < each * portion.indices.count(index):
                return index
        return None

    def cut(self, name: str, amount: int, ranks: int) -> Portion:
        """Return a portion of the first free indices; a fraction comes from the fullest index."""
        if amount >= UNIT:
            whole = [index for index, left in self.free.items() if left == UNIT]
            return Portion(name, amount, ranks, tuple(whole[: ranks * amount // UNIT]))
        # Those of which least is left first, so that whole ones stay whole.
        chosen: list[str] = []
        for index, left in sorted(self.free.items(), key=lambda item: item[1]):
            chosen += [index] * min(left // amount, ranks - len(chosen))
        return Portion(name, amount, ranks, tuple(chosen))

    def cut_available(self, name: str, amount: int, ranks: int) -> tuple[Portion, bool]:
        """Return as much of a portion as is free, and whether that is all of it."""
        portion = self.cut(name, amount, ranks)
        return portion, len(portion.indices) >= ranks * max(1, amount // UNIT)

    def copy(self) -> Indexed:
        """Return another one with the same free parts."""
        other = Indexed(())
        other.free = self.free.copy()
        return other

    def take(self, portion: Portion) -> None:
        """Take a portion out of the free parts."""
        for index in portion.indices:
            self.free[index] -= portion.of_each

    def release(self, portion: Portion) -> None:
        """Put a portion back."""
        for index in portion.indices:
            self.free[index] += portion.of_each


def _stock(supply: Supply) -> Sum | Indexed:
    return Indexed(supply.indices) if supply.indices else Sum(supply.amount)


class FreeNode:
    """The free resources of a node."""

    __slots__ = ("cores", "is_shut", "name", "named", "position", "shape", "taken", "users")

    def __init__(self, name: str, shape: NodeShape, position: int = 0) -> None:
        self.name = name
        #: The node's place in the batch system's list of the job's nodes.
        self.position = position
        self.shape = shape
        self.cores = set(range(shape.cores))
        #: Other resources by name; the node lacks (memory: does not count) those not listed.
        self.named = {supply.name: _stock(supply) for supply in shape.named}
        #: The allocations that are taken now, and those that were ever.
        self.users = self.taken = 0
        #: True while a task has the node for itself.
        self.is_shut = False

    def copy(self) -> FreeNode:
        """Return another one with the same free resources."""
        other = FreeNode(self.name, self.shape, self.position)
        other.cores = self.cores.copy()
        other.named = {name: stock.copy() for name, stock in self.named.items()}
        other.users, other.is_shut = self.users, self.is_shut
        return other

    def fit(self, need: Resources) -> int:
        """Return how many ranks fit now."""
        if self.is_shut or (need.exclusive and not self.is_empty):
            return 0
        if need.constraint and not satisfies(self.shape.features, need.constraint):
            return 0
        fit = len(self.cores) // need.cores if need.cores else MOST
        return min(fit, self.fit_named(need.named)) if need.named else fit

    @property
    def is_empty(self) -> bool:
        """True if nobody has anything of the node, and nothing is kept for anybody."""
        return not self.users and len(self.cores) == self.shape.cores

    def fit_named(self, amounts: Amounts) -> int:
        """Return how many ranks fit by other resources than cores; at least one is given."""
        fits = []
        for name, amount in amounts:
            stock = self.named.get(name)
            if stock is not None:
                fits.append(stock.fit(amount))
            elif name != MEMORY:
                return 0
        return min(fits, default=MOST)

    def obstacle(self, share: NodeAllocation) -> tuple[str, str] | None:
        """Return what keeps an allocation from being taken, as one of `things`, or None."""
        if self.is_shut:
            return WHOLE
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
        """Take an allocation out of the free resources."""
        self.users += 1
        self.taken += 1
        self.is_shut = self.is_shut or share.is_whole
        self.cores.difference_update(share.cores)
        for portion in share.named:
            if (stock := self.named.get(portion.name)) is not None:
                stock.take(portion)

    def release(self, share: NodeAllocation) -> None:
        """Put an allocation back."""
        self.users -= 1
        if share.is_whole:
            self.is_shut = False
        self.cores.update(share.cores)
        for portion in share.named:
            if (stock := self.named.get(portion.name)) is not None:
                stock.release(portion)

    def cut(self, need: Resources, ranks: int) -> NodeAllocation:
        """Return an allocation for so many ranks, without taking it: the lowest free numbers, and
        on a machine of several NUMA nodes each rank on one of these, where that can be."""
        if need.exclusive and (need.ranks == 1 or need.one_process):
            cores = tuple(sorted(self.cores))
        elif self.shape.domains:
            cores = _near_each_other(self.cores, self.shape.domains, need.cores, ranks)
        else:
            cores = tuple(sorted(self.cores)[: need.cores * ranks])
        named = self.cut_named(need.named, ranks)
        return NodeAllocation(self.name, ranks, cores, named, need.exclusive)

    def cut_available(self, need: Resources, ranks: int) -> tuple[NodeAllocation, bool]:
        """Return as much of an allocation as is free, and whether that is all of it."""
        wanted = self.shape.cores if need.exclusive else need.cores * ranks
        portions, is_all = [], len(self.cores) >= wanted
        amounts = need.named
        if need.exclusive and (places := self.shape.supply(CORELESS)) is not None:
            # As long as one runs there, the node is no task's for itself.
            amounts, is_all = (*amounts, (CORELESS, places.amount)), is_all and not self.users
        for name, amount in amounts:
            if (stock := self.named.get(name)) is not None:
                portion, is_whole = stock.cut_available(name, amount, ranks)
                portions.append(portion)
                is_all = is_all and is_whole
        cores = tuple(sorted(self.cores)[:wanted])
        return NodeAllocation(self.name, ranks, cores, tuple(portions)), is_all

    def cut_named(self, amounts: Amounts, ranks: int = 1) -> tuple[Portion, ...]:
        """Return the part of an allocation that is not cores."""
        named = self.named
        return tuple(
            named[name].cut(name, amount, ranks) for name, amount in amounts if name in named
        )


def _near_each_other(
    free: Iterable[int], domains: Iterable[tuple[int, ...]], each: int, ranks: int
) -> tuple[int, ...]:
    """Return cores for so many ranks, one after the other: of the NUMA node with the fewest free
    cores that are enough for a rank, else of as few nodes as possible."""
    left = set(free)
    by_domain = [[core for core in domain if core in left] for domain in domains]
    by_domain.append(sorted(left.difference(*by_domain)))  # those of which nothing is known
    chosen: list[int] = []
    for _ in range(ranks if each else 0):
        enough = [cores for cores in by_domain if len(cores) >= each]
        if enough:
            cores = min(enough, key=len)
            chosen += cores[:each]
            del cores[:each]
            continue
        wanted = each
        for cores in sorted(by_domain, key=len, reverse=True):
            taken = cores[:wanted]
            chosen += taken
            wanted -= len(taken)
            del cores[: len(taken)]
    return tuple(chosen)


def runs_text(numbers: Iterable[int]) -> str:
    """Return numbers as runs: ``0-3,8``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def things(share: NodeAllocation) -> Collection[tuple[str, str]]:
    """Return the items of an allocation by name and index: cores have no name, amounts no index."""
    found = [("", str(core)) for core in share.cores]
    if share.is_whole:
        found.append(WHOLE)
    for portion in share.named:
        found += [(portion.name, index) for index in dict.fromkeys(portion.indices or ("",))]
    return found


def place(need: Resources, nodes: Iterable[FreeNode]) -> list[NodeAllocation] | None:
    """Return the allocations of a task, or None if it has to wait. Nothing is taken.

    With ``ranks_per_node`` every node gets exactly that many ranks (the last one the rest);
    otherwise as few nodes as possible are used. Allocations come in the order of node positions:
    launchers number ranks in that order whatever they are asked.
    """
    chosen = _choose(need, nodes)
    if chosen is None:
        return None
    chosen.sort(key=lambda item: item[0].position)
    return [node.cut(need, ranks) for node, ranks in chosen]


def _choose(need: Resources, nodes: Iterable[FreeNode]) -> list[tuple[FreeNode, int]] | None:
    """Return the nodes, and how many ranks each gets."""
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
