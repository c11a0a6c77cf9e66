"""Tasks of one process that have several nodes: what they need, where they start, how they end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from support.builders import done, template, work

import pilot
from pilot.agent.rules import actions as a
from pilot.agent.rules.rules import Rules
from pilot.client.task import OptionError
from pilot.scheduler.assignment import why_infeasible
from pilot.scheduler.resources import NodeShape, needs, nodes_needed


def rules(nodes: int, cores: int = 2) -> Rules:
    found = Rules([f"n{number}" for number in range(nodes)], NodeShape(cores))
    for number in range(nodes):
        found.add_node(f"n{number}", NodeShape(cores), 0.0, number)
    return found


def test_it_starts_on_the_first_of_its_nodes_and_has_its_cores_on_all() -> None:
    pilot_ = rules(3)
    wide = template(1, resources=needs(2, nodes=2))
    pilot_.add_work([wide, template(2)], [work(1), work(2), work(3, 1, 2)], 0.0)
    started = [x for x in pilot_.take_actions() if isinstance(x, a.StartExecutor)]
    assert [(action.node, action.cores) for action in started] == [("n0", (0, 1)), ("n2", (0,))]
    pilot_.executor_ready(1, 77, 1.0)
    (ran,) = [x for x in pilot_.take_actions() if isinstance(x, a.RunOnExecutor)]
    assert [share.node for share in ran.shares] == ["n0", "n1"] and len(ran.work) == 1
    pilot_.executor_done(1, [done(1)], 2.0)
    (ran,) = [x for x in pilot_.take_actions() if isinstance(x, a.RunOnExecutor)]
    assert [item.task for item in ran.work] == [2], "on the same nodes"
    pilot_.executor_done(1, [done(2)], 3.0)
    assert any(isinstance(x, a.StopExecutor) for x in pilot_.take_actions())


def test_it_is_interrupted_when_another_of_its_nodes_is_lost() -> None:
    pilot_ = rules(2)
    pilot_.add_work([template(1, resources=needs(1, nodes=2))], [work(1)], 0.0)
    pilot_.executor_ready(1, 77, 1.0)
    pilot_.take_actions()
    pilot_.lose_node("n1", "node n1 was silent", 2.0)
    assert [x.executor for x in pilot_.take_actions() if isinstance(x, a.StopExecutor)] == [1]
    pilot_.executor_exited(1, -15, 1, 1.0, (), "", 3.0)
    (end,) = pilot_.take_completions()
    assert (end.task, end.outcome) == (1, "interrupted")


def test_what_it_needs() -> None:
    need = needs(4, nodes=3, memory_mib=10)
    assert str(need) == "3 nodes, on each 4 cores, 10 MiB" and need.nodes == 3
    assert nodes_needed(need, NodeShape(8)) == 3 and needs(4, nodes=1) == needs(4)
    why = why_infeasible(need, "", [("main", NodeShape(8), 2, 0.0)], 0.0)
    assert "it takes 3 nodes, a pilot of pool 'main' has at most 2" in why


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nodes": 0}, "nodes=0: give a whole number, at least 1"),
        ({"nodes": 2, "ranks": 2}, "give ranks_per_node"),
        ({"nodes": 2, "ranks_per_node": 1}, "give ranks_per_node"),
        ({"nodes": 2, "cores": 0}, "needs cores on each"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        pilot.task(**options)(SimpleNamespace)


def test_ranks_have_an_option_of_their_own() -> None:
    with pytest.raises(OptionError, match="by ranks_per_node"):
        pilot.mpi(ranks=1, nodes=2)(SimpleNamespace)
