"""Reports to clients of how their tasks ended, as fast as each of them reads.

A client that is stopped, or on a slow network, may have millions of tasks that end meanwhile. What
it is to be told is in the database: so no more than the numbers of these tasks is kept here.

Invariants
----------
- Each is told all that it is to be told, in this order, however slow it is.
- What a client has been sent and has not read is bounded in bytes (`TOLD_BYTES`, and one portion).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from pilot.head.connections import Send
from pilot.head.outcome_cache import Outcomes
from pilot.limits import TOLD_BYTES
from pilot.model.tasks import TaskOutcome
from pilot.wire.messages import client as m

#: The number of tasks in a message when many wait; their values take a few MB at most.
PORTION = 100


class Telling:
    """The ends that clients are still to be told of.

    Parameters
    ----------
    send
        Sends a message to a peer.
    unsent
        The number of bytes that a peer has been sent and has not read.
    outcomes
        How tasks ended.
    watch
        Has a peer told of a task when it ends; returns False if it is not unfinished.
    """

    def __init__(
        self,
        send: Send,
        unsent: Callable[[bytes], int],
        outcomes: Outcomes,
        watch: Callable[[bytes, int], bool],
    ) -> None:
        self._send = send
        self._unsent = unsent
        self._outcomes = outcomes
        self._watch = watch
        #: The tasks still to be told, by peer; never empty.
        self._later: dict[bytes, deque[int]] = {}

    def tell(self, peer: bytes, outcomes: Sequence[TaskOutcome]) -> None:
        """Tell a peer of these committed ends."""
        if peer in self._later or self._unsent(peer) > TOLD_BYTES:
            self.look_up(peer, (outcome.task for outcome in outcomes))
        else:
            self._send(peer, m.Outcomes(list(outcomes)))

    def look_up(self, peer: bytes, tasks: Iterable[int]) -> None:
        """Tell a peer how these tasks ended, as committed by now."""
        self._later.setdefault(peer, deque()).extend(tasks)
        if not self._later[peer]:
            del self._later[peer]

    def go_on(self) -> None:
        """Tell more to the peers that have read what they were sent."""
        for peer, tasks in list(self._later.items()):
            while tasks and self._unsent(peer) <= TOLD_BYTES:
                portion = [tasks.popleft() for _ in range(min(PORTION, len(tasks)))]
                # A new head may have taken one on meanwhile, which was unknown before.
                ended = [task for task in portion if not self._watch(peer, task)]
                self._send(peer, m.Outcomes(self._outcomes.told(ended)))
            if not tasks:
                del self._later[peer]

    def forget(self, peer: bytes) -> None:
        """Tell a peer nothing more: it is gone."""
        self._later.pop(peer, None)
