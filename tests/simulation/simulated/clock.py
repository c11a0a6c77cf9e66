"""Virtual time, and what is to happen when."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

#: When a simulation begins: zero means "never" to some.
START = 1_000_000.0


class Clock:
    """Tells the time, and lets it go by from one event to the next."""

    def __init__(self) -> None:
        self.now = START
        self._events: list[tuple[float, int, Callable[[], Any]]] = []
        self._numbers = itertools.count()

    def __call__(self) -> float:
        return self.now

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self.now - START

    def at(self, when: float, what: Callable[[], Any]) -> None:
        """Have something happen at a time."""
        heapq.heappush(self._events, (when, next(self._numbers), what))

    def after(self, seconds: float, what: Callable[[], Any]) -> None:
        """Have something happen in so many seconds."""
        self.at(self.now + seconds, what)

    def step(self) -> bool:
        """Let the next thing happen; False where there is none."""
        if not self._events:
            return False
        when, _, what = heapq.heappop(self._events)
        self.now = max(self.now, when)
        what()
        return True

    def sleep(self, seconds: float) -> None:
        """Stand still, as whoever waits does; all others are late by that."""
        self.now += seconds
