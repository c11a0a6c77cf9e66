"""Simulated time: the events to come, in their order."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any


class Clock:
    """A clock that goes from one event to the next, in seconds since the beginning."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], Any]]] = []
        self._numbers = itertools.count()

    def at(self, when: float, what: Callable[[], Any]) -> None:
        """Have something happen at a time; what was told first happens first."""
        heapq.heappush(self._events, (max(when, self.now), next(self._numbers), what))

    def after(self, seconds: float, what: Callable[[], Any]) -> None:
        """Have something happen in so many seconds."""
        self.at(self.now + seconds, what)

    def step(self) -> bool:
        """Let the next thing happen; return False if there is none."""
        if not self._events:
            return False
        self.now, _, what = heapq.heappop(self._events)
        what()
        return True
