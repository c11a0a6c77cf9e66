"""What the head has been told of ends and has not acknowledged: it is told to the next head. Pure.

Invariants
----------
- An end is kept until the head has it in its database; then its whole frame is forgotten.
- What has ended here is not run again under the same number: if it comes again, from a head that
  has not heard of its end, that end is told again.
- What was given back as it came is no end: if it comes again, it is as if it had never been here.
"""

from __future__ import annotations

from collections.abc import Sequence

from pilot.wire.messages import Completion, Work


class Reports:
    """Frames of ends that are not acknowledged, by their numbers."""

    def __init__(self) -> None:
        self.frames: dict[int, list[Completion]] = {}
        self._number = 0
        #: The last of each task's ends, and the frame that it is in.
        self._last: dict[int, tuple[int, Completion]] = {}

    def add(self, completions: list[Completion]) -> int:
        """Keep a new frame; returns its number."""
        self._number += 1
        self.frames[self._number] = completions
        for completion in completions:
            self._last[completion.task] = self._number, completion
        return self._number

    def acknowledge(self, number: int) -> list[Completion]:
        """The head has this frame; returns what is in it, nothing where that was known before."""
        completions = self.frames.pop(number, [])
        for completion in completions:
            if self._last.get(completion.task, (0,))[0] == number:
                del self._last[completion.task]
        return completions

    def held(self) -> dict[int, int]:
        """The attempts that have ended here, by task."""
        last = (completion for _, completion in self._last.values())
        return {each.task: each.attempt for each in last if not each.is_unstarted}

    def meet(self, work: Sequence[Work]) -> tuple[Sequence[Work], list[Completion]]:
        """Work has come: what of it is to be run, and which ends are to be told again."""
        known = {item.task: self._last[item.task] for item in work if item.task in self._last}
        if not known:
            return work, []
        again = []
        for item in work:
            number, last = known.get(item.task, (0, None))
            if last is None:
                continue
            if last.is_unstarted:
                self.frames[number] = [each for each in self.frames[number] if each is not last]
                del self._last[item.task]
            elif last.attempt == item.attempt:
                again.append(last)
        ended = {completion.task for completion in again}
        return [item for item in work if item.task not in ended], again
