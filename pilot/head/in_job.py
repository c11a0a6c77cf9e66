"""The beginning of a head that runs in a batch job: it waits for its turn, and takes over.

Invariant: a job whose record is not the last one (`head_jobs`) does not become head, nor does the
successor of a job that its user has cancelled.
"""

from __future__ import annotations

import logging
import os
import time
from typing import NamedTuple

from pilot.errors import HeadError
from pilot.head import head_jobs
from pilot.head.head_jobs import HeadJob
from pilot.head.running import LOOK_S, lease_holder
from pilot.scheduler.batch import NO_PREFIX, BatchError, WhyEnded, open_batch
from pilot.site import Site

log = logging.getLogger("pilot.head")

#: The time that the head before may take to end once another job has begun, in seconds.
TURN_S = 90.0


class InJob(NamedTuple):
    """The job that a head runs in."""

    record: HeadJob
    #: The batch system's id of the job.
    job: str
    #: The end of its walltime, in seconds since 1970; 0: unknown.
    ends_at: float
    #: True if the head is the child of a program for which it was started.
    hosted: bool = False
    #: True if the job's nodes are to be the first pilot.
    adopts: bool = False


class NotWanted(HeadError):
    """The error that this job is not to be head any more: nothing is wrong with that."""

    exit_code = 0


def enter(site: Site, number: int, job: str = "", adopts: bool = False) -> InJob:
    """Return what the head must know of its job, once it is its turn.

    Parameters
    ----------
    site
        The site.
    number
        The number of the job's record.
    job
        The job's id, where the head is the child of a program in it; empty: the head is the job.
    adopts
        True if the job's nodes are to be the first pilot.

    Raises
    ------
    NotWanted
        The job is not to be head any more.
    HeadError
        The head before does not end.
    """
    hosted = bool(job)
    its = job or os.environ.get("PILOT_JOB_ID", "")
    record = _check(site, number, its)
    if not hosted:
        head_jobs.note_job(site, number, its)
        _check_cancelled(site, record)
        head_jobs.note_here(site, number, its)
    deadline = time.monotonic() + TURN_S + site.config.lease.expire_s
    while (holder := lease_holder(site)) is not None:
        if time.monotonic() > deadline:
            raise HeadError(
                f"job {its} was to be the next head of {site.name}, and the one before (pid "
                f"{holder.pid} on {holder.host}) goes on"
            )
        time.sleep(LOOK_S)
        record = _check(site, number, its)
    return InJob(record, its, _ends_at(site, hosted), hosted, adopts)


def _check(site: Site, number: int, job: str) -> HeadJob:
    record = head_jobs.newest(site)
    if record is None or record.number != number or not record.is_open:
        why = record.words if record is not None and record.words else "another one was asked for"
        raise NotWanted(f"job {job} is not to be the head of {site.name} any more: {why}")
    return record


def _check_cancelled(site: Site, record: HeadJob) -> None:
    """Check that nobody has cancelled the job that this one succeeds."""
    if not record.after:
        return
    batch = open_batch(site.config, site.jobs)
    try:
        found = batch.jobs(NO_PREFIX, (record.after,)) or batch.account((record.after,))
    except BatchError as error:
        log.warning("nothing is known of job %s: %s", record.after, error)
        return
    finally:
        batch.close()
    before = found.get(record.after)
    if before is not None and before.why_ended is WhyEnded.CANCELLED:
        words = f"job {record.after}, in which the head ran, was cancelled"
        head_jobs.close(site, record.number, words, cancelled=True)
        raise NotWanted(f"{words}, and so nobody takes over")


def _ends_at(site: Site, hosted: bool) -> float:
    """Return the end of the walltime as the job's variables have it; 0: unknown."""
    if hosted and (own := site.config.kind.own_allocation(os.environ)) is not None:
        return own.ends_at or 0.0
    try:
        return float(os.environ.get("PILOT_JOB_ENDS_AT", "0"))
    except ValueError:
        return 0.0
