"""The questions to the batch system when it would start a pilot: `pilot.scheduler.shapes` decides.

Invariants
----------
- It is asked in the batch thread, just before a pilot is submitted, and only where there is a
  choice; one question where the wish starts at once, four at most.
- A pool about whose pilots there was no answer, or none that is understood, is not asked about for
  `REST_S`: its pilots are submitted as they are wished for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pilot import clock
from pilot.scheduler.batch import BatchError, BatchSystem, JobRequest, Predicts
from pilot.scheduler.shapes import Forecast, Shape, asked_about, candidates, choose

log = logging.getLogger("pilot.fleet")

#: The time for which nothing is asked after a question without an answer, in seconds.
REST_S = 600.0


class Shaping:
    """The choice of the shapes of pilots.

    Parameters
    ----------
    batch
        The batch system.
    """

    def __init__(self, batch: BatchSystem) -> None:
        self._batch = batch if isinstance(batch, Predicts) else None
        self._rests_until: dict[str, float] = {}

    def shape(
        self, pool: str, wish: Shape, request: Callable[[Shape], JobRequest], now: float
    ) -> tuple[Shape, str]:
        """Return the shape to submit, and why it is not simply the wish.

        Parameters
        ----------
        pool, wish
            The pool, and what it wishes for.
        request
            Makes the request of a pilot of a shape.
        now
            The time.
        """
        exact, *others = candidates(wish)
        if self._batch is None or not others or now < self._rests_until.get(pool, 0.0):
            return exact, ""
        forecasts: dict[Shape, Forecast] = {}
        for shape in asked_about(wish, forecasts):
            try:
                said = self._batch.predict(request(shape))
            except (BatchError, ValueError) as error:
                log.warning("nobody knows when pilots of pool %s would start: %s", pool, error)
                self._rests_until[pool] = now + REST_S
                break
            wait_s = None if said.start is None else max(0.0, clock.from_wall(said.start) - now)
            forecasts[shape] = Forecast(wait_s, said.refused)
            if wait_s is None and not said.refused:
                log.warning("it is not understood when pilots of pool %s would start", pool)
                self._rests_until[pool] = now + REST_S
        return choose(wish, forecasts)
