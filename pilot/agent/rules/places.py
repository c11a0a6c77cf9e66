"""The nodes that results were made on, whose stores may still have them. Pure.

Invariants
----------
- What is known here only makes things faster: a store may have let go what it had.
- Of a session that has ended nothing is known.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

#: A task whose inputs are smaller starts on any node.
LEAST_BYTES = 1024 * 1024


class Places:
    """The nodes of segments, by session."""

    def __init__(self) -> None:
        #: Session → segment → its node, and the bytes of the results in it.
        self._known: dict[int, dict[str, tuple[str, int]]] = {}

    def __bool__(self) -> bool:
        return bool(self._known)

    def note(self, session: int, path: str, node: str, size: int) -> None:
        """Note that a result of so many bytes is in a segment in the store of a node."""
        known = self._known.setdefault(session, {})
        _, before = known.get(path, (node, 0))
        known[path] = (node, before + size)

    def nearest(self, paths: Iterable[str], needed: Iterable[str], nodes: Container[str]) -> str:
        """Return the node that has most of these segments; empty if none has any.

        Parameters
        ----------
        paths
            Segments.
        needed
            Nodes, one of which it has to be; empty: it may be any.
        nodes
            Those that are there.
        """
        sizes: dict[str, int] = dict.fromkeys(needed, 0)
        may_be_any = not sizes
        for path in paths:
            for known in self._known.values():
                if path in known:
                    node, size = known[path]
                    if may_be_any or node in sizes:
                        sizes[node] = sizes.get(node, 0) + size
        least = LEAST_BYTES if may_be_any else 0
        there = {node: size for node, size in sizes.items() if node in nodes and size >= least}
        return max(there, key=lambda node: there[node]) if there else ""

    def forget(self, session: int) -> None:
        """Forget the segments of a session."""
        self._known.pop(session, None)
