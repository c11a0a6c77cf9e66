"""When pilots are given up: facts in, decisions out."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from support.fleets import running_row

from pilot.head import giving_up as g
from pilot.head.giving_up import AskAccounting, GivenUp, Gone, LeftAlone, WaitsAgain
from pilot.head.outlook import INTENDED, QUEUED, STUCK_S, PilotRow
from pilot.scheduler.batch import JobStatus, Phase, Stuck, WhyEnded

#: When the list was asked for, and when this head started.
ASKED, STARTED = 10_000.0, 1000.0
PREEMPTED = WaitsAgain("its job was preempted and waits again")


row = partial(running_row, ASKED)


def job(phase: Phase = Phase.RUNNING, **changes: Any) -> JobStatus:
    return JobStatus(**{"job_id": "7", "name": "p", "phase": phase, "state": "", **changes})


def ended(why: WhyEnded | None = WhyEnded.FAILED, **changes: Any) -> JobStatus:
    return job(Phase.ENDED, why_ended=why, **changes)


def decided(row: PilotRow, job: JobStatus) -> g.Decision:
    return g.listed(row, job, ASKED, STARTED)


# --- listed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.ENDING])
def test_silence_counts_from_the_last_word(phase: Phase) -> None:
    assert decided(row(heard=ASKED - g.SILENT_S), job(phase)) is None
    assert decided(row(heard=ASKED - g.SILENT_S - 5.0), job(phase)) == GivenUp(
        "it was silent for 65 s, and its job was cancelled"
    )


def test_silence_counts_from_the_start_of_the_job_or_of_the_head() -> None:
    late = g.JOIN_S + 1.0
    never = row(heard=0.0, job_runs_since=ASKED - late, state=QUEUED)
    assert decided(never, job()) == GivenUp(
        "it has not reported itself for 601 s, and its job was cancelled"
    )
    assert g.listed(never, job(), ASKED, ASKED - g.JOIN_S) is None
    assert decided(row(heard=0.0, job_runs_since=ASKED - g.JOIN_S), job()) is None
    assert decided(row(heard=0.0, job_runs_since=None), job(Phase.ENDING)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"cancelled_at": 1.0, "heard": 1.0},
        {"draining": True, "heard": 0.0},  # it has said good-bye
    ],
)
def test_silence_that_is_known_to_come_does_not_count(changes: dict[str, Any]) -> None:
    assert decided(row(**changes), job()) is None
    assert decided(row(heard=1.0), job(Phase.SUSPENDED)) is None


def test_an_allocation_that_was_requeued_has_begun_anew_without_its_pilot() -> None:
    before = row(own=True, heard=0.0, started=ASKED - 100.0, job_runs_since=ASKED - 5.0)
    anew = job(restart_count=1)
    gone = Gone("its job was requeued, and has begun anew without it")
    assert decided(before, anew) == gone
    before.heard = ASKED - 50.0
    assert decided(before, anew) == gone, "the head is elsewhere, and has heard the earlier life"
    assert decided(before, job()) is None, "it never was"
    before.heard = ASKED - 1.0
    assert decided(before, anew) is None, "it speaks"
    pilot = row(heard=0.0, started=ASKED - 100.0, job_runs_since=ASKED - 5.0)
    assert decided(pilot, anew) is None, "our own jobs start their agents again"
    assert decided(row(own=True, heard=0.0, started=None, job_runs_since=ASKED), anew) is None


def test_silence_of_the_own_allocation_ends_its_pilot_and_not_the_job() -> None:
    silent = row(own=True, heard=ASKED - 70.0)
    assert decided(silent, job()) == Gone("it was silent for 70 s"), "it has never come"
    silent.started = ASKED - 100.0
    assert decided(silent, job()) == LeftAlone("it was silent for 70 s")
    silent.heard, silent.draining, silent.left_alone = 0.0, True, True
    assert decided(silent, job()) is None, "until its job has ended"
    assert decided(silent, ended(WhyEnded.TIMEOUT)) == Gone(
        "its job has ended: timeout", WhyEnded.TIMEOUT
    )


def test_end_of_a_job_is_told_in_the_words_of_whoever_knows_most() -> None:
    assert decided(row(), ended()) == Gone("its job has ended: failed", WhyEnded.FAILED)
    assert decided(row(), ended(exit_status=3)) == Gone(
        "its job has ended: failed (exit status 3)", WhyEnded.FAILED
    )
    assert decided(row(), ended(None)) == Gone("its job has ended: unknown")
    told = Gone("said so", WhyEnded.CANCELLED)
    assert decided(row(draining=True), ended(WhyEnded.CANCELLED)) == told
    cancelled = row(state=QUEUED, draining=True, cancelled_at=1.0)
    assert decided(cancelled, ended(WhyEnded.CANCELLED)) == told
    assert decided(row(state=QUEUED, draining=True), ended()) != Gone("said so", WhyEnded.FAILED)


@pytest.mark.parametrize(
    ("state", "why", "told"),
    [
        ("TIMEOUT", WhyEnded.TIMEOUT, "timeout"),
        ("DEADLINE", WhyEnded.TIMEOUT, "timeout (DEADLINE)"),
        ("NODE_FAIL", WhyEnded.NODE_FAILURE, "node failure (NODE_FAIL)"),
        ("BOOT_FAIL", WhyEnded.NODE_FAILURE, "node failure (BOOT_FAIL)"),
        ("OUT_OF_MEMORY", WhyEnded.OUT_OF_MEMORY, "out of memory"),
        ("REVOKED", WhyEnded.CANCELLED, "cancelled (REVOKED)"),
    ],
)
def test_end_of_a_job_is_told_with_the_batch_systems_word(
    state: str, why: WhyEnded, told: str
) -> None:
    assert decided(row(), ended(why, state=state)) == Gone(f"its job has ended: {told}", why)


def test_job_that_waits_again_begins_a_new_life() -> None:
    assert decided(row(), job(Phase.QUEUED)) == PREEMPTED
    assert decided(row(state=QUEUED, heard=0.0, job_runs_since=None), job(Phase.QUEUED)) is None


def in_queue(stuck: Stuck | None, **changes: Any) -> tuple[PilotRow, JobStatus]:
    """A pilot that has been behind an obstacle for long enough."""
    since = ASKED - STUCK_S - 1.0
    fields = {"state": QUEUED, "heard": 0.0, "job_runs_since": None, "stuck_since": since}
    its = job(Phase.QUEUED, stuck=stuck, reason="JobHeldUser")
    return row(**{**fields, "stuck": stuck, **changes}), its


@pytest.mark.parametrize(
    ("stuck", "has"),
    [(Stuck.HELD, "was held in the queue"), (Stuck.NEVER, "could not start")],
)
def test_job_that_will_never_start_is_given_up_after_a_while(stuck: Stuck, has: str) -> None:
    assert decided(*in_queue(stuck)) == GivenUp(
        f"it {has} for 301 s (JobHeldUser), and its job was cancelled"
    )
    assert decided(*in_queue(stuck, stuck_since=ASKED - STUCK_S)) is None
    assert decided(*in_queue(stuck, own=True)) is None
    assert decided(*in_queue(stuck, cancelled_at=ASKED - 1.0)) is None


def test_job_that_waits_for_nodes_or_for_others_of_its_user_keeps_its_place() -> None:
    assert decided(*in_queue(None)) is None
    assert decided(*in_queue(Stuck.LIMIT)) is None
    assert decided(*in_queue(Stuck.ADMIN)) is None, "another would go round what is held on purpose"


def test_another_obstacle_counts_anew() -> None:
    held, its = in_queue(Stuck.HELD)
    assert g.stuck_since(held, its, ASKED) == held.stuck_since
    assert g.stuck_since(held, job(Phase.QUEUED, stuck=Stuck.NEVER), ASKED) == ASKED
    assert g.stuck_since(held, job(Phase.QUEUED), ASKED) is None


@pytest.mark.parametrize("phase", [Phase.ENDED, Phase.QUEUED])
def test_what_a_pilot_says_after_the_question_counts_more_than_the_list(phase: Phase) -> None:
    assert decided(row(heard=ASKED), job(phase)) is not None
    spoken = row(heard=ASKED + 0.1, cancelled_at=1.0)
    assert decided(spoken, job(phase)) is None
    assert not g.is_to_cancel_again(spoken, job(phase), ASKED)


@pytest.mark.parametrize(
    ("phase", "again"),
    [
        *((phase, True) for phase in (Phase.QUEUED, Phase.RUNNING, Phase.SUSPENDED)),
        *((phase, False) for phase in (Phase.ENDING, Phase.ENDED)),
    ],
)
def test_cancelled_job_that_goes_on_is_cancelled_again(phase: Phase, again: bool) -> None:
    late = row(cancelled_at=ASKED - g.CANCEL_AGAIN_S - 1.0)
    assert g.is_to_cancel_again(late, job(phase), ASKED) == again
    early = row(cancelled_at=ASKED - g.CANCEL_AGAIN_S)
    assert not g.is_to_cancel_again(early, job(phase), ASKED)
    assert not g.is_to_cancel_again(row(), job(phase), ASKED)


# --- not listed ----------------------------------------------------------------------------------


def test_pilot_is_missing_since_the_first_list_after_its_last_word() -> None:
    assert g.missing_since(row(), ASKED) == ASKED
    assert g.missing_since(row(missing_since=ASKED - 0.5), ASKED) == ASKED - 0.5
    assert g.missing_since(row(missing_since=ASKED - 2.0), ASKED) == ASKED, "it has spoken since"


def test_accounting_is_asked_at_once_only_for_those_that_have_said_nothing() -> None:
    assert g.not_listed(row(missing_since=ASKED), ASKED, 0.0) is None
    assert g.not_listed(row(missing_since=ASKED, heard=0.0), ASKED, 0.0) == AskAccounting("7")
    assert g.not_listed(row(missing_since=ASKED - 0.5), ASKED, 0.0) == AskAccounting("7")


@pytest.mark.parametrize(
    ("submitted", "age_s", "reason"),
    [
        (None, g.NEVER_SUBMITTED_S, ""),
        (None, g.NEVER_SUBMITTED_S + 1.0, "it was never submitted"),
        (1.0, g.NEVER_SUBMITTED_S + 1.0, ""),
        (1.0, g.UNKNOWN_S, ""),
        (1.0, g.UNKNOWN_S + 1.0, "the batch system does not know its job"),
    ],
)
def test_intent_without_a_job_is_given_up(
    submitted: float | None, age_s: float, reason: str
) -> None:
    intent = row(
        state=INTENDED,
        job=None,
        heard=0.0,
        submitted=submitted,
        created=ASKED - age_s,
        missing_since=ASKED - age_s,
    )
    assert g.not_listed(intent, ASKED, 0.0) == (Gone(reason) if reason else None)


@pytest.mark.parametrize(
    ("change", "started_s", "is_gone"),
    [
        ({}, g.LEFT_BEHIND_S + 1.0, True),
        ({}, g.LEFT_BEHIND_S, False),
        ({"created": ASKED - 1.0}, g.LEFT_BEHIND_S + 1.0, False),
        ({"submitted": 1.0}, g.LEFT_BEHIND_S + 1.0, False),
        ({"heard": ASKED - 1.0}, g.LEFT_BEHIND_S + 1.0, False),
    ],
    ids=["killed before", "young", "its own", "it has a job", "it speaks"],
)
def test_intent_of_a_killed_head_is_given_up_soon(
    change: dict[str, Any], started_s: float, is_gone: bool
) -> None:
    given = {"heard": 0.0, "submitted": None, "created": ASKED - 10.0} | change
    intent = row(state=INTENDED, job=None, missing_since=ASKED - 0.1, **given)
    decision = g.not_listed(intent, ASKED, ASKED - started_s)
    assert decision == (Gone("it was never submitted") if is_gone else None)


@pytest.mark.parametrize(
    ("known", "patience_s"), [(None, g.MISSING_S), (job(), g.MISSING_MOST_S)], ids=["no", "alive"]
)
@pytest.mark.parametrize("own", [False, True])
def test_missing_pilot_is_given_up_after_a_while(
    known: JobStatus | None, patience_s: float, own: bool
) -> None:
    def after(missing_s: float) -> g.Decision:
        since = ASKED - missing_s
        return g.accounted(row(heard=0.0, missing_since=since, own=own), known, ASKED, "unlisted")

    assert after(patience_s) is None
    assert after(patience_s + 1.0) == Gone("unlisted", cancel=not own)


def test_missing_pilot_has_ended_where_accounting_says_so() -> None:
    missing = row(missing_since=ASKED)
    assert g.accounted(missing, ended(), ASKED, "") == decided(row(), ended())


@pytest.mark.parametrize("changes", [{"missing_since": None}, {"heard": ASKED + 0.1}])
def test_pilot_that_is_found_meanwhile_is_kept(changes: dict[str, Any]) -> None:
    found = row(**{"missing_since": 1.0, **changes})
    assert g.accounted(found, ended(), ASKED, "") is None
