"""The pilots: carries the decisions of elasticity out against the batch system.

The batch system is spoken to in a thread of its own (`batch_thread`), and its answers come back
into the head's loop as calls of `Fleet.take`.

Invariants
----------
- The intent to submit a pilot is in the database, under a unique job name, before the job is
  submitted; after a crash it is found again by that name, so no intent has two jobs.
- No answer from the batch system means that nothing is known: no pilot is given up for it.
- One query for all jobs, at most every `poll_interval_s`; none while there are no pilots.
- A refusal is told, and waited for, only while the pool wants what was refused.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from pilot import clock
from pilot.head.batch_thread import BatchThread
from pilot.head.outlook import (
    ENDED,
    INTENDED,
    QUEUED,
    RUNNING,
    Outlook,
    PilotRow,
    Refusal,
    pool_limits,
)
from pilot.head.store import Store
from pilot.interpreter import pilot_command
from pilot.site import Site
from scheduler.assignment import PilotRoom
from scheduler.batch import (
    BatchError,
    JobRequest,
    JobStatus,
    Phase,
    SubmitRefused,
    open_batch,
)
from scheduler.elasticity import (
    ENOUGH,
    ClassDemand,
    End,
    Grow,
    PilotSupply,
    decide,
    standings,
)

log = logging.getLogger("pilot.fleet")

#: Decisions are made at most so often, in seconds.
DECIDE_S = 1.0
#: A pilot whose job runs, but that says nothing for so long, is given up.
SILENT_S = 60.0
#: After a refused submission a pool waits, each time twice as long, from and to so many seconds.
BACK_OFF_S = (5.0, 300.0)


class Fleet:
    """The pilots of a site.

    Parameters
    ----------
    site
        The site.
    store
        The database.
    rooms
        What those that have reported themselves hold, by name; the core changes it.
    wake
        Called from another thread when there is something for `take`.
    lost
        Called by `take` with a pilot's name and the reason when its job has ended.
    tell
        Called with a pilot's new state and what there is to say of it, for the log of events.
    """

    def __init__(
        self,
        site: Site,
        store: Store,
        rooms: Mapping[str, PilotRoom],
        wake: Callable[[], None],
        lost: Callable[[str, str], None],
        tell: Callable[[str, str], None],
    ) -> None:
        self._site = site
        self._store = store
        self._rooms = rooms
        self._lost = lost
        self._tell = tell
        self._batch = open_batch(site.config, site.jobs)
        self._thread = BatchThread(wake)
        self._decided = 0.0
        self._polled = 0.0
        self._polling = False
        self._last_submit = -math.inf
        self._refused: dict[str, Refusal] = {}
        self._own: dict[str, subprocess.Popen[bytes]] = {}
        directory = hashlib.blake2b(str(site.directory).encode(), digest_size=3).hexdigest()
        self.prefix = f"{site.config.slurm.job_name_prefix}-{site.name}-{directory}-"
        self.pilots: dict[str, PilotRow] = {
            row["name"]: PilotRow(**row) for row in store.rows("pilots_alive", {})
        }
        self._count = int(store.meta("pilots") or 0)
        self._pools = pool_limits(site.config)

    # --- what is known

    @property
    def trouble(self) -> str:
        """What keeps pilots from coming, other than that they have to wait; empty: nothing."""
        for pool, refusal in self._refused.items():
            return f"no pilot for pool {pool}: {refusal.error}"
        silence = self._thread.silence
        return silence and f"the batch system does not answer: {silence}"

    def supply(self, now: float) -> list[PilotSupply]:
        """The pilots as elasticity sees them."""
        return [self._supply(row, self._rooms.get(row.name), now) for row in self.pilots.values()]

    @staticmethod
    def _supply(row: PilotRow, room: PilotRoom | None, now: float) -> PilotSupply:
        if room is None:
            left_s = row.walltime or math.inf  # all that it will have
        else:
            left_s = room.ends_at - now if room.ends_at else math.inf
        return PilotSupply(
            row.name,
            row.pool,
            row.nodes,
            queued=row.state != RUNNING,
            idle_s=row.idle_s,
            draining=row.draining,
            left_s=left_s,
            load=room.load if room else 0,
        )

    def outlook(self) -> Outlook:
        """All that can be said of pilots to come."""
        return Outlook(
            self._pools,
            self.supply(clock.now()),
            self.pilots,
            "Slurm" if self._batch.name == "slurm" else "the batch system",
            self._refused,
            self._thread.silence,
            self._thread.silent_since,
        )

    # --- the loop's side

    def poll(self, now: float) -> None:
        """Ask what became of the pilots, if it is time."""
        self._watch_own(now)
        if self.pilots and not self._polling and now - self._polled >= self._poll_interval():
            self._polling, self._polled = True, now
            self._thread.ask(
                lambda: self._batch.jobs(self.prefix), self._listed, done=self._poll_done
            )

    def tick(self, now: float, demand: Callable[[], list[ClassDemand]]) -> list[str]:
        """Ask and decide, if it is time; returns pilots that should be told to end."""
        self.poll(now)
        if now - self._decided < DECIDE_S:
            return []
        self._decided = now
        ending = []
        wanted, supply = demand(), self.supply(now)
        self._forget_refusals(wanted, supply)
        for decision in decide(self._pools, wanted, supply):
            if isinstance(decision, Grow):
                refused = self._refused.get(decision.pool)
                if refused is None or now >= refused.until:
                    self._submit(decision, now)
            elif self._end(decision):
                ending.append(decision.pilot)
        return ending

    def _forget_refusals(
        self, demand: Sequence[ClassDemand], supply: Sequence[PilotSupply]
    ) -> None:
        """What a pool does not want any more keeps it from nothing."""
        if not self._refused:
            return
        # One that is just being submitted again counts as there, until it is refused again.
        trying = {row.pool for row in self.pilots.values() if row.state == INTENDED}
        for its in standings(self._pools, demand, supply):
            if its.hindrance == ENOUGH and its.pool.name not in trying:
                self._refused.pop(its.pool.name, None)

    def hurry(self) -> None:
        """There is new demand: decide at the next tick."""
        self._decided = 0.0

    def take(self) -> None:
        """Take in what the batch system has answered."""
        self._thread.take()

    def joined(self, name: str, job: str, pool: str, nodes: int, now: float) -> PilotRow:
        """A pilot reports itself."""
        row = self.pilots.get(name)
        if row is None:
            # Its intent was lost with an older database, or somebody started it by hand.
            row = PilotRow(name, pool, nodes, 0.0, RUNNING, job, "started by hand", now)
            self._add(row)
            self.pilots[name] = row
        row.job, row.state, row.started = job, RUNNING, row.started or now
        row.nodes, row.heard, row.draining = nodes, now, False
        self._save(row)
        return row

    def heard(self, name: str, nodes: int, idle_s: float, draining: bool, now: float) -> None:
        """A sign of life."""
        if row := self.pilots.get(name):
            # A pilot that ends has no workers left, but its job still has the nodes.
            row.nodes = nodes or row.nodes
            row.idle_s, row.heard, row.draining = idle_s, now, draining

    def left(self, name: str, reason: str) -> None:
        """A pilot has said good-bye; whether its job ends or waits again, the next list tells."""
        if row := self.pilots.get(name):
            log.info("pilot %s (job %s) says good-bye: %s", name, row.job, reason)
            row.heard, row.idle_s, row.draining, row.reason = 0.0, 0.0, True, reason
            self._polled = 0.0

    def ended(self, name: str, reason: str, now: float) -> None:
        """The job of a pilot has ended."""
        row = self.pilots.pop(name, None)
        if row is None:
            return
        log.info("pilot %s (job %s) ended: %s", name, row.job, reason)
        row.state, row.reason, row.ended = ENDED, reason, now
        self._tell(ENDED, f"{name}: {reason}")
        self._save(row)
        self.hurry()

    def adopt(self, job: str, now: float) -> None:
        """Make the allocation that this process runs in the first pilot.

        The agent is a child of the head, in the same job; the job itself is not ours to end.
        """
        pool = next(iter(self._site.config.pools))
        count = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
        row = PilotRow(
            self._new_name(), pool, count, 0.0, INTENDED, job, "the head's own allocation", now
        )
        self._add(row)
        self.pilots[row.name] = row
        variables = {
            "PILOT_JOB_ID": job,
            "PILOT_RESTART_COUNT": os.environ.get("SLURM_RESTART_COUNT", "0"),
            "PILOT_NODELIST": os.environ.get("SLURM_JOB_NODELIST", os.uname().nodename),
            # The allocation's own script may be bound to a part of this node, or be elsewhere.
            "PILOT_NODE": "",
            "PILOT_JOB_ENDS_AT": os.environ.get("SLURM_JOB_END_TIME", "0"),
        }
        output = (self._site.jobs / f"{row.name}.out").open("ab")
        self._own[row.name] = subprocess.Popen(
            self._command(row.name, pool),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
        )
        output.close()

    def cancel_all(self, names: Sequence[str]) -> None:
        """Cancel the jobs of pilots; returns when the batch system has them."""
        jobs = [
            row.job
            for name in names
            if (row := self.pilots.get(name)) and row.job and name not in self._own
        ]
        for name in names:
            if process := self._own.get(name):
                process.terminate()
        if jobs:
            self._thread.wait_for(lambda: self._batch.cancel(jobs))

    def close(self) -> None:
        """Wait for the command under way; jobs go on."""
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
            lambda: self._submit_in_turn(request),
            lambda job: self._submitted(row, job),
            lambda error: self._not_submitted(row, error),
        )

    def _submit_in_turn(self, request: JobRequest) -> str:
        """Submit, but not sooner after the last time than the site allows; in the batch thread."""
        since = time.monotonic() - self._last_submit
        time.sleep(max(0.0, self._site.config.slurm.submit_interval_s - since))
        self._last_submit = time.monotonic()
        return self._batch.submit(request)

    def _request(self, row: PilotRow) -> JobRequest:
        config = self._site.config
        pool = config.pools[row.pool]
        return JobRequest(
            name=row.name,
            command=self._command(row.name, row.pool),
            nodes=row.nodes,
            walltime_s=row.walltime,
            directory=self._site.jobs,
            directives=pool,
            setup=config.environment.setup,
            variables=config.environment.variables,
            warning_s=pool.warning_s,
        )

    def _command(self, name: str, pool: str) -> list[str]:
        python = self._site.config.environment.python
        return pilot_command(
            "agent",
            str(self._site.directory),
            name,
            "--pool",
            pool,
            python=sys.executable if python == "auto" else python,
        )

    def _submitted(self, row: PilotRow, job: str) -> None:
        row.job, row.submitted, row.seen = job, row.created, True
        self._tell(QUEUED, f"{row.name}: job {job} for pool {row.pool}: {row.reason}")
        if row.state == INTENDED:
            row.state = QUEUED
        self._refused.pop(row.pool, None)
        self._thread.answered()
        self._save(row)

    def _not_submitted(self, row: PilotRow, error: BatchError) -> None:
        before = self._refused.get(row.pool)
        wait = min(max(BACK_OFF_S[0], 2 * before.wait_s if before else 0.0), BACK_OFF_S[1])
        self._refused[row.pool] = Refusal(row.created + wait, wait, str(error))
        log.warning("no pilot for pool %s: %s; next try in %.0f s", row.pool, error, wait)
        if isinstance(error, SubmitRefused):
            self._thread.answered()
            self.ended(row.name, f"refused: {error}", row.created)
        else:
            self._thread.no_answer(error)  # it may be there: the next list of jobs tells

    def _end(self, decision: End) -> bool:
        """End a pilot; True where its agent should be told, since it runs."""
        row = self.pilots[decision.pilot]
        if row.heard:
            return True
        if row.name in self._own:
            return False  # its agent is just starting; the job is not ours to cancel
        if row.job and not row.draining:
            row.draining = True
            row.reason = decision.reason
            log.info("pilot %s (job %s) is taken out of the queue", row.name, row.job)
            job = row.job
            self._thread.ask(lambda: self._batch.cancel([job]), lambda _: None)
        return False

    # --- what the batch system says

    def _poll_interval(self) -> float:
        interval = self._site.config.slurm.poll_interval_s
        changing = any(row.state != RUNNING for row in self.pilots.values())
        return interval if changing or self._batch.name == "local" else 2 * interval

    def _listed(self, jobs: dict[str, JobStatus]) -> None:
        now = self._polled
        self._thread.answered()
        by_name = {job.name: job for job in jobs.values()}
        for row in list(self.pilots.values()):
            if row.name in self._own:
                continue
            job = by_name.get(row.name)
            if job is None:
                self._not_listed(row, now)
                continue
            row.seen = True
            if row.job is None:
                row.job, row.submitted = job.job_id, job.submitted_at
                self._tell(QUEUED, f"{row.name}: job {row.job} for pool {row.pool}: {row.reason}")
                self._save(row)
            row.waits_for, row.expected = job.reason, job.expected_at
            row.job_runs_since = None
            if job.phase is Phase.RUNNING:
                row.job_runs_since = job.started_at or now
            if job.phase is Phase.ENDED:
                # What the pilot said itself tells more.
                reason = row.reason if row.draining and row.state == RUNNING else _how(job)
                self._gone(row, reason, now)
            elif job.phase is Phase.QUEUED and row.state == RUNNING:
                # Preempted: the same job will start again, as a new life of the pilot.
                self._lost(row.name, "its job was preempted and waits again")
                log.info("pilot %s (job %s) waits in the queue again", row.name, row.job)
                self._tell(QUEUED, f"{row.name}: job {row.job} waits again")
                row.state, row.heard, row.idle_s, row.draining = QUEUED, 0.0, 0.0, False
                self._save(row)
            elif row.state == INTENDED:
                row.state = QUEUED
                self._save(row)
            elif row.heard and now - row.heard > SILENT_S and job.phase is Phase.RUNNING:
                self._lost(row.name, f"it was silent for {now - row.heard:.0f} s")
                row.heard = 0.0

    def _not_listed(self, row: PilotRow, now: float) -> None:
        if row.seen:
            job = row.job or ""
            self._thread.ask(
                lambda: self._batch.ended([job]),
                lambda ended: self._gone(row, _how(ended.get(job)), now),
            )
        elif row.submitted is None and now - row.created > 60.0:
            self._gone(row, "it was never submitted", now)
        elif now - row.created > 300.0:
            self._gone(row, "the batch system does not know its job", now)

    def _gone(self, row: PilotRow, reason: str, now: float) -> None:
        if row.name in self.pilots:
            self._lost(row.name, reason)
            self.ended(row.name, reason, now)

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

    def _save(self, row: PilotRow) -> None:
        fields = ("name", "state", "job", "nodes", "reason", "submitted", "started", "ended")
        self._store.set_pilot({name: getattr(row, name) for name in fields})


def _how(status: JobStatus | None) -> str:
    if status is None or status.why_ended is None:
        return "its job is no longer known to the batch system"
    return f"its job has ended: {status.why_ended.value}"
