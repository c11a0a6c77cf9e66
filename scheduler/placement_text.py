"""Placements as text: where an attempt ran, in one column of the database. Pure.

``n1:0-3`` are four cores of a node; ``n1,n2:0-3;gpus=0,1`` two nodes with the same cores and GPUs;
what differs stands apart, with a space between. Amounts, such as memory, are not in it. Names of
nodes and indices have none of these signs: those are host names, these are checked by the site
file.
"""

# No annotations from the future: this is loaded by every agent.

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pilot.scheduler.placement import NodeAllocation


class Placement(NamedTuple):
    """The cores, and the things with an index, that an attempt had of a node."""

    node: str
    cores: tuple[int, ...]
    #: By resource: the indices of those that it had.
    indices: dict[str, tuple[str, ...]]


def placement_text(shares: Iterable[NodeAllocation]) -> str:
    """Return the text of a task's allocations."""
    shares = tuple(shares)
    if len(shares) == 1:
        return f"{shares[0].node}:{shares[0].text}"
    nodes: dict[str, list[str]] = {}
    for share in shares:
        nodes.setdefault(share.text, []).append(share.node)
    return " ".join(f"{','.join(names)}:{rest}" for rest, names in nodes.items())


def read_placement(text: str) -> Iterator[Placement]:
    """Read a text that `placement_text` has made; yield one placement for each node.

    Raises
    ------
    ValueError
        It is not such a text.
    """
    for group in text.split():
        names, _, rest = group.partition(":")
        cores, *others = rest.split(";")
        indices = {}
        for other in others:
            name, _, values = other.partition("=")
            indices[name] = tuple(values.split(","))
        for node in names.split(","):
            yield Placement(node, _numbers(cores), indices)


def _numbers(runs: str) -> tuple[int, ...]:
    found: list[int] = []
    for run in runs.split(",") if runs else ():
        first, _, last = run.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)
