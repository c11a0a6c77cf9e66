"""Completions that are told to the head until they are in its database. Pure.

Invariants
----------
- An end is kept until the head has it in its database; then its whole frame is forgotten.
- An attempt that has ended here does not run again: if a head that has not heard of its end assigns
  it again, that end is reported again.
- An attempt that was returned unstarted has not ended: if it is assigned again, it is new.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pilot.model.tasks import Completion
from pilot.wire.messages.pilot import AttemptSpec

#: What ends within so many seconds is reported together while more work waits here.
TOGETHER_S = 0.005
#: The number of the frame that is still being filled.
_NEXT = 0


class Reports:
    """Completions that are not acknowledged, in numbered frames."""

    def __init__(self) -> None:
        #: The frames that the head has been sent and has not committed, by number.
        self.frames: dict[int, list[Completion]] = {}
        #: The ends that the head will be told next, the first of which was at that time.
        self.next: list[Completion] = []
        self._since = 0.0
        self._number = 0
        #: The last of each task's ends, and the frame that it is in.
        self._last: dict[int, tuple[int, Completion]] = {}

    def __bool__(self) -> bool:
        return bool(self.next or self.frames)

    def add(self, completions: Sequence[Completion], now: float) -> None:
        """Add completions to the next frame."""
        if not self.next:
            self._since = now
        self.next.extend(completions)
        for completion in completions:
            self._last[completion.task] = _NEXT, completion

    def wait_s(self, now: float, has_waiting: bool) -> float:
        """Return how long the next frame may wait if nothing else happens, in seconds; inf if it is
        empty.

        Parameters
        ----------
        now
            The time.
        has_waiting
            True if more work waits here, so that no core waits for the head.
        """
        if not self.next:
            return math.inf
        return max(0.0, self._since + TOGETHER_S - now) if has_waiting else 0.0

    def close_frame(self) -> int:
        """Close the next frame, which is sent now; return its number."""
        self._number += 1
        completions, self.next = self.next, []
        self.frames[self._number] = completions
        for completion in completions:
            self._last[completion.task] = self._number, completion
        return self._number

    def acknowledge(self, number: int) -> list[Completion]:
        """Drop an acknowledged frame; return its completions, or an empty list if it was known
        before."""
        completions = self.frames.pop(number, [])
        for completion in completions:
            if self._last.get(completion.task, (_NEXT,))[0] == number:
                del self._last[completion.task]
        return completions

    def held(self) -> dict[int, int]:
        """Return the attempts that have ended here, by task."""
        last = (completion for _, completion in self._last.values())
        return {each.task: each.attempt for each in last if not each.is_unstarted}

    def meet(self, work: Sequence[AttemptSpec], now: float) -> Sequence[AttemptSpec]:
        """Compare new work with what has ended here; return the part that is to run."""
        known = {item.task: self._last[item.task] for item in work if item.task in self._last}
        if not known:
            return work
        ended: dict[int, tuple[int, Completion]] = {}
        for item in work:
            number, last = known.get(item.task, (_NEXT, None))
            if last is not None and last.is_unstarted:
                self._drop(number, last)
            elif last is not None and last.attempt == item.attempt:
                ended[item.task] = number, last
        self.add([last for number, last in ended.values() if number != _NEXT], now)
        return [item for item in work if item.task not in ended]

    def _drop(self, number: int, completion: Completion) -> None:
        frame = self.next if number == _NEXT else self.frames[number]
        # Not in place: the frame may be on its way.
        left = [each for each in frame if each is not completion]
        if number == _NEXT:
            self.next = left
        else:
            self.frames[number] = left
        del self._last[completion.task]
