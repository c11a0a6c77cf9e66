"""The fleet against a batch system that answers as the test tells it to."""

from __future__ import annotations

import itertools
import json
import math
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec
import pytest
from support.fleets import NOW, FakeBatch, Head

from pilot.head import submitting
from pilot.head.core.state import Pilot
from pilot.head.decisions import REASONS
from pilot.head.fleet import DECIDE_LEAST_S
from pilot.head.giving_up import CANCEL_AGAIN_S, JOIN_S, MISSING_S, SILENT_S
from pilot.head.outlook import QUEUED, STUCK_S, PilotRow, pool_limits
from pilot.head.setbacks import BACK_OFF_S, REST_S
from pilot.head.strays import QUEUED_S
from pilot.scheduler.batch import (
    Allocation,
    BatchError,
    BatchUnavailable,
    JobRequest,
    JobStatus,
    Phase,
    Prediction,
    ShrinkRefused,
    Stuck,
    WhyEnded,
)
from pilot.scheduler.pacing import SETTLE_S
from pilot.scheduler.resources import NodeShape
from pilot.scheduler.waits import LEAST_S, LEAST_WORK_S, MOST_S, MOST_WORK_S, UNKNOWN_KEEP_S
from pilot.site import create_site
from pilot.wire.messages.pilot import EndPilot, KeepNodes, NodesReturned, ReturnNodes

HOUR = 3600.0


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Head]:
    batch = FakeBatch()
    made = Head(tmp_path / "site", batch)
    yield made
    made.close()


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


def test_pilots_are_asked_for_when_they_are_about_to_be_submitted(tmp_path: Path) -> None:
    head = Head(tmp_path / "site", FakeBatch(), "1s", max_pilots_queued=4)
    head.batch.may.clear()
    head.wants(count=16, mean_s=HOUR)
    for second in range(10):
        head.tick(NOW + second)
    assert len(head.fleet.pilots) == 1, "no other one while it is being submitted"
    told = head.store.rows("last_decisions", {"kinds": json.dumps(REASONS)})
    assert not told, "more are wanted: there is no reason why not"
    head.batch.may.set()
    head.settle()
    head.tick(NOW + 9.25)
    assert len(head.fleet.pilots) == 2, "the end of that submission has it decide at once"
    head.close()


def test_a_program_that_submits_task_by_task_gets_one_pilot_for_all(tmp_path: Path) -> None:
    head = Head(tmp_path / "site", FakeBatch(), nodes_per_pilot=4)
    head.wants(count=1, mean_s=HOUR)
    head.tick(NOW)
    assert not head.fleet.pilots
    head.wants(count=16, mean_s=HOUR)
    head.fleet.hurry()
    head.tick(NOW + 0.03)
    assert [row.nodes for row in head.fleet.pilots.values()] == [4]
    head.close()


def test_a_single_task_waits_for_no_more_than_a_moment(tmp_path: Path) -> None:
    head = Head(tmp_path / "site", FakeBatch(), nodes_per_pilot=4)
    head.wants(count=1, mean_s=HOUR)
    head.tick(NOW)
    head.tick(NOW + SETTLE_S)
    assert [row.nodes for row in head.fleet.pilots.values()] == [1]
    head.close()


# --- refusals ------------------------------------------------------------------------------------


def test_silence_is_told_no_longer_than_it_lasts_also_without_pilots(head: Head) -> None:
    head.fleet._thread.no_answer(BatchUnavailable("no answer within 30 s"))
    assert "no answer within 30 s" in head.fleet.trouble and not head.fleet.pilots
    head.batch.away = "no answer within 30 s"
    head.fleet.poll(NOW)
    head.settle()
    assert head.fleet.trouble, "it is still silent"
    head.batch.away = ""
    head.fleet.poll(NOW + 60.0)
    head.settle()
    assert not head.fleet.trouble
    assert head.batch.looks == 2
    head.fleet.poll(NOW + 600.0)
    head.settle()
    assert head.batch.looks == 2, "nothing is to be learned"


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


def test_job_that_cannot_be_asked_for_is_refused_in_words(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "agent_command", lambda *_: [])
    head.wants()
    head.tick(NOW)
    head.take()
    assert head.fleet.trouble.startswith("no pilot for pool main: job ")
    assert head.fleet.trouble.endswith("has no command") and not head.batch.taken


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


def test_work_that_comes_and_goes_does_not_begin_with_the_shortest_wait_each_time(
    head: Head,
) -> None:
    head.batch.refusal = "Invalid account"
    tried, now = [], NOW
    while now < NOW + 200.0:
        head.demand = []
        head.tick(now)
        head.wants()
        head.tick(now + 1.0)
        if head.fleet.pilots:
            tried.append(now - NOW)
            head.take()
        now += 2.0
    gaps = [after - before for before, after in itertools.pairwise(tried)]
    assert gaps[0] >= BACK_OFF_S[0] and gaps[1] > gaps[0]
    assert len(tried) < 10 and max(gaps) <= REST_S + 2.0, "who has mended it waits no longer"


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
    assert (main.name, main.max_nodes, main.walltime_s) == ("main", 4, 1800.0)
    assert urgent.name == "urgent"


# --- walltimes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("moved_s", [-600.0, 1200.0])
def test_a_walltime_that_somebody_has_moved_is_told_until_the_pilot_knows(
    head: Head, moved_s: float
) -> None:
    row = head.a_pilot()
    slurm_s = 77.0  # its clock is another one
    head.rooms[row.name] = Pilot(row.name, "main", NodeShape(4), 1, NOW + 3600.0)
    head.batch.said["1"] = {"ends_at": NOW + slurm_s + 3600.0}
    head.look(NOW + 1.0)
    assert head.fleet.walltime_left_s(row.name, NOW + 3600.0, NOW + 1.0) is None
    head.batch.said["1"] = {"ends_at": NOW + slurm_s + 3600.0 + moved_s}
    for _ in range(2):
        head.look(NOW + 10.0)
        left_s = head.fleet.walltime_left_s(row.name, NOW + 3600.0, NOW + 10.0)
        assert left_s == 3590.0 + moved_s
    assert head.fleet.walltime_left_s(row.name, NOW + 3601.0 + moved_s, NOW + 11.0) is None
    assert head.fleet.walltime_left_s(row.name, NOW + 3601.0 + moved_s, NOW + 12.0) is None


# --- idle pilots ----------------------------------------------------------------------------------


@pytest.mark.parametrize("works", [False, True])
def test_a_pilot_ends_as_soon_as_it_has_been_idle_for_long_enough(head: Head, works: bool) -> None:
    row = head.a_pilot()
    head.demand = []
    room = head.rooms[row.name] = Pilot(row.name, "main", NodeShape(4), 1, 0.0)
    head.fleet.heard(row.name, LEAST_S / 2, False, NOW + 10.0)
    assert head.tick(NOW + 10.0) == []
    room.load = int(works)  # it was given a task since its last word
    told = head.tick(NOW + 10.0 + LEAST_S / 2)
    assert told == ([] if works else [(row.name, EndPilot("idle for 1 s"))])


def test_an_idle_pilot_does_not_wait_for_the_decision_that_is_due_for_others(head: Head) -> None:
    row = head.a_pilot()
    head.demand = []
    head.fleet.heard(row.name, 0.0, False, NOW + 9.0)
    head.rooms[row.name] = Pilot(row.name, "main", NodeShape(4), 1, 0.0)
    assert head.tick(NOW + 9.9) == []  # the next decision is due in a second
    head.fleet.heard(row.name, LEAST_S, False, NOW + 10.0)
    told = head.tick(NOW + 10.0 + DECIDE_LEAST_S)
    assert told == [(row.name, EndPilot("idle for 1 s"))]


# --- nodes that go back ---------------------------------------------------------------------------


def shrinkable(head: Head) -> PilotRow:
    """Return a pilot of 4 nodes, of which one works and two have been idle for long."""
    row = head.a_pilot()
    head.batch.said["1"] = {"node_count": 4}
    head.look(NOW + 1.0)
    head.rooms[row.name] = Pilot(row.name, "main", NodeShape(4), 4, 0.0)
    head.wants(assigned=1, mean_s=1000.0)
    idle = [("n2", 900.0), ("n3", 1000.0)]
    head.fleet.heard(row.name, 0.0, False, NOW + 2.0, idle)
    return row


def test_a_pilot_is_asked_for_its_idle_nodes_once(head: Head) -> None:
    row = shrinkable(head)
    ((name, message),) = head.tick(NOW + 3.0)
    assert isinstance(message, ReturnNodes)
    assert (name, message.nodes) == (row.name, ["n3", "n2"])
    assert head.tick(NOW + 5.0) == [], "it may take a moment to leave them"


@pytest.mark.parametrize(
    ("error", "answer", "kept", "nodes"),
    [
        (None, NodesReturned(["n3"]), [("1", ["n1", "n2", "n4"])], 3),
        (ShrinkRefused("no"), KeepNodes(["n3"]), [], 4),
        (BatchUnavailable("no answer"), None, [], 4),
    ],
)
def test_nodes_that_a_pilot_has_left_go_back_to_the_batch_system(
    head: Head,
    error: BatchError | None,
    answer: NodesReturned | KeepNodes | None,
    kept: list[tuple[str, list[str]]],
    nodes: int,
) -> None:
    row = shrinkable(head)
    head.batch.shrinking = error
    answers: list[object] = []
    for _ in range(2):  # a pilot says it again until it has an answer
        head.fleet.shrinking.returned(
            row.name, ["n3"], ["n1", "n2", "n4"], NOW + 4.0, answers.append
        )
    head.settle()
    assert answers == [answer] * (answer is not None)
    assert (head.batch.kept, row.nodes) == (kept, nodes)
    if isinstance(error, ShrinkRefused):
        assert head.tick(NOW + 200.0) == [], "not again for a while"
    if answer is None:  # the pilot goes on saying it
        head.batch.shrinking = None
        for after_s in (1.0, 10.0):
            assert answers == []
            head.fleet.shrinking.returned(
                row.name, ["n3"], ["n1", "n2", "n4"], NOW + 4.0 + after_s, answers.append
            )
            head.settle()
        assert answers == [NodesReturned(["n3"])]


def test_nodes_that_were_refused_are_in_use_again_whatever_was_said_before(head: Head) -> None:
    """The pilot goes on saying that it has left a node until it hears that it keeps it."""
    row = shrinkable(head)
    head.tick(NOW + 3.0)
    head.batch.shrinking = ShrinkRefused("no")
    answers: list[object] = []
    for after_s in (4.0, 5.0):
        head.fleet.shrinking.returned(
            row.name, ["n3"], ["n1", "n2", "n4"], NOW + after_s, answers.append
        )
        head.settle()
        head.batch.shrinking = None
    assert answers == [KeepNodes(["n3"])] * 2 and not head.batch.kept


def test_a_pilot_that_has_lost_its_other_nodes_is_not_shrunk_to_nothing(head: Head) -> None:
    row = shrinkable(head)
    answers: list[object] = []
    head.fleet.shrinking.returned(row.name, ["n3"], [], NOW + 4.0, answers.append)
    head.settle()
    assert not answers and not head.batch.kept


def test_nodes_of_ones_own_allocation_are_not_given_away(head: Head) -> None:
    row = shrinkable(head)
    row.own = True
    assert head.tick(NOW + 3.0) == []
    answers: list[object] = []
    head.fleet.shrinking.returned(row.name, ["n3"], ["n1"], NOW, answers.append)
    assert answers == [KeepNodes(["n3"])] and not head.batch.kept


# --- pilots that are silent, or not listed -------------------------------------------------------


def test_the_job_of_a_pilot_whose_node_is_lost_is_cancelled_and_replaced(head: Head) -> None:
    row = head.a_pilot()
    later = NOW + SILENT_S
    head.look(later)
    assert not head.batch.cancelled
    head.look(later + 5.0)
    assert head.batch.cancelled == ["1"] and row.draining
    assert "silent for 65 s, and its job was cancelled" in row.reason
    head.tick(later + 6.0)
    head.settle()
    assert len(head.batch.taken) == 2, "another one is asked for"
    # Slurm may not have heard it.
    head.look(later + 5.0 + CANCEL_AGAIN_S + 1.0)
    assert head.batch.cancelled == ["1", "1"]
    head.batch.said["1"] = {"phase": Phase.ENDED, "why_ended": WhyEnded.CANCELLED}
    head.look(later + 60.0)
    assert "1" not in {each.job for each in head.fleet.pilots.values()}


def test_the_reason_of_a_pilot_that_says_good_bye_is_kept(head: Head) -> None:
    row = head.a_pilot()
    later = NOW + 2 * JOIN_S
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
    head.look(NOW + SILENT_S - 1.0)
    assert not head.lost
    head.look(NOW + SILENT_S + 1.0)
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
    head.look(NOW + JOIN_S - 1.0)
    assert not head.batch.cancelled
    head.look(NOW + JOIN_S + 1.0)
    assert head.batch.cancelled == ["1"] and "has not reported itself" in row.reason


def test_a_pilot_that_does_not_reach_the_head_is_told_with_the_key_to_set(head: Head) -> None:
    row = head.a_pilot()
    row.heard = 0.0
    file = head.site.unreached(row.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    head.batch.said[row.job or ""] = {"phase": Phase.RUNNING, "state": "RUNNING"}
    head.look(NOW + 10.0)
    assert not head.fleet.trouble
    file.write_text("from n1: login:4000: the name is not known there")
    head.look(NOW + 20.0)
    assert "does not reach this head from n1: login:4000: the name" in head.fleet.trouble
    assert "head.address" in head.fleet.trouble
    head.fleet.joined(row.name, row.job or "", "main", 1, NOW + 30.0)
    assert not head.fleet.trouble


def test_a_pool_whose_nodes_come_soon_asks_for_them_sooner(head: Head) -> None:
    assert head.fleet.outlook().pools[0].patience_s == MOST_WORK_S
    head.a_pilot()
    assert head.fleet.outlook().pools[0].patience_s == LEAST_WORK_S


def test_the_wait_for_the_end_of_another_pilot_is_no_wait_for_nodes(head: Head) -> None:
    row = head.a_pilot()
    row.state, row.started, row.follows = QUEUED, None, "before"
    head.fleet.joined(row.name, row.job or "", "main", 1, row.created + 600.0)
    assert head.fleet.supply(NOW)[0].keep_s == LEAST_S


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
    head.look(NOW + 2.0 + MISSING_S - 1.0)
    assert row.name in head.fleet.pilots
    head.look(NOW + 2.0 + MISSING_S + 1.0)
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
    head.look(NOW + 2.0 + 2 * MISSING_S)
    assert "by-hand" not in head.fleet.pilots and not head.batch.cancelled


def test_a_pilot_that_reports_itself_before_its_submission_is_known_is_cancelled_too(
    head: Head,
) -> None:
    row = head.a_pilot()
    row.submitted = None  # its head was killed meanwhile; the next one has the job from the pilot
    head.look(NOW + 2.0)
    head.look(NOW + 4.0 + SILENT_S)
    assert head.batch.cancelled == ["1"]


# --- jobs that nobody knows, or that stand still -------------------------------------------------


def test_a_job_that_turns_up_when_its_pilot_was_given_up_is_cancelled(head: Head) -> None:
    row = head.a_pilot()
    head.fleet.ended(row.name, "it was never submitted", NOW)
    head.demand = []
    head.a_pilot(NOW + 1.0)
    head.batch.said["1"] = {"phase": Phase.QUEUED, "state": "PENDING"}
    head.look(NOW + 2.0)
    assert not head.batch.cancelled
    head.look(NOW + 2.0 + QUEUED_S)
    assert head.batch.cancelled == ["1"]


def test_a_suspended_pilot_serves_nothing_and_is_there_again(head: Head) -> None:
    row = head.a_pilot()
    head.wants(count=100)
    head.batch.said["1"] = {"phase": Phase.SUSPENDED, "state": "SUSPENDED"}
    head.look(NOW + 5.0)
    (pilot,) = head.fleet.supply(NOW + 5.0)
    assert pilot.draining and pilot.held == 1
    head.tick(NOW + 6.0)
    head.settle()
    assert len(head.batch.taken) > 1, "others do what it does not"
    head.fleet.heard(row.name, 0.0, False, NOW + 7.0)
    assert not head.fleet.supply(NOW + 7.0)[0].draining


def test_the_queue_is_asked_less_and_less_while_nothing_changes(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = head.a_pilot()
    asked = []
    jobs = head.batch.jobs

    def note(prefix: str, ids: Collection[str] = ()) -> dict[str, JobStatus]:
        asked.append(now)
        return jobs(prefix, ids)

    monkeypatch.setattr(head.batch, "jobs", note)
    for second in range(600):
        now = NOW + second
        head.fleet.heard(row.name, 0.0, False, now)
        head.fleet.poll(now)
        head.settle()
    assert 37 < len(asked) < 55, "once in 2 s at first, and once in 16 s in the end"
    assert asked[-1] - asked[-2] == 16.0
    head.fleet.left(row.name, "it ends")
    head.fleet.poll(now)
    head.settle()
    assert asked[-1] == now


class Ranging(FakeBatch):
    """A batch system that takes jobs with a range of nodes."""

    def __init__(self, refuses: str = "") -> None:
        super().__init__()
        self.refuses = refuses
        self.limited: list[tuple[str, int]] = []

    def predict(self, request: JobRequest) -> Prediction:
        assert request.least_nodes <= request.nodes
        return Prediction(start=None)

    def limit_nodes(self, job_id: str, nodes: int) -> None:
        self.limited.append((job_id, nodes))
        if self.refuses:
            raise BatchError(self.refuses)


@pytest.mark.parametrize("refuses", ["", "job 1 may get more nodes than 2"])
def test_a_pilot_that_waits_again_asks_for_the_nodes_that_it_had(
    tmp_path: Path, refuses: str, caplog: pytest.LogCaptureFixture
) -> None:
    batch = Ranging(refuses)
    head = Head(tmp_path / "site", batch, nodes_per_pilot=4)
    head.wants(count=16, mean_s=HOUR)
    head.tick(NOW)
    head.settle()
    (row,) = head.fleet.pilots.values()
    assert row.nodes == 4
    head.fleet.joined(row.name, row.job or "", "main", 2, NOW)
    head.fleet.worked(row.name)
    # Of four nodes the job got two, and another pilot has come for the rest.
    batch.said["1"] = {"node_count": 2}
    head.look(NOW + 1.0)
    head.fleet.heard(row.name, 0.0, False, NOW + 1.0)
    batch.said["1"] = {**HELD_BACK, "restart_count": 1, "node_count": 1}
    head.look(NOW + 10.0)
    head.settle()
    assert batch.limited == [("1", 2)]
    assert (refuses in caplog.text) and row.nodes == 2
    head.close()


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


def test_pilot_in_the_queue_counts_with_all_nodes_that_it_may_get(tmp_path: Path) -> None:
    head = Head(tmp_path / "site", FakeBatch(), nodes_per_pilot=4)
    head.wants(count=16, mean_s=HOUR)
    head.tick(NOW)
    head.settle()
    (row,) = head.fleet.pilots.values()
    head.batch.said["1"] = {"phase": Phase.QUEUED, "state": "PENDING", "node_count": 1}
    head.look(NOW + 1.0)
    head.tick(NOW + 2.0)
    head.settle()
    assert row.nodes == 4 and len(head.batch.taken) == 1, "max_nodes is 4"
    head.batch.said["1"] = {"node_count": 2}
    head.look(NOW + 3.0)
    assert row.nodes == 2, "it has what it got"
    head.close()


# --- the head's own allocation -------------------------------------------------------------------


class Started:
    returncode = 0
    killed = False

    def terminate(self) -> None:
        pass

    def kill(self) -> None:
        self.killed = True

    def poll(self) -> int | None:
        return None

    def wait(self) -> int:
        return 0


def test_the_own_allocation_is_kept_idle_or_not(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Allocation] = []

    def start(site: object, row: PilotRow, job: Allocation) -> Started:
        told.append(job)
        return Started()

    monkeypatch.setattr("pilot.head.adopting.start_agent", start)
    its = Allocation("77", "n1", ends_at=5600.0, cores=2, memory_mib=100, gpus=0)
    head.batch.allocations["77"] = its
    head.fleet.adopting.adopt_own("77", NOW)
    head.settle()
    assert told == [its], "Slurm is asked what the job has"
    (row,) = head.fleet.pilots.values()
    head.fleet.joined(row.name, "77", "main", 1, NOW)
    head.rooms[row.name] = Pilot(row.name, "main", NodeShape(4), 1, 0.0)
    head.fleet.heard(row.name, 10 * HOUR, False, NOW)
    assert head.fleet.tick(NOW + 1.0, list) == []
    head.fleet.cancel_all([row.name])
    assert not head.batch.cancelled


def test_agent_of_the_own_allocation_that_an_earlier_head_has_not_started_is_given_up(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pilot.head.adopting.start_agent", lambda *_: Started())
    head.fleet.adopting.adopt_own("77", NOW)
    head.settle()
    (row,) = head.fleet.pilots.values()
    head.fleet.adopting._adopted = ""  # as if all that had been before this head
    head.fleet.adopting.here.clear()
    head.batch.said["77"] = {"phase": Phase.RUNNING, "state": "RUNNING"}
    head.fleet._started = NOW
    # In the same job the next head starts one, when that of the first must have failed.
    head.fleet.adopting.adopt_own("77", NOW + 1.0)
    head.look(NOW + 10.0)
    head.look(NOW + 9.0 + SILENT_S)
    assert list(head.fleet.pilots) == [row.name], "it may join yet"
    head.look(NOW + 11.0 + SILENT_S)
    head.look(NOW + 12.0 + SILENT_S)
    (another,) = head.fleet.pilots.values()
    assert another.name != row.name and another.job == "77"
    assert not head.batch.cancelled


def test_an_agent_of_the_own_allocation_that_hangs_is_given_up_and_killed(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Started()
    monkeypatch.setattr("pilot.head.adopting.start_agent", lambda *_: process)
    head.fleet.adopting.adopt_own("77", NOW)
    head.settle()
    (row,) = head.fleet.pilots.values()
    head.fleet.joined(row.name, "77", "main", 1, NOW)
    head.look(NOW + SILENT_S - 1.0)
    assert row.name in head.fleet.pilots and not process.killed
    head.look(NOW + SILENT_S + 1.0)
    assert not head.fleet.pilots and process.killed
    assert not head.batch.cancelled, "the job is not ours"


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
    assert not head.fleet.trouble and not head.fleet._setbacks.losses


def test_what_is_wanted_no_more_is_told_no_more(head: Head) -> None:
    head.wants()
    for number in range(3):
        lose(head, NOW + 2.0 * number)
    assert head.fleet.trouble
    head.demand = []
    head.tick(NOW + 60.0)
    assert not head.fleet.trouble


# --- pilots that wait in the queue ---------------------------------------------------------------

WAITS: dict[str, object] = {"phase": Phase.QUEUED, "state": "PENDING", "reason": "Resources"}


def a_waiting_pilot(head: Head, **said: object) -> PilotRow:
    head.wants()
    head.tick(NOW)
    head.settle()
    (row,) = head.fleet.pilots.values()
    head.batch.said["1"] = {**WAITS, **said}
    head.look(NOW + 2.0)
    return row


def test_place_in_the_queue_is_kept_for_as_long_as_it_took_to_get_there(head: Head) -> None:
    a_waiting_pilot(head)
    head.tick(NOW + 100.0)
    head.demand = []
    for after_s in (101.0, 150.0, 199.0):
        head.tick(NOW + after_s)
        head.settle()
    assert not head.batch.cancelled, "it has waited for 100 s, and would have to again"
    head.wants()
    head.tick(NOW + 200.0)
    head.demand = []
    for after_s in (201.0, 400.0):
        head.tick(NOW + after_s)
        head.settle()
    assert not head.batch.cancelled, "there was work again, so the gap has begun anew"
    head.tick(NOW + 402.0)
    head.settle()
    assert head.batch.cancelled == ["1"]


HELD_BACK: dict[str, object] = {**WAITS, "reason": "BeginTime", "held_back": True}


def test_pilot_that_is_held_back_after_it_was_preempted_keeps_no_other_from_the_queue(
    head: Head,
) -> None:
    head.fleet._pools[0] = msgspec.structs.replace(head.fleet._pools[0], max_queued=1)
    row = head.a_pilot()
    head.wants(count=1000, mean_s=100.0)
    head.batch.said["1"] = HELD_BACK
    head.batch.said["2"] = head.batch.said["3"] = WAITS
    head.look(NOW + 10.0)
    head.tick(NOW + 11.0)
    head.settle()
    assert row.state == "QUEUED" and len(head.batch.taken) == 2
    head.batch.said["1"] = WAITS
    head.look(NOW + 130.0)
    head.batch.said["2"] = {}
    head.look(NOW + 140.0)
    head.fleet.joined(head.batch.taken[1].name, "2", "main", 1, NOW + 141.0)
    head.tick(NOW + 142.0)
    head.settle()
    assert len(head.batch.taken) == 2, "it waits for nodes now, as any other"


def test_wait_of_a_pilot_that_was_preempted_before_its_first_word_tells_nothing(head: Head) -> None:
    head.wants()
    head.tick(NOW)
    head.settle()
    (row,) = head.fleet.pilots.values()

    def keep_s() -> float:
        (supply,) = head.fleet.supply(NOW + 130.0)
        return supply.keep_s

    assert keep_s() == 130.0, "so long it has waited"
    head.batch.said["1"] = {**HELD_BACK, "restart_count": 1}
    head.look(NOW + 10.0)
    assert keep_s() == UNKNOWN_KEEP_S
    head.fleet.joined(row.name, "1", "main", 1, NOW + 130.0, life=1)
    assert keep_s() == UNKNOWN_KEEP_S


def test_pilot_that_is_to_start_later_and_has_had_no_nodes_is_in_the_queue(head: Head) -> None:
    head.fleet._pools[0] = msgspec.structs.replace(head.fleet._pools[0], max_queued=1)
    a_waiting_pilot(head, **HELD_BACK)  # as with --begin among the pool's options
    head.wants(count=1000, mean_s=100.0)
    head.tick(NOW + 10.0)
    head.settle()
    assert len(head.batch.taken) == 1


def test_job_that_is_held_is_told_given_up_and_replaced(head: Head) -> None:
    row = a_waiting_pilot(head, reason="JobHeldUser", stuck=Stuck.HELD)
    assert "cannot start" in head.fleet.trouble
    assert "`scontrol release 1`" in head.fleet.trouble
    head.look(NOW + 2.0 + STUCK_S)
    assert not head.batch.cancelled
    head.look(NOW + 3.0 + STUCK_S)
    assert head.batch.cancelled == ["1"]
    head.tick(NOW + 4.0 + STUCK_S)
    head.settle()
    assert len(head.batch.taken) == 2, "one that does not come is no supply"
    head.batch.said["1"] = {"phase": Phase.ENDED, "why_ended": WhyEnded.CANCELLED}
    head.look(NOW + 6.0 + STUCK_S)
    assert row.name not in head.fleet.pilots and not head.fleet.trouble


HELD_BY_ADMIN: dict[str, object] = {"reason": "JobHeldAdmin", "stuck": Stuck.ADMIN}


def test_what_an_administrator_holds_stays_in_the_queue_and_no_other_is_asked_for(
    head: Head,
) -> None:
    row = a_waiting_pilot(head, **HELD_BY_ADMIN)
    assert "an administrator holds it" in head.fleet.trouble
    assert head.fleet.trouble.endswith("until it is let go, no others are asked for in pool main")
    head.wants(count=1000, mean_s=100.0)
    for after_s in (3.0, 4.0 + STUCK_S, 5.0 + 10 * STUCK_S):
        head.look(NOW + after_s)
        head.tick(NOW + after_s)
        head.settle()
    assert len(head.batch.taken) == 1 and not head.batch.cancelled
    (supply,) = head.fleet.supply(NOW + 10 * STUCK_S)
    assert (supply.comes, supply.held) == (False, 1)
    (entry,) = head.store.rows("last_decisions", {"kinds": '["administrator"]'})
    assert entry["detail"] == "pool main gets no new pilots: an administrator holds job 1"
    head.batch.said["1"] = WAITS
    head.look(NOW + 6.0 + 10 * STUCK_S)
    assert not head.fleet.trouble
    head.tick(NOW + 7.0 + 10 * STUCK_S)
    head.settle()
    assert row.name in head.fleet.pilots and len(head.batch.taken) == 2, "its limit is two"


def test_new_head_asks_what_is_held_before_it_asks_for_more(head: Head) -> None:
    a_waiting_pilot(head, **HELD_BY_ADMIN)
    head.again()
    head.wants(count=1000, mean_s=100.0)
    for after_s in (10.0, 20.0):
        head.tick(NOW + after_s)
        head.settle()
    assert len(head.batch.taken) == 1
    head.batch.said["1"] = WAITS
    head.look(NOW + 30.0)
    head.tick(NOW + 31.0)
    head.settle()
    assert len(head.batch.taken) == 2


def test_what_an_administrator_holds_goes_with_a_long_gap_in_the_work_only(tmp_path: Path) -> None:
    head = Head(tmp_path / "site", FakeBatch(), idle_time="1s")
    a_waiting_pilot(head, **HELD_BY_ADMIN)
    head.demand = []
    for after_s in (3.0, 60.0, MOST_S):
        head.tick(NOW + after_s)
        head.settle()
    assert not head.batch.cancelled, "it would be asked for again, and go round the hold"
    head.tick(NOW + 4.0 + MOST_S)
    head.settle()
    assert head.batch.cancelled == ["1"]
    head.close()


def test_limit_of_the_user_is_told_once_it_lasts_and_the_place_is_kept(head: Head) -> None:
    a_waiting_pilot(head, reason="AssocMaxJobsLimit", stuck=Stuck.LIMIT)
    head.fleet._now = lambda: NOW + 10.0
    assert not head.fleet.trouble
    head.fleet._now = lambda: NOW + 10.0 + STUCK_S
    assert "AssocMaxJobsLimit" in head.fleet.trouble
    head.look(NOW + 10.0 + 10 * STUCK_S)
    assert not head.batch.cancelled
