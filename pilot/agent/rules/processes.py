"""The part that the rules for executors and for MPI worlds have in common. Pure.

Invariants
----------
- A process holds its cores exactly while it serves a queue.
- An attempt is told to stop once, and only where it may not have ended by then anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from pilot.agent.rules.actions import Action
from pilot.agent.rules.attempts import Attempts
from pilot.agent.rules.bookings import Bookings
from pilot.agent.rules.cores import Cores
from pilot.agent.rules.queues import Queue
from pilot.agent.rules.warm_pool import Reusable, WarmPool
from pilot.scheduler.placement import NodeAllocation
from pilot.wire.messages.pilot import AttemptSpec


class Process(Reusable, Protocol):
    """An executor or an MPI world."""

    #: The queue that the process works for; None where it holds no cores.
    queue: Queue | None

    @property
    def held(self) -> Sequence[NodeAllocation]:
        """What the process holds while it serves a queue."""


P = TypeVar("P", bound=Process)


class ProcessRules(Generic[P]):
    """The executors, or the worlds, of a pilot.

    Parameters
    ----------
    attempts
        The attempts that are here: work comes from there, and goes back when it ends.
    cores
        The cores that the processes run on.
    bookings
        What of them is kept for a task.
    numbers
        For executors and worlds.
    act
        Takes what is to be done.
    """

    def __init__(
        self,
        attempts: Attempts,
        cores: Cores,
        bookings: Bookings,
        numbers: Iterator[int],
        act: Callable[[Action], None],
    ) -> None:
        self._attempts = attempts
        self._queues = attempts.queues
        self._cores = cores
        self._bookings = bookings
        self._numbers = numbers
        self._act = act
        self._warm: WarmPool[P] = WarmPool(cores)
        #: True once all that runs has been told to end soon: whatever dies from now on, and
        #: whatever it raises, is the end of the pilot.
        self._interrupting = False

    def _serve(self, process: P, queue: Queue) -> None:
        """Assign a process to a queue, and take its cores."""
        process.queue = queue
        queue.busy += 1
        for share in process.held:
            self._cores.take(share)

    def _release(self, process: P) -> None:
        """Free the cores of a process that serves a queue."""
        if process.queue is None:
            return
        process.queue.busy -= 1
        process.queue = None
        for share in process.held:
            self._cores.release(share)
        self._queues.look_again = True

    def _may_outlast(self, work: AttemptSpec, since: float, until: float) -> bool:
        """Tell whether an attempt that began at `since` may run beyond `until`."""
        limit_s = self._attempts.templates[work.template].time_limit_s
        return not limit_s or since + limit_s > until

    def _depth(self, queue: Queue, cores: int) -> int:
        """Return the number of tasks that a process of so many cores is sent ahead."""
        depth = queue.depth
        if depth > 1:
            # An even share: what others could run at once does not queue up behind one.
            others = queue.busy + self._cores.free // max(1, cores)
            depth = min(depth, -(-len(queue.waiting) // others))
        return depth
