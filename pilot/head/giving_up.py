"""The rules by which pilots are given up: silent ones, missing ones, and those that never start.

Pure: facts in, decisions with their reasons out. The facts are a pilot's row, and what the batch
system says of its job; `fleet` notes them, and carries the decisions out. `setbacks` says what
becomes of the pool.

Invariants
----------
- No answer from the batch system is no fact: nothing is decided without one.
- What a pilot has said since the batch system was asked counts more than the answer.
- A pilot that a list leaves out has not ended by that: accounting is asked, and time goes by.
- Silence counts only while the job has nodes and is not suspended, and as long as the head lives.
- The job of a pilot that is given up alive is cancelled; the allocation that the head's user has
  made never is: its pilot is left alone.
- A job that waits for nodes keeps its place. One that is held, or can never start, is no pilot to
  come: it is given up after `STUCK_S`. One that a limit of its user keeps waiting stays: another
  would wait as well. So does one that an administrator holds: another would go round that.
- What the pilot said itself, and why it was cancelled, tells more than how its job has ended.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from pilot.head.outlook import INTENDED, RUNNING, STUCK_S, PilotRow
from pilot.scheduler.batch import JobStatus, Phase, Stuck, WhyEnded

#: The silence, in seconds, after which a pilot whose job runs is given up.
SILENT_S = 60.0
#: The same for a pilot that has said nothing since its job or this head started: it may have to
#: load its modules from a slow disk, or see the new head's address late.
JOIN_S = 600.0
#: The time, in seconds, after which a silent pilot is given up that lists leave out and accounting
#: does not know; and the longer time for one that accounting calls alive.
MISSING_S, MISSING_MOST_S = 6.0, 300.0
#: The age, in seconds, at which an intent is given up that has no job: where this head was not told
#: that it was submitted; and where it may have been, without an answer.
NEVER_SUBMITTED_S, UNKNOWN_S = 60.0, 300.0
#: The time, in seconds, since the start of this head, after which an intent of an earlier head is
#: given up that has no job: if that was killed while it submitted, the command goes on without it.
LEFT_BEHIND_S = 5.0
#: The time, in seconds, after which a cancelled job that goes on is cancelled again.
CANCEL_AGAIN_S = 30.0


class Gone(NamedTuple):
    """The decision that a pilot is no more: its work is tried again, and its record ends."""

    reason: str
    #: How its job has ended, if the batch system knows.
    how: WhyEnded | None = None
    #: True if the job may be there all the same, and is to be cancelled.
    cancel: bool = False


class GivenUp(NamedTuple):
    """The decision to cancel the job of a pilot, which may live, and to try its work again."""

    reason: str


class LeftAlone(NamedTuple):
    """The decision to count on a pilot no more whose job is not ours to end: it may live, and so
    may tasks that hold what the site has only once."""

    reason: str


class WaitsAgain(NamedTuple):
    """The decision that a pilot has lost this life: its job is in the queue for the next one."""

    reason: str


class AskAccounting(NamedTuple):
    """The decision to ask accounting for the pilot's job, and then `accounted`."""

    job: str


#: None: the pilot is kept as it is.
Decision: TypeAlias = Gone | GivenUp | LeftAlone | WaitsAgain | AskAccounting | None


def listed(row: PilotRow, job: JobStatus, asked: float, head_started: float) -> Decision:
    """Decide on a pilot whose job is in a list.

    Parameters
    ----------
    row
        The pilot, with what the list says.
    job
        Its job.
    asked
        The time at which the list was requested.
    head_started
        The time since which this head could have heard of it.
    """
    if _is_outdated(row, job, asked):
        return None
    if job.phase is Phase.ENDED:
        return _ended(row, job)
    if job.phase is Phase.QUEUED and row.state == RUNNING:
        return WaitsAgain("its job was preempted and waits again")
    if job.phase is Phase.QUEUED:
        return _stuck(row, job, asked)
    if job.phase is Phase.SUSPENDED:
        return None
    if _began_anew(row, job):
        return Gone("its job was requeued, and has begun anew without it")
    return _silent(row, asked, head_started)


def _is_outdated(row: PilotRow, job: JobStatus, asked: float) -> bool:
    """Tell whether the pilot has spoken since a list that says that it does not run."""
    return row.heard > asked and job.phase in (Phase.ENDED, Phase.QUEUED)


def _began_anew(row: PilotRow, job: JobStatus) -> bool:
    """Tell whether a job that is not ours runs again since its pilot has spoken last.

    Our own jobs start their agents themselves, in each life.
    """
    if not row.own or row.started is None or not job.restart_count or row.job_runs_since is None:
        return False
    return row.job_runs_since > max(row.started, row.heard)


def stuck_since(row: PilotRow, job: JobStatus, asked: float) -> float | None:
    """Return the time since which the same obstacle is between a queued job and its start."""
    if job.stuck is None:
        return None
    return asked if row.stuck is not job.stuck or row.stuck_since is None else row.stuck_since


def _stuck(row: PilotRow, job: JobStatus, now: float) -> Decision:
    """Decide on a pilot whose job is in the queue: it may be there for ever."""
    if job.stuck not in (Stuck.HELD, Stuck.NEVER) or row.stuck_since is None:
        return None
    if row.own or row.cancelled_at:
        return None
    stuck_s = now - row.stuck_since
    if stuck_s <= STUCK_S:
        return None
    has = "was held in the queue" if job.stuck is Stuck.HELD else "could not start"
    return GivenUp(f"it {has} for {stuck_s:.0f} s ({job.reason}), and its job was cancelled")


def _silent(row: PilotRow, now: float, head_started: float) -> Decision:
    """Decide on a pilot that has nodes: if it is silent, its first node is down or cut off."""
    if row.cancelled_at or (row.draining and not row.heard):
        return None  # its job is told to end, or it has said good-bye
    if row.heard:
        has, since, patience_s = "was silent", row.heard, SILENT_S
    elif row.job_runs_since is None:
        return None
    else:
        # An agent that the head before was to start, as its child, may never have been started.
        is_of_a_head = row.own and row.state == INTENDED
        has, patience_s = "has not reported itself", SILENT_S if is_of_a_head else JOIN_S
        since = max(row.job_runs_since, head_started)
    silent_s = now - since
    if silent_s <= patience_s:
        return None
    reason = f"it {has} for {silent_s:.0f} s"
    if not row.own:
        return GivenUp(f"{reason}, and its job was cancelled")
    # One that has never come has no tasks.
    return Gone(reason) if row.started is None else LeftAlone(reason)


def of_own_job(row: PilotRow, now: float) -> Decision:
    """Decide on the pilot in the head's own job, whose agent this head has started.

    The job runs as long as the head does, whatever lists say of it.
    """
    since, patience_s = (row.heard, SILENT_S) if row.heard else (row.created, JOIN_S)
    if (row.draining and not row.heard) or now - since <= patience_s:
        return None
    return Gone(f"its agent was silent for {now - since:.0f} s, and was killed")


def is_to_cancel_again(row: PilotRow, job: JobStatus, asked: float) -> bool:
    """Tell whether a cancelled job goes on for so long that the batch system may not have heard."""
    return (
        goes_on(job)
        and bool(row.cancelled_at)
        and asked - row.cancelled_at > CANCEL_AGAIN_S
        and not _is_outdated(row, job, asked)
    )


def goes_on(job: JobStatus) -> bool:
    """Tell whether a job has nodes, or waits for them, and is not ending."""
    return job.phase in (Phase.QUEUED, Phase.RUNNING, Phase.SUSPENDED)


def missing_since(row: PilotRow, asked: float) -> float:
    """Return the time since which lists lack the pilot, and it has not spoken."""
    if row.missing_since is None or row.heard > row.missing_since:
        return asked
    return row.missing_since


def not_listed(row: PilotRow, asked: float, head_started: float) -> Decision:
    """Decide on a pilot that a list leaves out; its row says since when it is missing.

    Parameters
    ----------
    row
        The pilot.
    asked
        The time at which the list was requested.
    head_started
        The time at which this head started.
    """
    if row.heard and row.missing_since == asked:
        return None  # it has spoken before this list, and after the one before
    if row.job:
        return AskAccounting(row.job)
    if row.submitted is None and (
        asked - row.created > NEVER_SUBMITTED_S or _is_left_behind(row, asked, head_started)
    ):
        return Gone("it was never submitted")
    if asked - row.created > UNKNOWN_S:
        return Gone("the batch system does not know its job")
    return None


def _is_left_behind(row: PilotRow, asked: float, head_started: float) -> bool:
    """Tell whether an earlier head was submitting the pilot when it was killed, and has not got as
    far as a job.

    A job that turns up later all the same is a stray (`strays`): nothing runs twice by it.
    """
    return row.created < head_started < asked - LEFT_BEHIND_S and not row.heard


def accounted(row: PilotRow, job: JobStatus | None, asked: float, unlisted: str) -> Decision:
    """Decide on a missing pilot by what accounting says of its job.

    Parameters
    ----------
    row
        The pilot.
    job
        Its job; None: accounting does not know it.
    asked
        The time at which the list was requested that left it out.
    unlisted
        The batch system's words for a job that it does not list.
    """
    if row.missing_since is None or row.heard > asked:
        return None  # it was listed again, or has spoken
    if job is not None and job.phase is Phase.ENDED:
        return _ended(row, job)
    if asked - row.missing_since > (MISSING_S if job is None else MISSING_MOST_S):
        return Gone(unlisted, cancel=not row.own)
    return None


def _ended(row: PilotRow, job: JobStatus) -> Gone:
    drains = row.draining and not row.left_alone
    knows = drains and (row.state == RUNNING or bool(row.cancelled_at))
    return Gone(row.reason if knows else _how(job), job.why_ended)


def _how(job: JobStatus) -> str:
    """Return how a job has ended, in words."""
    how = "unknown" if job.why_ended is None else job.why_ended.value
    text = f"its job has ended: {how.replace('_', ' ')}"
    if job.why_ended is WhyEnded.FAILED:
        return f"{text} (exit status {job.exit_status})" if job.exit_status else text
    # DEADLINE is a timeout, BOOT_FAIL the failure of a node: the batch system's word tells more.
    return f"{text} ({job.state})" if job.state.lower() not in (how, "") else text
