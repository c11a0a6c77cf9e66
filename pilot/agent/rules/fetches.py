"""The segments that nodes of a pilot fetch from each other, and the work that waits for them. Pure.

A task may need results that are in the stores of several nodes. It goes to one of them, and what it
lacks there is fetched from the other store, or waited for until it is in the site directory:
whichever way has lately taken less time for a byte.

Invariants
----------
- A segment is on its way to a node once, however many tasks there need it.
- Work in here waits for a segment that is being fetched or written.
- Where a fetch has failed, the next ones between these nodes are not tried: so nothing is tried
  for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator

from pilot.wire.messages.pilot import AttemptSpec

#: After a failure so many fetches between two nodes go by way of the site directory; and of the way
#: that is slower one of so many is tried all the same, since that may have changed.
TRY_AGAIN = 16
#: The weight of the last one in the mean time for a byte.
_LAST = 0.3
#: What is smaller says nothing of how fast a way is, in bytes.
_TELLING_BYTES = 1 << 20


class Way:
    """A way for segments, with the time that it has lately taken for a byte, in seconds."""

    __slots__ = ("s_per_byte",)

    def __init__(self) -> None:
        self.s_per_byte: float | None = None

    def note(self, size: int, seconds: float) -> None:
        """Note how long a segment has taken from when it was asked for."""
        if size >= _TELLING_BYTES:
            last = seconds / size
            before = last if self.s_per_byte is None else self.s_per_byte
            self.s_per_byte = (1.0 - _LAST) * before + _LAST * last


class Fetches:
    """The fetches of a pilot that are under way, and the work that waits for segments."""

    def __init__(self) -> None:
        #: Segment and the node that gets it → the node that gives it; empty: the site directory.
        self._coming: dict[tuple[str, str], str] = {}
        #: Segment → the work that waits for it, each with the node that it is to start on.
        self._aside: dict[str, list[tuple[AttemptSpec, str]]] = {}
        #: How many of these are to start on a node.
        self._load: Counter[str] = Counter()
        #: Between two nodes: how many fetches are not tried after a failure.
        self._shut: dict[tuple[str, str], int] = {}
        #: The two ways from the store of one node to another node.
        self.fetched = Way()
        self.written = Way()
        self._untried = 0

    def __bool__(self) -> bool:
        return bool(self._coming or self._aside)

    # --- the work

    def put_aside(self, work: AttemptSpec, path: str, node: str) -> None:
        """Have work wait for a segment, to start on a node then; empty: on any."""
        self._aside.setdefault(path, []).append((work, node))
        self._load[node] += 1

    def waiting(self) -> list[AttemptSpec]:
        """List the work that waits."""
        return [work for works in self._aside.values() for work, _ in works]

    def awaited(self) -> Iterator[tuple[AttemptSpec, str, str, str]]:
        """Iterate over the work that waits: with the segment, the node that gives it (empty: the
        site directory), and the one that the work is to start on."""
        for path, works in self._aside.items():
            for work, node in works:
                yield work, path, self._coming.get((path, node), ""), node

    def waits(self, path: str) -> bool:
        """Tell whether work waits for a segment to be written: it is not fetched for that."""
        return any((path, node) not in self._coming for _, node in self._aside.get(path, ()))

    def load(self, node: str) -> int:
        """Return how much work waits in here to start on a node."""
        return self._load[node]

    def nodes(self) -> set[str]:
        """Return the nodes on which work in here is to start."""
        return {node for node, count in self._load.items() if node and count}

    def pop(self, path: str, node: str | None = None) -> list[AttemptSpec]:
        """Remove and return the work that waits for a segment, on this node; None: on any."""
        return self._remove(path, lambda _, its: node is None or its == node)

    def take(self, tasks: Collection[int] | None = None) -> list[AttemptSpec]:
        """Remove and return those of `tasks` that wait; None: all."""
        taken: list[AttemptSpec] = []
        for path in list(self._aside):
            taken += self._remove(path, lambda work, _: tasks is None or work.task in tasks)
        return taken

    def _remove(
        self, path: str, is_wanted: Callable[[AttemptSpec, str], bool]
    ) -> list[AttemptSpec]:
        works = self._aside.pop(path, [])
        if left := [each for each in works if not is_wanted(*each)]:
            self._aside[path] = left
        taken = [(work, node) for work, node in works if is_wanted(work, node)]
        self._load.subtract(node for _, node in taken)
        return [work for work, _ in taken]

    # --- the segments

    def is_coming(self, path: str, node: str) -> bool:
        """Tell whether a segment is on its way to a node."""
        return (path, node) in self._coming

    def may_begin(self, source: str, node: str) -> bool:
        """Tell whether a segment is to be fetched by one node from another, rather than to be
        waited for until it is in the site directory."""
        if left := self._shut.get((source, node), 0):
            self._shut[source, node] = left - 1
            return False
        ours, others = self.fetched.s_per_byte, self.written.s_per_byte
        if ours is None or (others is not None and ours <= others):
            return True
        self._untried = (self._untried + 1) % TRY_AGAIN
        is_in_turn = self._untried == 0
        # Where all is released nothing is written, so the other way has to be tried once, too.
        return not is_in_turn if others is None else is_in_turn

    def begin(self, path: str, node: str, source: str) -> None:
        """Note that a node fetches a segment; an empty source is the site directory."""
        self._coming[path, node] = source

    def ended(self, path: str, node: str, failed: bool) -> bool:
        """Note the end of a fetch; return False if nothing is known of it any more."""
        source = self._coming.pop((path, node), None)
        if source is None:
            return False
        if failed:
            self._shut[source, node] = TRY_AGAIN
        return True

    def forget(self, path: str) -> None:
        """Forget a segment that is not needed any more, and that no work waits for."""
        for key in [key for key in self._coming if key[0] == path]:
            del self._coming[key]

    def lose_node(self, node: str) -> list[tuple[str, str]]:
        """Forget what a lost node gets and gives; return the segments that others were to get from
        it, with these nodes."""
        lost = [key for key, source in self._coming.items() if node in (key[1], source)]
        for key in lost:
            del self._coming[key]
        self._shut = {pair: left for pair, left in self._shut.items() if node not in pair}
        return [key for key in lost if key[1] != node]
