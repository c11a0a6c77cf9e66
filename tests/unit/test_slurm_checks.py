"""The checks of Slurm: what its commands say is read, and judged against the pools."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.findings import Finding
from pilot.scheduler.batch.slurm import checks as c
from pilot.scheduler.batch.slurm.answers import release_of
from pilot.site_configs import pool_type

PoolConfig: Any = pool_type("slurm")


def levels(findings: Iterable[Finding]) -> list[str]:
    return [finding.level.value for finding in findings]


def told(findings: Iterable[Finding]) -> str:
    return " ".join(f"{finding.found} -> {finding.todo}" for finding in findings)


def commands(missing: str = "", **changes: Any) -> c.Commands:
    names = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun", "sacct")
    fields: dict[str, Any] = {
        "paths": {name: None if name == missing else f"/usr/bin/{name}" for name in names},
        "version": "slurm 23.11.4",
        "squeue_s": 0.01,
        "accounts": True,
    }
    return c.Commands(**{**fields, **changes})


@pytest.mark.parametrize(
    ("its", "level", "word"),
    [
        (commands(), "ok", "23.11.4"),
        (commands("sbatch"), "problem", "sbatch not found"),
        (commands("srun"), "warning", "srun"),
        (commands(error="squeue gave no answer"), "problem", "no answer"),
        (commands(squeue_s=5.0), "warning", "poll_interval"),
        (commands(version="slurm 19.05.2"), "problem", "older"),
        (commands(accounts=False), "warning", "sacct"),
        (commands(accounts=False, settings={"MinJobAge": "10 sec"}), "warning", "MinJobAge"),
        (commands(settings={"PropagateResourceLimits": "ALL"}), "ok", "travel"),
    ],
)
def test_commands(its: c.Commands, level: str, word: str) -> None:
    found = [*c.judge_commands(its, 10.0)]
    assert level in levels(found)
    assert word in told(found)


def pool(taken: bool = True, said: str = "", *partitions: c.Partition, **more: Any) -> c.Pool:
    trial = c.Trial(nodes=2, walltime_s=3600, took_s=0.1, taken=taken, said=said)
    return c.Pool(trial=trial, partitions=partitions, **more)


def partition(**changes: Any) -> c.Partition:
    fields = {"name": "p", "nodes": 4, "cores": 64, "memory_mib": 256000, "walltime_s": 86400.0}
    return c.Partition(**{**fields, **changes})


@pytest.mark.parametrize(
    ("its", "keys", "level", "word"),
    [
        (pool(said="Job 1 to start at 12:00"), {}, "ok", "to start at"),
        (pool(), {}, "ok", "would take 2 nodes for 01:00:00"),
        (
            pool(False, "Invalid account", associations=("physics/cpu/normal",)),
            {},
            "problem",
            "physics/cpu/normal",
        ),
        (pool(True, "", partition(walltime_s=600.0)), {}, "problem", "00:10:00"),
        (pool(True, "", partition(walltime_s=600.0), partition(walltime_s=0)), {}, "ok", "take"),
        (pool(True, "", partition(cores=32)), {}, "problem", "64 cores"),
        (pool(True, "", partition(nodes=1)), {"nodes_per_pilot": 2}, "problem", "1 node"),
        (
            pool(True, "", partition(cores=128)),
            {"sbatch_options": ("--exclusive",)},
            "warning",
            "hyper-threads",
        ),
    ],
)
def test_pools(its: c.Pool, keys: dict[str, Any], level: str, word: str) -> None:
    config = PoolConfig(cores_per_node=64, **keys)
    found = [*c.judge_pool(its, "cpu", config)]
    assert levels(found) == [level]
    assert word in told(found)


def test_partitions_are_read() -> None:
    output = "CLUSTER: c\nmain|4|64+|256000+|1-00:00:00\ngpu|2|32|512000|infinite\n"
    assert c.parse_partitions(output) == [
        partition(name="main"),
        partition(name="gpu", nodes=2, cores=32, memory_mib=512000, walltime_s=0.0),
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1-02:03:04", 93784),
        ("30:00", 1800),
        ("2:00:00", 7200),
        ("45", 45),
        ("infinite", 0),
        ("n/a", 0),
    ],
)
def test_walltimes_are_read(text: str, seconds: float) -> None:
    assert c.parse_walltime(text) == seconds


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    c.parse_partitions(text)
    c.parse_settings(text)
    c.parse_walltime(text)
    release_of(text)


def test_settings_are_read() -> None:
    output = "Configuration data as of x\nMinJobAge               = 300 sec\nFoo = bar\n"
    assert c.parse_settings(output) == {"MinJobAge": "300 sec"}


def test_releases() -> None:
    assert release_of("slurm-wlm 22.05.8") == (22, 5)
    assert release_of("") is None
