"""Versions of tasks end to end, on a local site: which one runs, and what is told of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.sites import SiteUnderTest, local_template, site_under_test
from support.waiting import wait_until

import pilot

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def site() -> Iterator[SiteUnderTest]:
    timers: dict[str, Any] = {"walltime": "1h", "idle_time": "1m"}
    pools = {"main": {"cores_per_node": 2, "gpus_per_node": 1, "gpu_vendor": "nvidia", **timers}}
    with site_under_test(local_template(pools=pools)) as made:
        yield made


@pytest.fixture
def session(site: SiteUnderTest) -> Iterator[pilot.Session]:
    with site.session() as made:
        yield made


def version_of(session: pilot.Session, future: pilot.Future[Any]) -> str | None:
    """The version that ran last, by what is on record."""
    found: str | None = session.query("task", task=future.task_id)["version"]
    return found


def wait_for(path: str) -> str:
    wait_until(lambda: os.path.exists(path), DEADLINE_S)
    return "cpu"


def test_the_version_runs_that_can_start(
    site: SiteUnderTest, session: pilot.Session, tmp_path: Path
) -> None:
    held = pilot.task(cores=2)(wait_for)

    @held.version(cores=1, gpus=1)
    def on_gpu(path: str) -> str:
        wait_until(lambda: os.path.exists(path), DEADLINE_S)
        return "gpu " + os.environ["CUDA_VISIBLE_DEVICES"]

    # A core is taken: so there is room for the other version alone.
    one = session.submit(wait_for, str(tmp_path / "one"))
    assert wait_until(lambda: one.running(), DEADLINE_S)
    first, second = held.map([str(tmp_path / "all")] * 2)
    wait_until(first.running, DEADLINE_S)
    (tmp_path / "all").touch()
    assert first.result(DEADLINE_S) == "gpu 0"
    (tmp_path / "one").touch()
    results = Counter(each.result(DEADLINE_S) for each in (one, first, second))
    assert results["gpu 0"] >= 1
    assert version_of(session, first) == "on_gpu"
    assert version_of(session, second) in ("on_gpu", "wait_for")
    assert version_of(session, one) is None
    words = [sys.executable, "-m", "pilot", "--site", str(site.directory), "task", "show"]
    shown = subprocess.run(
        [*words, first.task_id], check=True, capture_output=True, text=True, timeout=DEADLINE_S
    ).stdout
    assert "on_gpu" in shown and "version" in shown
    (attempt,) = json.loads(
        subprocess.run(
            [*words, "--json", first.task_id],
            check=True,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        ).stdout
    )["attempts_made"]
    assert attempt["version"] == "on_gpu"


def too_large(x: int) -> int:
    raise AssertionError("no node is so large")


def test_a_version_that_no_pool_can_hold_is_left_out(session: pilot.Session) -> None:
    large = pilot.task(cores=64, retries=1)(too_large)
    with pytest.raises(pilot.SubmissionError, match="no pool can run it"):
        large.submit(1)
    large.version(cores=32, name="half")(too_large)
    with pytest.raises(pilot.SubmissionError, match="its version 'half': no pool can run it"):
        large.submit(1)
    # It is one of the task from now on, though the task is known already.
    alone = large.version(cores=1, name="small")(lambda x: x + 1)
    future = large.submit(1)
    assert future.result(DEADLINE_S) == 2
    assert version_of(session, future) == "small"
    assert alone.submit(2).result(DEADLINE_S) == 3


def test_failures_of_versions_are_of_the_task(session: pilot.Session) -> None:
    large = pilot.task(cores=64, retries=2, on_failure="ignore", default=7)(too_large)

    @large.version(cores=1)
    def small(x: int) -> int:
        raise ValueError("as told")

    future = large.submit(1)
    assert isinstance(future.exception(DEADLINE_S), ValueError)
    assert session.submit(lambda x: x, future).result(DEADLINE_S) == 7
    found = session.query("task", task=future.task_id)
    assert [attempt["version"] for attempt in found["attempts_made"]] == ["small"] * 3
    assert found["name"] == "too_large"
    again = session.retry()
    assert [type(each.exception(DEADLINE_S)) for each in again.values()] == [ValueError]


def sizes(x: int) -> int:
    from mpi4py import MPI

    return int(x * MPI.COMM_WORLD.size)


def test_versions_of_other_kinds(session: pilot.Session) -> None:
    four = pilot.mpi(ranks=64)(sizes)
    four.version(ranks=2, name="two ranks")(sizes)
    future = four.submit(5)
    assert future.result(DEADLINE_S) == 10
    assert version_of(session, future) == "two ranks"
    command = pilot.shell("echo large {x}", cores=64)
    command.version(pilot.shell("echo small {x}", name="small", cores=1))
    told = command.submit(x=3)
    assert told.result(DEADLINE_S).stdout == "small 3\n"
    assert version_of(session, told) == "small"


def parent(x: int) -> Any:
    large = pilot.task(cores=64)(too_large)
    large.version(cores=1, name="inner")(lambda x: x * 3)
    return large.submit(x)


def test_children_have_versions_too(session: pilot.Session) -> None:
    assert session.submit(parent, 4).result(DEADLINE_S) == 12
