"""Resources: the needs of a task and the supply of a node, as plain values.

One representation from the API to the cores: cores, and amounts of all else by name
(`pilot.scheduler.amounts`). A new kind of resource takes a new name, and no code. One unit per
quantity: memory in MiB, time in seconds (``*_s``), cores as whole numbers. Texts such as ``"4G"``
or ``"1:30:00"`` are read here, once, at the edge. Nothing in this module knows of tasks, pilots or
sockets.
"""

# No annotations from the future: msgspec would compile each of them whenever a process starts.

import math
import numbers
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Annotated, TypeAlias

import msgspec

from pilot.scheduler.amounts import (
    CORELESS,
    GPUS,
    MEMORY,
    MOST,
    UNIT,
    Amount,
    Amounts,
    amount_number,
    amount_text,
    make_amounts,
)
from pilot.scheduler.features import satisfies

# Patterns are compiled by the processes that meet a text that needs them: many meet none.
_MEMORY = r"(?i)\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*"
_MEMORY_MIB = {"": 1.0, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}
_DURATION = r"(?i)\s*(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?\s*"
_DURATION_PART = r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)"
_DURATIONS = rf"(?i)\s*(?:{_DURATION_PART}\s*){{2,}}"
_DURATION_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


#: A count of ranks or cores, so bounded that products of two can still be stored.
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MOST)]
#: The longest duration, in seconds.
DURATION_MOST_S = 1e12


class Resources(msgspec.Struct, frozen=True, array_like=True):
    """The resources that one task needs while it runs.

    A task has ``ranks`` processes; each needs ``cores`` cores and what is ``named`` on one node. A
    plain task is one rank. With ``ranks_per_node`` set, ranks are laid out in blocks of exactly
    that many per node; 0 leaves the layout to the placement.

    Pilots are filled by cores, so these have a field of their own. Everything else is an amount
    of a named resource. A task without a core is one rank that needs a `CORELESS` place (`needs`):
    so what nodes have of these limits how many run, and nothing else has to know of such tasks.
    """

    #: Cores of each rank; 0: it needs none.
    cores: Count = 1
    #: Other needs of each rank on its node: memory (in MiB), GPUs, and resources of the site file.
    named: Amounts = ()
    #: Number of MPI ranks; 1 for a plain task.
    ranks: Count = 1
    #: Ranks on each node; 0: the placement decides.
    ranks_per_node: Count = 0
    #: Amounts that exist once per site, for all ranks together.
    site: Amounts = ()
    #: True if it is one process all the same, on the first of so many nodes: its "ranks" are what
    #: it has on each of them.
    one_process: bool = False
    #: True if it has each of its nodes for itself, with all cores.
    exclusive: bool = False
    #: The features that its nodes must have: `pilot.scheduler.features`; empty: any nodes will do.
    constraint: str = ""

    @property
    def total_cores(self) -> int:
        """The number of cores of all ranks together."""
        return self.cores * self.ranks

    @property
    def nodes(self) -> int:
        """The number of nodes that a given layout takes; 1 if the layout is left open."""
        if self.ranks_per_node <= 0:
            return 1
        return -(-self.ranks // self.ranks_per_node)

    @property
    def memory_mib(self) -> int:
        """The memory of each rank in MiB; 0: it is not counted."""
        return amount_of(self.named, MEMORY) // UNIT

    @property
    def gpus(self) -> int | float:
        """The number of GPUs of each rank."""
        return amount_number(amount_of(self.named, GPUS))

    @property
    def amounts(self) -> dict[str, int | float]:
        """The amounts by name: for each rank, and for the whole task those of the site."""
        named = {name: amount_number(amount) for name, amount in (*self.named, *self.site)}
        named.pop(CORELESS, None)
        return {"cores": self.cores, **named}

    def with_site(self, names: Container[str]) -> "Resources":
        """Return the same needs, with these names counted once on the site and not per node."""
        if not any(name in names for name, _ in self.named):
            return self
        return msgspec.structs.replace(
            self,
            named=tuple(item for item in self.named if item[0] not in names),
            site=make_amounts([*self.site, *(item for item in self.named if item[0] in names)]),
        )

    def __str__(self) -> str:
        parts = [f"{self.cores} core" + ("s" if self.cores != 1 else "")]
        # Memory and GPUs are what most people look for.
        named = sorted(self.named, key=lambda item: (item[0] not in _FIRST, item[0] != MEMORY))
        parts += [amount_text(name, amount) for name, amount in named if name != CORELESS]
        text = ", ".join(parts)
        whole = ", ".join(amount_text(name, amount) for name, amount in self.site)
        on = (["no other task on its nodes"] if self.exclusive else []) + (
            [f"nodes with {self.constraint}"] if self.constraint else []
        )
        if self.ranks == 1:
            return ", ".join([text, *on, *([whole] if whole else ())])
        layout = f", {self.ranks_per_node} per node" if self.ranks_per_node else ""
        text = f"{self.ranks} ranks{layout}, each {text}"
        if self.one_process:
            text = f"{self.ranks} nodes, on each {', '.join(parts)}"
        text = "; ".join([text, *on])
        return f"{text}; {whole} for all" if whole else text


class Supply(msgspec.Struct, frozen=True, array_like=True):
    """The amount of one resource on a node."""

    name: str
    amount: Amount
    #: The names of the units if they are distinct, as GPUs are. Empty: there is only an amount, as
    #: of memory.
    indices: tuple[str, ...] = ()

    def ranks(self, amount: int) -> int:
        """Return how many ranks the amount is enough for, at this amount each."""
        if not self.indices:
            return self.amount // amount
        return ranks_of_indices([UNIT] * len(self.indices), amount)

    def __str__(self) -> str:
        return amount_text(self.name, self.amount)


class NodeShape(msgspec.Struct, frozen=True, array_like=True):
    """The resources that one node offers."""

    #: The number of cores that tasks may use.
    cores: Count
    #: Other resources, in the order of the names. Memory that is not listed is not counted; of any
    #: other resource that is not listed there is none.
    named: tuple[Supply, ...] = ()
    #: The cores of each NUMA node, as the node itself has seen; empty: one, or it is not known.
    domains: tuple[tuple[Count, ...], ...] = ()
    #: The features by which tasks may ask for such a node, in the order of their names.
    features: tuple[str, ...] = ()

    def supply(self, name: str) -> Supply | None:
        """Return the supply of a resource; None if the node has none."""
        return next((supply for supply in self.named if supply.name == name), None)

    @property
    def gpus(self) -> int:
        """The number of GPUs."""
        supply = self.supply(GPUS)
        return len(supply.indices) if supply else 0

    def is_indexed(self, name: str) -> bool:
        """Tell whether the units of a resource have indices."""
        supply = self.supply(name)
        return supply is not None and bool(supply.indices)

    def __str__(self) -> str:
        parts = [f"{self.cores} core" + ("s" if self.cores != 1 else "")]
        parts += [str(supply) for supply in self.named if supply.name != CORELESS]
        return ", ".join(parts)


#: The named resources that texts list first.
_FIRST = (MEMORY, GPUS)


def needs(
    cores: int = 1,
    *,
    memory_mib: int = 0,
    gpus: int = 0,
    ranks: int = 1,
    ranks_per_node: int = 0,
    named: Mapping[str, int] = MappingProxyType({}),
    site: Mapping[str, int] = MappingProxyType({}),
    nodes: int = 1,
    exclusive: bool = False,
    constraint: str = "",
) -> Resources:
    """Make the needs of a task; amounts (`named`, and `site`) are in parts of `UNIT`.

    One that has several `nodes` is one process on the first of them.
    """
    own = {MEMORY: memory_mib * UNIT, GPUS: gpus * UNIT, CORELESS: 0 if cores else UNIT}
    all_named, of_site = make_amounts({**own, **named}), make_amounts(site)
    if nodes > 1:
        ranks, ranks_per_node = nodes, 1
    return Resources(
        cores, all_named, ranks, ranks_per_node, of_site, nodes > 1, exclusive, constraint
    )


def node_shape(
    cores: int,
    memory_mib: int = 0,
    gpus: int = 0,
    others: Iterable[Supply] = (),
    coreless: int = 0,
    features: Iterable[str] = (),
) -> NodeShape:
    """Make the shape of a node; memory of 0 MiB is not counted; `coreless` is the most tasks
    without a core."""
    named = list(others)
    if coreless:
        named.append(Supply(CORELESS, coreless * UNIT))
    if memory_mib:
        named.append(Supply(MEMORY, memory_mib * UNIT))
    if gpus:
        named.append(indexed(GPUS, range(gpus)))
    supplies = tuple(sorted(named, key=lambda supply: supply.name))
    return NodeShape(cores, supplies, features=tuple(sorted(set(features))))


def indexed(name: str, indices: Iterable[object]) -> Supply:
    """Make a supply of units that have indices."""
    names = tuple(map(str, indices))
    return Supply(name, len(names) * UNIT, names)


def common_shape(shapes: Sequence[NodeShape]) -> NodeShape:
    """Return the resources that each of several nodes has at least; one core without nodes."""
    if not shapes:
        return NodeShape(1)
    first, *others = shapes
    if all(other == first for other in others):
        return first
    named = []
    for supply in first.named:
        least = supply
        for other in others:
            its = other.supply(supply.name)
            if its is None:
                break
            least = min(least, its, key=lambda each: each.amount)
        else:
            named.append(least)
    features = tuple(
        name for name in first.features if all(name in other.features for other in others)
    )
    return NodeShape(min(shape.cores for shape in shapes), tuple(named), features=features)


def has_all(shape: NodeShape, promised: NodeShape) -> bool:
    """Tell whether a node has all that another shape promises."""
    return shape.cores >= promised.cores and all(
        (its := shape.supply(supply.name)) is not None and its.amount >= supply.amount
        for supply in promised.named
    )


def amount_of(amounts: Amounts, name: str) -> int:
    """Return the amount of this name, in parts of `UNIT`."""
    return next((amount for each, amount in amounts if each == name), 0)


def ranks_of_indices(free: Iterable[int], amount: int) -> int:
    """Return how many ranks fit, given the free part of each index.

    A rank gets whole units, or a part of one unit. So two halves that are free, of different
    units, do not make one.
    """
    if amount < UNIT:
        return sum(left // amount for left in free)
    if amount % UNIT:
        return 0
    return sum(left == UNIT for left in free) // (amount // UNIT)


def ranks_that_fit(need: Resources, shape: NodeShape) -> int:
    """Return how many ranks of `need` fit in an idle node of `shape`."""
    if need.constraint and not satisfies(shape.features, need.constraint):
        return 0
    fit = shape.cores // need.cores if need.cores else MOST
    for name, amount in need.named:
        supply = shape.supply(name)
        if supply is not None:
            fit = min(fit, supply.ranks(amount))
        elif name != MEMORY:
            return 0
    return fit


def nodes_needed(need: Resources, shape: NodeShape) -> int | None:
    """Return the fewest nodes of `shape` that hold `need`; None if a node is too small for it."""
    per_node = ranks_that_fit(need, shape)
    if per_node < max(1, need.ranks_per_node):
        return None
    return -(-need.ranks // (need.ranks_per_node or per_node))


def cores_on(need: Resources, shape: NodeShape) -> int:
    """Return the cores that a task keeps others from having, on nodes of `shape` that hold it."""
    if not need.exclusive:
        return need.total_cores
    return shape.cores * (nodes_needed(need, shape) or 1)


def _number(value: object, what: str) -> float | None:
    """Return a number of any kind, such as one of NumPy's, as Python's; None if it is none.

    Raises
    ------
    ValueError
        The number is negative, infinite or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if number == math.inf and value != math.inf:
        raise ValueError(f"{what} cannot have so many digits")
    if not 0 <= number < math.inf:
        raise ValueError(f"{what} cannot be {'negative: ' if number < 0 else ''}{value}")
    return number


def parse_memory_mib(value: int | float | str) -> int:
    """Return an amount of memory in MiB: a number is MiB, a text may end in K, M, G or T.

    Raises
    ------
    ValueError
        The value is not a valid amount of memory.
    """
    mib = _number(value, "memory")
    if mib is None:
        match = re.fullmatch(_MEMORY, value) if isinstance(value, str) else None
        if not match:
            raise ValueError(
                f'{value!r:.60} is not an amount of memory; write it as "4G", "512M" or in MiB'
            )
        mib = float(match[1]) * _MEMORY_MIB[match[2].upper()]
    if mib > MOST:
        raise ValueError(f"{_shown(value)} is more memory than there is: {MOST} MiB at most")
    return math.ceil(mib)


def parse_duration_s(value: int | float | str | timedelta) -> float:
    """Return a duration in seconds: ``90``, ``"90s"``, ``"1h30m"``, Slurm's ``"1-12:00:00"``.

    Raises
    ------
    ValueError
        The value is not a valid duration.
    """
    seconds = _seconds(value)
    if seconds > DURATION_MOST_S:
        raise ValueError(f"{_shown(value)} is too long: {DURATION_MOST_S:.0f} s at most")
    return seconds


def _shown(value: object) -> str:
    """Return a value as text for a message; Python prints no number of very many digits."""
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else f"{value[:40]}…")
    return f"{value}" if isinstance(value, (float, timedelta)) else "a number of so many digits"


def _seconds(value: int | float | str | timedelta) -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if (number := _number(value, "a length of time")) is not None:
        return number
    if isinstance(value, str):
        if match := re.fullmatch(_DURATION, value):
            return float(match[1]) * _DURATION_S[(match[2] or "s").lower()]
        if re.fullmatch(_DURATIONS, value):
            parts = re.findall(_DURATION_PART, value, re.IGNORECASE)
            return sum(float(part) * _DURATION_S[unit.lower()] for part, unit in parts)
        if re.fullmatch(r"(\d+-)?\d+(:\d+){1,2}|\d+-\d+", value):
            days, _, clock = value.rpartition("-")
            fields = [float(field) for field in clock.split(":")]
            # Slurm reads "M:S" and "H:M:S", but after days "D-H", "D-H:M", "D-H:M:S".
            if days:
                fields += [0] * (3 - len(fields))
            else:
                fields = [0] * (3 - len(fields)) + fields
            return float(days or 0) * 86400 + fields[0] * 3600 + fields[1] * 60 + fields[2]
    raise ValueError(
        f'{value!r:.60} is not a duration; write it as "90s", "10m", "1h30m" or "1:30:00"'
    )
