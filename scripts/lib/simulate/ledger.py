"""The ledger of a simulation: what becomes of each node-second that is held, and of each task.

Slurm's side counts the nodes of jobs from their start to their end; the pilots' side counts what
was done with them. Both are kept apart, so that they can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Sample(NamedTuple):
    """The state at a moment: nodes that are held, nodes' worth of running tasks, and the work of
    the tasks that wait, in node-seconds."""

    at_s: float
    held: float
    used: float
    backlog_node_s: float


@dataclass
class Ledger:
    """Sums in node-seconds, and what is needed to go on with them."""

    held_s: float = 0.0
    starting_s: float = 0.0
    #: The work of tasks that ended, and of checkpoints that later attempts went on from.
    used_s: float = 0.0
    #: Work that was interrupted, and has to be done again.
    lost_s: float = 0.0
    jobs: int = 0
    ended: int = 0
    waits_s: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    #: The current state.
    held: float = 0.0
    busy: float = 0.0
    backlog_s: float = 0.0
    _at: float = 0.0
    _busy_s: float = 0.0

    def hold(self, nodes: int, now: float) -> None:
        """Count nodes that a job has from now on; fewer, if negative."""
        self.advance(now)
        self.held += nodes

    def work(self, nodes: float, now: float) -> None:
        """Count nodes' worth of tasks that run from now on; fewer, if negative."""
        self.advance(now)
        self.busy += nodes

    def advance(self, now: float) -> None:
        """Add up what went by."""
        elapsed_s = now - self._at
        self.held_s += self.held * elapsed_s
        self._busy_s += self.busy * elapsed_s
        self._at = now

    @property
    def busy_s(self) -> float:
        """The node-seconds in which tasks ran, whatever came of it."""
        return self._busy_s

    @property
    def idle_s(self) -> float:
        """The node-seconds in which nodes were ready, and no task ran."""
        return self.held_s - self.starting_s - self._busy_s

    @property
    def share(self) -> float:
        """The part of what was held that was used."""
        return self.used_s / self.held_s if self.held_s else 1.0

    def sample(self, now: float) -> None:
        """Note the state."""
        self.samples.append(Sample(now, self.held, self.busy, max(0.0, self.backlog_s)))
