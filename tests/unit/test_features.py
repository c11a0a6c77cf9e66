"""What tasks ask of nodes: constraints on features, and nodes for themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.builders import spec, template
from support.sites import local_template
from support.virtual_pilot import VirtualPilot, VirtualSite

import pilot
from pilot.client.task import OptionError, Task
from pilot.head.core.core import Core
from pilot.head.core.events import PilotJoined, TasksSubmitted
from pilot.scheduler.assignment import why_infeasible
from pilot.scheduler.demand import ClassDemand, worth
from pilot.scheduler.elasticity import PoolLimits, standings
from pilot.scheduler.features import check_constraint, required, satisfies
from pilot.scheduler.placement import FreeNode, NodeAllocation, place
from pilot.scheduler.resources import (
    NodeShape,
    Resources,
    common_shape,
    cores_on,
    needs,
    node_shape,
    nodes_needed,
)
from pilot.site_configs import SiteFileError, load_site_file


def needs_of(task: Task[..., Any]) -> Resources:
    return task.task_options.resolve((), {}).resources


def placed(need: Resources, nodes: list[FreeNode]) -> list[NodeAllocation]:
    shares = place(need, nodes)
    assert shares is not None
    return shares


# --- constraints ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constraint", "yes", "no"),
    [
        ("a100", ("a100", "x"), ("h100",)),
        ("a100&nvme", ("nvme", "a100"), ("a100",)),
        ("a100 | h100", ("h100",), ("nvme",)),
        ("(a100|h100)&nvme", ("h100", "nvme"), ("a100", "h100")),
        ("[rack1|rack2]", ("rack2",), ("rack3",)),
        ("a&(b|(c&d))", ("a", "c", "d"), ("a", "c")),
    ],
)
def test_a_constraint_is_read_as_slurm_writes_it(
    constraint: str, yes: tuple[str, ...], no: tuple[str, ...]
) -> None:
    text = check_constraint(constraint)
    assert text == constraint.replace(" ", "")
    assert satisfies(yes, text) and not satisfies(no, text) and not satisfies((), text)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ("", "a feature is missing"),
        ("a&", "a feature is missing"),
        ("(a|b", "a '\\)' is missing"),
        ("[a)", "a ']' is missing"),
        ("a)b", "one '\\)' too many"),
        ("a b", "one 'b' too many"),
        ("a&b|c", "say by brackets what belongs together"),
        ("a*4", "leave counts of nodes"),
        ("a;b", "give features with & and |"),
        ("(" * 50 + "a" + ")" * 50, "at most 20 brackets"),
        ("a&" * 600 + "a", "give features with & and |"),
    ],
)
def test_a_constraint_that_cannot_be_read_is_refused(constraint: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        pilot.task(constraint=constraint)(len)


def test_a_constraint_is_a_text() -> None:
    with pytest.raises(OptionError, match="constraint=4: give a text"):
        pilot.task(constraint=4)(len)
    assert needs_of(pilot.task(constraint=None)(len)).constraint == ""


def test_features_that_a_constraint_requires() -> None:
    assert required("a100&nvme") == ("a100", "nvme")
    assert required("") == required("a|b") == required("(a)") == ()


def test_a_pool_must_have_the_features() -> None:
    need = needs(1, constraint="a100&nvme")
    pools = [("cpu", node_shape(4), 1, 0.0), ("gpu", node_shape(4, features=["a100"]), 1, 0.0)]
    told = why_infeasible(need, "", pools, 0.0)
    assert told == (
        "no pool can run it: it needs 1 core, nodes with a100&nvme, but a node of pool 'cpu' has "
        "4 cores, no features"
    )
    assert "the features a100" in why_infeasible(need, "gpu", pools, 0.0)
    pools.append(("both", node_shape(4, features=["nvme", "a100"]), 1, 0.0))
    assert not why_infeasible(need, "", pools, 0.0)


def test_the_pool_with_the_features_grows_and_its_pilots_get_the_tasks() -> None:
    shapes = {"cpu": node_shape(4), "gpu": node_shape(4, features=["a100"])}
    core = Core()
    for name, shape in shapes.items():
        core.apply(PilotJoined(name, name, shape, 1, 0.0, []), 0.0)
    kind = template(1, resources=needs(1, constraint="a100"))
    core.apply(TasksSubmitted(1, [kind], [spec(n) for n in range(1, 4)], {}), 1.0)
    pools = [PoolLimits(name, shape, 0, 2, 1, 4, 3600.0) for name, shape in shapes.items()]
    assert [its.wanted for its in standings(pools, core.demand(), [])] == [0, 1]
    assert [len(tasks) for tasks in core.assign(2.0).values()] == [3]
    assert {task.pilot.name for task in core.tasks.values() if task.pilot} == {"gpu"}


def test_nodes_of_one_pilot_may_differ_in_features() -> None:
    shapes = [node_shape(2), node_shape(2, features=["b", "a"])]
    assert common_shape(shapes).features == ()
    nodes = [FreeNode(f"n{number}", shape, number) for number, shape in enumerate(shapes)]
    (share,) = placed(needs(1, constraint="a"), nodes)
    assert share.node == "n1"
    assert place(needs(1, constraint="c"), nodes) is None
    assert shapes[1].features == ("a", "b")


def test_features_are_named_in_the_site_file(tmp_path: Path) -> None:
    pool = {"cores_per_node": 2, "features": ["nvme", "a100"]}
    path = tmp_path / "site.yaml"
    path.write_text(json.dumps(local_template(pools={"main": pool})))
    assert load_site_file(path).pools["main"].shape.features == ("a100", "nvme")
    path.write_text(json.dumps(local_template(pools={"main": {**pool, "features": ["a&b"]}})))
    with pytest.raises(SiteFileError, match="'a&b' is not the name of a feature"):
        load_site_file(path)
    slurm = {"main": {"cores_per_node": 2, "features": ["x"], "constraint": "nvme&a100"}}
    path.write_text(json.dumps({"batch": "slurm", "pools": slurm}))
    assert load_site_file(path).pools["main"].shape.features == ("a100", "nvme", "x")


# --- nodes for themselves -------------------------------------------------------------------------


def test_an_exclusive_task_has_all_of_its_node() -> None:
    node = FreeNode("n0", node_shape(4, gpus=2, coreless=8))
    need = needs(1, gpus=1, exclusive=True)
    (share,) = placed(need, [node])
    assert share.cores == (0, 1, 2, 3) and share.is_whole
    assert [portion.indices for portion in share.named] == [("0",)]
    node.take(share)
    for other in (needs(1), needs(0), needs(1, gpus=1), need):
        assert place(other, [node]) is None
    assert node.copy().is_shut
    node.release(share)
    assert place(need, [node])
    (coreless,) = placed(needs(0), [node])
    node.take(coreless)
    assert place(need, [node]) is None and place(needs(4), [node])


def test_the_ranks_of_an_exclusive_task_have_the_cores_that_they_ask_for() -> None:
    nodes = [FreeNode(f"n{number}", NodeShape(4), number) for number in range(3)]
    need = Resources(ranks=2, ranks_per_node=1, exclusive=True)
    shares = place(need, nodes)
    assert shares is not None and [len(share.cores) for share in shares] == [1, 1]
    for share in shares:
        nodes[int(share.node[1:])].take(share)
    assert [node.fit(Resources()) for node in nodes] == [0, 0, 4]
    assert cores_on(need, NodeShape(4)) == 8 and nodes_needed(need, NodeShape(4)) == 2
    assert cores_on(needs(1), NodeShape(4)) == 1


def test_exclusive_tasks_are_worth_a_node_each() -> None:
    pool = PoolLimits("main", NodeShape(8), 0, 9, 1, 4, 3600.0)
    work = ClassDemand(needs(1, exclusive=True), "", 5, 600.0)
    assert worth(pool, work, 5) == 5.0
    assert worth(pool, ClassDemand(needs(1), "", 5, 600.0), 5) == 5 / 8


def test_nothing_runs_beside_an_exclusive_task() -> None:
    pilot = VirtualPilot([NodeShape(4), NodeShape(4)])
    alone = template(1, resources=needs(1, exclusive=True))
    ranks = template(2, kind="mpi", resources=Resources(ranks=2, ranks_per_node=1, exclusive=True))
    pilot.submit(0.0, template(3), range(100, 140), 0.4)
    pilot.submit(0.1, alone, range(3), 1.0)
    pilot.submit(0.2, ranks, range(10, 12), 1.0)
    pilot.run()
    for run in pilot.runs:
        if run.task >= 100:
            continue
        beside = [
            other.task
            for other in pilot.runs
            if other is not run
            and other.began < run.ended
            and run.began < other.ended
            and {share.node for share in other.shares} & {share.node for share in run.shares}
        ]
        assert not beside, f"{run.task} had {beside} beside it"
    assert len(pilot.runs) == 45
    assert not any(node.is_shut or node.users for node in pilot.rules.nodes.values())


def test_an_exclusive_task_gets_its_turn() -> None:
    site = VirtualSite([NodeShape(4)])
    for number in range(80):
        site.submit(0.05 * number, template(3), [100 + 2 * number, 101 + 2 * number], 0.5)
    site.submit(0.5, template(1, resources=needs(1, exclusive=True)), [1], 1.0)
    end = site.run()
    began = next(run.began for run in site.runs if run.task == 1)
    assert began < end / 2


def test_the_head_counts_the_cores_of_the_whole_node() -> None:
    core = Core()
    core.apply(PilotJoined("p", "p", NodeShape(4), 2, 0.0, []), 0.0)
    kind = template(1, resources=needs(1, exclusive=True))
    core.apply(TasksSubmitted(1, [kind], [spec(n) for n in range(1, 9)], {}), 1.0)
    (tasks,) = core.assign(2.0).values()
    assert len(tasks) == 2 and core.pilots["p"].load == 8


def test_wrong_values_of_exclusive() -> None:
    with pytest.raises(OptionError, match="exclusive='yes': give True or False"):
        pilot.task(exclusive="yes")(len)
    with pytest.raises(OptionError, match="a task without a core has no node for itself"):
        pilot.task(exclusive=True, cores=0)(len)
    task = pilot.task(exclusive=True, constraint="a&b", cores=2)(len)
    assert str(needs_of(task)) == "2 cores, no other task on its nodes, nodes with a&b"
    ranks = pilot.mpi(ranks=4, exclusive=True)(len)
    assert str(needs_of(ranks)) == "4 ranks, each 1 core; no other task on its nodes"
