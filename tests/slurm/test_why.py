"""``pilot why`` where Slurm is why, each on a cluster where it is really so.

Every test prints what the command prints (``pytest -rP`` shows it).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.asking import Asking

import pilot
from pilot.site import Site

if TYPE_CHECKING:
    from slurm.conftest import VirtualCluster


class Slow(Asking):
    """Questions about a site on the virtual cluster."""

    def __init__(self, site: Site) -> None:
        self.site = site

    @contextlib.contextmanager
    def session(self) -> Iterator[pilot.Session]:
        """A session whose tasks are cancelled with the block, however that ends."""
        with pilot.Session(self.site) as session:
            try:
                yield session
            finally:
                session.cancel()


@pytest.fixture
def make(
    virtual_cluster: VirtualCluster, shared_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Slow]]:
    """Make a site whose default pool is changed; its head and its jobs are ended with the test."""
    virtual_cluster.enter(shared_directory, monkeypatch)
    monkeypatch.setenv("PILOT_SITE", "virtual")
    with contextlib.ExitStack() as stack:

        def make(**changes: Any) -> Slow:
            site = virtual_cluster.site(shared_directory / "virtual", **changes)
            return Slow(stack.enter_context(site))

        yield make


def square(x: int) -> int:
    return x * x


def wait(seconds: float) -> None:
    import time

    time.sleep(seconds)


def test_a_job_that_waits_for_nodes(
    make: Callable[..., Slow], virtual_cluster: VirtualCluster, shared_directory: Path
) -> None:
    slow = make()
    with virtual_cluster.full(shared_directory):
        with slow.session() as session:
            future = session.submit(square, 3)
            session.flush()
            told = slow.until(future.task_id, "queued", "estimated start 20")
            assert "of pool main) waits in Slurm for" in told
            assert "(not enough free nodes)" in told or "Priority" in told
            facts = slow.json(future.task_id)["facts"]
            assert facts["job"] in virtual_cluster.jobs_of(slow.site)
            assert facts["reason"] in ("Resources", "Priority")
            virtual_cluster.run("scontrol", "uhold", facts["job"])
            told = slow.until(future.task_id, "queued", "JobHeldUser")
            assert f"to do: `scontrol release {facts['job']}` lets the job go" in told


def test_the_most_nodes_that_a_pool_may_have(make: Callable[..., Slow]) -> None:
    slow = make(max_nodes=2, nodes_per_pilot=1, idle_time="5m")
    with slow.session() as session:
        busy = session.submit_many(pilot.task(cores=4)(wait), [(600.0,)] * 2)
        for future in busy:
            slow.until(future.task_id, "runs")
        waiting = session.submit(pilot.task(cores=4)(square), 3)
        session.flush()
        told = slow(waiting.task_id)
        assert "all 8 cores of the 2 pilots that can run it are busy" in told
        assert "and pool main has all that it may have (max_nodes 2)" in told
        assert "raise max_nodes of pool main" in told


def test_a_slurm_that_does_not_answer(
    make: Callable[..., Slow],
    virtual_cluster: VirtualCluster,
    shared_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = make()
    # The controller stays up, for other tests: this head alone loses its way to it.
    way = shared_directory / "slurm.conf"
    there = Path(os.environ["SLURM_CONF"]).read_text()
    way.write_text(there)
    monkeypatch.setenv("SLURM_CONF", str(way))
    with virtual_cluster.full(shared_directory):
        with slow.session() as session:
            future = session.submit(square, 3)
            session.flush()
            slow.until(future.task_id, "queued")
            way.write_text(f"{there}\nSlurmctldPort=1\n")
            told = slow.until(future.task_id, "silence")
            assert "is ready, but Slurm has not answered since 20" in told
            assert "squeue gave no answer" in told
            assert "of pool main) waits in Slurm" in told  # what was last heard
            way.write_text(there)
            slow.until(future.task_id, "queued")


def test_a_submission_that_is_refused(make: Callable[..., Slow]) -> None:
    slow = make(partition="nowhere")
    with slow.session() as session:
        future = session.submit(square, 3)
        session.flush()
        told = slow.until(future.task_id, "refused")
        assert "Slurm took no pilot of pool main (Slurm refused" in told
        assert "invalid partition" in told and "next try at 20" in told
        assert "mend account, partition and the like of pool main" in told
