"""Pilots in a Slurm that others use as well: what can start is asked for, and keeps its end."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.waiting import wait_until

import pilot

if TYPE_CHECKING:
    from slurm.conftest import VirtualCluster

DEADLINE_S = 90.0


def whereabouts(_: int) -> tuple[str, float]:
    """Return the node, and the end of the job's walltime as its pilot knows it."""
    time.sleep(1.0)
    return os.uname().nodename, float(os.environ["PILOT_JOB_ENDS_AT"])


def test_pilot_takes_the_nodes_that_are_free_rather_than_wait_for_all(
    virtual_cluster: VirtualCluster, shared_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, directory = virtual_cluster, shared_directory
    cluster.enter(directory, monkeypatch)
    count = len(cluster.nodes)
    half = count // 2
    options = (f"--nodes={half}", "--exclusive", "--time=10")
    with (
        cluster.job_of("sleep 600", directory, *options) as other,
        cluster.site(directory / "site", nodes_per_pilot=count, max_nodes=count) as site,
        pilot.Session(site) as session,
    ):
        wait_until(lambda: cluster.job(other)["JobState"] == "RUNNING", DEADLINE_S)
        calls = session.submit_many(pilot.task(cores=4)(whereabouts), [(n,) for n in range(count)])
        nodes = {node for node, _ in pilot.gather(calls, timeout=DEADLINE_S)}
        assert cluster.job(other)["JobState"] == "RUNNING", "nobody has waited for its end"
        assert len(nodes) <= count - half
        shaped = [e for e in session.query("explain_fleet")["history"] if e["kind"] == "shaped"]
        assert f"is submitted with {-(-count // 4)} to {count} nodes" in shaped[0]["text"]
        rows = session.query("fleet", alive=True)
        assert count - half in [row["nodes"] for row in rows], "it has what Slurm gave"
        assert sum(row["nodes"] for row in rows) <= count, "max_nodes"


def test_pilot_fits_into_a_gap_and_knows_its_end(
    virtual_cluster: VirtualCluster, shared_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All nodes are promised to a job that waits for one that ends in 15 minutes."""
    cluster, directory = virtual_cluster, shared_directory
    cluster.enter(directory, monkeypatch)
    count = len(cluster.nodes)
    some, every = (f"--nodes={nodes}" for nodes in (count // 2, count))
    with (
        cluster.job_of("sleep 900", directory, some, "--exclusive", "--time=15") as other,
        cluster.job_of("sleep 1", directory, every, "--exclusive", "--time=60") as next_one,
        cluster.site(directory / "site", nodes_per_pilot=2, max_nodes=2, walltime="30m") as site,
        pilot.Session(site) as session,
    ):
        wait_until(lambda: cluster.job(other)["JobState"] == "RUNNING", DEADLINE_S)
        wait_until(lambda: cluster.job(next_one)["StartTime"] != "Unknown", DEADLINE_S)
        calls = session.submit_many(
            pilot.task(cores=4, time_limit=90.0)(whereabouts), [(n,) for n in range(4)]
        )
        ends = {ends_at for _, ends_at in pilot.gather(calls, timeout=DEADLINE_S)}
        assert cluster.job(next_one)["JobState"] == "PENDING", "it is not made to wait either"
        (row,) = [row for row in session.query("fleet", alive=True) if row["state"] == "RUNNING"]
        limit = cluster.job(int(row["job"]))["TimeLimit"]
        minutes = int(limit.split(":")[1])
        assert 10 <= minutes < 30, limit
        assert all(abs(each - time.time() - 60 * minutes) < 60.0 for each in ends)
