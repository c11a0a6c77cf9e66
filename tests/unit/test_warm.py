"""Idle executors and worlds, and the cores that they wait for."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from support.builders import done, template, work

from pilot.agent.rules import actions as a
from pilot.agent.rules.cores import Cores
from pilot.agent.rules.rules import Rules
from pilot.agent.rules.warm_pool import WarmPool
from pilot.scheduler.amounts import UNIT
from pilot.scheduler.placement import FreeNode, NodeAllocation, Portion
from pilot.scheduler.resources import NodeShape, node_shape


@dataclass(eq=False)
class Process:
    """Something that is pinned to cores, or to GPUs, of a node."""

    id: int
    pinned: tuple[NodeAllocation, ...]
    use: str = "any"


def share(
    *cores: int, gpus: tuple[int, ...] = (), memory_mib: int = 0, node: str = "n0"
) -> NodeAllocation:
    named = [Portion("gpus", len(gpus) * UNIT, 1, tuple(map(str, gpus)))] if gpus else []
    if memory_mib:
        named.append(Portion("memory", memory_mib * UNIT))
    return NodeAllocation(node, 1, cores, tuple(named))


@pytest.fixture
def cores() -> Cores:
    there = Cores(["n0", "n1"])
    for position, name in enumerate(there.hosts):
        there.add_node(name, node_shape(4, 1000, 2), position)
    return there


def test_what_was_idle_last_is_taken_first(cores: Cores) -> None:
    warm: WarmPool[Process] = WarmPool(cores)
    first, last = Process(1, (share(0),)), Process(2, (share(1),))
    warm.add(first)
    warm.add(last)
    assert [warm.take("any") for _ in range(3)] == [last, first, None]
    assert warm.take("another") is None


@pytest.mark.parametrize(
    ("taken", "pinned"),
    [
        (share(3), (share(2, 3),)),
        (share(0, gpus=(1,)), (share(1, gpus=(0, 1)),)),
        (share(0, memory_mib=900), (share(1, memory_mib=200),)),
        (share(0, node="n1"), (share(0), share(0, node="n1"))),
    ],
    ids=["core", "GPU", "memory", "one of two nodes"],
)
def test_what_has_its_cores_taken_is_of_use_when_they_are_given_back(
    cores: Cores, taken: NodeAllocation, pinned: tuple[NodeAllocation, ...]
) -> None:
    warm: WarmPool[Process] = WarmPool(cores)
    one = Process(1, pinned)
    warm.add(one)
    cores.take(taken)
    assert warm.take("any") is None
    cores.release(taken)
    assert warm.take("any") is one


def test_what_ended_meanwhile_does_not_come_back(cores: Cores) -> None:
    warm: WarmPool[Process] = WarmPool(cores)
    one = Process(1, (share(0),))
    warm.add(one)
    cores.take(share(0))
    assert warm.take("any") is None
    warm.discard(one)
    cores.release(share(0))
    assert warm.take("any") is None


def test_free_cores_are_counted(cores: Cores) -> None:
    assert cores.free == 8
    cores.take(share(0, 1))
    cores.take(share(2, node="n1"))
    assert cores.free == 5
    cores.lose_node("n1")
    cores.release(share(2, node="n1"))
    assert cores.free == 2
    cores.release(share(0, 1))
    assert cores.free == 4 == len(cores.nodes["n0"].cores)


def looks_at_idle_executors(count: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often the rules look whether a share is free, for tasks that wait while another session
    has all cores, and so many executors idle that would be right for them."""
    rules, now = Rules(["n0"], NodeShape(count)), 1.0
    rules.add_node("n0", NodeShape(count), now)
    mine, other = template(1), template(2, session=2, priority=1)
    sent: list[tuple[int, int]] = []

    def carry_out() -> None:
        while actions := rules.take_actions():
            for action in actions:
                if isinstance(action, a.StartExecutor):
                    rules.executor_ready(action.executor, 1, now)
                elif isinstance(action, a.RunOnExecutor):
                    sent.extend((action.executor, item.task) for item in action.work)

    def end(executor: int, task: int) -> None:
        rules.executor_done(executor, [done(task)], now)
        carry_out()

    rules.add_work([mine], [work(task, template=1) for task in range(count)], now)
    carry_out()
    for executor, task in sent.copy():
        end(executor, task)
    sent.clear()
    rules.add_work([other], [work(1000 + task, template=2) for task in range(count)], now)
    carry_out()
    looks = 0
    obstacle = FreeNode.obstacle

    def counted(node: FreeNode, what: NodeAllocation) -> tuple[str, str] | None:
        nonlocal looks
        looks += 1
        return obstacle(node, what)

    monkeypatch.setattr(FreeNode, "obstacle", counted)
    for task in range(50):
        rules.add_work([mine], [work(5000 + task, template=1)], now)
        rules.add_work([other], [work(6000 + task, template=2)], now)
        end(*sent.pop(0))
    monkeypatch.undo()
    assert len(rules.held) == count + 50, "as many wait as ended"
    return looks - count


def test_idle_executors_are_not_looked_at_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    few = looks_at_idle_executors(4, monkeypatch)
    many = looks_at_idle_executors(64, monkeypatch)
    assert many <= few + 8
