"""A mix of tasks of all shapes in one pilot of four nodes, and what the records say of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from support.packing import Job, list_schedule_s, most_at_once, used_twice

import pilot
from pilot.scheduler.placement_text import read_placement
from pilot.scheduler.resources import Resources, indexed, node_shape

if TYPE_CHECKING:
    from pathlib import Path

    from slurm.conftest import VirtualCluster

DEADLINE_S = 300.0
NODES, CORES, LICENCES = 4, 4, 3


def gang_of_four(seconds: float) -> None:
    time.sleep(seconds)


def gang_of_two(seconds: float) -> None:
    time.sleep(seconds)


def threaded(seconds: float) -> None:
    time.sleep(seconds)


def serial(seconds: float) -> None:
    time.sleep(seconds)


def on_device(seconds: float) -> None:
    time.sleep(seconds)


def licensed(seconds: float) -> None:
    time.sleep(seconds)


#: Task, how many, and how long each takes.
MIX: list[tuple[Any, int, float]] = [
    (pilot.task(serial), 40, 0.5),
    (pilot.mpi(ranks=16, ranks_per_node=4)(gang_of_four), 2, 1.0),
    (pilot.mpi(ranks=8, ranks_per_node=4)(gang_of_two), 3, 1.0),
    (pilot.task(cores=4)(threaded), 6, 1.0),
    (pilot.task(resources={"device": 1})(on_device), 12, 0.5),
    (pilot.task(resources={"licence": 1})(licensed), 9, 0.5),
]


def told(rows: list[dict[str, Any]]) -> str:
    """Return how long the mix took, beside what an offline scheduler makes of the same times."""
    needs_of = {task.__name__: task.resolved.resources for task, _, _ in MIX if task.resolved}
    # The site's amounts are no part of a node.
    needs_of["licensed"] = Resources()
    jobs = [
        Job(needs_of[row["name"]], row["ended"] - row["started"], int(row["name"] == "licensed"))
        for row in rows
    ]
    shape = node_shape(CORES, others=[indexed("device", (0, 1))])
    took_s = max(row["ended"] for row in rows) - min(row["started"] for row in rows)
    offline_s = list_schedule_s(jobs, [shape] * NODES, LICENCES)
    return f"{took_s:.2f} s; offline {offline_s:.2f} s, {offline_s / took_s:.0%} of that"


def test_a_mix_shares_four_nodes(
    virtual_cluster: VirtualCluster, shared_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    virtual_cluster.enter(shared_directory, monkeypatch)
    keys: dict[str, Any] = {
        "max_nodes": NODES,
        "min_nodes": NODES,
        "nodes_per_pilot": NODES,
        "cores_per_node": CORES,
        "resources": {"device": [0, 1]},
    }
    with (
        virtual_cluster.site(
            shared_directory / "site", amounts={"licence": LICENCES}, **keys
        ) as site,
        pilot.Session(site) as session,
    ):
        # The pilot is there, with all its nodes.
        session.submit(pilot.task(cores=4, nodes=NODES)(serial), 0.0).result(DEADLINE_S)
        # The first time executors and ranks start, the second time they are there.
        both = []
        for _ in range(2):
            futures = [
                session.submit(task, seconds) for task, count, seconds in MIX for _ in range(count)
            ]
            pilot.gather(futures, timeout=DEADLINE_S)
            ids = {future.task_id for future in futures}
            known = session.query("placements", session=session.id)["placements"]
            both.append([row for row in known if row["id"] in ids])
            print(told(both[-1]))
    rows = [row for its in both for row in its]
    assert len({row["pilot"] for row in rows}) == 1 and len(rows) == 2 * len(futures)
    assert not used_twice(rows)
    licences = [(row["started"], row["ended"], 1) for row in rows if row["name"] == "licensed"]
    assert most_at_once(licences) == LICENCES
    # How near to an offline schedule it comes, and that large ones get their turn, is tried under
    # virtual time (`tests/unit`).
    nodes = {row["id"]: list(read_placement(row["placement"])) for row in rows}
    assert all(len(nodes[row["id"]]) == 4 for row in rows if row["name"] == "gang_of_four")
    devices = {
        (place.node, index)
        for row in rows
        if row["name"] == "on_device"
        for place in nodes[row["id"]]
        for index in place.indices["device"]
    }
    assert len(devices) > 1
