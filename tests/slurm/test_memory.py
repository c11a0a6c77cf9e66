"""Memory is asked for by node, by core, or as all of it; it is counted in each case."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pilot

if TYPE_CHECKING:
    from slurm.conftest import VirtualCluster

DEADLINE_S = 120.0


def when(seconds: float) -> tuple[float, float, dict[str, str]]:
    """Return when this ran, and what Slurm says of the job's memory."""
    began = time.time()
    time.sleep(seconds)
    told = {k: v for k, v in os.environ.items() if k.startswith("SLURM_MEM_PER_")}
    return began, time.time(), told


def test_memory_is_counted_however_it_is_asked_for(
    virtual_cluster: VirtualCluster, shared_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    virtual_cluster.enter(shared_directory, monkeypatch)
    pools: dict[str, dict[str, Any]] = {
        "by_node": {},
        "by_core": {"sbatch_options": ["--mem-per-cpu=200M"]},
        "own": {"sbatch_options": ["--mem=500M"]},
        "whole": {"memory_request": "all"},
    }
    told = {
        "by_node": {"SLURM_MEM_PER_NODE": "400"},
        "by_core": {"SLURM_MEM_PER_CPU": "200"},
        "own": {"SLURM_MEM_PER_NODE": "500"},
    }
    keys: dict[str, Any] = {
        "max_nodes": 1,
        "nodes_per_pilot": 1,
        "cores_per_node": 2,
        "memory_per_node": "400M",
    }
    with (
        virtual_cluster.site(shared_directory / "site", pools, **keys) as site,
        pilot.Session(site) as session,
    ):
        runs = {
            name: session.submit_many(pilot.task(pool=name, memory="250M")(when), [(1.0,), (1.0,)])
            for name in pools
        }
        for name, futures in runs.items():
            first, second = sorted(future.result(DEADLINE_S) for future in futures)
            assert second[0] >= first[1], f"{name}: both would not fit at once"
            assert first[2] == told.get(name, first[2]), name
