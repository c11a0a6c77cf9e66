"""Pilots that are asked for: in which order, when, in which shape, and what the batch system says.

Invariants
----------
- The intent to submit a pilot is in the database, under a unique job name, before the job is
  submitted; after a crash it is found again by that name, so no intent has two jobs.
- A pilot is asked for when it is about to be submitted (`pacing`), so that nothing waits behind it.
- A pilot that was told to end before its turn is not submitted any more.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence

from pilot.formatting import counted
from pilot.head.batch_thread import BatchThread
from pilot.head.decisions import GROW, SHAPED, History
from pilot.head.machine import Machine
from pilot.head.outlook import INTENDED, QUEUED, PilotRow
from pilot.head.own_pilot import agent_command
from pilot.head.roster import Roster
from pilot.head.setbacks import Setbacks
from pilot.head.shaping import Shaping
from pilot.inherited import GIVEN, digests
from pilot.scheduler.batch import BatchError, BatchSystem, JobRequest, SubmitRefused
from pilot.scheduler.elasticity import Grow
from pilot.scheduler.pacing import Pace
from pilot.scheduler.shapes import Shape
from pilot.site import Site

log = logging.getLogger("pilot.fleet")


class Submitting:
    """The way of pilots from decisions to the queue of the batch system.

    Parameters
    ----------
    site
        The site.
    roster
        The pilots.
    batch, thread
        The batch system, and the thread that speaks to it.
    setbacks
        What has kept pilots from coming.
    history
        The decisions that are kept.
    machine
        Tells the time, and sleeps.
    tell
        Called with ``QUEUED`` and a detail, for the log of events.
    ended
        Called with the name, the reason and the time for a pilot that will not come.
    cancel
        Called with a pilot that was to end before it had a job, and the time.
    hurry
        Called when others, whose turn had not come, can be asked for.
    """

    def __init__(
        self,
        site: Site,
        roster: Roster,
        batch: BatchSystem,
        thread: BatchThread,
        setbacks: Setbacks,
        history: History,
        machine: Machine,
        *,
        tell: Callable[[str, str], None],
        ended: Callable[[str, str, float], None],
        cancel: Callable[[PilotRow, float], None],
        hurry: Callable[[], None],
    ) -> None:
        self._now, self._sleep = machine.now, machine.sleep
        self._site = site
        self._roster = roster
        self._batch = batch
        self._thread = thread
        self._setbacks = setbacks
        self._history = history
        self._tell = tell
        self._ended = ended
        self._cancel = cancel
        self._hurry = hurry
        self._shaping = Shaping(batch)
        config = site.config
        largest = {name: pool.nodes_per_pilot for name, pool in config.pools.items()}
        self._pace = Pace(config.manners.submit_interval_s, largest)
        self._last = -math.inf
        #: The pilots that are being submitted.
        self._under_way = 0
        #: The pools with pilots whose turn comes later.
        self.deferred: set[str] = set()
        #: When to decide again, since pilots wait for more work until then.
        self.settles_at = math.inf

    def ask_for(self, growth: Sequence[Grow], now: float) -> set[str]:
        """Ask for pilots, those whose turn it is; return the pools whose setbacks allow none."""
        kept_from: set[str] = set()
        self.deferred.clear()
        unsettled = self._pace.unsettled(growth, now)
        self.settles_at = min(unsettled.values(), default=math.inf)
        for grow in self._pace.in_turn(growth):
            if not self._setbacks.allows(grow.pool, now, self._roster.unproven()):
                kept_from.add(grow.pool)
            elif (grow.pool in unsettled and self._pace.is_small(grow)) or not self._pace.allows(
                self._under_way, now
            ):
                self.deferred.add(grow.pool)
            else:
                self._begin(grow, now)
        return kept_from

    def submitted(self, row: PilotRow, job: str) -> None:
        """Record which job a pilot has: by an answer, or by a list of jobs after none came."""
        row.job, row.submitted = job, row.created
        if row.state == INTENDED:
            self._tell(QUEUED, f"{row.name}: job {job} for pool {row.pool}: {row.reason}")
            row.state = QUEUED
        if row.cancelled_at:
            self._cancel(row, self._now())  # that was before it had a job
        self._setbacks.taken(row.pool)
        self._thread.answered()
        self._roster.save(row)

    def _begin(self, grow: Grow, now: float) -> None:
        row = PilotRow(
            self._roster.new_name(),
            grow.pool,
            grow.nodes,
            grow.walltime_s,
            INTENDED,
            None,
            grow.reason,
            now,
            follows=grow.after,
        )
        self._roster.add(row)
        self._pace.asked(row.pool, now)
        self._under_way += 1
        wish = Shape(
            grow.nodes,
            grow.walltime_s,
            grow.least_nodes or grow.nodes,
            grow.least_walltime_s or grow.walltime_s,
        )
        text = f"{counted(row.nodes, 'node')}: {row.reason}"
        self._history.note(GROW, row.pool, row.name, text, now)
        log.info("pilot %s: %d nodes of pool %s: %s", row.name, row.nodes, row.pool, row.reason)
        self._thread.ask(
            lambda: self._submit_in_turn(row, wish),
            lambda answer: self._shaped(row, *answer),
            lambda error: self._not_submitted(row, error),
            done=self._done,
        )

    def _done(self) -> None:
        self._under_way -= 1
        if self.deferred:
            self._hurry()

    def _submit_in_turn(self, row: PilotRow, wish: Shape) -> tuple[str, Shape, str]:
        """Submit, no sooner after the last time than the site allows; in the batch thread.

        Return the job, its shape, and why it is not simply the wish.
        """
        due = self._last + self._pace.interval_s
        while not row.told and (left := due - self._now()) > 0:
            self._sleep(min(left, 0.1))
        if row.told:
            raise SubmitRefused("it was told to end before it was submitted")
        self._last = self._now()
        shape, why = self._shaping.shape(
            row.pool, wish, lambda shape: self._request(row, shape), self._now()
        )
        try:
            request = self._request(row, shape)
        except ValueError as error:
            raise SubmitRefused(str(error)) from error
        asked = self._now()
        try:
            return self._batch.submit(request), shape, why
        finally:
            self._pace.took(self._now() - asked)

    def _request(self, row: PilotRow, shape: Shape) -> JobRequest:
        config = self._site.config
        pool = config.pools[row.pool]
        before = self._roster.rows.get(row.follows)
        return JobRequest(
            name=row.name,
            command=agent_command(self._site, row.name, row.pool),
            nodes=shape.nodes,
            walltime_s=shape.walltime_s,
            least_nodes=shape.least_nodes if shape.least_nodes < shape.nodes else 0,
            least_walltime_s=(
                shape.least_walltime_s if shape.least_walltime_s < shape.walltime_s else 0.0
            ),
            directory=self._site.jobs,
            directives=pool,
            setup=config.environment.setup,
            variables={**config.environment.variables, GIVEN: digests(os.environ)},
            warning_s=pool.warning_s,
            after="" if before is None else before.job or "",
        )

    def _shaped(self, row: PilotRow, job: str, shape: Shape, why: str) -> None:
        """Take in that a pilot was submitted, in a shape that may be another one than its wish."""
        row.walltime = shape.walltime_s
        if why:
            text = f"{shape}: {why}"
            log.info("pilot %s (job %s) is submitted with %s", row.name, job, text)
            self._history.note(SHAPED, row.pool, row.name, text, self._now())
            self._history.write(self._now())
        self.submitted(row, job)

    def _not_submitted(self, row: PilotRow, error: BatchError) -> None:
        if row.told and isinstance(error, SubmitRefused):
            self._ended(row.name, str(error), row.created)
            return
        refusal = self._setbacks.refuse(row.pool, row.created, str(error))
        log.warning("no pilot for pool %s: %s; next try in %.0f s", row.pool, error, refusal.wait_s)
        if isinstance(error, SubmitRefused):
            self._thread.answered()
            self._ended(row.name, f"refused: {error}", row.created)
        else:
            self._thread.no_answer(error)  # it may be there: the next list of jobs tells
