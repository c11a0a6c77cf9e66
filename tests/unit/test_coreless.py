"""Tasks without a core: what they need, where they start beside others, and what they are worth."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from support.builders import done, spec, template, work

import pilot
from pilot.agent.rules import actions as a
from pilot.agent.rules.queues import STARVED_S
from pilot.agent.rules.rules import Rules
from pilot.client.task import OptionError
from pilot.head.core.core import Core
from pilot.head.core.events import AttemptsEnded, PilotJoined, TasksSubmitted
from pilot.model.tasks import Template
from pilot.scheduler.assignment import early_slots, free_slots, why_infeasible
from pilot.scheduler.demand import ClassDemand, nodes_wanted
from pilot.scheduler.elasticity import PoolLimits
from pilot.scheduler.resources import needs, node_shape

TWO_PLACES = node_shape(1, memory_mib=100, coreless=2)


def coreless(number: int = 2, **changes: Any) -> Template:
    return template(number, **{"resources": needs(0), **changes})


class Node:
    """The rules of a pilot of one node with one core."""

    def __init__(self) -> None:
        self.rules = Rules(["n0"], TWO_PLACES)
        self.rules.add_node("n0", TWO_PLACES, 0.0)

    def add(self, known: Template, *tasks: int, now: float = 0.0) -> list[tuple[int, ...]]:
        """Return the cores of each executor that starts."""
        self.rules.add_work([known], [work(task, 1, known.id) for task in tasks], now)
        return self.started()

    def started(self) -> list[tuple[int, ...]]:
        actions = self.rules.take_actions()
        return [action.cores for action in actions if isinstance(action, a.StartExecutor)]


def test_they_start_beside_a_busy_core_as_many_as_have_a_place() -> None:
    node = Node()
    assert node.add(template(1), 1) == [(0,)]
    assert node.add(coreless(), 2, 3, 4) == [(), ()]
    node.rules.executor_ready(2, 1, 1.0)
    node.rules.executor_done(2, [done(2)], 2.0)
    ran = [x for x in node.rules.take_actions() if isinstance(x, a.RunOnExecutor)]
    assert [item.task for action in ran for item in action.work] == [2, 4]


def test_they_hold_back_nobody_who_needs_a_core() -> None:
    node = Node()
    assert node.add(coreless(priority=9), 1, 2, 3) == [(), ()]
    assert node.add(template(1), 4) == [(0,)]


def test_they_start_beside_a_task_of_several_cores_that_has_waited_for_long() -> None:
    shape = node_shape(2, coreless=2, memory_mib=100)
    rules = Rules(["n0"], shape)
    rules.add_node("n0", shape, 0.0)
    one, two = template(1), template(3, resources=needs(2))
    rules.add_work([one], [work(1)], 0.0)
    rules.add_work([two], [work(2, 1, two.id)], 0.0)
    rules.tick(STARVED_S + 1.0)  # from now on nothing overtakes it
    hungry = coreless(4, resources=needs(0, memory_mib=10))
    rules.add_work([one], [work(3)], STARVED_S + 1.1)
    rules.add_work([hungry], [work(4, 1, hungry.id)], STARVED_S + 1.2)
    rules.take_actions()
    rules.add_work([coreless()], [work(5, 1, 2)], STARVED_S + 1.3)
    started = [x for x in rules.take_actions() if isinstance(x, a.StartExecutor)]
    assert [action.cores for action in started] == [()]


def test_other_resources_are_counted_as_of_any_task() -> None:
    node = Node()
    assert node.add(coreless(resources=needs(0, memory_mib=60)), 1, 2) == [()]


def test_the_head_gives_them_to_a_pilot_that_is_full() -> None:
    core = Core()
    core.apply(PilotJoined("p", "main", TWO_PLACES, 2, 0.0, []), 0.0)
    core.apply(TasksSubmitted(1, [template(1)], [spec(task) for task in range(1, 4)], {}), 1.0)
    core.assign(2.0)
    pilot_ = core.pilots["p"]
    load = pilot_.load
    core.apply(TasksSubmitted(1, [coreless()], [spec(task, 2) for task in range(10, 16)], {}), 3.0)
    given = [task.id for task in core.assign(4.0)["p"]]
    assert given == [10, 11, 12, 13] and pilot_.coreless == 4 and pilot_.load == load
    assert core.sessions[1].load == load and sum(pilot_.shares.values()) == load
    core.apply(AttemptsEnded("p", [done(10), done(11, "error")]), 5.0)
    assert pilot_.coreless == 2
    assert [task.id for task in core.assign(6.0)["p"]] == [14, 15]


def test_ahead_of_its_inputs_it_needs_a_place_too() -> None:
    core = Core()
    core.apply(PilotJoined("p", "main", TWO_PLACES, 2, 0.0, []), 0.0)
    core.apply(TasksSubmitted(1, [coreless()], [spec(1, 2)], {}), 1.0)
    (work,) = core.classes.values()
    room = core.pilots["p"]
    assert early_slots(work, room) == free_slots(work, room) == 4


@pytest.mark.parametrize(
    ("waiting", "computing", "nodes"), [(1, 0, 1), (32, 0, 1), (33, 0, 2), (32, 4, 1), (40, 8, 2)]
)
def test_nodes_are_asked_for_by_places_and_not_by_cores(
    waiting: int, computing: int, nodes: int
) -> None:
    pool = PoolLimits("main", node_shape(4, coreless=32), 0, 8, 4, 2, 3600.0)
    demand = [
        ClassDemand(needs(0), "", waiting, 100.0),
        ClassDemand(needs(1), "", computing, 100.0),
    ]
    assert nodes_wanted(pool, demand) == (nodes, 1)


def test_what_is_said_of_them() -> None:
    assert str(needs(0)) == "0 cores" and needs(0).amounts == {"cores": 0}
    assert str(node_shape(4, coreless=32)) == "4 cores"
    none = why_infeasible(needs(0), "", [("main", node_shape(4), 1, 0.0)], 0.0)
    assert "pool 'main' has 4 cores, 0 tasks without a core" in none
    assert not why_infeasible(needs(0), "", [("main", node_shape(4, coreless=1), 1, 0.0)], 0.0)
    unknown = why_infeasible(
        needs(0, named={"x": 1}), "", [("main", node_shape(4, coreless=1), 1, 0.0)], 0.0
    )
    assert "it declares none" in unknown


def test_ranks_need_cores() -> None:
    with pytest.raises(OptionError, match="ranks of an MPI task need cores"):
        pilot.mpi(ranks=1, cores=0)(SimpleNamespace)
    with pytest.raises(OptionError, match="resources: tasks without a core are made by cores=0"):
        pilot.task(resources={"coreless": 1})(SimpleNamespace)
