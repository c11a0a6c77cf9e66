"""Starting a head in a batch job, and waiting for one that is to run in a job.

`judge` is pure: it says by what the batch system tells of the job whether it can still become head.

Invariants
----------
- A job is submitted only by whoever has made its record (`pilot.head.head_jobs`), so two programs
  that find no head at the same moment submit one job.
- While the job of the last record may become head it is waited for, and no other is asked for.
- No answer from the batch system is no reason to ask for another job.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import NamedTuple

from pilot.errors import BatchError, HeadError, SiteError
from pilot.head import head_jobs
from pilot.head.hand_over import run_command
from pilot.head.head_jobs import HeadJob
from pilot.head.running import LOOK_S, find_head
from pilot.head.setbacks import last_lines
from pilot.scheduler.batch import (
    BatchSystem,
    BatchUnavailable,
    JobStatus,
    Phase,
    SubmitRefused,
    WhyEnded,
    base,
    open_batch,
)
from pilot.site import Site
from pilot.wire.discovery import HeadAddress

log = logging.getLogger("pilot")

#: The least time between two questions to the batch system about a job, in seconds.
ASK_S = 5.0
#: The time for which a job is looked for that lists do not have, once its id is known, in seconds.
MISSING_S = 20.0
#: The time for which a job that runs may show no head, in seconds, beyond those of a lease.
SILENT_S = 120.0
NOTHING_IS_LOST = "Nothing is lost: `pilot head start` goes on with the tasks"
#: The bytes at the end of a job's output that are read.
_OUTPUT_BYTES = 4096


class Verdict(NamedTuple):
    """The answer whether a job can still become head, and what it does, in words."""

    is_over: bool
    words: str
    cancelled: bool = False


def judge(
    status: JobStatus | None, known: bool, missing_s: float, ran_s: float, limit_s: float
) -> Verdict:
    """Judge a job by what the batch system says of it.

    Parameters
    ----------
    status
        The job as the batch system lists it, or accounting has it; None: it does not know it.
    known
        True if its id is known: then it was submitted.
    missing_s
        The time for which the batch system has not known it, in seconds.
    ran_s
        The time for which it has been seen to run without a head, in seconds.
    limit_s
        The time after which a command of the batch system is given up, in seconds.
    """
    if status is None:
        if missing_s > (MISSING_S if known else MISSING_S + limit_s):
            return Verdict(True, "the batch system does not know it")
        return Verdict(False, "is being submitted")
    if status.phase is Phase.ENDED:
        how = status.why_ended.value if status.why_ended else "ended"
        if status.why_ended is WhyEnded.FAILED and status.exit_status:
            how += f" (exit status {status.exit_status})"
        return Verdict(True, how, cancelled=status.why_ended is WhyEnded.CANCELLED)
    if status.phase is Phase.QUEUED:
        return Verdict(
            False, "waits in the queue" + (f" ({status.reason})" if status.reason else "")
        )
    if status.phase is Phase.RUNNING and ran_s > SILENT_S:
        return Verdict(True, f"runs, and no head has shown itself for {ran_s:.0f} s")
    return Verdict(False, f"is {status.state}")


def ensure_head_in_job(
    site: Site,
    dead: int = 0,
    follows: bool = False,
    wish: HeadJob | None = None,
    given_up: Callable[[], bool] = lambda: False,
) -> HeadAddress | None:
    """Return the address of a head that runs in a job, which is submitted where none is to run.

    Parameters
    ----------
    site
        The site.
    dead
        The latest epoch whose head is known to be dead.
    follows
        True if this process had a head before.
    wish
        What a job that is submitted here is to be like; None: as the site file says, or the last.
    given_up
        Tells whether nobody waits any more; the job stays in the queue.

    Returns
    -------
    HeadAddress or None
        The head; None where one is to be started on this machine instead.

    Raises
    ------
    HeadError
        The job has ended before it was head, or was cancelled while this process had its head.
    BatchError
        The batch system has refused the job.
    """
    site.prepare()
    batch = open_batch(site.config, site.jobs)
    try:
        return _Waiting(site, batch, dead, follows, wish).run(given_up)
    except OSError as error:
        site.check_there()
        raise SiteError(
            f"the site directory {site.directory} cannot be written: {error.strerror}; mend its "
            "permissions, or choose another with $PILOT_HOME or `pilot init`"
        ) from error
    finally:
        batch.close()


class _Waiting:
    """The wait for a head in a job."""

    def __init__(
        self, site: Site, batch: BatchSystem, dead: int, follows: bool, wish: HeadJob | None
    ) -> None:
        self._site, self._batch, self._dead = site, batch, dead
        self._follows, self._wish = follows, wish
        #: The number of the record of a job that was submitted here; 0: none was.
        self._mine = 0
        self._told = ""
        self._begin_again(None)

    def _begin_again(self, record: HeadJob | None) -> None:
        self._record = record
        self._asked = -ASK_S
        self._missing_since: float | None = None
        self._ran_since: float | None = None

    def run(self, given_up: Callable[[], bool]) -> HeadAddress | None:
        """Wait until there is a head; submit its job where none is to come."""
        while not given_up():
            if (address := find_head(self._site, self._dead)) is not None:
                return address
            record = head_jobs.newest(self._site)
            if record is None or not record.is_open:
                if self._mine and record is not None and record.number > self._mine:
                    raise HeadError(f"no head of {self._site.name} comes: {record.words}")
                if self._follows and record is not None and record.cancelled:
                    raise HeadError(f"{record.words}. {NOTHING_IS_LOST}")
                if not self._is_wanted():
                    return None
                self._submit(record)
            elif _is_own_job(self._site, record):
                return None  # a head in this very job has died: it is started here again
            elif self._record is None or self._record.number != record.number:
                self._begin_again(record)
            elif (verdict := self._look(record)) is not None and verdict.is_over:
                if not self._goes_on(record, verdict):
                    return None
                continue
            time.sleep(LOOK_S)
        raise HeadError(f"the head of {self._site.name} is not waited for any more")

    def _is_wanted(self) -> bool:
        """Tell whether a job is to be submitted where none is to be head."""
        if head_jobs.host_here(self._site) is not None:
            return False  # a head is started in this job
        return self._wish is not None or self._site.config.head.place == "job"

    # --- the job that is to be head

    def _look(self, record: HeadJob) -> Verdict | None:
        """Ask for the job, if it is time, and judge; None: nothing new is known."""
        now = time.monotonic()
        manners = self._site.config.manners
        if now - self._asked < max(min(ASK_S, manners.poll_interval_s), LOOK_S):
            return None
        self._asked = now
        job = head_jobs.job_of(self._site, record)
        try:
            found = _find_job(self._batch, record, job)
        except base.BatchError as error:
            self._tell(record, job, f"is not known of: {error}")
            return None
        if found is not None and not job:
            head_jobs.note_job(self._site, record.number, found.job_id)
        if found is not None:
            self._missing_since = None
        elif self._missing_since is None:
            self._missing_since = now
        if found is None or found.phase is not Phase.RUNNING:
            self._ran_since = None
        elif self._ran_since is None:
            self._ran_since = now
        verdict = judge(
            found,
            bool(job),
            now - (self._missing_since or now),
            now - (self._ran_since or now),
            manners.command_limit_s,
        )
        self._tell(record, job, verdict.words)
        return verdict

    def _tell(self, record: HeadJob, job: str, words: str) -> None:
        told = f"the head of {self._site.name} is to run in job {job or record.name}, which {words}"
        if told != self._told and "waits" in words:
            log.warning("pilot: %s", told)
        self._told = told

    def _goes_on(self, record: HeadJob, verdict: Verdict) -> bool:
        """Handle that a job is over; return False where a head is to be started here instead.

        Raises
        ------
        HeadError
            The job was submitted here, or it was cancelled and this process had its head.
        """
        job = head_jobs.job_of(self._site, record)
        what = f"job {job or record.name}"
        if record.number == self._mine:
            head_jobs.close(self._site, record.number, f"{what} has ended before it was head")
            raise HeadError(
                f"{what}, in which the head of {self._site.name} was to run, {verdict.words}"
                + last_words(self._site, job)
            )
        if verdict.cancelled and self._follows:
            raise HeadError(
                f"{what}, in which the head of {self._site.name} ran, was cancelled. "
                + NOTHING_IS_LOST
            )
        is_hosted = head_jobs.host_here(self._site) is not None
        if is_hosted or (verdict.cancelled and not self._is_wanted()):
            head_jobs.close(self._site, record.number, f"{what}: {verdict.words}")
            return False
        log.warning(
            "pilot: %s, which was to be the head, %s; another one is asked for", what, verdict.words
        )
        self._wish = self._wish or record
        self._submit(record)
        return True

    def _submit(self, before: HeadJob | None) -> None:
        """Submit a job, unless another process has just done so.

        Raises
        ------
        BatchError
            The batch system has refused it.
        """
        site, wish = self._site, self._wish
        name = head_jobs.new_name(site)
        wanted = HeadJob(
            number=0,
            name=name,
            walltime_s=(wish.walltime_s if wish else 0.0) or site.config.head.job.walltime_s,
            pool=wish.pool if wish else "",
            ends_with_work=wish.ends_with_work if wish else False,
        )
        record = head_jobs.add(site, before, wanted)
        if record is None:
            return
        self._mine = record.number
        try:
            command = run_command(site, record.number)
            request = head_jobs.request(site, name, command, record.walltime_s, record.pool)
            job = self._batch.submit(request)
        except BatchUnavailable as error:
            log.warning("pilot: %s; it is looked for", error)  # it may be there
            return
        except (SubmitRefused, ValueError) as error:
            head_jobs.close(site, record.number, f"its job was refused: {error}")
            raise BatchError(f"no head can start in a job: {error}") from error
        head_jobs.note_job(site, record.number, job)
        log.warning("pilot: the head of %s is to run in job %s", site.name, job)


def prospect(site: Site) -> str:
    """Return what becomes of the job that is, or was, to be the head; empty: there is none."""
    record = head_jobs.newest(site)
    if record is None:
        return ""
    if not record.is_open:
        return record.words
    job = head_jobs.job_of(site, record) or record.name
    try:
        found = _ask_once(site, record)
    except base.BatchError as error:
        return f"job {job} is to be the head; {error}"
    verdict = judge(found, True, 1e9, 0.0, 0.0)
    return f"job {job}, which is to be the head, {verdict.words}"


def _ask_once(site: Site, record: HeadJob) -> JobStatus | None:
    batch = open_batch(site.config, site.jobs)
    try:
        return _find_job(batch, record, head_jobs.job_of(site, record))
    finally:
        batch.close()


def _find_job(batch: BatchSystem, record: HeadJob, job: str) -> JobStatus | None:
    """Return the job of a record as the batch system has it; None: it does not know it."""
    listed = batch.jobs(record.name, [job] if job else [])
    by_name = (its for its in listed.values() if its.name == record.name)
    found = listed.get(job) or next(by_name, None)
    if found is None and job:
        found = batch.account([job]).get(job)
    return found


def withdraw(site: Site, words: str) -> str:
    """Have no job become head; return the id of the one that was to, which is cancelled.

    Raises
    ------
    BatchError
        The batch system did not answer.
    """
    record = head_jobs.wanted(site)
    if record is None:
        return ""
    job = head_jobs.job_of(site, record)
    batch = open_batch(site.config, site.jobs)
    try:
        if (found := _find_job(batch, record, job)) is not None:
            job = found.job_id
        head_jobs.close(site, record.number, words)
        if job and not _is_own_job(site, record):
            batch.cancel([job])
    except base.BatchError as error:
        raise BatchError(f"job {job or record.name} may still come: {error}") from error
    finally:
        batch.close()
    return job or record.name


def _is_own_job(site: Site, record: HeadJob) -> bool:
    """Tell whether this process runs in the job of a record."""
    here = head_jobs.own_job(site)
    return bool(here) and here == head_jobs.job_of(site, record)


def last_words(site: Site, job: str) -> str:
    """Return what a job has said last, as the end of a message."""
    path = site.jobs / f"{job}.out"
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _OUTPUT_BYTES))
            said = last_lines(file.read().decode(errors="replace"))
    except OSError:
        return ""
    return f"; {path} ends with: {said}" if said else f"; see {path}"
