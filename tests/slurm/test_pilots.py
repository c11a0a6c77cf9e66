"""Pilots in a real Slurm: they grow, run MPI over nodes, outlive what is taken from them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.waiting import wait_until

import pilot
from pilot.head.running import find_head
from pilot.site import Site

if TYPE_CHECKING:
    from slurm.conftest import VirtualCluster

DEADLINE_S = 90.0


def test_mpi_runs_over_two_nodes_of_a_pilot(shared_site: Site) -> None:
    @pilot.mpi(ranks=2, ranks_per_node=1)
    def hosts(x: int) -> tuple[int, list[str]]:
        from mpi4py import MPI

        world = MPI.COMM_WORLD
        return world.allreduce(x), world.allgather(os.uname().nodename)

    with pilot.Session(shared_site) as session:
        total, names = hosts.submit(21).result(DEADLINE_S)
        assert total == 42
        assert len(set(names)) == 2
        rows = [row for row in session.query("fleet", alive=True) if row["state"] == "RUNNING"]
        assert any(row["nodes"] >= 2 and row["job"].isdecimal() for row in rows)


def test_a_task_of_one_process_reaches_all_of_its_nodes(shared_site: Site) -> None:
    @pilot.task(nodes=2, cores=2)
    def hosts() -> tuple[str, tuple[str, ...], list[str]]:
        nodes = pilot.context().nodes
        command = ["srun", "--overlap", "--nodelist", ",".join(nodes), "--nodes=2", "--ntasks=2"]
        there = subprocess.run([*command, "hostname"], capture_output=True, text=True, check=True)
        return os.uname().nodename, nodes, there.stdout.split()

    with pilot.Session(shared_site) as session:
        here, nodes, there = session.submit(hosts).result(DEADLINE_S)
        assert len(nodes) == 2 and nodes[0] == here and sorted(there) == sorted(nodes)
        told = pilot.shell(
            "echo $PILOT_NODES; srun --overlap -w $PILOT_NODES -N2 -n2 hostname", nodes=2
        )
        first, *others = session.submit(told).result(DEADLINE_S).stdout.split()
        assert sorted(first.split(",")) == sorted(others) and len(others) == 2
        hangs = session.submit(pilot.shell("sleep 600", nodes=2, time_limit=1.0))
        assert isinstance(hangs.exception(DEADLINE_S), pilot.TaskError)


def test_a_killed_head_costs_nothing(shared_site: Site, shared_directory: Path) -> None:
    runs = shared_directory / "runs"
    runs.mkdir()

    def note(number: int, directory: str) -> int:
        with open(f"{directory}/{os.uname().nodename}-{os.getpid()}", "a") as file:
            file.write(f"{number}\n")
        return number * number

    with pilot.Session(shared_site) as session:
        futures = session.submit_many(note, [(n, str(runs)) for n in range(1000)])
        wait_until(lambda: any(future.done() for future in futures), DEADLINE_S, "a first result")
        head = find_head(shared_site)
        assert head is not None
        os.kill(head.pid, signal.SIGKILL)
        assert pilot.gather(futures, timeout=DEADLINE_S) == [n * n for n in range(1000)]
        again = find_head(shared_site)
        assert again is not None and again.epoch > head.epoch
    noted = sorted(int(n) for file in runs.iterdir() for n in file.read_text().split())
    assert noted == list(range(1000))


def test_a_dead_rank_harms_its_world_only(shared_site: Site) -> None:
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

    with pilot.Session(shared_site):
        crashed, fine = die.submit(), size.submit()
        with pytest.raises(pilot.TaskCrashed, match="a rank died"):
            crashed.result(DEADLINE_S)
        assert fine.result(DEADLINE_S) == 2
        assert size.submit().result(DEADLINE_S) == 2


def test_tasks_of_tasks_cross_nodes(shared_site: Site) -> None:
    def leaf(number: int) -> int:
        return number

    def total(numbers: list[int]) -> int:
        return sum(numbers)

    def tree(number: int) -> Any:
        session = pilot.context().session
        return session.submit(total, session.submit_many(leaf, [(n,) for n in range(number)]))

    with pilot.Session(shared_site) as session:
        futures = session.submit_many(tree, [(n,) for n in range(20)])
        assert pilot.gather(futures, timeout=DEADLINE_S) == [sum(range(n)) for n in range(20)]


def test_idle_nodes_of_a_pilot_that_works_go_back_to_slurm(
    virtual_cluster: VirtualCluster, shared_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One long task holds one node; the others are free for others before it has ended."""
    cluster, directory = virtual_cluster, shared_directory
    cluster.enter(directory, monkeypatch)
    with cluster.site(directory / "site", idle_time="1s", nodes_per_pilot=3) as site:
        with pilot.Session(site) as session:
            waiting = pilot.task(cores=4)(wait_for_the_end)
            calls = [(str(directory), number) for number in range(3)]
            futures = dict(enumerate(session.submit_many(waiting, calls)))
            try:
                wait_until(lambda: len(list(directory.glob("runs-*"))) == 3, DEADLINE_S)
                (row,) = [row for row in session.query("fleet", alive=True) if row["job"]]
                job = int(row["job"])
                assert cluster.job(job)["NumNodes"] == "3"
                first = cluster.job(job)["BatchHost"]
                (stays,) = [n for n in futures if (directory / f"runs-{n}").read_text() == first]
                for number in futures.keys() - {stays}:
                    (directory / f"ends-{number}").touch()
                    assert futures[number].result(DEADLINE_S) == 1
                wait_until(lambda: cluster.job(job)["NumNodes"] == "1", DEADLINE_S)
                wait_until(lambda: session.query("fleet", alive=True)[0]["nodes"] == 1, DEADLINE_S)
                assert not futures[stays].done()
            finally:
                for number in futures:
                    (directory / f"ends-{number}").touch()
            assert futures[stays].result(DEADLINE_S) == 1, "its node was never taken from it"
            assert session.submit(pow, 2, 5).result(DEADLINE_S) == 32
            assert [row["job"] for row in session.query("fleet", alive=True)] == [str(job)]


def wait_for_the_end(directory: str, number: int) -> int:
    """Say where this runs, and wait for the file that ends it; return which attempt this is."""
    Path(directory, f"runs-{number}").write_text(os.uname().nodename)
    while not Path(directory, f"ends-{number}").exists():
        time.sleep(0.1)
    return pilot.context().attempt
