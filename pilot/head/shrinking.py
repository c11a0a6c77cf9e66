"""Nodes that go back: running pilots give their idle nodes to the batch system.

A pilot is asked for nodes, leaves those on which nothing runs, and says so until it is answered;
then the batch system is asked to take them, and the pilot is told what has become of that.

Invariants
----------
- A node goes back only after its pilot has left it: no task loses its node.
- A refusal by the batch system gives the nodes back to the pilot, which is left alone for a while.
- The nodes of an allocation that a user has made stay in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from pilot.head.batch_thread import BatchThread
from pilot.head.outlook import PilotRow
from pilot.head.roster import Roster
from pilot.scheduler.batch import BatchError, BatchSystem, ShrinkRefused
from pilot.scheduler.elasticity import Shrink
from pilot.wire.messages.pilot import KeepNodes, NodesReturned, ReturnNodes

log = logging.getLogger("pilot.fleet")

#: The time for which a pilot is not asked again for nodes, and the time for which the batch system
#: is not asked again to take some of a pilot's back, after it has refused to, in seconds.
SHRINKS_S, REFUSED_SHRINK_S = 30.0, 300.0
#: The time after which it is asked again where there was no answer to that, in seconds.
ANSWER_S = 5.0


class Shrinking:
    """The way of idle nodes from pilots back to the batch system.

    Parameters
    ----------
    roster
        The pilots.
    batch, thread
        The batch system, and the thread that speaks to it.
    tell
        Called with ``SHRUNK`` and a detail, for the log of events.
    """

    def __init__(
        self,
        roster: Roster,
        batch: BatchSystem,
        thread: BatchThread,
        tell: Callable[[str, str], None],
    ) -> None:
        self._roster = roster
        self._batch = batch
        self._thread = thread
        self._tell = tell

    def request(self, decision: Shrink, now: float) -> ReturnNodes:
        """Return the request for a pilot's longest idle nodes; it may have used them since."""
        row = self._roster.rows[decision.pilot]
        row.shrinks_after, row.shrink_refused = now + SHRINKS_S, False
        longest = sorted(row.idle_nodes, key=lambda node: -node[1])
        names = [name for name, _ in longest[: decision.nodes]]
        log.info("pilot %s (job %s) is asked for %s", row.name, row.job, ", ".join(names))
        return ReturnNodes(names, decision.reason)

    def returned(
        self,
        name: str,
        nodes: list[str],
        keeps: Sequence[str],
        now: float,
        answer: Callable[[NodesReturned | KeepNodes], None],
    ) -> None:
        """Give the batch system nodes that a pilot has left.

        Parameters
        ----------
        name
            The pilot; it names the nodes again until it has an answer.
        nodes, keeps
            The nodes that it has left, and all others that it has.
        now
            The time.
        answer
            Called with what the pilot is to be told.
        """
        row = self._roster.rows.get(name)
        if row is None or row.job is None or row.shrinking or row.cancelled_at:
            return
        if now < row.returns_after:
            return  # there was no answer a moment ago
        if not keeps:
            return  # the others are lost: it ends, and its job with all nodes
        if row.own or row.shrink_refused:
            answer(KeepNodes(nodes))  # maybe again: it may have said this before it heard of that
            return
        row.shrinking = True
        job, keep = row.job, list(keeps)

        def done(_: None) -> None:
            row.shrinking, row.nodes = False, len(keep)
            row.shrinks_after = 0.0
            text = f"{name}: job {job} has given {', '.join(nodes)} back, and keeps {len(keep)}"
            log.info("pilot %s", text)
            self._tell("SHRUNK", text)
            self._roster.save(row)
            answer(NodesReturned(nodes))

        def failed(error: BatchError) -> None:
            row.shrinking = False
            log.warning("pilot %s (job %s) keeps %s: %s", name, job, ", ".join(nodes), error)
            if isinstance(error, ShrinkRefused):
                row.shrinks_after, row.shrink_refused = now + REFUSED_SHRINK_S, True
                answer(KeepNodes(nodes))
            else:
                row.returns_after = now + ANSWER_S  # the pilot says again that it has left them

        self._thread.ask(lambda: self._batch.release_nodes(job, keep), done, failed)


def idle_nodes_s(row: PilotRow, now: float) -> tuple[float, ...]:
    """Return for how long each node that a pilot could give back has been idle, in seconds."""
    if row.own or row.shrinking or now < row.shrinks_after:
        return ()
    since_s = now - row.heard
    return tuple(idle_s + since_s for _, idle_s in row.idle_nodes)
