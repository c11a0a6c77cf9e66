"""The fleet against a batch system that answers as the test tells it to."""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from pilot.head import fleet as f
from pilot.head.core.state import Pilot
from pilot.head.fleet import Fleet
from pilot.head.outlook import PilotRow, pool_limits
from pilot.head.setbacks import BACK_OFF_S
from pilot.head.store.store import Store
from pilot.scheduler.batch import Allocation, JobRequest, JobStatus, Phase, SubmitRefused, WhyEnded
from pilot.scheduler.elasticity import ClassDemand
from pilot.scheduler.resources import NodeShape, Resources
from pilot.site import create_site, open_site

NOW = 1000.0
HOUR = 3600.0


class FakeBatch:
    """Takes jobs, or refuses them, once it `may` answer; all that it took runs at once."""

    def __init__(self) -> None:
        self.refusal = ""
        #: What it says of jobs other than that they run, by id; and those that it leaves out.
        self.said: dict[str, dict[str, Any]] = {}
        self.hidden: set[str] = set()
        self.accounts: dict[str, JobStatus] = {}
        self.cancelled: list[str] = []
        self.may = threading.Event()
        self.may.set()
        self.taken: list[JobRequest] = []

    def submit(self, request: JobRequest) -> str:
        assert self.may.wait(20)
        if self.refusal:
            raise SubmitRefused(self.refusal)
        self.taken.append(request)
        return str(len(self.taken))

    def jobs(self, name_prefix: str, job_ids: Collection[str] = ()) -> dict[str, JobStatus]:
        return {
            str(job): JobStatus(
                **{
                    "job_id": str(job),
                    "name": request.name,
                    "phase": Phase.RUNNING,
                    "state": "RUNNING",
                    **self.said.get(str(job), {}),
                }
            )
            for job, request in enumerate(self.taken, 1)
            if str(job) not in self.hidden
        }

    def account(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        return {job: self.accounts[job] for job in job_ids if job in self.accounts}

    def ends_at(self, job_id: str) -> float | None:
        return None

    def cancel(self, job_ids: Iterable[str]) -> None:
        self.cancelled += job_ids

    def check(self, pools: object) -> str:
        return ""

    def release_nodes(self, job_id: str, keep: Iterable[str]) -> None:
        raise AssertionError

    def close(self) -> None:
        pass


class Head:
    """A fleet with all around it; `demand` is what its pools are asked for."""

    def __init__(self, directory: Path, batch: FakeBatch) -> None:
        pool = {"cores_per_node": 4, "max_nodes": 4, "nodes_per_pilot": 1, "walltime": "1h"}
        directory.mkdir(mode=0o700)
        config: dict[str, Any] = {"name": "test", "batch": "slurm", "pools": {"main": pool}}
        config["slurm"] = {"submit_interval": "1ms"}
        (directory / "site.yaml").write_text(yaml.safe_dump(config))
        site = open_site(directory)
        site.prepare()
        self.batch = batch
        self.store = Store(site.database)
        self.rooms: dict[str, Pilot] = {}
        self.demand: list[ClassDemand] = []
        self.lost: list[str] = []
        self._woken = threading.Event()
        self.fleet = Fleet(
            site,
            self.store,
            batch,
            self.rooms,
            self._woken.set,
            lambda name, _reason, **_: self.lost.append(name),
            lambda state, text: None,
        )

    def wants(self, **changes: Any) -> None:
        fields: dict[str, Any] = {"need": Resources(), "pool": "", "count": 1, "mean_s": None}
        self.demand = [ClassDemand(**{**fields, **changes})]

    def tick(self, now: float) -> None:
        self.fleet.tick(now, lambda: self.demand)

    def look(self, now: float) -> None:
        """Have it look at the queue, and take in what it hears, and what it asks then."""
        self.fleet._polled = 0.0
        self.fleet.poll(now)
        self.settle()

    def settle(self) -> None:
        """Take in all that the batch system has been asked."""
        for _ in range(4):
            self.fleet._thread.wait_for(lambda: None)
            self.fleet.take()

    def a_pilot(self, now: float = NOW) -> PilotRow:
        """One pilot whose job runs, and that has joined."""
        self.wants()
        self.tick(now)
        self.settle()
        (row,) = self.fleet.pilots.values()
        self.fleet.joined(row.name, row.job or "", "main", 1, now)
        self.fleet.worked(row.name)
        self.look(now)
        return row

    def take(self) -> None:
        """Take in what the batch system answers to the command under way."""
        assert self._woken.wait(20)
        self._woken.clear()
        self.fleet.take()


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Head]:
    batch = FakeBatch()
    made = Head(tmp_path / "site", batch)
    yield made
    batch.may.set()
    made.fleet.close()
    made.store.close()


def test_end_that_cannot_be_written_is_noticed_again(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(row: dict[str, object]) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    row = head.a_pilot()
    head.batch.said["1"] = {"phase": Phase.ENDED, "state": "FAILED", "why_ended": WhyEnded.FAILED}
    with monkeypatch.context() as patch:
        patch.setattr(head.store, "set_pilot", fail)
        with pytest.raises(sqlite3.OperationalError):
            head.look(NOW + 10.0)
    assert row.name in head.fleet.pilots, "the database has it, so the head does too"
    head.settle()
    head.look(NOW + 20.0)
    assert not head.fleet.pilots and not head.store.rows("pilots_alive", {})


# --- refusals ------------------------------------------------------------------------------------


def test_refusal_is_told_while_the_pool_wants_what_was_refused(head: Head) -> None:
    head.batch.refusal = "Invalid account"
    head.wants()
    head.tick(NOW)
    head.take()
    assert head.fleet.trouble == "no pilot for pool main: Invalid account"
    head.tick(NOW + 1.0)
    assert head.fleet.trouble and head.fleet.outlook().refused
    head.demand = []
    head.tick(NOW + 2.0)
    assert not head.fleet.trouble and not head.fleet.outlook().refused


def test_waits_grow_while_refusals_follow_each_other(head: Head) -> None:
    head.batch.refusal = "Invalid account"
    head.wants()
    head.tick(NOW)
    head.take()
    waits = [BACK_OFF_S[0]]
    for _ in range(3):
        refused = head.fleet.outlook().refused["main"]
        assert refused.wait_s == waits[-1]
        head.tick(refused.until - 0.1)
        assert not head.fleet.pilots, "it is not time yet"
        head.batch.may.clear()
        head.tick(refused.until + 1.0)
        # While this is asked for, nothing more is wanted; it may be refused again.
        head.tick(refused.until + 2.0)
        assert head.fleet.trouble
        head.batch.may.set()
        head.take()
        waits.append(2 * waits[-1])
    assert head.fleet.outlook().refused["main"].wait_s == waits[-1]


def test_refusal_is_forgotten_with_the_next_pilot(head: Head) -> None:
    head.batch.refusal = "Invalid account"
    head.wants()
    head.tick(NOW)
    head.take()
    head.batch.refusal = ""
    head.tick(NOW + BACK_OFF_S[0])
    head.take()
    assert not head.fleet.trouble and len(head.batch.taken) == 1


# --- what elasticity sees ------------------------------------------------------------------------


def test_supply_has_the_walltime_that_is_left_and_what_pilots_hold(head: Head) -> None:
    head.wants()
    head.tick(NOW)
    head.take()
    (pilot,) = head.fleet.supply(NOW)
    assert (pilot.left_s, pilot.load, pilot.queued) == (HOUR, 0, True)
    head.fleet.joined(pilot.name, "1", "main", 1, NOW)
    room = Pilot(pilot.name, "main", NodeShape(4), 1, NOW + HOUR)
    room.load = 3
    head.rooms[pilot.name] = room
    (pilot,) = head.fleet.supply(NOW + 600.0)
    assert (pilot.left_s, pilot.load, pilot.queued) == (HOUR - 600.0, 3, False)
    room.ends_at = 0.0
    assert head.fleet.supply(NOW)[0].left_s == math.inf


def test_pilot_that_ends_too_soon_is_joined_by_another(head: Head) -> None:
    head.wants(required_walltime_s=0.9 * HOUR)
    head.tick(NOW)
    head.take()
    (name,) = head.fleet.pilots
    head.fleet.joined(name, "1", "main", 1, NOW)
    head.rooms[name] = Pilot(name, "main", NodeShape(4), 1, NOW + HOUR)
    head.tick(NOW + 10.0)
    assert len(head.fleet.pilots) == 1
    head.tick(NOW + 600.0)
    assert len(head.fleet.pilots) == 2


def test_pools_are_those_of_the_site(tmp_path: Path) -> None:
    site = create_site(tmp_path / "other", "virtual")
    main, urgent = pool_limits(site.config)
    assert (main.name, main.max_nodes, main.walltime_s, main.idle_s) == ("main", 4, 1800.0, 30.0)
    assert urgent.name == "urgent"


# --- pilots that are silent, or not listed -------------------------------------------------------


def test_the_job_of_a_pilot_whose_node_is_lost_is_cancelled_and_replaced(head: Head) -> None:
    row = head.a_pilot()
    later = NOW + f.SILENT_S
    head.look(later)
    assert not head.batch.cancelled
    head.look(later + 5.0)
    assert head.batch.cancelled == ["1"] and row.draining
    assert "silent for 65 s, and its job was cancelled" in row.reason
    head.tick(later + 6.0)
    head.settle()
    assert len(head.batch.taken) == 2, "another one is asked for"
    # Slurm may not have heard it.
    head.look(later + 5.0 + f.CANCEL_AGAIN_S + 1.0)
    assert head.batch.cancelled == ["1", "1"]
    head.batch.said["1"] = {"phase": Phase.ENDED, "why_ended": WhyEnded.CANCELLED}
    head.look(later + 60.0)
    assert "1" not in {each.job for each in head.fleet.pilots.values()}


def test_the_reason_of_a_pilot_that_says_good_bye_is_kept(head: Head) -> None:
    row = head.a_pilot()
    later = NOW + 2 * f.JOIN_S
    head.fleet.heard(row.name, 0.0, False, later)
    head.fleet.left(row.name, "its walltime is over")
    head.look(later + 1.0)
    assert row.reason == "its walltime is over" and not head.batch.cancelled
    head.batch.said["1"] = {"phase": Phase.ENDED, "why_ended": WhyEnded.COMPLETED}
    head.look(later + 2.0)
    assert (row.state, row.reason) == ("ENDED", "its walltime is over")


def test_a_pilot_whose_job_hangs_at_its_end_is_lost_too(head: Head) -> None:
    row = head.a_pilot()
    head.batch.said["1"] = {"phase": Phase.ENDING}
    head.look(NOW + f.SILENT_S - 1.0)
    assert not head.lost
    head.look(NOW + f.SILENT_S + 1.0)
    assert head.lost == [row.name]


def test_a_pilot_whose_job_is_suspended_is_not_silent(head: Head) -> None:
    row = head.a_pilot()
    head.batch.said["1"] = {"phase": Phase.SUSPENDED}
    for seconds in range(0, 600, 20):
        head.look(NOW + seconds)
    assert row.suspended and not row.draining
    del head.batch.said["1"]
    head.look(NOW + 600.0)
    assert not row.suspended and not head.batch.cancelled


def test_a_head_that_stood_still_takes_nobody_for_silent(head: Head) -> None:
    row = head.a_pilot()
    head.fleet.forgive(600.0)
    head.look(NOW + 601.0)
    assert not head.batch.cancelled and row.heard == NOW + 600.0


def test_a_pilot_that_never_reports_is_given_up_in_the_end(head: Head) -> None:
    head.wants()
    head.tick(NOW)
    head.settle()
    (row,) = head.fleet.pilots.values()
    head.fleet._started = NOW
    head.look(NOW)
    head.look(NOW + f.JOIN_S - 1.0)
    assert not head.batch.cancelled
    head.look(NOW + f.JOIN_S + 1.0)
    assert head.batch.cancelled == ["1"] and "has not reported itself" in row.reason


def test_a_pilot_that_speaks_is_there_and_one_that_does_not_is_looked_for(head: Head) -> None:
    row = head.a_pilot()
    head.batch.hidden.add("1")
    now = NOW
    for _ in range(100):
        now += 2.0
        head.look(now)
        head.fleet.heard(row.name, 0.0, False, now + 1.0)
    assert row.name in head.fleet.pilots and len(head.batch.taken) == 1
    # It is silent now; accounting says that it runs.
    head.batch.accounts["1"] = JobStatus(
        job_id="1", name=row.name, phase=Phase.RUNNING, state="RUNNING"
    )
    now += 5.0
    for _ in range(10):
        now += 2.0
        head.look(now)
    assert row.name in head.fleet.pilots
    head.batch.accounts["1"] = JobStatus(
        job_id="1", name=row.name, phase=Phase.ENDED, state="X", why_ended=WhyEnded.TIMEOUT
    )
    head.look(now + 2.0)
    assert row.name not in head.fleet.pilots


def test_a_pilot_that_nobody_knows_is_given_up_after_a_while_and_cancelled(head: Head) -> None:
    row = head.a_pilot()
    head.batch.hidden.add("1")
    head.look(NOW + 2.0)
    head.look(NOW + 2.0 + f.MISSING_S - 1.0)
    assert row.name in head.fleet.pilots
    head.look(NOW + 2.0 + f.MISSING_S + 1.0)
    assert row.name not in head.fleet.pilots and head.batch.cancelled == ["1"]


def test_a_renamed_job_is_known_by_its_id(head: Head) -> None:
    row = head.a_pilot()
    head.batch.said["1"] = {"name": "another"}
    head.look(NOW + 50.0)
    assert row.missing_since is None


def test_a_pilot_that_was_told_to_end_does_not_start_anew(head: Head) -> None:
    """It is preempted in the moment in which it ends, and waits in the queue again."""
    row = head.a_pilot()
    head.fleet.told(row.name)
    head.batch.said["1"] = {"phase": Phase.QUEUED, "state": "PENDING"}
    head.look(NOW + 1.0)
    assert head.batch.cancelled == ["1"]


def test_a_life_that_was_told_nothing_is_a_pilot_like_any(head: Head) -> None:
    row = head.a_pilot()
    head.fleet.told(row.name)
    head.fleet.heard(row.name, 0.0, True, NOW + 1.0)
    assert row.draining
    head.fleet.joined(row.name, "1", "main", 1, NOW + 2.0)  # requeued between two looks
    head.fleet.heard(row.name, 0.0, False, NOW + 3.0)
    assert not row.draining


def test_one_list_says_nothing_of_a_pilot_of_an_earlier_head(head: Head) -> None:
    row = head.a_pilot()
    row.heard, row.created = 0.0, NOW - 10 * HOUR  # as the next head has it
    head.batch.hidden.add("1")
    head.look(NOW + 2.0)
    assert row.name in head.fleet.pilots
    head.batch.hidden.clear()
    head.look(NOW + 4.0)
    assert row.name in head.fleet.pilots and not head.batch.cancelled


def test_what_was_started_by_hand_is_not_cancelled(head: Head) -> None:
    """The number that it gives for its job may be that of another one."""
    head.fleet.joined("by-hand", "4711", "main", 1, NOW)
    head.look(NOW + 2.0)
    head.look(NOW + 2.0 + 2 * f.MISSING_S)
    assert "by-hand" not in head.fleet.pilots and not head.batch.cancelled


# --- nodes ---------------------------------------------------------------------------------------


def test_nodes_that_slurm_counts_are_counted_against_the_limit(head: Head) -> None:
    row = head.a_pilot()
    head.batch.said["1"] = {"node_count": 4}
    head.look(NOW + 1.0)
    head.fleet.heard(row.name, 0.0, False, NOW + 1.0)
    assert row.nodes == 4
    head.batch.said["1"] = {"node_count": 1, "phase": Phase.ENDING}
    head.look(NOW + 1.5)
    assert row.nodes == 4, "it may be requeued, and have all of them again"
    # Its agent has lost three of them; the job has all, and the pool may have no more.
    head.rooms[row.name] = Pilot(row.name, "main", NodeShape(4), 1, 0.0)
    (supply,) = head.fleet.supply(NOW + 1.0)
    assert (supply.nodes, supply.held) == (1, 4)
    head.wants(count=100)
    head.tick(NOW + 2.0)
    head.settle()
    assert len(head.batch.taken) == 1


# --- the head's own allocation -------------------------------------------------------------------


class Started:
    returncode = 0

    def terminate(self) -> None:
        pass

    def poll(self) -> int | None:
        return None

    def wait(self) -> int:
        return 0


def test_the_own_allocation_is_kept_idle_or_not(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[float | None] = []

    def start(site: object, row: PilotRow, job: Allocation, ends_at: float | None) -> Started:
        ends.append(ends_at)
        return Started()

    monkeypatch.setattr(f, "start_agent", start)
    monkeypatch.setattr(head.batch, "ends_at", lambda job: 5600.0)
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    head.fleet.adopt("77", NOW)
    head.settle()
    assert ends == [5600.0], "Slurm is asked when the walltime ends"
    (row,) = head.fleet.pilots.values()
    head.fleet.joined(row.name, "77", "main", 1, NOW)
    head.rooms[row.name] = Pilot(row.name, "main", NodeShape(4), 1, 0.0)
    head.fleet.heard(row.name, 10 * HOUR, False, NOW)
    assert head.fleet.tick(NOW + 1.0, list) == []
    head.fleet.cancel_all([row.name])
    assert not head.batch.cancelled


# --- pilots that end before they have worked -----------------------------------------------------


def lose(head: Head, now: float) -> None:
    """The pilot that is asked for now fails at once."""
    before = len(head.batch.taken)
    head.tick(now)
    head.settle()
    assert len(head.batch.taken) == before + 1, "none was asked for"
    job = str(before + 1)
    head.batch.said[job] = {"phase": Phase.ENDED, "why_ended": WhyEnded.FAILED, "exit_status": 1}
    head.look(now + 1.0)


def test_waits_grow_while_pilots_die(head: Head) -> None:
    head.wants()
    now = NOW
    for _ in range(3):
        lose(head, now)
        now += 2.0
    waits = []
    for _ in range(9):
        (losses,) = head.fleet.outlook().losses.values()
        waits.append(losses.wait_s)
        head.tick(losses.until - 0.5)
        head.settle()
        assert not head.fleet.pilots, "it is not time yet"
        now = losses.until + 1.0
        lose(head, now)
    assert waits == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]
    assert "the last 12 pilots of pool main ended before they had worked" in head.fleet.trouble


def test_many_that_die_together_are_one_incident(head: Head) -> None:
    head.wants(count=100)
    head.fleet._pools[0] = msgspec.structs.replace(head.fleet._pools[0], max_queued=4)
    head.tick(NOW)
    head.settle()
    assert len(head.batch.taken) == 4
    for job in "1234":
        head.batch.said[job] = {"phase": Phase.ENDED, "why_ended": WhyEnded.FAILED}
    head.look(NOW + 1.0)
    (losses,) = head.fleet.outlook().losses.values()
    assert (losses.count, losses.wait_s) == (4, 5.0)
    # One at a time is tried from now on.
    head.tick(losses.until + 1.0)
    head.settle()
    assert len(head.batch.taken) == 5
    (row,) = head.fleet.pilots.values()
    head.fleet.joined(row.name, "5", "main", 1, NOW)
    head.tick(losses.until + 3.0)
    head.settle()
    assert len(head.batch.taken) == 5
    head.fleet.worked(row.name)
    assert not head.fleet.trouble
    head.tick(losses.until + 5.0)
    head.settle()
    assert len(head.batch.taken) > 5


def test_pilots_that_are_told_to_end_or_preempted_have_not_failed(head: Head) -> None:
    for job in range(1, 6):
        head.wants()
        now = NOW + 100.0 * job
        head.tick(now)
        head.settle()
        (row,) = head.fleet.pilots.values()
        why = WhyEnded.CANCELLED
        if job % 2:
            head.fleet.told(row.name)
        else:
            why = WhyEnded.PREEMPTED
        head.batch.said[str(job)] = {"phase": Phase.ENDED, "why_ended": why}
        head.look(now + 1.0)
    assert not head.fleet.trouble and not head.fleet._losses


def test_what_is_wanted_no_more_is_told_no_more(head: Head) -> None:
    head.wants()
    for number in range(3):
        lose(head, NOW + 2.0 * number)
    assert head.fleet.trouble
    head.demand = []
    head.tick(NOW + 60.0)
    assert not head.fleet.trouble
