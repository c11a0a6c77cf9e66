"""Memory and processor time of tasks: recorded, listed, and kept to what was asked for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.sites import SiteUnderTest, local_template, site_under_test

import pilot
from pilot.cli import cli

DEADLINE_S = 60.0
MIB = 1 << 20


@pytest.fixture(scope="module")
def site() -> Iterator[SiteUnderTest]:
    timers: dict[str, Any] = {"walltime": "1h", "idle_time": "1m"}
    pools = {
        "main": {"cores_per_node": 2, "memory_per_node": "4G", **timers},
        "free": {"cores_per_node": 1, "memory_per_node": "4G", "enforce_memory": False, **timers},
    }
    with site_under_test(local_template(pools=pools)) as site:
        yield site


@pytest.fixture(scope="module")
def session(site: SiteUnderTest) -> Iterator[pilot.Session]:
    with site.session() as session:
        yield session


def hold(mib: int, seconds: float = 0.0) -> int:
    """Have so much memory for a while."""
    data = os.urandom(MIB) * mib
    time.sleep(seconds)
    return len(data)


def row_of(session: pilot.Session, future: pilot.Future[Any]) -> dict[str, Any]:
    (row,) = [row for row in session.tasks() if row["id"] == future.task_id]
    return row


def test_peak_and_time_of_each_attempt_are_known(
    session: pilot.Session, site: SiteUnderTest
) -> None:
    large = session.submit(pilot.task(cores=2)(hold), 300)
    assert large.result(DEADLINE_S) == 300 * MIB
    small = session.submit(pilot.task(cores=2)(hold), 1)  # in the same process
    small.result(DEADLINE_S)
    command = f"{sys.executable} -c \"x = b'x' * {200 * MIB}\""
    program = session.submit(pilot.shell(command))
    program.result(DEADLINE_S)
    peaks = {
        name: row_of(session, future)["peak_mib"]
        for name, future in locals().items()
        if name in ("large", "small", "program")
    }
    assert 300 <= peaks["large"] < 600
    assert 0 < peaks["small"] < 300
    assert 200 <= peaks["program"] < 300
    assert 0.0 < row_of(session, large)["cpu_s"] < 60.0
    shown = (
        CliRunner()
        .invoke(cli, ["task", "show", str(large.task_id), "--site", str(site.directory)])
        .output
    )
    assert f"{peaks['large']}" in shown and "at most" in shown and "processor time" in shown
    listed = CliRunner().invoke(cli, ["task", "list", "--site", str(site.directory)]).output
    assert f"{peaks['large']}" in listed


def test_a_task_with_more_than_it_asked_for_is_ended_and_says_how_much(
    session: pilot.Session, tmp_path: Path
) -> None:
    beside = session.submit(pilot.task(memory="1G")(hold), 400, 4.0)
    over = session.submit(pilot.task(memory="100M", retries=1)(hold), 400, 600.0)
    error = over.exception(DEADLINE_S)
    assert isinstance(error, pilot.TaskOutOfMemory)
    assert "of memory, and had asked for 100M; ask for more, as memory=" in str(error)
    row = row_of(session, over)
    assert (row["attempts"], row["error"], row["state"]) == (2, "TaskOutOfMemory", "FAILED")
    assert row["peak_mib"] > 164  # seen while it grew
    once = pilot.task(memory="100M", retries=5, no_retry_on=["TaskOutOfMemory"])(hold)
    future = session.submit(once, 400, 600.0)
    assert isinstance(future.exception(DEADLINE_S), pilot.TaskOutOfMemory)
    assert row_of(session, future)["attempts"] == 1
    assert beside.result(DEADLINE_S) == 400 * MIB
    assert row_of(session, beside)["attempts"] == 1


def in_a_child(mib: int, path: str) -> None:
    """Have a process in a session of its own have the memory."""
    text = f"import os, time; x = os.urandom({MIB}) * {mib}; time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", text], start_new_session=True)
    Path(path).write_text(str(child.pid))
    child.wait()


def test_what_a_task_has_started_counts_and_ends_with_it(
    session: pilot.Session, tmp_path: Path
) -> None:
    path = tmp_path / "child"
    future = session.submit(pilot.task(memory="100M")(in_a_child), 400, str(path))
    assert isinstance(future.exception(DEADLINE_S), pilot.TaskOutOfMemory)
    assert not Path(f"/proc/{path.read_text()}").exists()


def test_nobody_minds_where_the_site_says_so(session: pilot.Session) -> None:
    free = pilot.task(memory="100M", pool="free")(hold)
    assert session.submit(free, 400, 2.5).result(DEADLINE_S) == 400 * MIB


def test_a_rank_with_too_much_is_named(session: pilot.Session) -> None:
    pytest.importorskip("mpi4py")

    @pilot.mpi(ranks=2, memory="100M")
    def grow(who: int) -> int:
        rank = pilot.context().rank
        return hold(400 if rank == who else 1, 600.0 if rank == who else 0.0)

    error = session.submit(grow, 1).exception(DEADLINE_S)
    assert isinstance(error, pilot.TaskOutOfMemory) and "rank 1: it used" in str(error)
    fine = session.submit(grow.options(memory="1G"), 5)
    assert fine.result(DEADLINE_S) == MIB


def test_ranks_tell_what_all_have_taken(session: pilot.Session) -> None:
    pytest.importorskip("mpi4py")

    @pilot.mpi(ranks=2)
    def work() -> None:
        if pilot.context().rank == 1:
            hold(300)
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass

    future = session.submit(work)
    future.result(DEADLINE_S)
    row = row_of(session, future)
    assert row["peak_mib"] >= 300 and row["cpu_s"] >= 0.55
