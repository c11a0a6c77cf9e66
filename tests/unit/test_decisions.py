"""The history of the fleet's decisions, and what `pilot fleet explain` says of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.fleets import NOW, FakeBatch, Head

from pilot import clock
from pilot.errors import PilotError
from pilot.head import decisions as d
from pilot.head import offline, queries
from pilot.head.decisions import MOST, SETTLED_S, History, Reason
from pilot.head.explain.view import View
from pilot.head.store.store import Store
from pilot.scheduler.batch import Phase, Stuck
from pilot.scheduler.elasticity import ENOUGH, MAX_NODES


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "tasks.db")
    yield made
    made.close()


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    made = Head(tmp_path / "site", FakeBatch())
    yield made
    made.close()


def kinds(store: Store, **changes: Any) -> list[str]:
    """The kinds of what was decided, the oldest first."""
    wanted = {"since": 0.0, "pool": None, "limit": 2 * MOST, **changes}
    return [row["kind"] for row in reversed(store.rows("decisions_since", wanted))]


def stand(history: History, now: float, kind: str, text: str = "") -> None:
    """One tick, in which one pool asks for no more nodes for this reason."""
    history.stand([("main", Reason(kind, text))], now)
    history.write(now)


# --- what is kept --------------------------------------------------------------------------------


def test_reason_is_written_once_however_its_numbers_change(store: Store) -> None:
    history = History(store)
    for second in range(60):
        stand(history, NOW + second, MAX_NODES, f"{second} nodes")
    assert kinds(store) == [MAX_NODES]


def test_reason_that_does_not_last_is_not_written(store: Store) -> None:
    history = History(store)
    stand(history, NOW, ENOUGH)
    stand(history, NOW + SETTLED_S, ENOUGH)
    for second in range(100):
        stand(history, NOW + 10 + second, (ENOUGH, MAX_NODES)[second % 2])
    assert kinds(store) == [ENOUGH]
    stand(history, NOW + 200, MAX_NODES)
    stand(history, NOW + 200 + SETTLED_S, MAX_NODES)
    assert kinds(store) == [ENOUGH, MAX_NODES]


def test_other_refusal_is_another_reason(store: Store) -> None:
    history = History(store)
    for start, text in ((NOW, "Invalid account"), (NOW + 100, "Invalid qos")):
        stand(history, start, d.REFUSED, text)
        stand(history, start + SETTLED_S, d.REFUSED, text)
    assert kinds(store) == [d.REFUSED, d.REFUSED]


def test_next_head_does_not_write_the_same_reason_again(store: Store) -> None:
    for start in (NOW, NOW + 100):
        history = History(store)
        stand(history, start, MAX_NODES)
        stand(history, start + SETTLED_S, MAX_NODES)
    assert kinds(store) == [MAX_NODES]


def test_history_is_bounded_in_number_and_age(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(d, "MOST", 50)
    monkeypatch.setattr(d, "PRUNE_EVERY", 1)
    history = History(store)
    for number in range(80):
        history.note(d.GROW, "main", f"p{number}", "1 node", NOW + number)
        history.write(NOW + number)
    assert len(kinds(store)) == 50
    history.note(d.GROW, "main", "late", "1 node", NOW + d.KEPT_S + 100)
    history.write(NOW + d.KEPT_S + 100)
    assert len(kinds(store)) == 1


def test_history_that_cannot_be_written_is_written_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(rows: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    history = History(store)
    history.note(d.GROW, "main", "p1", "1 node", NOW)
    with monkeypatch.context() as patch:
        patch.setattr(store, "add_decisions", fail)
        history.write(NOW)
    assert kinds(store) == []
    history.write(NOW + 1)
    assert kinds(store) == [d.GROW]


# --- the fleet's decisions -----------------------------------------------------------------------


def explained(head: Head, **arguments: Any) -> dict[str, Any]:
    """Return the answer that `pilot fleet explain` gets of the running head."""
    core: Any = SimpleNamespace(demand=lambda: head.demand, pilots={})
    view = View(head.store, core, head.fleet, {}, dict, 0)
    answer: dict[str, Any] = queries.answer(view, "explain_fleet", arguments)
    return answer


def test_history_tells_of_growth_start_reason_and_end(head: Head) -> None:
    row = head.a_pilot()
    for second in range(1, 10):
        head.tick(NOW + second)
    head.demand = []
    head.fleet.heard(row.name, 100.0, False, NOW + 20)
    head.tick(NOW + 20)
    head.tick(NOW + 22)
    head.fleet.ended(row.name, "it has drained", NOW + 25)
    texts = [entry["text"] for entry in explained(head)["history"]]
    name = row.name
    assert texts == [
        f"pilot {name} of pool main is asked for, with 1 node: work for 1 node, 0 there or on "
        "the way",
        f"pilot {name} (job 1) has started, with 1 node",
        "no more nodes are asked for: pool main has 1 node, there or on the way, which is taken "
        "to be enough for its work",
        f"pilot {name} of pool main is to end: idle for 100 s",
        f"pilot {name} (job 1) has ended: it has drained",
    ]
    assert not explained(head, since=NOW + 26)["history"]
    last = explained(head, limit=1)
    assert [entry["kind"] for entry in last["history"]] == ["ended"] and last["cut"]


def test_refusal_is_the_reason_while_it_lasts(head: Head) -> None:
    head.batch.refusal = "Invalid account"
    head.wants()
    head.tick(NOW)
    head.take()
    for second in (1, 2, 3, 4):
        head.tick(NOW + second)
    head.tick(NOW + 5)
    head.take()
    for second in range(6, 15):
        head.tick(NOW + second)
    (entry,) = [e for e in explained(head)["history"] if e["kind"] == d.REFUSED]
    assert entry["text"].endswith("Slurm took no pilot: Invalid account")
    (pool,) = explained(head)["pools"]
    assert "work for 1 node, 0 there; Slurm took no pilot (Invalid account)" in pool["text"]


def test_present_state_names_what_waits_and_for_what(head: Head) -> None:
    now = clock.now()
    head.wants(count=12)  # of 4 cores each: 3 nodes
    head.tick(now)
    head.settle()
    for job, row in enumerate(list(head.fleet.pilots.values()), 1):
        if job == 1:
            head.fleet.joined(row.name, "1", "main", 1, now)
    head.batch.said["2"] = {
        "phase": Phase.QUEUED,
        "state": "PENDING",
        "reason": "Priority",
        "expected_at": now + 600,
    }
    head.look(now)
    (pool,) = explained(head)["pools"]
    assert pool["text"].startswith("work for 3 nodes, 1 there, 1 in the queue since ")
    assert "Slurm says Priority" in pool["text"] and "expected at " in pool["text"]
    assert (pool["wanted"], pool["there"], pool["coming"]) == (3, 1, 1)
    head.batch.said["2"] |= {"reason": "JobHeldAdmin", "stuck": Stuck.ADMIN}
    head.look(now + 1.0)
    text = explained(head)["pools"][0]["text"]
    assert "JobHeldAdmin (an administrator holds it), so it does not start before it is let" in text
    assert text.endswith("; pool main gets no new pilots: an administrator holds job 2")
    with pytest.raises(PilotError, match="there is no pool 'other'; there are main"):
        explained(head, pool="other")


def test_history_is_told_without_a_head(head: Head) -> None:
    row = head.a_pilot()
    for second in range(1, 10):
        head.tick(NOW + second)
    head.close()
    found = offline.answer(head.site, "explain_fleet", {"since": 0.0})
    head.start()
    assert [entry["kind"] for entry in found["history"]] == [d.GROW, "started", ENOUGH]
    assert found["history"][0]["pilot"] == row.name
    (pool,) = found["pools"]
    assert pool["text"].startswith("no head runs; when the last one ended, 1 node there; it had")
