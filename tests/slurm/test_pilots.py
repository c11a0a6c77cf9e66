"""Pilots in a real Slurm: they grow, run MPI over nodes, outlive what is taken from them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.waiting import wait_until

import pilot
from pilot.head.running import find_head
from pilot.site import Site

if TYPE_CHECKING:
    from tests.slurm.conftest import VirtualCluster

DEADLINE_S = 90.0


def _running_job(session: pilot.Session) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        rows = [row for row in session.query("fleet", alive=True) if row["state"] == "RUNNING"]
        return rows[0] if rows else None

    row = wait_until(found, DEADLINE_S, "a pilot to run")
    assert row is not None
    return row


def test_mpi_runs_over_two_nodes_of_a_pilot(site: Site) -> None:
    @pilot.mpi(ranks=2, ranks_per_node=1)
    def hosts(x: int) -> tuple[int, list[str]]:
        from mpi4py import MPI

        world = MPI.COMM_WORLD
        return world.allreduce(x), world.allgather(os.uname().nodename)

    with pilot.Session(site) as session:
        total, names = hosts.submit(21).result(DEADLINE_S)
        assert total == 42
        assert len(set(names)) == 2
        row = _running_job(session)
        assert row["nodes"] >= 2 and row["job"].isdecimal()


def test_a_killed_head_costs_nothing(site: Site, shared_directory: Path) -> None:
    runs = shared_directory / "runs"
    runs.mkdir()

    def note(number: int, directory: str) -> int:
        with open(f"{directory}/{os.uname().nodename}-{os.getpid()}", "a") as file:
            file.write(f"{number}\n")
        return number * number

    with pilot.Session(site) as session:
        futures = session.submit_many(note, [(n, str(runs)) for n in range(1000)])
        wait_until(lambda: any(future.done() for future in futures), DEADLINE_S, "a first result")
        head = find_head(site)
        assert head is not None
        os.kill(head.pid, signal.SIGKILL)
        assert pilot.gather(futures, timeout=DEADLINE_S) == [n * n for n in range(1000)]
        again = find_head(site)
        assert again is not None and again.epoch > head.epoch
    noted = sorted(int(n) for file in runs.iterdir() for n in file.read_text().split())
    assert noted == list(range(1000))


def test_a_requeued_pilot_runs_its_tasks_again(
    site: Site, virtual_cluster: VirtualCluster, shared_directory: Path
) -> None:
    lives = shared_directory / "lives"
    lives.mkdir()

    def live(directory: str) -> int:
        import time

        mark = f"{directory}/{os.uname().nodename}-{os.getpid()}-{time.time()}"
        with open(mark, "w"):
            pass
        if len(os.listdir(directory)) == 1:
            time.sleep(600.0)
        return 7

    with pilot.Session(site) as session:
        future = session.submit(live, str(lives))
        wait_until(lambda: list(lives.iterdir()), DEADLINE_S, "the task to run")
        job = _running_job(session)["job"]
        virtual_cluster.run("scontrol", "requeue", job)
        # A requeued job is held back for a while; another pilot may be quicker.
        virtual_cluster.wait_for(
            "the job to leave its node",
            lambda: virtual_cluster.job(int(job))["JobState"] != "RUNNING",
            DEADLINE_S,
        )
        virtual_cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
        assert future.result(2 * DEADLINE_S) == 7
        attempts = session.query("task", task=future.task_id)["attempts_made"]
    assert [attempt["outcome"] for attempt in attempts] == ["interrupted", "ok"]


def test_a_dead_rank_harms_its_world_only(site: Site) -> None:
    @pilot.mpi(ranks=4, ranks_per_node=2, max_crashes=0)
    def die() -> None:
        from mpi4py import MPI

        if MPI.COMM_WORLD.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        MPI.COMM_WORLD.barrier()

    @pilot.mpi(ranks=2, ranks_per_node=1)
    def size() -> int:
        from mpi4py import MPI

        return int(MPI.COMM_WORLD.size)

    with pilot.Session(site):
        crashed, fine = die.submit(), size.submit()
        with pytest.raises(pilot.TaskCrashed, match="a rank died"):
            crashed.result(DEADLINE_S)
        assert fine.result(DEADLINE_S) == 2
        assert size.submit().result(DEADLINE_S) == 2


def test_tasks_of_tasks_cross_nodes(site: Site) -> None:
    def leaf(number: int) -> int:
        return number

    def total(numbers: list[int]) -> int:
        return sum(numbers)

    def tree(number: int) -> Any:
        session = pilot.context().session
        return session.submit(total, session.submit_many(leaf, [(n,) for n in range(number)]))

    with pilot.Session(site) as session:
        futures = session.submit_many(tree, [(n,) for n in range(20)])
        assert pilot.gather(futures, timeout=DEADLINE_S) == [sum(range(n)) for n in range(20)]
