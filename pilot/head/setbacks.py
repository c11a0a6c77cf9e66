"""The delays of a pool whose pilots are refused, or end before they have run a task. Pure.

A wrong line in a site file, a module that does not load, a broken node: each would cost a job a
second, for ever, and the fair share of its user.

Invariants
----------
- Each wait is twice the one before, from and to `BACK_OFF_S`. What was on its way when a wait began
  belongs to the same incident, and does not make it longer.
- A pool that wants nothing for a while does not begin anew with the shortest wait: work that comes
  and goes would cost a refused job each time. But nobody who has mended what was wrong waits for
  longer than `REST_S`.
- A pool whose pilots have ended so tries again with one pilot at a time, until one has worked.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec

from pilot.formatting import counted
from pilot.texts import printable, shortened

#: The shortest and the longest wait, in seconds.
BACK_OFF_S = (5.0, 300.0)
#: The longest wait of a pool that wants pilots again, in seconds.
REST_S = 30.0
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


class Setbacks:
    """The refusals and losses of a site's pools.

    Parameters
    ----------
    losses
        What an earlier head has written down of the losses, by pool; they are changed here.
    """

    def __init__(self, losses: dict[str, Losses]) -> None:
        self.losses = losses
        #: The last refusals, by pool.
        self.refused: dict[str, Refusal] = {}
        #: The same of pools that have wanted none since.
        self._rested: dict[str, Refusal] = {}

    @property
    def trouble(self) -> str:
        """The setback that is to be told first, in words; empty if there is none."""
        for pool, refusal in self.refused.items():
            return f"no pilot for pool {pool}: {refusal.error}"
        for pool, losses in told(self.losses):
            return losses.describe(pool)
        return ""

    def allows(self, pool: str, now: float, unproven: Collection[str]) -> bool:
        """Tell whether a pool's setbacks allow another pilot now.

        Parameters
        ----------
        pool
            The pool.
        now
            The time.
        unproven
            The pools with pilots that have not run a task yet.
        """
        rested, losses = self._rested.get(pool), self.losses.get(pool)
        if rested is not None and now < rested.until:
            self.refused[pool] = self._rested.pop(pool)
        refused = self.refused.get(pool)
        if refused is not None and now < refused.until:
            return False
        if losses is None or not losses.wait_s:
            return True
        return now >= losses.until and pool not in unproven

    def refuse(self, pool: str, created: float, error: str) -> Refusal:
        """Note that a pilot, requested at time `created`, was refused; return what follows."""
        before = self.refused.get(pool)
        rested = self._rested.pop(pool, None)
        if before is None and rested is not None and created < rested.until + rested.wait_s:
            before = rested
        first = first_refusal(created, error)
        self.refused[pool] = first if before is None else before.again(created, error)
        return self.refused[pool]

    def lose(self, pool: str, created: float, now: float, job: str | None, how: str) -> Losses:
        """Note that a pilot, requested at time `created`, ended without having run a task."""
        losses = self.losses.setdefault(pool, Losses())
        losses.add(created, now, job, how)
        return losses

    def taken(self, pool: str) -> None:
        """Note that the batch system has taken a pilot of the pool."""
        self.refused.pop(pool, None)
        self._rested.pop(pool, None)

    def worked(self, pool: str) -> bool:
        """Note that a pilot of the pool has run a task; return True if it had losses."""
        return self.losses.pop(pool, None) is not None

    def forget(
        self,
        content: Collection[str],
        trying: Collection[str],
        unproven: Collection[str],
        now: float,
    ) -> bool:
        """Forget the setbacks of pools that want no more pilots; return True if losses were there.

        Parameters
        ----------
        content
            The pools that have what their work is worth.
        trying
            Pools with pilots that are just being submitted: these count as there, until they are
            refused again.
        unproven
            The pools with pilots that have not run a task yet.
        now
            The time.
        """
        for pool in content:
            if pool not in trying and (refusal := self.refused.pop(pool, None)) is not None:
                until = min(refusal.until, now + REST_S)
                self._rested[pool] = refusal._replace(until=until)
        had = [pool for pool in content if pool in self.losses and pool not in unproven]
        for pool in had:
            del self.losses[pool]
        return bool(had)


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
