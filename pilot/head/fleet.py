"""The pilots: carries the decisions of elasticity out against the batch system.

The batch system is spoken to in a thread of its own (`batch_thread`), and its answers come back
into the head's loop as calls of `Fleet.take`.

Invariants
----------
- Which pilots are given up, and why, is decided in `giving_up`, by answers of the batch system;
  without an answer nothing is decided.
- One query for all jobs, at most every `poll_interval_s`; none while there are no pilots, unless
  the batch system has not answered the last command.
- A refusal, and the ends of pilots that have not worked (`setbacks`), are told, and waited for,
  only while the pool wants what it did not get.
- The allocation that the head's user has made is never ended.
"""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

from pilot import clock
from pilot.head import budget, giving_up
from pilot.head.adopting import Adopting
from pilot.head.batch_thread import BatchThread
from pilot.head.decisions import (
    END,
    GIVEN_UP,
    LOST,
    REFUSED,
    SHRINK,
    WAITS_AGAIN,
    History,
    Reason,
)
from pilot.head.job_files import end_of, unreached_by
from pilot.head.machine import HERE, Machine
from pilot.head.orders import CANCEL, Orders
from pilot.head.outlook import (
    ENDED,
    INTENDED,
    QUEUED,
    RUNNING,
    UNREACHED_ADVICE,
    PilotRow,
    ProvisioningView,
    budgets_of,
    halted,
    hindrance,
    obstacle,
    patient,
    pool_limits,
)
from pilot.head.polling import Picture, interval_s, picture
from pilot.head.roster import Roster
from pilot.head.setbacks import (
    SHORT_LIFE_S,
    Losses,
    Setbacks,
    decode_losses,
    encode_losses,
    last_lines,
    told,
)
from pilot.head.shrinking import Shrinking
from pilot.head.store.store import Store
from pilot.head.strays import Strays
from pilot.head.submitting import Submitting
from pilot.head.supply import supply_of
from pilot.head.walltimes import note_walltime, walltime_to_tell_s
from pilot.scheduler.batch import (
    BatchSystem,
    JobStatus,
    Phase,
    Predicts,
    WhyEnded,
)
from pilot.scheduler.budgets import Account
from pilot.scheduler.demand import ClassDemand
from pilot.scheduler.elasticity import (
    ENOUGH,
    End,
    Grow,
    PilotSupply,
    PoolLimits,
    PoolStatus,
    Shrink,
    decide_by,
    standings,
    unwanted,
)
from pilot.scheduler.waits import Waits
from pilot.site import Site
from pilot.wire.messages.pilot import BookingInfo, EndPilot, ReturnNodes

log = logging.getLogger("pilot.fleet")

#: The longest and the shortest time between two decisions, in seconds.
DECIDE_S, DECIDE_LEAST_S = 1.0, 0.1
#: The key in the database for the state of `setbacks`.
LOSSES = "losses"
#: The pilots from which a head learns at its start how long nodes are waited for.
WAITS_KNOWN = 100

#: A pilot's name, and what it is to be told.
Told: TypeAlias = tuple[str, EndPilot | ReturnNodes]


class Fleet:
    """The pilots of a site.

    Parameters
    ----------
    site
        The site.
    store
        The database.
    batch
        The batch system; it is closed with the fleet.
    rooms
        The state of pilots that have introduced themselves, by name; the core changes it.
    wake
        Called from another thread when there is something for `take`.
    lost
        Called by `take` with a pilot's name and the reason when its job has ended; with `may_live`
        where that is not known, with `out_of_memory` where that has ended it. Returns True if its
        tasks may still hold what the site has only once.
    tell
        Called with a pilot's new state and a detail, for the log of events.
    machine
        Has the thread that speaks to the batch system, and tells the time.
    """

    def __init__(
        self,
        site: Site,
        store: Store,
        batch: BatchSystem,
        rooms: Mapping[str, budget.Room],
        wake: Callable[[], None],
        lost: Callable[..., object],
        tell: Callable[[str, str], None],
        machine: Machine = HERE,
    ) -> None:
        self._now = machine.now
        self._site = site
        self._store = store
        self._rooms = rooms
        self._lost = lost
        self._tell = tell
        self._kind = site.config.kind
        self._manners = site.config.manners
        self._batch = batch
        self._thread = BatchThread(wake, machine)
        self._started = machine.now()
        #: The time at which it is decided next.
        self._decides_at = 0.0
        self._polled = 0.0
        self._polling = False
        #: The last answer, and the time of the first one that was like it.
        self._picture: Picture = {}
        self._pictured = 0.0
        self._strays = Strays()
        self._roster = Roster(site, store)
        #: The pilots by name.
        self.pilots = self._roster.rows
        #: True until the batch system has told how those of an earlier head are: it may hold some.
        self._unlisted = bool(self.pilots)
        self._pools = pool_limits(site.config)
        self._waits = _known_waits(store)
        self._setbacks = Setbacks(decode_losses(store.meta(LOSSES), self._started))
        self.history = History(store)
        #: The way of pilots into the queue.
        self._submitting = Submitting(
            site,
            self._roster,
            batch,
            self._thread,
            self._setbacks,
            self.history,
            machine,
            tell=tell,
            ended=self.ended,
            cancel=self._cancel,
            hurry=self.hurry,
        )
        #: The ways of idle nodes back to the batch system, and of users' allocations to pilots.
        self.shrinking = Shrinking(self._roster, batch, self._thread, tell)
        self.adopting = Adopting(site, self._roster, batch, self._thread, lost, self.ended)
        self.orders = Orders(store)
        self._ledger = budget.Ledger(store, budgets_of(site.config))
        for name, order in self.orders.pilots.items():
            # An order of before is carried out again: its head may have died in between.
            if order.verb == CANCEL and (row := self.pilots.get(name)):
                self.withdraw(row, order.words, self._started)

    # --- what is known

    @property
    def trouble(self) -> str:
        """The problem that keeps pilots from coming, other than the queue; empty if none."""
        if silence := self._thread.silence:
            return f"the batch system does not answer: {silence}"
        if setback := self._setbacks.trouble:
            return setback
        now = self._now()
        for row in self.pilots.values():
            if text := obstacle(row, self._kind, now):
                return text
        lost = next((row for row in self.pilots.values() if row.unreached), None)
        return (
            f"pilot {lost.name} (job {lost.job}) does not reach this head {lost.unreached}; "
            f"{UNREACHED_ADVICE}"
            if lost
            else ""
        )

    def supply(self, now: float) -> list[PilotSupply]:
        """Return the pilots in the form that elasticity takes."""
        return supply_of(
            self._site.config, self.pilots, self._rooms, self._waits, self.adopting.here, now
        )

    def outlook(self) -> ProvisioningView:
        """Return everything that is known of pilots to come."""
        now = self._now()
        return ProvisioningView(
            self._kind,
            self._limits(now),
            self.supply(now),
            self.pilots,
            self._setbacks.refused,
            self._thread.silence,
            self._thread.silent_since,
            dict(told(self._setbacks.losses)),
            self._accounts(now),
            self.session_accounts(),
        )

    def session_accounts(self) -> dict[int, Account]:
        """Return the accounts of the open sessions that have a budget."""
        return self._ledger.session_accounts()

    def _accounts(self, now: float) -> dict[str, Account]:
        return self._ledger.accounts(list(self.pilots.values()), self._rooms, now)

    def _limits(self, now: float) -> list[PoolLimits]:
        """Return the limits of pools, as waits, orders, administrators and budgets change them."""
        pools = patient(self._pools, self._waits)
        pools = halted(self.orders.limits(pools), self.pilots.values())
        return budget.limits(pools, self._accounts(now))

    # --- the loop's side

    def poll(self, now: float) -> None:
        """Ask the batch system for the states of the pilots' jobs, if it is time."""
        self.adopting.watch(now)
        # One that was silent last is asked until it answers, also when no pilot is left.
        wanted = bool(self.pilots or self._thread.silence) and not self._polling
        if wanted and now - self._polled >= self._poll_interval(now):
            self._polling, self._polled = True, now
            ids = {row.job for row in self.pilots.values() if row.job}
            self._thread.ask(
                lambda: self._batch.jobs(self._roster.prefix, ids),
                lambda jobs: self._listed(jobs, now),
                done=self._poll_done,
            )

    def tick(self, now: float, demand: Callable[[], list[ClassDemand]]) -> list[Told]:
        """Poll and decide, if it is time; return what pilots are to be told."""
        self.poll(now)
        if now < self._decides_at <= now + DECIDE_S:  # else the clock was set back
            return []
        told: list[Told] = []
        wanted, supply = demand(), self.supply(now)
        self._ledger.tick(self.pilots.values(), self._rooms, now)
        stands = standings(self._limits(now), wanted, supply)
        self._note_unwanted(unwanted(stands, supply), now)
        self._forget_setbacks(stands, now)
        growth: list[Grow] = []
        for decision in decide_by(stands, supply):
            if isinstance(decision, Grow):
                if not (self._unlisted and self.pilots):
                    growth.append(decision)
                continue
            row = self.pilots[decision.pilot]
            if isinstance(decision, Shrink):
                self.history.note(SHRINK, row.pool, row.name, decision.reason, now)
                told.append((row.name, self.shrinking.request(decision, now)))
                continue
            self.history.note(END, row.pool, row.name, decision.reason, now)
            if self._end(decision):
                told.append((row.name, EndPilot(decision.reason)))
        kept_from = self._submitting.ask_for(growth, now)
        reasons = ((its.pool.name, self._reason(its, kept_from)) for its in stands)
        self.history.stand(reasons, now)
        self.history.write(now)
        self._decides_at = min(now + _decide_in_s(supply), self._submitting.settles_at)
        return told

    def _note_unwanted(self, names: Collection[str], now: float) -> None:
        """Note since when pilots in the queue have nothing to come for."""
        for row in self.pilots.values():
            if row.name not in names:
                row.unwanted_since = None
            elif row.unwanted_since is None:
                row.unwanted_since = now

    def _reason(self, its: PoolStatus, kept_from: Collection[str]) -> Reason:
        """Return the reason why a pool asks for no more nodes, after it was decided upon."""
        pool = its.pool.name
        if pool in kept_from and (refusal := self._setbacks.refused.get(pool)):
            return Reason(REFUSED, f"{self._kind.title} took no pilot: {refusal.error}")
        if pool in kept_from and (losses := self._setbacks.losses.get(pool)):
            return Reason(LOST, losses.describe(pool))
        if pool in self._submitting.deferred:
            return Reason("", "")  # it does ask for more
        return Reason(its.blocked_by, hindrance(its))

    def _forget_setbacks(self, stands: Sequence[PoolStatus], now: float) -> None:
        """Forget the refusals and losses of pools that want no more pilots."""
        if self._setbacks.refused or self._setbacks.losses:
            content = [its.pool.name for its in stands if its.blocked_by == ENOUGH]
            trying, unproven = self._roster.trying(), self._roster.unproven()
            if self._setbacks.forget(content, trying, unproven, now):
                self._save_losses()

    def _save_losses(self) -> None:
        self._store.set_meta(LOSSES, encode_losses(self._setbacks.losses))

    def hurry(self) -> None:
        """Decide at the next tick: there is new demand."""
        self._decides_at = 0.0

    def take(self) -> None:
        """Handle the answers of the batch system that have arrived."""
        self._thread.take()

    def started(self) -> list[str]:
        """Return the pilots that have started, and so may have tasks."""
        return [row.name for row in self.pilots.values() if row.state == RUNNING]

    def joined(
        self, name: str, job: str, pool: str, nodes: int, now: float, life: int = 0
    ) -> PilotRow:
        """Record that a pilot has introduced itself, in that life of its job; return its row."""
        row = self.pilots.get(name)
        if row is None:
            # It was taken for ended; its intent was lost with an older database; or somebody
            # started it by hand.
            row = PilotRow(name, pool, nodes, 0.0, RUNNING, job, "started by hand", now)
            self._roster.add(row)
        is_first = row.state in (INTENDED, QUEUED) and row.started is None and not life
        if is_first and not row.own and not row.follows:
            self._waits[row.pool].add(row.nodes, now - row.created)
        row.job, row.state, row.started = job, RUNNING, row.started or now
        row.nodes, row.heard, row.suspended, row.missing_since = nodes, now, False, None
        row.unreached, row.left_alone = "", False
        # What an earlier life was told, this one has not heard.
        row.told, row.draining = False, bool(row.cancelled_at)
        self._roster.save(row)
        return row

    def is_surplus(self, name: str) -> bool:
        """Tell whether a pilot is in an allocation of a user's of which another one, that takes
        tasks, has the nodes: as where it was taken for ended, and its place was filled."""
        row = self.pilots[name]
        return row.own and any(
            other.own and other.job == row.job and other.heard and not other.draining
            for other in self.pilots.values()
            if other is not row
        )

    def heard(
        self,
        name: str,
        idle_s: float,
        draining: bool,
        now: float,
        idle_nodes: Sequence[tuple[str, float]] = (),
        booking: BookingInfo | None = None,
    ) -> None:
        """Record a sign of life of a pilot."""
        if row := self.pilots.get(name):
            if idle_s and not row.idle_s:
                # It is decided upon when it has been idle for as long as it is kept, not later.
                self._decides_at = min(self._decides_at, now + DECIDE_LEAST_S)
            row.idle_nodes, row.booking = idle_nodes, booking
            row.idle_s, row.heard, row.draining = idle_s, now, draining or row.told
            row.suspended = False

    def worked(self, name: str) -> None:
        """Record that a pilot has run a task: its pool's pilots do work."""
        row = self.pilots.get(name)
        if row is not None and not row.worked:
            row.worked = True
            if self._setbacks.worked(row.pool):
                self._save_losses()

    def told(self, name: str) -> None:
        """Record that a pilot was told to end."""
        if row := self.pilots.get(name):
            row.draining = row.told = True

    def forgive(self, seconds: float) -> None:
        """Do not count this time, in which the head itself stood still, as silence of pilots."""
        for row in self.pilots.values():
            row.missing_since = None
            if row.heard:
                row.heard += seconds
        self._started += seconds

    def left(self, name: str, reason: str) -> None:
        """Record a pilot's good-bye; a later list tells whether its job has ended."""
        if row := self.pilots.get(name):
            log.info("pilot %s (job %s) says good-bye: %s", name, row.job, reason)
            row.heard, row.idle_s, row.draining = 0.0, 0.0, True
            self._polled = 0.0
            if row.own and not self.adopting.has_agent(name):
                self.ended(name, reason, self._now())  # its job is not ours, and goes on
                return
            row.reason = reason

    def ended(self, name: str, reason: str, now: float, how: WhyEnded | None = None) -> None:
        """Record that the job of a pilot has ended."""
        row = self.pilots.get(name)
        if row is None:
            return
        self._ledger.end(row, now)
        if (order := self.orders.pilots.get(name)) and order.words not in reason:
            reason = f"{reason} ({order.words})"
        # First: where this cannot be written, the end is noticed again.
        self._roster.end(row, reason, now)
        self.history.forget(name)
        self.orders.forget_pilot(name)
        log.info("pilot %s (job %s) ended: %s", name, row.job, reason)
        if row.unreached:
            with contextlib.suppress(OSError):
                self._site.unreached(name).unlink(missing_ok=True)
        self._tell(ENDED, f"{name}: {reason}")
        self.hurry()
        if how is not WhyEnded.PREEMPTED and row.job and not (row.own or row.told):
            self._note_end(row, reason, now)

    def _note_end(self, row: PilotRow, reason: str, now: float) -> None:
        """Count a pilot that ended by itself as a loss, if it ended early without work."""
        if row.worked or (row.started is not None and now - row.started > SHORT_LIFE_S):
            return
        losses = self._setbacks.lose(row.pool, row.created, now, row.job, reason)
        if losses.wait_s:
            log.warning("%s; next try in %.0f s", losses.describe(row.pool), losses.wait_s)
        self._save_losses()
        if row.job:
            path = self._site.jobs / f"{row.job}.out"
            self._thread.ask(
                lambda: end_of(path), lambda text: self._read_output(row, losses, text)
            )

    def _read_output(self, row: PilotRow, losses: Losses, text: str) -> None:
        if losses.job == row.job and text:
            losses.output = last_lines(text)
            if self._setbacks.losses.get(row.pool) is losses:
                self._save_losses()

    def cancel_all(self, names: Sequence[str]) -> None:
        """Cancel the jobs of pilots; return when the batch system has the requests.

        A submission in progress is waited for; others are not made any more.
        """
        for name in names:
            self.told(name)
            self.adopting.terminate(name)
        rows = [row for name in names if (row := self.pilots.get(name)) and not row.own]
        if any(row.job is None for row in rows):
            self._thread.wait_for(lambda: None)
            self._thread.take()
        jobs = [row.job for row in rows if row.job]
        unknown = {row.name for row in rows if row.job is None and row.name in self.pilots}
        if jobs or unknown:
            self._thread.wait_for(lambda: self._cancel_now(jobs, unknown))

    def _cancel_now(self, jobs: list[str], names: Collection[str]) -> None:
        """Cancel jobs by id, and jobs that may exist under these names; in the batch thread."""
        if names:
            found = self._batch.jobs(self._roster.prefix, ())
            jobs = [*jobs, *(job.job_id for job in found.values() if job.name in names)]
        if jobs:
            self._batch.cancel(jobs)

    def close(self) -> None:
        """Wait for the command in progress; jobs go on."""
        self._ledger.write(self._now())
        self._thread.close()
        self.adopting.close()
        self._batch.close()

    def _end(self, decision: End) -> bool:
        """End a pilot; return True if its agent should be told, because it runs."""
        row = self.pilots[decision.pilot]
        if row.heard:
            return True
        if row.job and not row.draining and not row.own:
            self.withdraw(row, decision.reason, self._now())
        return False

    def withdraw(self, row: PilotRow, reason: str, now: float) -> None:
        """Cancel the job of a pilot; one that is not submitted yet is not any more."""
        row.reason, row.told = reason, True
        log.info("pilot %s (job %s) is cancelled: %s", row.name, row.job, reason)
        self._cancel(row, now)

    def _cancel(self, row: PilotRow, now: float) -> None:
        """Cancel the job of a pilot; a later list tells when it has ended."""
        row.draining, row.cancelled_at = True, now
        job = row.job
        # What somebody started by hand may give any number for its job.
        if job is not None and row.submitted is not None:
            self._thread.ask(lambda: self._batch.cancel([job]), lambda _: None)

    # --- what the batch system says

    def _poll_interval(self, now: float) -> float:
        shortest_s = self._manners.poll_interval_s
        if self._kind.is_local:
            return shortest_s
        rows = self.pilots.values()
        return interval_s(rows, shortest_s, self._pictured, self._polled, now)

    def _listed(self, jobs: dict[str, JobStatus], asked: float) -> None:
        """Handle the list of jobs that was requested at the given time."""
        self._thread.answered()
        self._unlisted = False
        if (seen := picture(jobs)) != self._picture:
            self._picture, self._pictured = seen, asked
        by_name = {job.name: job for job in jobs.values()}
        for row in list(self.pilots.values()):
            # What the list says of this head's own job is known: it runs.
            if self.adopting.is_own(row.name):
                if decision := giving_up.of_own_job(row, asked):
                    self.adopting.kill(row.name)
                    self._carry_out(row, decision, asked)
                continue
            job = jobs.get(row.job or "") or by_name.get(row.name)
            if job is None:
                self._not_listed(row, asked)
            else:
                self._is_listed(row, job, asked)
        strays = self._strays.to_cancel(jobs, self.pilots, self._roster.prefix, asked)
        if strays:
            log.warning("jobs %s are of no pilot, and are cancelled", ", ".join(strays))
            self._thread.ask(lambda: self._batch.cancel(strays), lambda _: None)

    def _is_listed(self, row: PilotRow, job: JobStatus, asked: float) -> None:
        if row.submitted is None and job.name == row.name and row.job in (None, job.job_id):
            # Nobody knew what had become of the submission: it went well. The pilot may have said
            # before which job it is in, but what somebody started by hand may say any.
            self._submitting.submitted(row, job.job_id)
        # A job that is ending has fewer each moment, and all again where it waits to start anew.
        if giving_up.goes_on(job) and (nodes := _nodes(row, job)) != row.nodes:
            row.nodes = nodes
            self._roster.save(row)
        row.missing_since = None
        row.waits_for = job.reason
        row.stuck_since = giving_up.stuck_since(row, job, asked)
        row.stuck, row.held_back = job.stuck, job.held_back
        row.is_requeued = job.restart_count > 0
        row.expected = None if job.expected_at is None else clock.from_wall(job.expected_at)
        row.suspended = job.phase is Phase.SUSPENDED
        if row.suspended and row.heard:
            row.heard = asked  # it cannot speak
        note_walltime(row, job, self._rooms.get(row.name))
        if job.phase is not Phase.RUNNING:
            row.job_runs_since = None
        elif job.started_at:  # it may have been queued again since the list before
            row.job_runs_since = clock.from_wall(job.started_at)
        elif row.job_runs_since is None:
            row.job_runs_since = asked
        _note_job_end(row, job)
        if row.job_runs_since is not None and not row.heard:
            row.unreached = unreached_by(self._site.unreached(row.name))
        self._carry_out(
            row, giving_up.listed(row, job, asked, max(self._started, row.created)), asked
        )
        if giving_up.is_to_cancel_again(row, job, asked):
            self._cancel(row, asked)

    def walltime_left_s(self, name: str, ends_at: float, now: float) -> float | None:
        """Return the walltime, in seconds, that a pilot has to be told of; None: it knows."""
        row = self.pilots.get(name)
        return None if row is None else walltime_to_tell_s(row, ends_at, now)

    def _not_listed(self, row: PilotRow, asked: float) -> None:
        row.missing_since = giving_up.missing_since(row, asked)
        self._carry_out(row, giving_up.not_listed(row, asked, self._started), asked)

    def _accounted(self, row: PilotRow, job: JobStatus | None, asked: float) -> None:
        if row.name in self.pilots:
            if job is not None:
                _note_job_end(row, job)
            decision = giving_up.accounted(row, job, asked, self._kind.unlisted)
            self._carry_out(row, decision, asked)

    def _carry_out(self, row: PilotRow, decision: giving_up.Decision, asked: float) -> None:
        """Carry out what was decided on a pilot by what the batch system was asked at that time."""
        match decision:
            case giving_up.AskAccounting(job):
                self._thread.ask(
                    lambda: self._batch.account([job]),
                    lambda found: self._accounted(row, found.get(job), asked),
                )
            case giving_up.WaitsAgain(reason) if row.own:
                self._gone(row, reason, asked)  # whoever has made the allocation may adopt it anew
            case giving_up.WaitsAgain(reason):
                # The same job will start again, as a new life of the pilot.
                self._lost(row.name, reason)
                self.history.note(WAITS_AGAIN, row.pool, row.name, reason, asked)
                log.info("pilot %s (job %s) waits in the queue again", row.name, row.job)
                self._tell(QUEUED, f"{row.name}: job {row.job} waits again")
                row.state, row.heard, row.idle_s, row.draining = QUEUED, 0.0, 0.0, False
                self._roster.save(row)
                if row.told:
                    self._cancel(row, asked)  # it was to end, and would start anew
                else:
                    self._limit_nodes(row)
            case giving_up.GivenUp(reason):
                row.heard, row.idle_s, row.reason = 0.0, 0.0, reason
                self.history.note(GIVEN_UP, row.pool, row.name, reason, asked)
                log.warning("pilot %s (job %s): %s", row.name, row.job, reason)
                self._lost(row.name, reason, may_live=True)
                self._cancel(row, asked)
                self.hurry()
            case giving_up.LeftAlone(reason):
                self._leave_alone(row, reason, asked)
            case giving_up.Gone(reason, how, cancel):
                if cancel:
                    self._cancel(row, asked)
                self._gone(row, reason, asked, how)

    def _limit_nodes(self, row: PilotRow) -> None:
        """Have the job of a pilot that waits again ask for the nodes that it had: others may have
        come for the rest of what it was submitted with."""
        batch, job, nodes = self._batch, row.job, row.nodes
        pool = self._site.config.pools.get(row.pool)
        if job is None or pool is None or pool.nodes_per_pilot == 1:
            return
        if isinstance(batch, Predicts):
            self._thread.ask(
                lambda: batch.limit_nodes(job, nodes),
                lambda _: None,
                lambda error: log.warning("pilot %s: %s", row.name, error),
            )

    def _leave_alone(self, row: PilotRow, reason: str, now: float) -> None:
        """Count on a pilot no more; keep it as long as its tasks may hold what others wait for."""
        if not self._lost(row.name, reason, may_live=True):
            self.ended(row.name, reason, now)
            return
        row.heard, row.idle_s = 0.0, 0.0
        row.left_alone = row.draining = True
        self.history.note(GIVEN_UP, row.pool, row.name, reason, now)
        log.warning("pilot %s (job %s): %s", row.name, row.job, reason)
        self.hurry()

    def _gone(self, row: PilotRow, reason: str, now: float, how: WhyEnded | None = None) -> None:
        if row.name in self.pilots:
            self._lost(row.name, reason, out_of_memory=how is WhyEnded.OUT_OF_MEMORY)
            self.ended(row.name, reason, now, how)

    def _poll_done(self) -> None:
        self._polling = False


def _decide_in_s(supply: Iterable[PilotSupply]) -> float:
    """Return how soon to decide again: when the next idle pilot has been kept for long enough."""
    left = (p.keep_s - p.idle_s for p in supply if p.idle_s and not p.draining)
    soonest = min((left_s for left_s in left if left_s > 0.0), default=DECIDE_S)
    return min(max(soonest, DECIDE_LEAST_S), DECIDE_S)


def _known_waits(store: Store) -> defaultdict[str, Waits]:
    """Return the waits of each pool for its last pilots, as the database has them."""
    found: defaultdict[str, Waits] = defaultdict(Waits)
    for row in store.rows("last_waits", {"limit": WAITS_KNOWN}):
        found[row["pool"]].add(row["nodes"], row["wait_s"])
    return found


def _nodes(row: PilotRow, job: JobStatus) -> int:
    """Return the nodes of a pilot by what the batch system says of its job, which goes on."""
    if job.phase is Phase.QUEUED:
        # Of a range of nodes it tells the fewest, and the job may get all.
        return max(row.nodes, job.node_count)
    return job.node_count or row.nodes


def _note_job_end(row: PilotRow, job: JobStatus) -> None:
    if job.phase is Phase.ENDED and job.ends_at is not None:
        row.job_ended_at = clock.from_wall(job.ends_at)
