"""``pilot why`` where Slurm is why, each on a cluster where it is really so.

Every test prints what the command prints (``pytest -rP`` shows it).
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner
from support.waiting import wait_until

import pilot
from pilot.cli import cli
from pilot.site import Site, create_site, open_site

if TYPE_CHECKING:
    from tests.slurm.conftest import VirtualCluster

DEADLINE_S = 90.0


class Slow:
    """A site on the virtual cluster, and a way to ask on it."""

    def __init__(self, site: Site, cluster: VirtualCluster) -> None:
        self.site = site
        self.cluster = cluster

    @contextlib.contextmanager
    def session(self) -> Iterator[pilot.Session]:
        """A session whose tasks are cancelled with the block, however that ends."""
        with pilot.Session(self.site) as session:
            try:
                yield session
            finally:
                session.cancel()

    def why(self, subject: object) -> str:
        """What the command prints."""
        result = CliRunner().invoke(cli, ["why", str(subject)], prog_name="pilot")
        print("$ pilot why", subject, file=sys.stderr)
        print(result.output, file=sys.stderr)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    def json(self, subject: object) -> dict[str, Any]:
        """The answer for programs."""
        found = CliRunner().invoke(cli, ["why", str(subject), "--json"], prog_name="pilot")
        assert found.exit_code == 0, (found.output, found.exception)
        data: dict[str, Any] = json.loads(found.stdout)
        return data

    def until(self, subject: object, kind: str, words: str = "") -> str:
        """What the command prints once the cause is of this kind, and told in these words."""
        last: list[dict[str, Any]] = []

        def there() -> bool:
            last[:] = [self.json(subject)]
            return last[0]["kind"] == kind and words in last[0]["answer"]

        try:
            wait_until(there, DEADLINE_S, f"{kind!r} to be why")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {last}") from None
        return self.why(subject)


@pytest.fixture
def make(
    virtual_cluster: VirtualCluster, shared_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Slow]]:
    """Make a site whose default pool is changed; its head and its jobs are ended with the test."""
    for line in virtual_cluster.do("env").splitlines():
        name, _, value = shlex.split(line)[1].partition("=")
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PILOT_HOME", str(shared_directory))
    monkeypatch.setenv("PILOT_SITE", "virtual")
    monkeypatch.chdir(shared_directory)  # the nodes must see where the work is done
    made: list[Site] = []

    def make(**changes: Any) -> Slow:
        site = create_site(shared_directory / "virtual", "virtual")
        path = site.directory / "site.yaml"
        config = yaml.safe_load(path.read_text())
        main = {**config["pools"]["main"], **changes}
        path.write_text(yaml.safe_dump({**config, "pools": {"main": main}}))
        made.append(open_site(site.directory))
        return Slow(made[0], virtual_cluster)

    try:
        yield make
    finally:
        subprocess.run(
            [sys.executable, "-m", "pilot", "head", "stop"],
            check=False,
            capture_output=True,
            timeout=60,
        )
        for site in made:
            jobs = _jobs(virtual_cluster, site)
            for job in jobs:
                virtual_cluster.run("scancel", job)
            virtual_cluster.wait_for(
                "the jobs to be gone", lambda site=site: not _jobs(virtual_cluster, site), 60.0
            )


def _jobs(cluster: VirtualCluster, site: Site) -> list[str]:
    """The jobs of this site that Slurm has, told by the directory that they write to."""
    rows = cluster.run("squeue", "--noheader", "--format=%i|%Z").splitlines()
    split = [row.split("|") for row in rows]
    return [job for job, directory in split if directory.startswith(str(site.directory))]


def square(x: int) -> int:
    return x * x


def wait(seconds: float) -> None:
    import time

    time.sleep(seconds)


def test_a_job_that_waits_for_nodes(
    make: Callable[..., Slow], virtual_cluster: VirtualCluster, shared_directory: Path
) -> None:
    slow = make()
    with virtual_cluster.job_of("sleep 600", shared_directory, "-N4", "--time=10", "--exclusive"):
        with slow.session() as session:
            future = session.submit(square, 3)
            session.flush()
            told = slow.until(future.task_id, "queued", "estimated start 20")
            assert "of pool main) waits in Slurm for" in told
            assert "(not enough free nodes)" in told or "Priority" in told
            facts = slow.json(future.task_id)["facts"]
            assert facts["job"] in _jobs(virtual_cluster, slow.site)
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
        told = slow.why(waiting.task_id)
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
    with virtual_cluster.job_of("sleep 600", shared_directory, "-N4", "--time=10", "--exclusive"):
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
