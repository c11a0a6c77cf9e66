"""What is skipped and what begins, wherever a process is stopped in between."""

from __future__ import annotations

import itertools
import mmap

from pilot.worker.shared_memory import PLACE_BYTES, begins, order_of, skip_upto

SENT = 5


class StoppedOrder(list[int]):
    """The words of a process that is stopped just before it reads or writes them for the n-th time,
    for each n in `stops`; each time it is told to skip all that it was sent by then."""

    def __init__(self, stops: tuple[int, ...]) -> None:
        super().__init__([0, 0, 0])
        self.steps = itertools.count()
        self.stops = stops
        #: What it was told to skip, by the answers to the questions.
        self.taken: list[int] = []
        self.settled = 0
        self._sent = 1

    def _step(self) -> None:
        if self.stops.count(next(self.steps)):
            words = list(self)
            # More is sent between the questions, as the rules do.
            upto = self._sent = min(SENT, self._sent + 2)
            begun = skip_upto(words, upto)
            for index, word in enumerate(words):
                super().__setitem__(index, word)
            self.taken.extend(range(max(begun, self.settled) + 1, upto + 1))
            self.settled = upto

    def __getitem__(self, index: int) -> int:  # type: ignore[override]  # no slices
        self._step()
        return super().__getitem__(index)

    def __setitem__(self, index: int, value: int) -> None:  # type: ignore[override]  # no slices
        self._step()
        super().__setitem__(index, value)


def test_each_work_either_begins_or_is_taken_back() -> None:
    """All ways to be stopped once, twice and three times."""
    most = 3 * SENT + 1
    for count in (1, 2, 3):
        for stops in itertools.combinations(range(most), count):
            order = StoppedOrder(stops)
            begun = [number for number in range(1, SENT + 1) if begins(order, number)]
            assert sorted([*begun, *order.taken]) == [*range(1, SENT + 1)], stops


def test_places_are_apart() -> None:
    memory = mmap.mmap(-1, 3 * PLACE_BYTES)
    orders = [order_of(memory, PLACE_BYTES * number) for number in range(3)]
    for number, order in enumerate(orders):
        assert begins(order, 10 * number + 1)
    assert [skip_upto(order, 100) for order in orders] == [1, 11, 21]
    assert [begins(order, 50) for order in orders] == [False] * 3
    assert [begins(order, 101) for order in orders] == [True] * 3
