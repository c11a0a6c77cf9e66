"""The nodes that results were made on, or fetched to, whose stores may still have them. Pure.

Invariants
----------
- What is known here only makes things faster: a store may have let go what it had.
- Of a session that has ended nothing is known.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from pilot.agent.rules.queues import Queue
from pilot.model.ids import Ref, session_of

#: A task whose inputs are smaller starts on any node.
LEAST_BYTES = 1024 * 1024


class _Segment:
    """A segment in the store of a node, with the sizes of the results in it, in bytes."""

    __slots__ = ("copies", "is_used", "node", "queue", "results")

    def __init__(self, node: str, queue: Queue) -> None:
        self.node = node
        #: The nodes that have a copy, or are getting one.
        self.copies: dict[str, None] = {}
        #: The class of tasks that has made it.
        self.queue = queue
        self.is_used = False
        self.results: dict[Ref, int] = {}


class Places:
    """The nodes of segments."""

    def __init__(self) -> None:
        self._segments: dict[str, _Segment] = {}
        #: Session → result → path.
        self._paths: dict[int, dict[Ref, str]] = {}
        #: The same of those that the caches of nodes may have a copy of.
        self._cached: dict[int, dict[Ref, str]] = {}

    def __bool__(self) -> bool:
        return bool(self._segments)

    def note(self, result: Ref, path: str, node: str, size: int, queue: Queue) -> None:
        """Note that a result of so many bytes, of a task of this class, is in a segment in the
        store of a node."""
        segment = self._segments.get(path)
        if segment is None:
            segment = self._segments[path] = _Segment(node, queue)
        segment.results[result] = size
        self._paths.setdefault(session_of(result[0]), {})[result] = path

    def knows(self, path: str) -> bool:
        """Tell whether a segment is one that was reported as being in the store of a node."""
        return path in self._segments

    def size(self, path: str) -> int:
        """Return the size of the results in a segment, in bytes."""
        segment = self._segments.get(path)
        return sum(segment.results.values()) if segment is not None else 0

    def copy(self, path: str, node: str) -> None:
        """Note that a node gets a copy of a segment."""
        if (segment := self._segments.get(path)) is not None:
            segment.copies[node] = None

    def lose_copy(self, path: str, node: str) -> None:
        """Note that a node has no copy of a segment."""
        if (segment := self._segments.get(path)) is not None:
            segment.copies.pop(node, None)

    def lose_node(self, node: str) -> None:
        """Forget the copies on a lost node."""
        for segment in self._segments.values():
            segment.copies.pop(node, None)

    def nodes_of(self, path: str) -> list[str]:
        """List the nodes that have a segment, or are getting it, where it was made first."""
        segment = self._segments.get(path)
        return [segment.node, *segment.copies] if segment is not None else []

    def use(self, paths: Iterable[str]) -> None:
        """Note that a task gets results in these segments."""
        for path in paths:
            segment = self._segments.get(path)
            if segment is not None and not segment.is_used:
                segment.is_used = True
                segment.queue.note_use(True)

    def written(self, path: str) -> None:
        """Note that a segment is in the site directory now."""
        segment = self._segments.get(path)
        if segment is not None and not segment.is_used:
            segment.queue.note_use(False)

    def release(self, result: Ref) -> tuple[str, list[str]] | None:
        """Forget a result that nobody needs; return its segment and the nodes that have that, if no
        other is in there."""
        path = self._paths.get(session_of(result[0]), {}).pop(result, None)
        if path is None:
            return None
        segment = self._segments[path]
        del segment.results[result]
        if segment.results:
            return None
        nodes = self.nodes_of(path)
        del self._segments[path]
        return path, nodes

    def cache(self, result: Ref, path: str) -> None:
        """Note that nodes keep a copy of a segment in their caches for whoever gets this result."""
        self._cached.setdefault(session_of(result[0]), {})[result] = path

    def uncache(self, result: Ref) -> str:
        """Forget a result that nobody needs; return the segment of which caches may have a copy, or
        ""."""
        return self._cached.get(session_of(result[0]), {}).pop(result, "")

    def nearest(
        self, paths: Iterable[str], needed: Iterable[str], nodes: Container[str]
    ) -> list[str]:
        """Return the nodes that have, or are getting, most of these segments; none if none has any.

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
            segment = self._segments.get(path)
            if segment is None:
                continue
            size = sum(segment.results.values())
            for node in (segment.node, *segment.copies):
                if may_be_any or node in sizes:
                    sizes[node] = sizes.get(node, 0) + size
        least = LEAST_BYTES if may_be_any else 0
        there = {node: size for node, size in sizes.items() if node in nodes and size >= least}
        most = max(there.values(), default=0)
        return [node for node, size in there.items() if size == most]

    def forget(self, session: int) -> None:
        """Forget the segments of a session."""
        self._cached.pop(session, None)
        for path in self._paths.pop(session, {}).values():
            self._segments.pop(path, None)
