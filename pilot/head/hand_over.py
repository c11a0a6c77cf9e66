"""The end of a head that runs in a batch job: a successor takes over before the walltime is over.

`decide` is pure; `HandOver` asks the batch system, and carries out. The head itself stays what it
is: it is told when to end, and whether its pilots end with it.

Invariants
----------
- A successor is asked for only where tasks are left, and one at a time.
- The head goes on until its successor's job has begun, or its own walltime is over; so nobody waits
  but for the queue.
- The successor is on record before it is submitted; one that may have been submitted without an
  answer is replaced by another record, and does not become head when it comes.
- Without an answer from the batch system nothing is decided but by what is known already.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from pilot import clock
from pilot.head import head_jobs
from pilot.head.batch_thread import BatchThread
from pilot.head.head_jobs import HeadJob
from pilot.head.machine import HERE, Machine
from pilot.interpreter import command_of_site
from pilot.scheduler.batch import (
    NO_PREFIX,
    BatchError,
    BatchSystem,
    JobStatus,
    Phase,
    SubmitRefused,
    WhyEnded,
)
from pilot.site import Site

log = logging.getLogger("pilot.head")

#: The least time before the end of its walltime at which a head asks for a successor, in seconds;
#: it is twice as long as its own job has waited in the queue if that is longer.
LEAD_S = 600.0
#: The time before the end of its walltime at which a head ends, in seconds.
LEAVE_S = 30.0
#: The shares of the whole walltime that these two take at most.
LEAD_SHARE, LEAVE_SHARE = 0.5, 0.25
#: The interval at which the batch system is asked for the ends of jobs, in seconds.
LOOK_S = 30.0
#: The interval at which the site directory is looked at for a successor that has begun, in seconds.
HERE_S = 1.0
#: The time after which a successor is asked for again where none was taken, or it has failed, in
#: seconds; no more than so many are asked for.
AGAIN_S, TRIES = 60.0, 5


class Successor(enum.Enum):
    """The state of the job that is to take over."""

    #: None was asked for.
    NONE = "none"
    #: It is being submitted.
    ASKED = "asked"
    #: It is in the queue, or starts.
    COMING = "coming"
    #: Its head waits for this one to end.
    HERE = "here"
    #: It was refused, or has failed.
    FAILED = "failed"
    #: Somebody has cancelled it: none is wanted.
    UNWANTED = "unwanted"


class Do(enum.Enum):
    """The things that are to be done."""

    GO_ON = "go on"
    #: Ask for a successor.
    ASK = "ask"
    #: End, and leave the pilots to the next head.
    LEAVE = "leave"
    #: End with the pilots: nothing is left.
    END = "end"


class Facts(NamedTuple):
    """The facts by which is decided."""

    #: The walltime that is left, and all of it, in seconds; infinite if there is no end.
    left_s: float
    walltime_s: float
    #: The time that the head's own job has waited in the queue, in seconds; 0: unknown.
    waited_s: float
    #: True while tasks are left.
    has_work: bool
    successor: Successor
    #: True if a successor may be asked for: the site wants them, and the last failure is long ago.
    may_ask: bool
    #: True if the program is over that the head was started for, in its job.
    program_ended: bool = False


def decide(facts: Facts) -> Do:
    """Decide what a head in a job does."""
    if facts.successor is Successor.HERE:
        return Do.LEAVE
    leaves = facts.program_ended or facts.left_s <= min(LEAVE_S, LEAVE_SHARE * facts.walltime_s)
    lead_s = min(max(LEAD_S, 2.0 * facts.waited_s), LEAD_SHARE * facts.walltime_s)
    if facts.has_work and (leaves or facts.left_s <= lead_s):
        if facts.successor in (Successor.NONE, Successor.FAILED) and facts.may_ask:
            return Do.ASK
        # The answer comes soon; but not so late that the job is killed first.
        if (
            facts.successor is Successor.ASKED
            and facts.left_s > 0.5 * LEAVE_SHARE * facts.walltime_s
        ):
            return Do.GO_ON
    if not leaves:
        return Do.GO_ON
    return Do.LEAVE if facts.has_work else Do.END


class HandOver:
    """The end of a head in a job.

    Parameters
    ----------
    site
        The site.
    record
        The record of the job.
    job
        Its id.
    ends_at
        The end of its walltime, in seconds since 1970, as far as the job knows; 0: unknown.
    batch
        A connection to the batch system of its own, which is closed with this.
    wake
        Called from another thread when there is something for `tick`.
    machine
        Has the thread that speaks to the batch system, and tells the time.
    """

    def __init__(
        self,
        site: Site,
        record: HeadJob,
        job: str,
        ends_at: float,
        batch: BatchSystem,
        wake: Callable[[], None],
        machine: Machine = HERE,
    ) -> None:
        self._site, self._record, self.job = site, record, job
        self._batch = batch
        self._now = machine.now
        self._thread = BatchThread(wake, machine)
        self._started = machine.now()
        #: The end of the walltime by this process's clock; 0: unknown.
        self._ends_at = clock.from_wall(ends_at) if ends_at > 0 else 0.0
        self._walltime_s = max(record.walltime_s, self._ends_at - self._started)
        self._waited_s = 0.0
        self._looked = self._looked_here = -LOOK_S
        self._looking = False
        self._successor = Successor.NONE
        #: The record of the last successor, its job's id, and what the batch system says of it.
        self._next: HeadJob | None = None
        self._next_job, self._next_words = "", ""
        self._again_at, self._tries = 0.0, 0
        #: The reason why no successor comes, where one should; empty: none is missing.
        self.trouble = ""

    def status(self) -> dict[str, object]:
        """Return what ``pilot status`` says of the head's job."""
        return {
            "id": self.job,
            "ends": self._ends_at or None,
            "successor": self._next_job or None,
            "successor_state": self._next_words or self._successor.value,
        }

    def tick(self, now: float, has_work: bool, program_ended: bool) -> Do:
        """Look at what is known of this job and the next, and return what the head is to do."""
        self._thread.take()
        self._look_here(now)
        self._look(now)
        do = decide(
            Facts(
                left_s=self._ends_at - now if self._ends_at else float("inf"),
                walltime_s=self._walltime_s if self._ends_at else float("inf"),
                waited_s=self._waited_s,
                has_work=has_work,
                successor=self._successor,
                may_ask=self._site.config.head.job.successors
                and self._tries < TRIES
                and now >= self._again_at,
                program_ended=program_ended,
            )
        )
        if do is Do.ASK:
            self._ask(now)
            return Do.GO_ON
        if do is Do.LEAVE and self._successor is Successor.HERE:
            log.info("job %s takes over", self._next_job)
        return do

    def finish(self, words: str) -> None:
        """Record that no job is to be head after this one, and cancel a successor that waits.

        Parameters
        ----------
        words
            The reason, for the record.
        """
        number = self._record.number if self._next is None else self._next.number
        head_jobs.close(self._site, number, words)
        if job := self._next_job:
            log.info("job %s, which was to take over, is cancelled: %s", job, words)
            self._thread.ask(lambda: self._batch.cancel([job]), lambda _: None)
            self._next_job = ""

    def close(self) -> None:
        """Wait for the command in progress."""
        self._thread.close()
        self._batch.close()

    # --- what is known

    def _look_here(self, now: float) -> None:
        """Look whether the successor has begun, or another job was made head meanwhile."""
        if now - self._looked_here < HERE_S:
            return
        self._looked_here = now
        record = head_jobs.newest(self._site)
        if record is None or record.number <= self._record.number or not record.is_open:
            return
        if head_jobs.is_here(self._site, record.number):
            self._next, self._successor = record, Successor.HERE
            self._next_job = head_jobs.job_of(self._site, record)
            self._next_words = "takes over"

    def _look(self, now: float) -> None:
        """Ask the batch system for this job and the next, if it is time."""
        often_s = min(LOOK_S, max(1.0, self._walltime_s / 60)) if self._ends_at else LOOK_S
        if self._looking or now - self._looked < often_s:
            return
        self._looked, self._looking = now, True
        name = self._next.name if self._next is not None else NO_PREFIX
        ids = [job for job in (self.job, self._next_job) if job]
        self._thread.ask(lambda: self._batch.jobs(name, ids), self._listed, done=self._has_looked)

    def _has_looked(self) -> None:
        self._looking = False

    def _listed(self, jobs: Mapping[str, JobStatus]) -> None:
        self._thread.answered()
        if (mine := jobs.get(self.job)) is not None:
            self._note_mine(mine)
        if self._next is None or self._successor is Successor.HERE:
            return
        name = self._next.name
        its = jobs.get(self._next_job) or next((j for j in jobs.values() if j.name == name), None)
        if its is not None:
            self._note_next(its)

    def _note_mine(self, mine: JobStatus) -> None:
        if mine.phase is Phase.RUNNING and mine.ends_at is not None:
            ends_at = clock.from_wall(mine.ends_at)
            if self._ends_at and abs(ends_at - self._ends_at) > 5.0:
                log.info(
                    "the walltime of job %s was moved by %.0f s", self.job, ends_at - self._ends_at
                )
            self._ends_at = ends_at
            self._walltime_s = max(1.0, ends_at - clock.from_wall(mine.started_at or mine.ends_at))
        if mine.started_at and mine.submitted_at:
            self._waited_s = max(0.0, mine.started_at - mine.submitted_at)

    def _note_next(self, its: JobStatus) -> None:
        assert self._next is not None
        self._next_job = its.job_id
        self._next_words = f"{its.state} ({its.reason})" if its.reason else its.state
        if its.phase is not Phase.ENDED:
            if self._successor is Successor.ASKED:  # it was submitted, without an answer
                self._submitted(its.job_id)
        elif its.why_ended is WhyEnded.CANCELLED:
            self._successor = Successor.UNWANTED
            self.trouble = (
                f"no job takes over when job {self.job} ends: job {its.job_id} was cancelled"
            )
        else:
            how = its.why_ended.value if its.why_ended else "ended"
            self._fail(f"job {its.job_id} has ended before it took over: {how}")

    # --- the successor

    def _ask(self, now: float) -> None:
        site = self._site
        self._tries += 1
        self._again_at = now + min(AGAIN_S, self._walltime_s / 8)
        name = head_jobs.new_name(site)
        wanted = HeadJob(
            number=0,
            name=name,
            after=self.job,
            walltime_s=self._record.walltime_s,
            pool=self._record.pool,
            ends_with_work=self._record.ends_with_work,
        )
        try:
            record = head_jobs.add(site, head_jobs.newest(site), wanted)
            if record is None:
                return  # another process was faster: its job is seen when it has begun
            command = run_command(site, record.number)
            request = head_jobs.request(site, name, command, record.walltime_s, record.pool)
        except (OSError, ValueError, KeyError) as error:
            self._fail(f"it cannot be asked for: {error}")
            return
        self._next, self._next_job, self._next_words = record, "", ""
        self._successor = Successor.ASKED
        log.info("job %s is asked for, to take over before the end of job %s", name, self.job)
        self._thread.ask(lambda: self._batch.submit(request), self._submitted, self._not_submitted)

    def _submitted(self, job: str) -> None:
        assert self._next is not None
        self._next_job, self.trouble = job, ""
        if self._successor is not Successor.HERE:
            self._successor = Successor.COMING
        try:
            head_jobs.note_job(self._site, self._next.number, job)
        except OSError as error:
            log.warning("the id of job %s cannot be recorded: %s", job, error)
        self._looked = 0.0

    def _not_submitted(self, error: BatchError) -> None:
        if isinstance(error, SubmitRefused):
            self._thread.answered()
        else:
            self._thread.no_answer(error)  # if it is there after all, another record counts by then
        if self._successor is Successor.ASKED:
            self._fail(str(error))

    def _fail(self, words: str) -> None:
        self._successor = Successor.FAILED
        self.trouble = f"no job takes over when job {self.job} ends: {words}"
        log.warning("%s", self.trouble)


def run_command(site: Site, number: int) -> list[str]:
    """Return the command that runs a head as the job of a record."""
    python = site.config.environment.python
    return command_of_site(python, "head", "run", str(site.directory), str(number))
