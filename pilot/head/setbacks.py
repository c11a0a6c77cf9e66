"""The delays of a pool whose pilots are refused, or end before they have run a task. Pure.

A wrong line in a site file, a module that does not load, a broken node: each would cost a job a
second, for ever, and the fair share of its user.

Invariants
----------
- Each wait is twice the one before, from and to `BACK_OFF_S`. What was on its way when a wait began
  belongs to the same incident, and does not make it longer.
- A pool whose pilots have ended so tries again with one pilot at a time, until one has worked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from pilot.formatting import counted
from pilot.texts import printable, shortened

#: The shortest and the longest wait, in seconds.
BACK_OFF_S = (5.0, 300.0)
#: The number of pilots in a row without a task run that is no accident.
IN_A_ROW = 3
#: The life, in seconds, after which a pilot has not failed, with or without a task.
SHORT_LIFE_S = 60.0
#: The number of last lines of a job's output that are shown, and the bytes of each.
LINES, LINE_BYTES = 3, 200


class Refusal(NamedTuple):
    """The refusal of a pool's pilot by the batch system."""

    #: The time of the next try, in seconds since the epoch, and the length of the wait.
    until: float
    wait_s: float
    error: str

    def again(self, created: float, error: str) -> Refusal:
        """Return the refusal after a pilot, requested at time `created`, was refused too."""
        if created < self.until:
            return self._replace(error=error)
        wait_s = _longer(self.wait_s)
        return Refusal(created + wait_s, wait_s, error)


class Losses(msgspec.Struct):
    """Pilots of a pool that ended one after the other without having run a task."""

    count: int = 0
    #: The time of the next try, and the length of the wait; 0: too few pilots have ended so.
    until: float = 0.0
    wait_s: float = 0.0
    #: The last one: its job, how it ended, and the last lines of its output.
    job: str | None = None
    how: str = ""
    output: str = ""

    def add(self, created: float, now: float, job: str | None, how: str) -> None:
        """Count a pilot, requested at time `created`, that ended without having run a task."""
        self.count += 1
        self.job, self.how, self.output = job, how, ""
        if self.count >= IN_A_ROW and created >= self.until:
            self.wait_s = _longer(self.wait_s)
            self.until = now + self.wait_s

    def describe(self, pool: str) -> str:
        """Describe the losses in words."""
        last = f"job {self.job}" if self.job else "which had no job"
        text = (
            f"the last {counted(self.count, 'pilot')} of pool {pool} ended before they had worked; "
            f"the last one, {last}: {self.how}"
        )
        if self.output:
            text += f"; jobs/{self.job}.out ends with: {self.output}"
        return text


def first_refusal(created: float, error: str) -> Refusal:
    """Return the refusal of a pilot of a pool that had none."""
    wait_s = _longer(0.0)
    return Refusal(created + wait_s, wait_s, error)


def last_lines(output: str) -> str:
    """Return the last lines of a job's output as one line, for a list or a terminal."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return " | ".join(shortened(printable(line), LINE_BYTES) for line in lines[-LINES:])


def decode_losses(text: str | None, now: float) -> dict[str, Losses]:
    """Return the losses that an earlier head wrote down; none if they cannot be read."""
    try:
        losses = msgspec.json.decode(text or "{}", type=dict[str, Losses])
    except msgspec.DecodeError:
        return {}
    for each in losses.values():
        each.until = min(each.until, now + each.wait_s)  # its clock was another
    return losses


def encode_losses(losses: dict[str, Losses]) -> str:
    """Return the losses as text for the next head."""
    return msgspec.json.encode(losses).decode()


def told(losses: dict[str, Losses]) -> Sequence[tuple[str, Losses]]:
    """Return the pools that wait, or try again, because too many of their pilots ended early."""
    return [(pool, each) for pool, each in losses.items() if each.wait_s]


def _longer(wait_s: float) -> float:
    return min(max(BACK_OFF_S[0], 2 * wait_s), BACK_OFF_S[1])
