"""A real Slurm takes nodes away, or ends jobs: tasks save in time, and go on elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.waiting import wait_until

import pilot

if TYPE_CHECKING:
    from slurm.conftest import VirtualCluster

DEADLINE_S = 180.0
#: The steps that an attempt makes at least.
SOME = 10


def count(directory: str, number: int, steps: int, attempts: int = 1) -> int:
    """Count in steps, each noted in a file of its own; return the attempt that ends it.

    That is the one of this number, or a later one, and it makes some steps.
    """
    context = pilot.context()
    step, _ = context.checkpoint.load() or (0, None)
    steps = max(steps, step + SOME)
    while step < steps or context.attempt < attempts:
        with Path(directory, f"{number}.{step}").open("a") as file:
            file.write(f"{context.attempt} ")
        time.sleep(0.1)
        step += 1
        if context.should_stop:
            context.checkpoint.save(step, None)
            raise pilot.Stopped
    return context.attempt


@pilot.mpi(ranks=2, ranks_per_node=1, max_crashes=0)
def count_together(directory: str, steps: int, attempts: int) -> int:
    """The same on two nodes, with a checkpoint in each step: its launcher may end it at once."""
    from mpi4py import MPI

    world, context = MPI.COMM_WORLD, pilot.context()
    step, _ = context.checkpoint.load() or (0, None)
    steps = max(steps, step + SOME)
    while step < steps or context.attempt < attempts:
        if world.rank == 0:
            with Path(directory, f"world.{step}").open("a") as file:
                file.write(f"{context.attempt} ")
        time.sleep(0.2)
        step += 1
        context.checkpoint.save(step, None)
        if world.allreduce(context.should_stop, MPI.LOR):
            raise pilot.Stopped
    return context.attempt


def steps_of(directory: Path, name: object) -> list[list[str]]:
    """In which attempts each step was made."""
    return [path.read_text().split() for path in directory.glob(f"{name}.*")]


def attempts_of(session: pilot.Session, future: pilot.Future[Any]) -> list[str]:
    rows = session.query("task", task=future.task_id)["attempts_made"]
    return [row["outcome"] for row in rows]


@contextlib.contextmanager
def urgent_job(cluster: VirtualCluster, directory: Path) -> Iterator[None]:
    """A job that takes all nodes, for some seconds."""
    options = ["--partition=urgent", f"--nodes={len(cluster.nodes)}", "--exclusive"]
    with cluster.job_of("touch urgent; sleep 5", directory, *options):
        wait_until((directory / "urgent").exists, DEADLINE_S, "the urgent job to start")
        yield


def test_preempted_tasks_save_what_they_have_and_go_on(
    virtual_cluster: VirtualCluster, shared_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, directory = virtual_cluster, shared_directory
    cluster.enter(directory, monkeypatch)
    with cluster.site(directory / "site", nodes_per_pilot=2, max_nodes=2, walltime="10m") as site:
        with pilot.Session(site) as session:
            futures = [session.submit(count, str(directory), n, 50, 2) for n in range(2)]
            world = count_together.submit(str(directory), 50, 2)
            try:
                wait_until(
                    lambda: min(len(steps_of(directory, n)) for n in (0, 1, "world")) > 25,
                    DEADLINE_S,
                    "all to run for some seconds",
                )
                with urgent_job(cluster, directory):
                    pass
                assert [future.result(DEADLINE_S) for future in futures] == [2, 2]
                assert world.result(DEADLINE_S) == 2
            except BaseException:
                session.cancel()
                raise
            for future in [*futures, world]:
                assert attempts_of(session, future) == ["interrupted", "ok"]
            for number in range(2):
                steps = steps_of(directory, number)
                assert len(steps) >= 50 and all(len(tries) == 1 for tries in steps)
                made = {path.name for path in directory.glob(f"{number}.*")}
                assert made == {f"{number}.{step}" for step in range(len(steps))}, "none is missing"
            again = [tries for tries in steps_of(directory, "world") if len(tries) > 1]
            assert len(again) <= 1, "no more than the step in which it was ended"


def test_the_end_of_the_walltime_interrupts_nobody(
    virtual_cluster: VirtualCluster, shared_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, directory = virtual_cluster, shared_directory
    cluster.enter(directory, monkeypatch)
    changes: dict[str, Any] = {"walltime": "1m", "warning": "10s", "max_nodes": 1}
    changes["nodes_per_pilot"] = 1
    with cluster.site(directory / "site", **changes) as site:
        with pilot.Session(site) as session:
            future = session.submit(count, str(directory), 0, 500)
            try:
                assert future.result(DEADLINE_S) > 1, "50 s of work do not fit in a minute"
            except BaseException:
                session.cancel()
                raise
            rows = session.query("task", task=future.task_id)["attempts_made"]
            assert {row["error"].partition(":")[0] for row in rows[:-1]} == {"Stopped"}
            assert all(len(tries) == 1 for tries in steps_of(directory, 0))


def test_a_cancelled_job_ends_as_soon_as_its_tasks_have_saved(
    virtual_cluster: VirtualCluster, shared_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, directory = virtual_cluster, shared_directory
    cluster.enter(directory, monkeypatch)
    with cluster.site(directory / "site", nodes_per_pilot=1, max_nodes=1) as site:
        with pilot.Session(site) as session:
            future = session.submit(count, str(directory), 0, 150)
            try:
                wait_until(lambda: len(steps_of(directory, 0)) > 25, DEADLINE_S)
                (row,) = session.query("fleet", alive=True)
                cluster.run("scancel", row["job"])
                assert future.result(DEADLINE_S) == 2
            except BaseException:
                session.cancel()
                raise
            assert attempts_of(session, future) == ["interrupted", "ok"]
            assert all(len(tries) == 1 for tries in steps_of(directory, 0))
