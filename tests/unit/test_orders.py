"""Orders of users by hand for pools and pilots: what each does, and that it is kept and shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.fleets import NOW, FakeBatch

from pilot.errors import PilotError
from pilot.head import offline, queries
from pilot.head.explain.view import View
from pilot.head.fleet_commands import FleetCommands
from pilot.head.outlook import PilotRow
from pilot.head.pilots import Pilots
from pilot.head.shell import Shell
from pilot.head.store.store import Store
from pilot.scheduler.batch import Allocation, Phase, WhyEnded
from pilot.scheduler.demand import ClassDemand
from pilot.scheduler.resources import NodeShape, Resources
from pilot.site import open_site
from pilot.version import __version__
from pilot.wire.messages import PROTOCOL
from pilot.wire.messages import client as m
from pilot.wire.messages import pilot as pm


class Head:
    """The head's side of pilots, which takes orders; it sends into a list."""

    def __init__(self, directory: Path) -> None:
        pool = {"cores_per_node": 4, "max_nodes": 4, "nodes_per_pilot": 1, "walltime": "1h"}
        directory.mkdir(mode=0o700)
        config: dict[str, Any] = {"name": "test", "batch": "slurm", "pools": {"main": pool}}
        config["slurm"] = {"submit_interval": "1ms"}
        (directory / "site.yaml").write_text(yaml.safe_dump(config))
        self.site = open_site(directory)
        self.site.prepare()
        self.batch = FakeBatch()
        self.demand: list[ClassDemand] = []
        self.sent: list[Any] = []
        self.start()

    def start(self) -> None:
        self.store = Store(self.site.database)
        shell = Shell(self.store, self._send, (), lambda: None, lambda _: 0)
        self.pilots = Pilots(self.site, shell, self.batch, 1, lambda: None, NOW)
        self.fleet, self.core = self.pilots.fleet, shell.core
        self.commands = FleetCommands(self.site, self.pilots, self._send)

    def _send(self, _to: bytes, message: Any) -> None:
        self.sent.append(message)

    def close(self) -> None:
        self.fleet.close()
        self.store.close()

    def again(self) -> None:
        """The next head."""
        self.close()
        self.start()

    def order(
        self,
        verb: str,
        subject: str = "",
        nodes: int = 0,
        reason: str = "",
        within_s: float = 0.0,
        now: float = NOW,
    ) -> str:
        message = m.ControlFleet(1, verb, subject, nodes, reason, within_s=within_s)
        self.commands.handlers[m.ControlFleet](b"", message, now)
        return str(self.sent.pop().result)

    def tick(self, now: float = NOW) -> None:
        """One decision, carried out; the pilots submitted are queued."""
        self.fleet.hurry()
        for name, message in self.fleet.tick(now, lambda: self.demand):
            assert isinstance(message, pm.EndPilot)
            self.pilots.drain(name, "too many", now)
        for _ in range(4):
            self.fleet._thread.wait_for(lambda: None)
            self.fleet.take()

    def wants(self, nodes: int) -> None:
        self.demand = [ClassDemand(need=Resources(), pool="", count=4 * nodes, mean_s=None)]

    def join(self, row: PilotRow, now: float = NOW) -> None:
        hello = pm.PilotHello(
            PROTOCOL,
            __version__,
            row.name,
            row.job or "",
            0,
            "main",
            [pm.NodeInfo("n1", NodeShape(4))],
            0.0,
        )
        self.pilots.handlers[pm.PilotHello](row.name.encode(), hello, now)

    def joined(self, nodes: int) -> list[PilotRow]:
        """So many pilots that run."""
        self.wants(nodes)
        while len(self.fleet.pilots) < nodes:
            self.tick()
            for row in self.fleet.pilots.values():
                if row.state != "RUNNING":
                    self.join(row)
        return list(self.fleet.pilots.values())

    def told_to_end(self) -> list[str]:
        return [each.reason for each in self.sent if isinstance(each, pm.EndPilot)]

    def ask(self, name: str, **arguments: Any) -> Any:
        view = View(self.store, self.core, self.fleet, {}, dict, 0)
        return queries.answer(view, name, arguments)

    @property
    def nodes(self) -> int:
        """Nodes of pilots that go on."""
        return sum(row.nodes for row in self.fleet.pilots.values() if not row.draining)


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    made = Head(tmp_path / "site")
    yield made
    made.close()


# --- pools ---------------------------------------------------------------------------------------


def test_scaled_pool_keeps_its_nodes_whatever_there_is_to_do(head: Head) -> None:
    answer = head.order("scale", "main", 2, "a demonstration")
    assert answer.startswith("pool main keeps 2 nodes from now on; 0 are there or on the way")
    head.tick()
    assert head.nodes == 2
    grown = [row.reason for row in head.fleet.pilots.values()]
    assert grown[0].startswith("scaled to 2 nodes by hand: a demonstration, 0 there")
    head.wants(4)
    head.tick()
    assert head.nodes == 2


def test_pilots_that_are_too_many_end_with_their_tasks(head: Head) -> None:
    head.joined(3)
    head.order("scale", "main", 1)
    head.tick()
    assert head.nodes == 1 and len(head.told_to_end()) == 2


def test_queued_pilots_that_are_too_many_leave_the_queue_first(head: Head) -> None:
    head.joined(1)
    head.wants(3)
    head.tick()
    assert head.nodes == 3
    head.order("scale", "main", 1)
    head.tick()
    assert head.nodes == 1 and sorted(head.batch.cancelled) == ["2", "3"]
    assert not head.told_to_end()


def test_pool_follows_its_work_again(head: Head) -> None:
    head.order("scale", "main", 0)
    head.wants(2)
    head.tick()
    assert head.nodes == 0
    assert head.order("scale auto", "main") == "pool main follows its work again"
    assert head.order("scale auto", "main") == "pool main follows its work already"
    head.tick()
    assert head.nodes == 2


def test_no_pilots_come_while_a_pool_is_held(head: Head) -> None:
    head.joined(1)
    head.order("hold", "main", reason="maintenance at noon")
    head.wants(3)
    head.tick()
    assert head.nodes == 1
    assert head.order("resume", "main") == "pool main gets new pilots again"
    assert head.order("resume", "main") == "pool main was not held"
    head.tick()
    assert head.nodes == 3


def test_orders_for_pools_outlive_the_head(head: Head) -> None:
    head.order("hold", "main", reason="maintenance")
    head.again()
    head.wants(3)
    head.tick()
    assert head.nodes == 0
    (order,) = head.ask("orders")
    assert (order["subject"], order["text"]) == ("main", "held by hand: maintenance")
    head.close()
    assert offline.answer(head.site, "orders", {}) == [order]
    (pool,) = offline.answer(head.site, "explain_fleet", {})["pools"]
    assert pool["text"].endswith("; it is held by hand: maintenance")
    head.start()


@pytest.mark.parametrize(
    ("verb", "subject", "nodes", "message"),
    [
        ("scale", "main", 5, "pool main may have up to 4 nodes: give a number from 0 to 4"),
        ("scale", "main", -1, "give a number from 0 to 4"),
        ("scale", "other", 1, "there is no pool 'other'; there are main"),
        ("hold", "other", 0, "there is no pool 'other'; there are main"),
        ("drain", "p9", 0, "there is no pilot 'p9' that has not ended"),
        ("cancel", "", 0, "there is no pilot ''"),
        ("enlarge", "main", 0, "the head cannot 'enlarge'"),
    ],
)
def test_what_cannot_be_ordered_is_told(
    head: Head, verb: str, subject: str, nodes: int, message: str
) -> None:
    with pytest.raises(PilotError, match=message):
        head.order(verb, subject, nodes)
    assert head.ask("orders") == []


# --- pilots --------------------------------------------------------------------------------------


def test_a_pilot_that_is_drained_with_a_deadline_is_told_both(head: Head) -> None:
    first, _ = head.joined(2)
    answer = head.order("drain", first.name, within_s=300.0)
    assert answer.endswith("ends when its tasks have ended, in 5m 00s at the latest")
    assert [one.within_s for one in head.sent if isinstance(one, pm.EndPilot)] == [300.0]


@pytest.mark.parametrize(
    ("after_s", "told"), [(100.0, (False, 200.0)), (300.0, (True, 0.0)), (-50.0, (False, 300.0))]
)
def test_next_head_tells_a_pilot_what_is_left_of_its_deadline(
    head: Head, after_s: float, told: tuple[bool, float]
) -> None:
    (row,) = head.joined(1)
    head.order("drain", row.name, within_s=300.0)
    head.again()
    head.sent.clear()
    head.join(row, NOW + after_s)
    (end,) = [one for one in head.sent if isinstance(one, pm.EndPilot)]
    assert (end.now, end.within_s) == told


def test_a_time_to_drain_holds_until_another_is_said(head: Head) -> None:
    first, second = head.joined(2)
    head.order("drain", first.name, within_s=300.0)
    again = head.order("drain", first.name, now=NOW + 100.0)
    assert again.endswith("have ended, in 3m 20s at the latest, as was said before")
    assert head.fleet.orders.pilots[first.name].within_s == pytest.approx(200.0)
    assert "at the latest" not in head.order("drain", second.name)
    assert head.order("drain", first.name, within_s=600.0).endswith("in 10m 00s at the latest")
    assert ", or earlier as said before" in head.order("drain", "")


def test_drained_pilot_is_told_to_end_and_shown_with_the_reason(head: Head) -> None:
    first, _ = head.joined(2)
    answer = head.order("drain", first.job or "", reason="a noisy fan")
    assert answer == f"pilot {first.name} ends when its tasks have ended"
    assert head.told_to_end() == ["drained by hand: a noisy fan"]
    rows = {row["name"]: row for row in head.ask("fleet")}
    assert rows[first.name]["order"]["text"] == "drained by hand: a noisy fan"
    assert [row["order"] for name, row in rows.items() if name != first.name] == [None]
    head.fleet.ended(first.name, "drained by hand: a noisy fan", NOW + 5)
    rows = {row["name"]: row for row in head.ask("fleet")}
    assert rows[first.name]["reason"] == "drained by hand: a noisy fan", "once"
    assert head.ask("orders") == [], "it is over with the pilot"


def test_pilot_that_ends_for_another_reason_has_its_order_beside_that(head: Head) -> None:
    first, _ = head.joined(2)
    head.order("drain", first.job or "", reason="a noisy fan")
    head.fleet.ended(first.name, "its walltime is over", NOW + 5)
    rows = {row["name"]: row for row in head.ask("fleet")}
    assert rows[first.name]["reason"] == "its walltime is over (drained by hand: a noisy fan)"


def test_pilot_is_told_to_end_by_the_next_head_too(head: Head) -> None:
    (row,) = head.joined(1)
    head.order("drain", row.name)
    head.again()
    head.sent.clear()
    head.join(row)
    assert head.told_to_end() == ["drained by hand"]


def test_silent_pilot_in_an_allocation_is_forgotten_by_a_users_word(head: Head) -> None:
    (row,) = head.joined(1)
    row.own = True
    with pytest.raises(PilotError, match="is in an allocation that Pilot has not made"):
        head.order("cancel", row.name)
    row.left_alone = True
    head.core.site.unheard.add(row.name)
    assert head.order("cancel", row.name).endswith("is forgotten: what its tasks held is free")
    assert not head.fleet.pilots and not head.core.site.unheard
    head.tick()
    assert not head.batch.cancelled, "its job goes on"


def test_all_pilots_are_drained_and_those_in_the_queue_leave_it(head: Head) -> None:
    assert head.order("drain") == "there are no pilots"
    head.joined(1)
    head.wants(2)
    head.tick()
    assert head.order("drain").startswith("2 pilots will end when their tasks have ended")
    head.tick(NOW - 10)
    assert head.batch.cancelled == ["2"] and len(head.told_to_end()) == 1


def test_cancelled_pilot_gets_nothing_more_and_its_job_is_cancelled(head: Head) -> None:
    (row,) = head.joined(1)
    assert "its tasks go to others" in head.order("cancel", row.name, reason="wrong node")
    head.wants(0)
    head.tick()
    assert head.batch.cancelled == ["1"] and head.core.pilots[row.name].draining
    head.batch.said["1"] = {
        "phase": Phase.ENDED,
        "state": "CANCELLED",
        "why_ended": WhyEnded.CANCELLED,
    }
    head.fleet._polled = 0.0
    head.tick(NOW + 10)
    (told,) = head.ask("fleet")
    assert (told["state"], told["reason"]) == ("ENDED", "cancelled by hand: wrong node")


def test_next_head_cancels_what_the_last_one_had_no_time_for(head: Head) -> None:
    (row,) = head.joined(1)
    head.fleet.orders.give("cancel", row.name, "", NOW)
    head.again()
    head.fleet._thread.wait_for(lambda: None)
    assert head.batch.cancelled == ["1"]


def test_pilot_cancelled_while_it_is_submitted_is_cancelled_once_it_has_a_job(head: Head) -> None:
    head.batch.may.clear()
    head.wants(1)
    head.fleet.tick(NOW, lambda: head.demand)
    (row,) = head.fleet.pilots.values()
    assert head.batch.asked.wait(20)
    head.order("cancel", row.name)
    head.batch.may.set()
    head.wants(0)
    head.tick()
    assert head.batch.cancelled == ["1"]


def test_users_own_allocation_is_not_ended(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        def poll(self) -> None:
            pass

        def wait(self) -> None:
            pass

    monkeypatch.setattr("pilot.head.adopting.start_agent", lambda *_: Process())
    monkeypatch.setattr("pilot.head.adopting.own_allocation", lambda *_: Allocation("77", "n1", 1))
    head.fleet.adopting.adopt_own("77", NOW)
    head.fleet._thread.wait_for(lambda: None)
    head.fleet.take()
    with pytest.raises(PilotError, match=r"does not end: `pilot fleet drain .*`scancel 77` ends"):
        head.order("cancel", "77")
    (row,) = head.fleet.pilots.values()
    head.join(row)
    head.order("drain", "77")
    assert head.told_to_end() == ["drained by hand"] and not head.batch.cancelled


# --- what is told --------------------------------------------------------------------------------


def test_history_has_the_orders_with_their_reasons(head: Head) -> None:
    head.order("scale", "main", 1, "a demonstration")
    head.order("hold", "main", reason="maintenance")
    head.order("resume", "main", reason="it is over")
    head.order("scale auto", "main")
    (row,) = head.joined(1)
    head.order("drain", row.name, reason="a noisy fan")
    head.tick()
    texts = [entry["text"] for entry in head.ask("explain_fleet")["history"]]
    assert texts[:4] == [
        "pool main is scaled to 1 node by hand: a demonstration",
        "pool main is held by hand: maintenance",
        "pool main gets new pilots again: it is over",
        "pool main follows its work again",
    ]
    assert f"pilot {row.name} of pool main is drained by hand: a noisy fan" in texts


def test_present_state_says_what_a_pool_was_ordered(head: Head) -> None:
    head.order("scale", "main", 1, "a demonstration")
    head.order("hold", "main", reason="maintenance")
    (pool,) = head.ask("explain_fleet")["pools"]
    assert "gets no new pilots: it is held by hand: maintenance" in pool["text"]
    assert "it is scaled to 1 node by hand: a demonstration" in pool["text"]
    (order, other) = head.ask("status")["orders"]
    assert {order["verb"], other["verb"]} == {"scale", "hold"}
