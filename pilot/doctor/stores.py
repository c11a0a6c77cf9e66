"""The stores of a node: what a pilot's may take here, what those have that are there, and what
pilots have left that were killed.

Facts are gathered, and judged, in one place: nothing else of the doctor knows of stores.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from pilot.doctor import facts as f
from pilot.doctor.judging import size
from pilot.findings import Finding, ok, warning
from pilot.site import Site
from pilot.worker import node_store
from pilot.worker.node_directory import left_over

_KEY = "data.node_store in site.yaml"
#: So much of a node's memory may be a store's without a word.
_MOST_OF_MEMORY = 0.5


def gather(site: Site) -> f.Stores:
    """Look at the memory that stores are in, and at the stores of this user there."""
    wanted = site.config.data.node_store_mib
    held: list[Path] = []
    left: list[Path] = []
    free = shutil.disk_usage(node_store.MEMORY).free if node_store.MEMORY.is_dir() else 0
    for above in node_store.places():
        unheld = left_over(above)
        left += unheld
        held += [path for path in above.iterdir() if path.is_dir() and path not in unheld]
    return f.Stores(
        memory_bytes=node_store.memory_bytes(),
        free_bytes=free,
        budget_bytes=node_store.budget_bytes(site),
        is_set=wanted is not None,
        stores=len(held),
        used_bytes=_sum(held),
        left_bytes=_sum(left),
        left=tuple(map(str, sorted(left))),
    )


def _sum(directories: Iterable[Path]) -> int:
    """Return the size of all files in directories, some of which may go meanwhile."""
    total = 0
    for directory in directories:
        for path in directory.rglob("*"):
            with contextlib.suppress(OSError):
                total += path.stat().st_size if path.is_file() else 0
    return total


def judge(its: f.Stores) -> Iterator[Finding]:
    """Judge what a pilot's store may take, and what is there."""
    whose = "as data.node_store says" if its.is_set else "by itself"
    there = f"{_pilots(its.stores)} {size(its.used_bytes)} there now" if its.stores else ""
    may = f"a pilot's store may take {size(its.budget_bytes)}, {whose}"
    if not its.budget_bytes:
        why = whose if its.is_set else "since it has no room in memory"
        yield ok(f"results go to the site directory at once, {why}")
    elif its.budget_bytes > its.free_bytes + its.used_bytes:
        yield warning(
            f"{may}, and {size(its.free_bytes)} of the memory for that are free: results that find "
            "no room are written to the site directory first",
            f"set {_KEY} lower, or remove what else is in {node_store.MEMORY}",
        )
    elif its.budget_bytes > _MOST_OF_MEMORY * its.memory_bytes:
        yield warning(
            f"{may}, of the {size(its.memory_bytes)} that this machine or job has: tasks that need "
            "more than the rest are killed",
            f"set {_KEY} lower",
        )
    else:
        yield ok(f"{may}, of {size(its.memory_bytes)} of memory" + (f"; {there}" if there else ""))
    if its.left:
        yield warning(
            f"pilots that were killed have left {size(its.left_bytes)} in memory: "
            f"{', '.join(its.left)}",
            "the next pilot on this machine removes it; or remove it by hand",
        )


def _pilots(count: int) -> str:
    return "one pilot has" if count == 1 else f"{count} pilots have"
