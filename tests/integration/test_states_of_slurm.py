"""Every state of Slurm, with real heads and pilots on a Slurm that says what it is told to say.

What a real one does is in `tests/slurm`; `docs/reference/slurm-states.md` has the table.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from integration.test_odd_slurm import DEADLINE_S, Held, Make, looks, make, pilots, slurm, trouble
from support.fake_slurm import FakeSlurm
from support.sites import SiteUnderTest
from support.waiting import wait_until

import pilot

__all__ = ["make", "slurm"]  # the fixtures

#: How a job ends, what is told of it, and what becomes of the attempts of its tasks.
ENDS = {
    "COMPLETED": ("completed", "interrupted"),
    "FAILED": ("failed", "interrupted"),
    "CANCELLED": ("cancelled", "interrupted"),
    "REVOKED": ("cancelled (REVOKED)", "interrupted"),
    "TIMEOUT": ("timeout", "interrupted"),
    "DEADLINE": ("timeout (DEADLINE)", "interrupted"),
    "PREEMPTED": ("preempted", "interrupted"),
    "NODE_FAIL": ("node failure (NODE_FAIL)", "interrupted"),
    "BOOT_FAIL": ("node failure (BOOT_FAIL)", "interrupted"),
    "OUT_OF_MEMORY": ("out of memory", "crash"),
}

#: How a job waits again that has run, and Slurm's reason.
WAITS = {
    "PENDING": "BeginTime",
    "REQUEUED": "None",
    "REQUEUE_FED": "None",
    "REQUEUE_HOLD": "job requeued in held state",
    "SPECIAL_EXIT": "job requeued in special exit state",
    "RESV_DEL_HOLD": "ReservationDeleted",
}


def another_place(directory: Path, name: str) -> Path:
    place = directory / name
    place.mkdir()
    return place


def test_however_a_job_ends_its_tasks_run_again_in_another(slurm: FakeSlurm, make: Make) -> None:
    site = make(pool={"max_nodes": 1})
    with site.guarded_session() as session:
        for state, (told, outcome) in ENDS.items():
            task = Held(session, another_place(site.scratch, state))
            job = task.begun()
            slurm.end(job, state)
            assert task.begun(2) != job, state
            assert task.let_go() == [outcome, "ok"], state
            (row,) = [row for row in pilots(site, alive=False) if row["job"] == job]
            assert row["state"] == "ENDED"
            assert row["reason"].startswith(f"its job has ended: {told}"), state
            assert not trouble(site), f"{state}: the pilots had worked"


def live_again(
    slurm: FakeSlurm, site: SiteUnderTest, session: pilot.Session, state: str, reason: str
) -> None:
    """Have a pilot's job wait again, and start anew when it is let go."""
    task = Held(session, another_place(site.scratch, state))
    job = task.begun()
    slurm.say(job, state, reason)
    slurm.kill(job)
    wait_until(lambda: slurm.has_ended(job), DEADLINE_S, "the end of the script")
    slurm.queue_again(job)
    wait_until(lambda: pilots(site)[0]["state"] == "QUEUED", DEADLINE_S, state)
    if reason not in ("BeginTime", "None"):
        wait_until(lambda: "cannot start, since" in trouble(site), DEADLINE_S, state)
        wait_until(lambda: reason in task.future.why(), DEADLINE_S, state)
        assert "raise max_nodes" not in task.future.why()
    slurm.say_no_more(job)
    assert task.begun(2) == job
    assert task.let_go() == ["interrupted", "ok"]


def test_a_job_that_waits_again_is_a_new_life_of_its_pilot(slurm: FakeSlurm, make: Make) -> None:
    site = make(pool={"max_nodes": 1})
    with site.guarded_session() as session:
        for state, reason in WAITS.items():
            live_again(slurm, site, session, state, reason)
            assert slurm.submitted() == 1 and not trouble(site)


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("JobHeldUser", "`scontrol release 7001` lets the job go"),
        ("job requeued in held state", "`scontrol release 7001` lets the job go"),
        ("JobHeldAdmin", "ask the administrators why they hold job 7001"),
        ("BadConstraints", "no node is as it asks for"),
    ],
)
def test_a_job_that_does_not_start_by_itself_is_told_with_what_to_do(
    slurm: FakeSlurm, make: Make, reason: str, advice: str
) -> None:
    slurm.switch("hold")
    site = make(pool={"max_nodes": 1})
    with site.guarded_session() as session:
        future = session.submit(os.getpid)
        wait_until(lambda: [p["job"] for p in pilots(site)] == ["7001"], DEADLINE_S, "the job")
        slurm.say("7001", "PENDING", reason)
        wait_until(lambda: reason in trouble(site), DEADLINE_S, "it to be told")
        why = future.why()
        assert reason in why and advice in why and "raise max_nodes" not in why
        slurm.say_no_more("7001")
        slurm.switch_off("hold")
        future.result(DEADLINE_S)
        wait_until(lambda: not trouble(site), DEADLINE_S, "the end of the trouble")
        assert slurm.submitted() == 1


def test_no_job_goes_round_what_an_administrator_holds(slurm: FakeSlurm, make: Make) -> None:
    slurm.switch("hold")
    site = make(pool={"max_nodes": 3})
    with site.guarded_session() as session:
        first = session.submit(os.getpid)
        wait_until(lambda: [p["job"] for p in pilots(site)] == ["7001"], DEADLINE_S, "the job")
        slurm.say("7001", "PENDING", "JobHeldAdmin")
        wait_until(lambda: "JobHeldAdmin" in trouble(site), DEADLINE_S, "it to be told")
        futures = session.submit_many(pow, [(2, n) for n in range(20)])
        session.flush()
        wait_until(lambda: "gets no new pilots" in futures[-1].why(), DEADLINE_S, "the reason")
        wait_until(looks(slurm, 2), DEADLINE_S, "a look at the queue")
        os.kill(site.head_pid, signal.SIGKILL)
        wait_until(
            lambda: "JobHeldAdmin" in session.query("head")["trouble"], DEADLINE_S, "the next head"
        )
        wait_until(looks(slurm, 2), DEADLINE_S, "a look at the queue")
        assert slurm.submitted() == 1 and not slurm.calls("scancel")
        slurm.say_no_more("7001")
        slurm.switch_off("hold")
        first.result(DEADLINE_S)
        assert [future.result(DEADLINE_S) for future in futures] == [2**n for n in range(20)]


@pytest.mark.parametrize("phase", ["queued", "running"])
def test_a_job_that_somebody_cancels_is_asked_for_again(
    slurm: FakeSlurm, make: Make, phase: str
) -> None:
    site = make(pool={"max_nodes": 1})
    if phase == "queued":
        slurm.switch("hold")
    with site.guarded_session() as session:
        task = Held(session, site.scratch)
        if phase == "running":
            task.begun()
        wait_until(lambda: [p["job"] for p in pilots(site)] == ["7001"], DEADLINE_S, "the job")
        subprocess.run([slurm.commands / "scancel", "7001"], check=True)
        wait_until(lambda: slurm.submitted() == 2, DEADLINE_S, "another one")
        slurm.switch_off("hold")
        assert task.begun(1 + (phase == "running")) == "7002"
        assert task.let_go() == ["interrupted"] * (phase == "running") + ["ok"]


def test_tasks_that_wait_go_past_a_suspended_pilot(slurm: FakeSlurm, make: Make) -> None:
    site = make(pool={"max_nodes": 2})
    with site.guarded_session() as session:
        task = Held(session, site.scratch)
        job = task.begun()
        wait_until(lambda: pilots(site)[0]["state"] == "RUNNING", DEADLINE_S, "the pilot")
        subprocess.run([slurm.commands / "scontrol", "suspend", job], check=True)
        wait_until(lambda: pilots(site)[0]["state"] == "SUSPENDED", DEADLINE_S, "its suspension")
        assert session.submit(pow, 2, 5).result(DEADLINE_S) == 32, "in another pilot"
        subprocess.run([slurm.commands / "scontrol", "resume", job], check=True)
        assert task.let_go() == ["ok"] and task.jobs == [job]


def test_a_task_that_needs_more_memory_than_there_is_fails_in_the_end(
    slurm: FakeSlurm, make: Make
) -> None:
    site = make(pool={"max_nodes": 1})
    with site.guarded_session() as session:
        task = Held(session, site.scratch, max_crashes=1)
        for number in range(2):
            slurm.end(task.begun(number + 1), "OUT_OF_MEMORY")
        with pytest.raises(pilot.TaskCrashed, match=r"out of memory.* needs more memory than"):
            task.future.result(DEADLINE_S)
        assert session.submit(pow, 2, 5).result(DEADLINE_S) == 32
