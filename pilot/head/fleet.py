"""The pilots: carries the decisions of elasticity out against the batch system.

The batch system is spoken to in a thread of its own (`batch_thread`), and its answers come back
into the head's loop as calls of `Fleet.take`.

Invariants
----------
- The intent to submit a pilot is in the database, under a unique job name, before the job is
  submitted; after a crash it is found again by that name, so no intent has two jobs.
- No answer from the batch system means that nothing is known: no pilot is given up for it.
- A pilot that talks is there, whatever a list says; one that a list leaves out is looked for in
  accounting, and for some time, before it is given up; then its job is cancelled.
- One query for all jobs, at most every `poll_interval_s`; none while there are no pilots.
- A refusal, and the ends of pilots that have not worked (`setbacks`), are told, and waited for,
  only while the pool wants what it did not get.
- The allocation that the head's user has made is never ended.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from pilot import clock
from pilot.head.batch_thread import BatchThread
from pilot.head.machine import HERE, Machine
from pilot.head.outlook import (
    ENDED,
    INTENDED,
    QUEUED,
    RUNNING,
    PilotRow,
    ProvisioningView,
    pool_limits,
)
from pilot.head.own_pilot import OWN, agent_command, own_allocation, start_agent
from pilot.head.setbacks import (
    SHORT_LIFE_S,
    Losses,
    Refusal,
    decode_losses,
    encode_losses,
    first_refusal,
    last_lines,
    told,
)
from pilot.head.store.store import Store
from pilot.scheduler.assignment import PilotRoom
from pilot.scheduler.batch import (
    BatchError,
    BatchSystem,
    JobRequest,
    JobStatus,
    Phase,
    SubmitRefused,
    WhyEnded,
)
from pilot.scheduler.elasticity import (
    ENOUGH,
    ClassDemand,
    End,
    Grow,
    PilotSupply,
    decide,
    standings,
)
from pilot.site import Site

log = logging.getLogger("pilot.fleet")

#: The shortest time between two decisions, in seconds.
DECIDE_S = 1.0
#: The silence, in seconds, after which a pilot whose job runs is given up.
SILENT_S = 60.0
#: The same for a pilot that has said nothing since its job or this head started: it may have to
#: load its modules from a slow disk, or see the new head's address late.
JOIN_S = 600.0
#: The time, in seconds, after which a silent pilot is given up that lists leave out and accounting
#: does not know; and the longer time for one that accounting calls alive.
MISSING_S, MISSING_MOST_S = 6.0, 300.0
#: The time, in seconds, after which a cancelled job that goes on is cancelled again.
CANCEL_AGAIN_S = 30.0
#: The key in the database for the state of `setbacks`.
LOSSES = "losses"
#: The bytes at the end of a job's output that are read.
OUTPUT_BYTES = 4096


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
        where that is not known.
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
        rooms: Mapping[str, PilotRoom],
        wake: Callable[[], None],
        lost: Callable[..., None],
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
        self._decided = 0.0
        self._polled = 0.0
        self._polling = False
        self._last_submit = -math.inf
        self._refused: dict[str, Refusal] = {}
        self._own: dict[str, subprocess.Popen[bytes]] = {}
        # Jobs of a database that was there before are not ours, and their numbers were the same.
        owner = f"{site.directory}\0{store.identity}".encode()
        mark = hashlib.blake2b(owner, digest_size=3).hexdigest()
        self.prefix = f"{self._manners.job_name_prefix}-{site.name}-{mark}-"
        self.pilots: dict[str, PilotRow] = {
            row["name"]: PilotRow(**row, own=row["reason"] == OWN)
            for row in store.rows("pilots_alive", {})
        }
        self._count = int(store.meta("pilots") or 0)
        self._pools = pool_limits(site.config)
        self._losses = decode_losses(store.meta(LOSSES), self._started)

    # --- what is known

    @property
    def trouble(self) -> str:
        """The problem that keeps pilots from coming, other than the queue; empty if none."""
        for pool, refusal in self._refused.items():
            return f"no pilot for pool {pool}: {refusal.error}"
        for pool, losses in told(self._losses):
            return losses.describe(pool)
        silence = self._thread.silence
        return silence and f"the batch system does not answer: {silence}"

    def supply(self, now: float) -> list[PilotSupply]:
        """Return the pilots in the form that elasticity takes."""
        return [self._supply(row, self._rooms.get(row.name), now) for row in self.pilots.values()]

    @staticmethod
    def _supply(row: PilotRow, room: PilotRoom | None, now: float) -> PilotSupply:
        nodes = row.nodes
        if room is None:
            left_s = row.walltime or math.inf  # all that it will have
        else:
            left_s = room.ends_at - now if room.ends_at else math.inf
            nodes = min(nodes, room.nodes)
        return PilotSupply(
            row.name,
            row.pool,
            nodes,
            queued=row.state != RUNNING,
            idle_s=row.idle_s,
            draining=row.draining,
            left_s=left_s,
            load=room.load if room else 0,
            held=row.nodes,
            own=row.own,
        )

    def outlook(self) -> ProvisioningView:
        """Return everything that is known of pilots to come."""
        return ProvisioningView(
            self._kind,
            self._pools,
            self.supply(self._now()),
            self.pilots,
            self._refused,
            self._thread.silence,
            self._thread.silent_since,
            dict(told(self._losses)),
        )

    # --- the loop's side

    def poll(self, now: float) -> None:
        """Ask the batch system for the states of the pilots' jobs, if it is time."""
        self._watch_own(now)
        if self.pilots and not self._polling and now - self._polled >= self._poll_interval():
            self._polling, self._polled = True, now
            ids = {row.job for row in self.pilots.values() if row.job}
            self._thread.ask(
                lambda: self._batch.jobs(self.prefix, ids),
                lambda jobs: self._listed(jobs, now),
                done=self._poll_done,
            )

    def tick(self, now: float, demand: Callable[[], list[ClassDemand]]) -> list[str]:
        """Poll and decide, if it is time; return the pilots that should be told to end."""
        self.poll(now)
        if now - self._decided < DECIDE_S:
            return []
        self._decided = now
        ending = []
        wanted, supply = demand(), self.supply(now)
        self._forget_setbacks(wanted, supply)
        for decision in decide(self._pools, wanted, supply):
            if isinstance(decision, Grow):
                if self._may_submit(decision.pool, now):
                    self._submit(decision, now)
            elif self._end(decision):
                ending.append(decision.pilot)
        return ending

    def _may_submit(self, pool: str, now: float) -> bool:
        """Tell whether the pool's refusals and losses allow another pilot now."""
        refused, losses = self._refused.get(pool), self._losses.get(pool)
        if refused is not None and now < refused.until:
            return False
        if losses is None or not losses.wait_s:
            return True
        return now >= losses.until and pool not in self._unproven()

    def _unproven(self) -> set[str]:
        """Return the pools with pilots, queued or running, that have not run a task yet."""
        return {row.pool for row in self.pilots.values() if not (row.worked or row.told)}

    def _forget_setbacks(
        self, demand: Sequence[ClassDemand], supply: Sequence[PilotSupply]
    ) -> None:
        """Forget the refusals and losses of pools that want no more pilots."""
        if not (self._refused or self._losses):
            return
        # One that is just being submitted again counts as there, until it is refused again.
        trying = {row.pool for row in self.pilots.values() if row.state == INTENDED}
        unproven = self._unproven()
        for its in standings(self._pools, demand, supply):
            pool = its.pool.name
            if its.blocked_by == ENOUGH and pool not in trying:
                self._refused.pop(pool, None)
            if its.blocked_by == ENOUGH and pool not in unproven:
                self._forget_losses(pool)

    def _forget_losses(self, pool: str) -> None:
        if self._losses.pop(pool, None) is not None:
            self._store.set_meta(LOSSES, encode_losses(self._losses))

    def hurry(self) -> None:
        """Decide at the next tick: there is new demand."""
        self._decided = 0.0

    def take(self) -> None:
        """Handle the answers of the batch system that have arrived."""
        self._thread.take()

    def started(self) -> list[str]:
        """Return the pilots that have started, and so may have tasks."""
        return [row.name for row in self.pilots.values() if row.state == RUNNING]

    def joined(self, name: str, job: str, pool: str, nodes: int, now: float) -> PilotRow:
        """Record that a pilot has introduced itself; return its row."""
        row = self.pilots.get(name)
        if row is None:
            # Its intent was lost with an older database, or somebody started it by hand.
            row = PilotRow(name, pool, nodes, 0.0, RUNNING, job, "started by hand", now)
            self._add(row)
            self.pilots[name] = row
        row.job, row.state, row.started = job, RUNNING, row.started or now
        row.nodes, row.heard, row.suspended, row.missing_since = nodes, now, False, None
        # What an earlier life was told, this one has not heard.
        row.told, row.draining = False, bool(row.cancelled_at)
        self._save(row)
        return row

    def heard(self, name: str, idle_s: float, draining: bool, now: float) -> None:
        """Record a sign of life of a pilot."""
        if row := self.pilots.get(name):
            row.idle_s, row.heard, row.draining = idle_s, now, draining or row.told
            row.suspended = False

    def worked(self, name: str) -> None:
        """Record that a pilot has run a task: its pool's pilots do work."""
        row = self.pilots.get(name)
        if row is not None and not row.worked:
            row.worked = True
            self._forget_losses(row.pool)

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
            row.heard, row.idle_s, row.draining, row.reason = 0.0, 0.0, True, reason
            self._polled = 0.0

    def ended(self, name: str, reason: str, now: float, how: WhyEnded | None = None) -> None:
        """Record that the job of a pilot has ended."""
        row = self.pilots.get(name)
        if row is None:
            return
        # First: where this cannot be written, the end is noticed again.
        self._save(row, state=ENDED, reason=reason, ended=now)
        del self.pilots[name]
        log.info("pilot %s (job %s) ended: %s", name, row.job, reason)
        row.state, row.reason, row.ended = ENDED, reason, now
        self._tell(ENDED, f"{name}: {reason}")
        self.hurry()
        if how is not WhyEnded.PREEMPTED and row.job and not (row.own or row.told):
            self._note_end(row, reason, now)

    def _note_end(self, row: PilotRow, reason: str, now: float) -> None:
        """Count a pilot that ended by itself as a loss, if it ended early without work."""
        if row.worked or (row.started is not None and now - row.started > SHORT_LIFE_S):
            return
        losses = self._losses.setdefault(row.pool, Losses())
        losses.add(row.created, now, row.job, reason)
        if losses.wait_s:
            log.warning("%s; next try in %.0f s", losses.describe(row.pool), losses.wait_s)
        self._store.set_meta(LOSSES, encode_losses(self._losses))
        if row.job:
            path = self._site.jobs / f"{row.job}.out"
            self._thread.ask(
                lambda: _end_of(path), lambda text: self._read_output(row, losses, text)
            )

    def _read_output(self, row: PilotRow, losses: Losses, text: str) -> None:
        if losses.job == row.job and text:
            losses.output = last_lines(text)
            if self._losses.get(row.pool) is losses:
                self._store.set_meta(LOSSES, encode_losses(self._losses))

    def adopt(self, job: str, now: float) -> None:
        """Make the allocation that this process runs in the first pilot.

        The agent is a child of the head, in the same job; the job itself is not ours to end. It
        starts when the batch system has said when the walltime ends, if the job does not know it.
        """
        if any(row.own and row.job == job for row in self.pilots.values()):
            return  # an earlier head's agent lives on there
        pool = next(iter(self._site.config.pools))
        allocation = own_allocation(self._site, job)
        nodes = allocation.node_count
        row = PilotRow(self._new_name(), pool, nodes, 0.0, INTENDED, job, OWN, now, own=True)
        self._add(row)
        self.pilots[row.name] = row

        def start(moment: float | None) -> None:
            if row.name in self.pilots:
                self._own[row.name] = start_agent(self._site, row, allocation, moment)

        if allocation.ends_at is not None:
            start(allocation.ends_at)
        else:
            self._thread.ask(lambda: self._batch.ends_at(job), start, lambda _: start(None))

    def cancel_all(self, names: Sequence[str]) -> None:
        """Cancel the jobs of pilots; return when the batch system has the requests.

        A submission in progress is waited for; others are not made any more.
        """
        for name in names:
            self.told(name)
            if process := self._own.get(name):
                process.terminate()
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
            found = self._batch.jobs(self.prefix, ())
            jobs = [*jobs, *(job.job_id for job in found.values() if job.name in names)]
        if jobs:
            self._batch.cancel(jobs)

    def close(self) -> None:
        """Wait for the command in progress; jobs go on."""
        self._thread.close()
        for process in self._own.values():
            process.wait()
        self._batch.close()

    # --- submitting

    def _new_name(self) -> str:
        self._count += 1
        self._store.set_meta("pilots", str(self._count))
        return f"{self.prefix}{self._count}"

    def _submit(self, grow: Grow, now: float) -> None:
        row = PilotRow(
            self._new_name(),
            grow.pool,
            grow.nodes,
            grow.walltime_s,
            INTENDED,
            None,
            grow.reason,
            now,
        )
        self._add(row)
        self.pilots[row.name] = row
        log.info("pilot %s: %d nodes of pool %s: %s", row.name, row.nodes, row.pool, row.reason)
        request = self._request(row)
        self._thread.ask(
            lambda: self._submit_in_turn(row, request),
            lambda job: self._submitted(row, job),
            lambda error: self._not_submitted(row, error),
        )

    def _submit_in_turn(self, row: PilotRow, request: JobRequest) -> str:
        """Submit, no sooner after the last time than the site allows; in the batch thread."""
        since = time.monotonic() - self._last_submit
        due = time.monotonic() + self._manners.submit_interval_s - since
        while not row.told and (left := due - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        if row.told:
            raise SubmitRefused("it was told to end before it was submitted")
        self._last_submit = time.monotonic()
        return self._batch.submit(request)

    def _request(self, row: PilotRow) -> JobRequest:
        config = self._site.config
        pool = config.pools[row.pool]
        return JobRequest(
            name=row.name,
            command=agent_command(self._site, row.name, row.pool),
            nodes=row.nodes,
            walltime_s=row.walltime,
            directory=self._site.jobs,
            directives=pool,
            setup=config.environment.setup,
            variables=config.environment.variables,
            warning_s=pool.warning_s,
        )

    def _submitted(self, row: PilotRow, job: str) -> None:
        row.job, row.submitted = job, row.created
        self._tell(QUEUED, f"{row.name}: job {job} for pool {row.pool}: {row.reason}")
        if row.state == INTENDED:
            row.state = QUEUED
        self._refused.pop(row.pool, None)
        self._thread.answered()
        self._save(row)

    def _not_submitted(self, row: PilotRow, error: BatchError) -> None:
        if row.told and isinstance(error, SubmitRefused):
            self.ended(row.name, str(error), row.created)
            return
        before = self._refused.get(row.pool)
        refusal = (
            before.again(row.created, str(error))
            if before is not None
            else first_refusal(row.created, str(error))
        )
        self._refused[row.pool] = refusal
        log.warning("no pilot for pool %s: %s; next try in %.0f s", row.pool, error, refusal.wait_s)
        if isinstance(error, SubmitRefused):
            self._thread.answered()
            self.ended(row.name, f"refused: {error}", row.created)
        else:
            self._thread.no_answer(error)  # it may be there: the next list of jobs tells

    def _end(self, decision: End) -> bool:
        """End a pilot; return True if its agent should be told, because it runs."""
        row = self.pilots[decision.pilot]
        if row.heard:
            return True
        if row.job and not row.draining and not row.own:
            row.reason, row.told = decision.reason, True
            log.info("pilot %s (job %s) is taken out of the queue", row.name, row.job)
            self._cancel(row, self._now())
        return False

    def _cancel(self, row: PilotRow, now: float) -> None:
        """Cancel the job of a pilot; a later list tells when it has ended."""
        row.draining, row.cancelled_at = True, now
        job = row.job
        # What somebody started by hand may give any number for its job.
        if job is not None and row.submitted is not None:
            self._thread.ask(lambda: self._batch.cancel([job]), lambda _: None)

    # --- what the batch system says

    def _poll_interval(self) -> float:
        interval = self._manners.poll_interval_s
        changing = any(row.state != RUNNING for row in self.pilots.values())
        return interval if changing or self._kind.is_local else 2 * interval

    def _listed(self, jobs: dict[str, JobStatus], asked: float) -> None:
        """Handle the list of jobs that was requested at the given time."""
        self._thread.answered()
        by_name = {job.name: job for job in jobs.values()}
        for row in list(self.pilots.values()):
            if row.name in self._own or (row.own and row.state == INTENDED):
                continue
            job = jobs.get(row.job or "") or by_name.get(row.name)
            if job is None:
                self._not_listed(row, asked)
            else:
                row.missing_since = None
                self._is_listed(row, job, asked)

    def _is_listed(self, row: PilotRow, job: JobStatus, asked: float) -> None:
        if row.job is None:
            # Nobody knew what had become of the submission: it went well.
            self._submitted(row, job.job_id)
        going_on = job.phase in (Phase.QUEUED, Phase.RUNNING, Phase.SUSPENDED)
        # A job that is ending has fewer each moment, and all again where it waits to start anew.
        if going_on and job.node_count and job.node_count != row.nodes:
            row.nodes = job.node_count
            self._save(row)
        row.waits_for = job.reason
        row.expected = None if job.expected_at is None else clock.from_wall(job.expected_at)
        row.suspended = job.phase is Phase.SUSPENDED
        if job.phase is not Phase.RUNNING:
            row.job_runs_since = None
        elif row.job_runs_since is None:
            row.job_runs_since = clock.from_wall(job.started_at) if job.started_at else asked
        if row.heard > asked and job.phase in (Phase.ENDED, Phase.QUEUED):
            return  # it has spoken since: the next list will tell
        if job.phase is Phase.ENDED:
            # What the pilot said itself, and why it was cancelled, tells more.
            known = row.draining and (row.state == RUNNING or row.cancelled_at)
            self._gone(row, row.reason if known else _how(job), asked, job.why_ended)
        elif job.phase is Phase.QUEUED and row.state == RUNNING:
            # Preempted: the same job will start again, as a new life of the pilot.
            self._lost(row.name, "its job was preempted and waits again")
            log.info("pilot %s (job %s) waits in the queue again", row.name, row.job)
            self._tell(QUEUED, f"{row.name}: job {row.job} waits again")
            row.state, row.heard, row.idle_s, row.draining = QUEUED, 0.0, 0.0, False
            self._save(row)
            if row.told:
                self._cancel(row, asked)  # it was to end, and would start anew
        elif row.state == INTENDED:
            row.state = QUEUED
            self._save(row)
        elif row.suspended and row.heard:
            row.heard = asked
        elif not row.suspended:
            self._look_after_silence(row, asked)
        if going_on and row.cancelled_at and asked - row.cancelled_at > CANCEL_AGAIN_S:
            self._cancel(row, asked)

    def _look_after_silence(self, row: PilotRow, now: float) -> None:
        """Give up a pilot that has nodes but is silent: its first node is down or cut off."""
        if row.cancelled_at or (row.draining and not row.heard):
            return  # its job is told to end, or it has said good-bye
        if row.heard:
            silent_s, patience_s = now - row.heard, SILENT_S
        else:
            if row.job_runs_since is None:
                return
            since = max(row.job_runs_since, self._started)
            silent_s, patience_s = now - since, JOIN_S
        if silent_s <= patience_s:
            return
        has = "was silent" if row.heard else "has not reported itself"
        reason = f"it {has} for {silent_s:.0f} s"
        row.heard, row.idle_s = 0.0, 0.0
        if row.own:
            self._gone(row, reason, now)
            return
        row.reason = f"{reason}, and its job was cancelled"
        log.warning("pilot %s (job %s): %s", row.name, row.job, row.reason)
        self._lost(row.name, row.reason, may_live=True)
        self._tell(row.state, f"{row.name}: {row.reason}")
        self._cancel(row, now)
        self.hurry()

    def _not_listed(self, row: PilotRow, asked: float) -> None:
        if row.missing_since is None or row.heard > row.missing_since:
            row.missing_since = asked  # the first time, or it has spoken since
            if row.heard:
                return
        missing_s = asked - row.missing_since
        if row.job:
            job = row.job
            self._thread.ask(
                lambda: self._batch.account([job]),
                lambda found: self._accounted(row, found.get(job), missing_s, asked),
            )
        elif row.submitted is None and asked - row.created > 60.0:
            self._gone(row, "it was never submitted", asked)
        elif asked - row.created > 300.0:
            self._gone(row, "the batch system does not know its job", asked)

    def _accounted(
        self, row: PilotRow, job: JobStatus | None, missing_s: float, asked: float
    ) -> None:
        """Judge a pilot that is missing from lists by accounting, and by its last sign of life."""
        if row.name not in self.pilots or row.missing_since is None or row.heard > asked:
            return  # it has ended, was listed again, or has spoken
        if job is not None and job.phase is Phase.ENDED:
            known = row.draining and (row.state == RUNNING or row.cancelled_at)
            self._gone(row, row.reason if known else _how(job), asked, job.why_ended)
        elif missing_s > (MISSING_S if job is None else MISSING_MOST_S):
            if not row.own:
                self._cancel(row, asked)  # it may be there all the same
            self._gone(row, self._kind.unlisted, asked)

    def _gone(self, row: PilotRow, reason: str, now: float, how: WhyEnded | None = None) -> None:
        if row.name in self.pilots:
            self._lost(row.name, reason)
            self.ended(row.name, reason, now, how)

    def _watch_own(self, now: float) -> None:
        for name, process in list(self._own.items()):
            if process.poll() is not None:
                del self._own[name]
                self._lost(name, f"its agent ended with status {process.returncode}")
                self.ended(name, "its agent ended", now)

    def _poll_done(self) -> None:
        self._polling = False

    # --- the database

    def _add(self, row: PilotRow) -> None:
        fields = ("name", "pool", "nodes", "walltime", "state", "job", "reason", "created")
        self._store.add_pilot({name: getattr(row, name) for name in fields})

    def _save(self, row: PilotRow, **changes: object) -> None:
        fields = ("name", "state", "job", "nodes", "reason", "submitted", "started", "ended")
        self._store.set_pilot({**{name: getattr(row, name) for name in fields}, **changes})


def _how(job: JobStatus) -> str:
    """Return how a job has ended, in words."""
    how = "unknown" if job.why_ended is None else job.why_ended.value
    text = f"its job has ended: {how}"
    if job.exit_status and job.why_ended is WhyEnded.FAILED:
        text += f" (exit status {job.exit_status})"
    return text


def _end_of(path: Path) -> str:
    """Return the end of a job's output; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - OUTPUT_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
