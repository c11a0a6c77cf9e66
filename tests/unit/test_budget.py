"""Budgets of node-hours: what is counted, what may be asked for, and what is told."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.builders import done, spec, template
from support.fleets import NOW, FakeBatch, Head

from pilot import clock
from pilot.client.session_settings import session_budget
from pilot.errors import PilotError
from pilot.head import offline, queries
from pilot.head.budget import POOL, WRITE_S
from pilot.head.core import events as ev
from pilot.head.core.core import Core
from pilot.head.core.state import Pilot
from pilot.head.explain.view import View
from pilot.head.outlook import PilotRow
from pilot.model.tasks import Environment
from pilot.scheduler.batch import Phase, WhyEnded
from pilot.scheduler.budgets import HOUR_S, Account, NodeBudget, by_day, parse_budget, period_of
from pilot.scheduler.elasticity import BUDGET
from pilot.scheduler.resources import NodeShape
from pilot.wire.messages.client import OpenSession

DAY_S = 24 * HOUR_S


# --- budgets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("500 node-hours", NodeBudget(500 * HOUR_S)),
        ("1 node-hour", NodeBudget(HOUR_S)),
        ("2.5", NodeBudget(2.5 * HOUR_S)),
        (3, NodeBudget(3 * HOUR_S)),
        ("20 node-hours per day", NodeBudget(20 * HOUR_S, "day")),
        ("20 node-hours per week", NodeBudget(20 * HOUR_S, "week")),
        ("20 node-hours per total", NodeBudget(20 * HOUR_S)),
    ],
)
def test_budgets_are_read(text: Any, budget: NodeBudget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text", ["", "many", "5 core-hours", "5 node-hours per hour", "-5", "0 node-hours", True, None]
)
def test_what_is_no_budget_is_told(text: Any) -> None:
    with pytest.raises(ValueError, match="is not a budget; write it as 500 node-hours"):
        parse_budget(text)


@given(st.floats(0, 1e9), st.floats(0, 10 * DAY_S))
def test_days_have_all_of_the_time_and_follow_each_other(start: float, seconds: float) -> None:
    found = list(by_day(start, start + seconds))
    assert sum(part for _, part in found) == pytest.approx(seconds, abs=1e-2)
    days = [day for day, _ in found]
    assert days == list(range(days[0], days[0] + len(days))) if days else seconds < 1e-3


@given(st.floats(0, 1e9))
def test_moment_is_within_its_period(now: float) -> None:
    for per, longest in (("day", 1.1 * DAY_S), ("week", 7.1 * DAY_S)):
        period = period_of(per, now)  # type: ignore[arg-type]  # of the literals
        assert now < period.end <= now + longest
        first = next(iter(by_day(now, now + 1)))[0]
        assert period.first_day <= first
        assert period_of(per, period.end).first_day > period.first_day  # type: ignore[arg-type]  # any text
    assert period_of("total", now) == (0, math.inf)


def test_what_is_committed_is_not_left() -> None:
    account = Account(NodeBudget(10 * HOUR_S), 4 * HOUR_S, 3 * HOUR_S)
    assert account.left == 3 * HOUR_S and not account.is_used_up
    assert account.nodes(HOUR_S) == 3 and account.nodes(2 * HOUR_S) == 1
    assert account._replace(committed=6 * HOUR_S).nodes(HOUR_S) == 0
    assert account.nodes(100 * HOUR_S) == 1, "what is left is not lost"
    assert account._replace(used=10 * HOUR_S).is_used_up


# --- what is counted -----------------------------------------------------------------------------


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    made = Head(tmp_path / "site", FakeBatch(), budget="4 node-hours")
    yield made
    made.close()


def account(head: Head, now: float) -> Account:
    return head.fleet._accounts(now)["main"]


def written(head: Head) -> float:
    rows = head.store.rows("usage_since", {"kind": POOL, "name": "main", "day": 0})
    return float(rows[0]["node_s"] or 0.0)


def idle(head: Head, now: float) -> None:
    """Sign of life of each pilot, which has work, and a tick."""
    for row in head.fleet.pilots.values():
        if row.started is not None:
            head.fleet.heard(row.name, 0.0, False, now)
    head.tick(now)
    head.settle()


def test_pilot_counts_as_many_nodes_as_it_has_at_each_time(head: Head) -> None:
    row = head.a_pilot()
    idle(head, NOW + 100)
    assert account(head, NOW + 100).used == 100
    head.batch.said["1"] = {"node_count": 3}
    head.look(NOW + 100)
    idle(head, NOW + 200)
    assert account(head, NOW + 200).used == 100 + 300
    head.fleet.ended(row.name, "done", NOW + 210)
    assert account(head, NOW + 220).used == 100 + 300 + 30 == written(head)


def test_used_time_is_written_now_and_then_and_counted_once(head: Head) -> None:
    head.a_pilot()
    idle(head, NOW + WRITE_S)
    assert written(head) == WRITE_S
    idle(head, NOW + WRITE_S + 1)
    assert written(head) == WRITE_S
    assert account(head, NOW + WRITE_S + 1).used == WRITE_S + 1
    head.again()
    assert account(head, NOW + 100).used == WRITE_S + 1, "closing has written the rest"
    (row,) = head.fleet.pilots.values()
    head.fleet.joined(row.name, "1", "main", 1, NOW + 200)
    idle(head, NOW + 200)
    assert account(head, NOW + 200).used == 200, "it ran while there was no head"


def test_job_that_ended_while_no_head_ran_is_counted_to_its_end(head: Head) -> None:
    head.a_pilot()
    idle(head, NOW + 50)
    head.again()
    head.batch.said["1"] = {
        "phase": Phase.ENDED,
        "state": "COMPLETED",
        "why_ended": WhyEnded.COMPLETED,
        "ends_at": NOW + 80,
    }
    head.tick(NOW + 5000)
    assert account(head, NOW + 5000).used == 50, "nobody knows yet whether it runs"
    head.look(NOW + 5001)
    assert not head.fleet.pilots
    assert account(head, NOW + 5001).used == pytest.approx(80, abs=1)


def test_pilot_that_vanished_while_no_head_ran_is_counted_to_the_end_of_its_walltime(
    head: Head,
) -> None:
    row = head.a_pilot()
    head.again()
    head.fleet.ended(row.name, "nobody knows it", NOW + 10 * HOUR_S)
    assert account(head, NOW + 10 * HOUR_S).used == HOUR_S


def test_time_in_the_queue_is_not_counted(head: Head) -> None:
    head.wants()
    head.tick(NOW)
    head.settle()
    idle(head, NOW + 100)
    assert account(head, NOW + 100).used == 0.0
    row = next(iter(head.fleet.pilots.values()))
    head.fleet.joined(row.name, "1", "main", 1, NOW + 100)
    idle(head, NOW + 150)
    head.batch.said["1"] = {"phase": Phase.QUEUED, "state": "PENDING", "restart_count": 1}
    head.look(NOW + 150)
    assert row.state == "QUEUED", "it was requeued"
    idle(head, NOW + 500)
    assert account(head, NOW + 500).used == 50
    head.batch.said["1"] = {"restart_count": 1}
    head.fleet.joined(row.name, "1", "main", 1, NOW + 501)
    idle(head, NOW + 501)
    idle(head, NOW + 511)
    assert account(head, NOW + 511).used == 60


def test_users_own_allocation_is_not_counted(head: Head) -> None:
    row = head.a_pilot()
    row.own = True
    idle(head, NOW + 100)
    head.fleet.ended(row.name, "done", NOW + 200)
    assert account(head, NOW + 200) == Account(NodeBudget(4 * HOUR_S), 0.0)


def test_next_day_has_a_budget_of_its_own(tmp_path: Path) -> None:
    made = Head(tmp_path / "site", FakeBatch(), budget="1 node-hour per day")
    try:
        end = period_of("day", NOW).end
        made.a_pilot(end - 100)
        made.demand = []
        idle(made, end - 1)
        assert account(made, end - 1).used == 99
        assert account(made, end - 1).committed == 1, "what it uses tomorrow is tomorrow's"
        idle(made, end + 50)
        assert account(made, end + 50).used == pytest.approx(50)
        made.again()
        assert account(made, end + 50).used == pytest.approx(50)
    finally:
        made.close()


# --- what may be asked for -----------------------------------------------------------------------


def test_no_more_is_asked_for_than_the_budget_has(tmp_path: Path) -> None:
    made = Head(tmp_path / "site", FakeBatch(), budget="2 node-hours", max_pilots_queued=9)
    try:
        made.wants(count=100)  # 4 nodes
        made.tick(NOW)
        assert len(made.fleet.pilots) == 2, "of an hour each"
        its = account(made, NOW)
        assert (its.used, its.committed, its.left) == (0.0, 2 * HOUR_S, 0.0)
        made.tick(NOW + 2)
        assert len(made.fleet.pilots) == 2
    finally:
        made.close()


def test_what_pilots_did_not_use_can_be_asked_for_again(tmp_path: Path) -> None:
    made = Head(tmp_path / "site", FakeBatch(), budget="1 node-hour")
    try:
        row = made.a_pilot()
        made.wants(count=100)
        idle(made, NOW + 600)
        assert len(made.fleet.pilots) == 1, "its walltime is an hour"
        made.fleet.ended(row.name, "it has drained", NOW + 600)
        made.tick(NOW + 602)
        assert len(made.fleet.pilots) == 1, "50 minutes are left"
        its = account(made, NOW + 602)
        assert its.used == 600 and its.left == 0.0
    finally:
        made.close()


def test_pilots_end_with_their_tasks_when_the_budget_is_used_up(head: Head) -> None:
    row = head.a_pilot()
    row.walltime = 100 * HOUR_S
    head.wants(count=100)
    idle(head, NOW + 4 * HOUR_S - 10)
    assert not row.draining
    head.fleet.heard(row.name, 0.0, False, NOW + 4 * HOUR_S)
    ending = head.fleet.tick(NOW + 4 * HOUR_S, lambda: head.demand)
    assert [name for name, _ in ending] == [row.name]
    head.fleet.told(row.name)
    idle(head, NOW + 4 * HOUR_S + 2)
    assert len(head.fleet.pilots) == 1, "and no other comes in its place"


# --- what is told --------------------------------------------------------------------------------


def asked(head: Head, name: str, **arguments: Any) -> Any:
    core: Any = SimpleNamespace(demand=lambda: head.demand, pilots={})
    return queries.answer(View(head.store, core, head.fleet, {}, dict, 0), name, arguments)


def test_budget_is_told_with_and_without_a_head(tmp_path: Path) -> None:
    made = Head(tmp_path / "site", FakeBatch(), budget="1 node-hour")
    try:
        now = clock.now()
        made.a_pilot(now)
        made.wants(count=100)
        for second in range(1, 10):
            idle(made, now + second)
        (told,) = asked(made, "budgets")
        assert (told["pool"], told["budget"], told["per"], told["left"]) == ("main", 1, "total", 0)
        assert told["used"] == pytest.approx(9 / HOUR_S)
        assert told["committed"] == pytest.approx(1, rel=0.01)
        answer = asked(made, "explain_fleet")
        (pool,) = answer["pools"]
        assert pool["why"] == BUDGET
        assert "pool main gets no new pilots: of its budget" in pool["text"]
        assert answer["history"][-1]["kind"] == BUDGET
        made.close()
        (told,) = offline.answer(made.site, "budgets", {})
        assert told["used"] == pytest.approx(9 / HOUR_S)
    finally:
        made.start()
        made.close()


# --- sessions ------------------------------------------------------------------------------------


def a_session(head: Head, hours: float) -> int:
    message = OpenSession(1, "study", Environment("/home"), budget=hours * HOUR_S)
    return head.store.add_session(message, NOW)


def share(head: Head, row: PilotRow, **sessions: int) -> None:
    """Cores that tasks of sessions, s1, s2 and so on, hold in the pilot."""
    room = Pilot(row.name, "main", NodeShape(4), row.nodes, 0.0)
    for name, cores in sessions.items():
        room.shares[int(name[1:])] = cores
    head.rooms[row.name] = room


def used(head: Head) -> dict[int, float]:
    return {session: each.used for session, each in head.fleet.session_accounts().items()}


def test_nodes_are_shared_among_sessions_by_their_cores(head: Head) -> None:
    row = head.a_pilot()
    assert (a_session(head, 1.0), a_session(head, 1.0)) == (1, 2)
    idle(head, NOW + 10)
    assert used(head) == {1: 0.0, 2: 0.0}, "nobody has used it yet"
    share(head, row, s1=3, s2=1)
    idle(head, NOW + 50)
    assert used(head) == {1: 30.0, 2: 10.0}
    share(head, row)
    idle(head, NOW + 60)
    assert used(head) == {1: 37.5, 2: 12.5}, "while it is idle it is theirs who used it last"
    head.fleet.ended(row.name, "idle", NOW + 64)
    assert used(head) == {1: 40.5, 2: 13.5}
    head.again()
    assert used(head) == {1: 40.5, 2: 13.5}


def test_budget_of_a_session_may_change_and_ends_with_it(head: Head) -> None:
    session = a_session(head, 1.0)
    head.store.set_session_budget(session, 5 * HOUR_S)
    assert head.fleet.session_accounts()[session].left == 5 * HOUR_S
    head.store.set_session_budget(session, 0.0)
    assert not head.fleet.session_accounts()
    head.store.set_session_budget(session, HOUR_S)
    head.store.leave_out(session, NOW)
    assert not head.fleet.session_accounts()


def test_what_a_session_has_used_is_deleted_with_it(head: Head) -> None:
    session = a_session(head, 1.0)
    head.store.add_usage([("session", str(session), 0, 10.0)], [])
    assert used(head) == {session: 10.0}
    head.store.leave_out(session, NOW)
    head.store.delete(session, [])
    rows = head.store.rows("usage_since", {"kind": "session", "name": str(session), "day": 0})
    assert rows == [{"node_s": None}]


def test_session_without_budget_left_starts_and_asks_for_nothing() -> None:
    core = Core()
    core.apply(ev.SessionOpened(1), NOW)
    known = template(1, 1)
    core.apply(ev.TasksSubmitted(1, [known], [spec(n, 1) for n in (1, 2, 3)], {}), NOW)
    core.apply(ev.PilotJoined("p", "main", NodeShape(2), 1, 0.0, []), NOW)
    assert [task.id for task in core.assign(NOW)["p"]] == [1, 2]
    assert core.pilots["p"].shares == {0: 2}
    core.apply(ev.BudgetChanged(1, True), NOW)
    core.apply(ev.AttemptsEnded("p", [done(1)]), NOW)
    assert not core.assign(NOW) and core.pilots["p"].shares == {0: 1}
    assert [work.count for work in core.demand()] == [1], "what runs goes on"
    core.apply(ev.BudgetChanged(1, False), NOW)
    assert [task.id for task in core.assign(NOW)["p"]] == [3]
    core.apply(ev.AttemptsEnded("p", [done(2), done(3)]), NOW)
    assert core.pilots["p"].shares == {}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("many", "budget: 'many' is not a budget"),
        (-1, "budget: -1 is not a budget"),
        ("5 node-hours per day", "a session has one budget for all of its time"),
    ],
)
def test_budget_of_a_session_that_cannot_be_is_told(given: Any, told: str) -> None:
    with pytest.raises(PilotError, match=told):
        session_budget(given)
    assert session_budget("2.5 node-hours") == session_budget(2.5) == 2.5 * HOUR_S


def test_sessions_are_among_the_budgets_that_are_told(head: Head) -> None:
    a_session(head, 2.0)
    pool, session = asked(head, "budgets")
    assert (pool["session"], session["pool"]) == (None, None)
    assert (session["session"], session["budget"], session["left"]) == (1, 2.0, 2.0)
    head.close()
    assert offline.answer(head.site, "budgets", {})[1] == session
    head.start()
