"""What a task needs and what a node has, as plain values.

One unit per quantity through the whole program: memory in MiB (``*_mib``), time in seconds
(``*_s``), cores and GPUs as whole numbers. Texts such as ``"4G"`` or ``"1:30:00"`` are read here,
once, at the edge. Nothing in this module knows of tasks, pilots or sockets.
"""

from __future__ import annotations

import math
import numbers
import re
from datetime import timedelta
from typing import Annotated, TypeAlias

import msgspec

_MEMORY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", re.IGNORECASE)
_MEMORY_MIB = {"": 1.0, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?\s*", re.IGNORECASE)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)", re.IGNORECASE)
_DURATIONS = re.compile(rf"\s*(?:{_DURATION_PART.pattern}\s*){{2,}}", re.IGNORECASE)
_DURATION_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


#: Of such size that products of two can still be stored.
COUNT_MOST = (1 << 31) - 1
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MOST)]
#: Longer than anything lasts, in seconds.
DURATION_MOST_S = 1e12


class Resources(msgspec.Struct, frozen=True, array_like=True):
    """What one task needs while it runs.

    A task has ``ranks`` processes; each needs ``cores`` cores, ``memory_mib`` of memory and
    ``gpus`` GPUs on one node. A plain task is one rank. With ``ranks_per_node`` set, ranks are laid
    out in blocks of exactly that many per node; 0 leaves the layout to the placement.
    """

    #: Cores of each rank.
    cores: Count = 1
    #: Memory of each rank in MiB; 0 means that it is not counted.
    memory_mib: Count = 0
    #: GPUs of each rank.
    gpus: Count = 0
    #: Number of MPI ranks; 1 for a plain task.
    ranks: Count = 1
    #: Ranks on each node; 0: as the placement likes.
    ranks_per_node: Count = 0

    @property
    def total_cores(self) -> int:
        """Cores of all ranks together."""
        return self.cores * self.ranks

    @property
    def nodes(self) -> int:
        """The number of nodes that a given layout takes; 1 where the layout is left open."""
        if self.ranks_per_node <= 0:
            return 1
        return -(-self.ranks // self.ranks_per_node)

    def __str__(self) -> str:
        parts = [f"{self.cores} core" + ("s" if self.cores != 1 else "")]
        if self.memory_mib:
            parts.append(f"{self.memory_mib} MiB")
        if self.gpus:
            parts.append(f"{self.gpus} GPU" + ("s" if self.gpus != 1 else ""))
        text = ", ".join(parts)
        if self.ranks == 1:
            return text
        layout = f", {self.ranks_per_node} per node" if self.ranks_per_node else ""
        return f"{self.ranks} ranks{layout}, each {text}"


class NodeShape(msgspec.Struct, frozen=True, array_like=True):
    """What one node offers."""

    #: Cores that tasks may use.
    cores: Count
    #: Memory that tasks may use, in MiB; 0 means unknown, so not counted.
    memory_mib: Count = 0
    #: GPUs.
    gpus: Count = 0


def ranks_that_fit(need: Resources, cores: int, memory_mib: int | None, gpus: int) -> int:
    """How many ranks of `need` fit in so many cores, MiB (None: not counted) and GPUs."""
    fit = cores // need.cores if need.cores else need.ranks
    if need.memory_mib and memory_mib is not None:
        fit = min(fit, memory_mib // need.memory_mib)
    if need.gpus:
        fit = min(fit, gpus // need.gpus)
    return fit


def nodes_needed(need: Resources, shape: NodeShape) -> int | None:
    """The fewest nodes of `shape` that hold `need`, or None where a node is too small for it."""
    per_node = ranks_that_fit(need, shape.cores, shape.memory_mib or None, shape.gpus)
    if per_node < max(1, need.ranks_per_node):
        return None
    return -(-need.ranks // (need.ranks_per_node or per_node))


def _number(value: object, what: str) -> float | None:
    """Return a number of any kind, such as one of NumPy's; None where it is none.

    Raises
    ------
    ValueError
        It is negative, infinite, or none at all (nan).
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
    """Read an amount of memory: a number is MiB, a text may end in K, M, G or T (as Slurm's).

    Raises
    ------
    ValueError
        It is no amount of memory.
    """
    mib = _number(value, "memory")
    if mib is None:
        match = _MEMORY.fullmatch(value) if isinstance(value, str) else None
        if not match:
            raise ValueError(
                f'{value!r:.60} is no amount of memory; write it as "4G", "512M" or in MiB'
            )
        mib = float(match[1]) * _MEMORY_MIB[match[2].upper()]
    if mib > COUNT_MOST:
        raise ValueError(f"{_shown(value)} is more memory than there is: {COUNT_MOST} MiB at most")
    return math.ceil(mib)


def parse_duration_s(value: int | float | str | timedelta) -> float:
    """Read a length of time: seconds, ``"90s"``, ``"2h"``, ``"1h30m"``, Slurm's ``"1-12:00:00"``.

    Raises
    ------
    ValueError
        It is no length of time.
    """
    seconds = _seconds(value)
    if seconds > DURATION_MOST_S:
        raise ValueError(f"{_shown(value)} is too long: {DURATION_MOST_S:.0f} s at most")
    return seconds


def _shown(value: object) -> str:
    """A value in a message; Python writes no number of very many digits."""
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else f"{value[:40]}…")
    return f"{value}" if isinstance(value, (float, timedelta)) else "a number of so many digits"


def _seconds(value: int | float | str | timedelta) -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if (number := _number(value, "a length of time")) is not None:
        return number
    if isinstance(value, str):
        if _DURATIONS.fullmatch(value):
            parts = _DURATION_PART.findall(value)
            return sum(float(part) * _DURATION_S[unit.lower()] for part, unit in parts)
        if match := _DURATION.fullmatch(value):
            return float(match[1]) * _DURATION_S[(match[2] or "s").lower()]
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
        f'{value!r:.60} is no length of time; write it as "90s", "10m", "1h30m" or "1:30:00"'
    )
