"""Pilots in a real Slurm: over several nodes, growing and ending, preempted, cut off and killed.

The head runs on the login node, as a user's does; nothing here knows what Slurm does but by asking
it, or the head.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import VirtualCluster
from support import tasks
from support.sites import TESTS, SiteUnderTest, site_under_test
from support.waiting import wait_until

import pilot
from site_configs import template_text

DEADLINE_S = 90.0


@pytest.fixture
def slurm_site(
    virtual_cluster: VirtualCluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., SiteUnderTest]]:
    """Make sites on the virtual cluster's shared file system: ``slurm_site(max_nodes=2)``."""
    monkeypatch.setenv("SLURM_CONF", virtual_cluster.status()["slurm_conf"])
    for name in ("SLURM_JOB_ID", "PILOT_SITE"):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:

        def make(**changes: Any) -> SiteUnderTest:
            template = yaml.safe_load(template_text("virtual"))
            template["pools"] = {"main": {**template["pools"]["main"], **changes}}
            template["slurm"] = {"poll_interval": "500ms", "submit_interval": "100ms"}
            return stack.enter_context(site_under_test(template, virtual_cluster.shared))

        yield make


@pytest.fixture
def all_nodes(virtual_cluster: VirtualCluster) -> Iterator[None]:
    """In the end every node is there again."""
    yield
    for node in virtual_cluster.status()["nodes"]:
        virtual_cluster.do("join", node["name"])


def jobs(cluster: VirtualCluster, site: SiteUnderTest) -> dict[str, tuple[str, int]]:
    """Slurm's own view of the site's pilots: job id → (state, nodes)."""
    told = cluster.run("squeue", "--noheader", "--format=%i %T %D %j")
    rows = [line.split() for line in told.splitlines()]
    return {job: (state, int(nodes)) for job, state, nodes, name in rows if site.mark in name}


def running(cluster: VirtualCluster, site: SiteUnderTest) -> int:
    """Nodes that the site has now."""
    return sum(nodes for state, nodes in jobs(cluster, site).values() if state == "RUNNING")


def marks(site: SiteUnderTest) -> Path:
    directory = site.scratch / "marks"
    directory.mkdir(exist_ok=True)
    return directory


def runs(directory: Path) -> dict[int, int]:
    return {int(path.name): len(path.read_text().splitlines()) for path in directory.iterdir()}


def outcomes(site: SiteUnderTest, futures: list[pilot.Future[Any]]) -> list[str]:
    """How all attempts of tasks have ended."""
    shown = [site.query("task", task=future.task_id) for future in futures]
    return [attempt["outcome"] for task in shown for attempt in task["attempts_made"]]


def host_and_rank() -> Any:
    import socket

    from mpi4py import MPI

    world = MPI.COMM_WORLD
    total = world.allreduce(world.rank)
    return world.gather((world.rank, socket.gethostname(), total))


# --- what they are for ----------------------------------------------------------------------------


def test_mpi_over_two_nodes_and_plain_tasks_beside_it(
    virtual_cluster: VirtualCluster, slurm_site: Callable[..., SiteUnderTest]
) -> None:
    site = slurm_site(max_nodes=2, nodes_per_pilot=2)
    over_two = pilot.mpi(ranks=4, ranks_per_node=2)(host_and_rank)
    with site.session() as session:
        wide = [session.submit(over_two) for _ in range(3)]
        narrow = session.submit_many(tasks.square, [(n,) for n in range(50)])
        for future in wide:
            ranks = future.result(DEADLINE_S)
            assert [rank for rank, _, _ in ranks] == [0, 1, 2, 3]
            assert {total for _, _, total in ranks} == {6}
            hosts = [host for _, host, _ in ranks]
            assert hosts[0] == hosts[1] != hosts[2] == hosts[3]
        assert pilot.gather(narrow, timeout=DEADLINE_S) == [n * n for n in range(50)]
        ((job, (state, nodes)),) = jobs(virtual_cluster, site).items()
        assert (state, nodes) == ("RUNNING", 2)
        (shown,) = site.query("fleet", alive=True)
        assert (shown["job"], shown["nodes"], shown["cores"]) == (job, 2, 8)


def test_script_of_a_pilot_can_be_read(slurm_site: Callable[..., SiteUnderTest]) -> None:
    site = slurm_site(max_nodes=1)
    with site.session() as session:
        assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9
    (script,) = site.site.jobs.glob("*.sh")
    text = script.read_text()
    assert "#SBATCH --partition=main" in text and "pilot agent" in text
    secret = (site.site.keys / "client.key_secret").read_text().split("secret-key")[1].split('"')[1]
    assert secret not in text


# --- elasticity -----------------------------------------------------------------------------------


def test_fleet_grows_with_the_work_and_ends_when_it_is_idle(
    virtual_cluster: VirtualCluster, slurm_site: Callable[..., SiteUnderTest]
) -> None:
    site = slurm_site(max_nodes=3, nodes_per_pilot=1, idle_time="3s", max_pilots_queued=3)
    go = site.scratch / "go"
    with site.session() as session:
        first = session.submit(tasks.square, 2)
        assert first.result(DEADLINE_S) == 4
        assert running(virtual_cluster, site) == 1
        many = [
            session.submit(tasks.wait_for_file, str(site.scratch / f"m{n}"), str(go), 80.0)
            for n in range(12)
        ]
        wait_until(lambda: running(virtual_cluster, site) == 3, DEADLINE_S, "three nodes")
        wait_until(
            lambda: len(list(site.scratch.glob("m*"))) == 12, DEADLINE_S, "12 tasks at a time"
        )
        go.touch()
        pilot.gather(many, timeout=DEADLINE_S)
        wait_until(lambda: not jobs(virtual_cluster, site), DEADLINE_S, "idle pilots to end")
        # And it grows again.
        assert session.submit(tasks.square, 3).result(DEADLINE_S) == 9


# --- faults ---------------------------------------------------------------------------------------


def test_killed_head_leaves_the_pilots_working(
    virtual_cluster: VirtualCluster, slurm_site: Callable[..., SiteUnderTest]
) -> None:
    site = slurm_site(max_nodes=2, nodes_per_pilot=2)
    directory, count = marks(site), 300
    with site.session() as session:
        futures = session.submit_many(
            tasks.note_run, [(str(directory), number, 0.05) for number in range(count)]
        )
        wait_until(lambda: len(list(directory.iterdir())) > 50, DEADLINE_S, "50 tasks")
        before = jobs(virtual_cluster, site)
        head = site.head_pid
        os.kill(head, signal.SIGKILL)
        assert pilot.gather(futures, timeout=DEADLINE_S) == list(range(count))
        assert site.head_pid not in (0, head)
        assert before.items() <= jobs(virtual_cluster, site).items()
    assert runs(directory) == dict.fromkeys(range(count), 1)


def test_preempted_pilot_starts_again(
    virtual_cluster: VirtualCluster, slurm_site: Callable[..., SiteUnderTest]
) -> None:
    site = slurm_site(max_nodes=1, nodes_per_pilot=1)
    directory = marks(site)
    with site.session() as session:
        futures = session.submit_many(
            tasks.note_run, [(str(directory), number, 4.0) for number in range(4)]
        )
        wait_until(lambda: len(list(directory.iterdir())) == 4, DEADLINE_S, "the tasks to run")
        ((job, _),) = jobs(virtual_cluster, site).items()
        where = virtual_cluster.job(int(job))["NodeList"]
        with virtual_cluster.job_of(
            "sleep 5", site.scratch, "--partition=urgent", f"--nodelist={where}", "--exclusive"
        ):
            wait_until(
                lambda: jobs(virtual_cluster, site).get(job, ("", 0))[0] != "RUNNING",
                DEADLINE_S,
                "the pilot to be preempted",
            )
            assert pilot.gather(futures, timeout=DEADLINE_S) == list(range(4))
        ended = outcomes(site, futures)
        assert ended.count("ok") == 4 and set(ended) == {"ok", "interrupted"}
    assert all(count == 2 for count in runs(directory).values())


def test_killed_node_takes_only_its_own_tasks(
    virtual_cluster: VirtualCluster,
    slurm_site: Callable[..., SiteUnderTest],
    all_nodes: None,
) -> None:
    """Not the first node: there the agent is, whose end is the pilot's."""
    site = slurm_site(max_nodes=2, nodes_per_pilot=2)
    directory = marks(site)
    go = site.scratch / "go"

    def note_where(directory: str, number: int, go: str) -> str:
        import socket

        tasks.note_run(directory, number)
        tasks.wait_for_file(f"{directory}/../at-{number}-{socket.gethostname()}", go, 80.0)
        return socket.gethostname()

    with site.session() as session:
        futures = session.submit_many(
            note_where, [(str(directory), number, str(go)) for number in range(8)]
        )
        wait_until(lambda: len(list(site.scratch.glob("at-*"))) == 8, DEADLINE_S, "all to run")
        ((job, _),) = jobs(virtual_cluster, site).items()
        first = virtual_cluster.job(int(job))["BatchHost"]
        places = {
            int(path.name.split("-")[1]): path.name.split("-")[2]
            for path in site.scratch.glob("at-*")
        }
        (other,) = set(places.values()) - {first}
        virtual_cluster.do("kill", other)
        go.touch()
        pilot.gather(futures, timeout=DEADLINE_S)
    counted = runs(directory)
    assert sorted(counted) == list(range(8))
    for number, count in counted.items():
        assert count == 1 if places[number] == first else count >= 2


def test_killed_first_node_ends_the_pilot_and_the_work_goes_on_elsewhere(
    virtual_cluster: VirtualCluster,
    slurm_site: Callable[..., SiteUnderTest],
    all_nodes: None,
) -> None:
    site = slurm_site(max_nodes=1, nodes_per_pilot=1)
    directory = marks(site)
    with site.session() as session:
        futures = session.submit_many(
            tasks.note_run, [(str(directory), number, 3.0) for number in range(8)]
        )
        wait_until(lambda: len(list(directory.iterdir())) >= 2, DEADLINE_S, "the tasks to run")
        ((job, _),) = jobs(virtual_cluster, site).items()
        virtual_cluster.do("kill", virtual_cluster.job(int(job))["BatchHost"])
        assert pilot.gather(futures, timeout=DEADLINE_S * 2) == list(range(8))


def test_node_that_is_cut_off_comes_back(
    virtual_cluster: VirtualCluster,
    slurm_site: Callable[..., SiteUnderTest],
    all_nodes: None,
) -> None:
    """For a few seconds only: nobody gives it up."""
    site = slurm_site(max_nodes=1, nodes_per_pilot=1)
    directory = marks(site)
    with site.session() as session:
        futures = session.submit_many(
            tasks.note_run, [(str(directory), number, 0.5) for number in range(40)]
        )
        wait_until(lambda: len(list(directory.iterdir())) >= 8, DEADLINE_S, "the tasks to run")
        ((job, _),) = jobs(virtual_cluster, site).items()
        node = virtual_cluster.job(int(job))["BatchHost"]
        virtual_cluster.do("cut", node)
        seen = len(list(directory.iterdir()))
        wait_until(
            lambda: len(list(directory.iterdir())) >= min(40, seen + 4),
            DEADLINE_S,
            "work to go on, which the parallel file system shows",
        )
        virtual_cluster.do("join", node)
        assert pilot.gather(futures, timeout=DEADLINE_S) == list(range(40))


def test_cancelled_job_gives_its_tasks_back(
    virtual_cluster: VirtualCluster, slurm_site: Callable[..., SiteUnderTest]
) -> None:
    """By hand, with scancel: the next pilot goes on."""
    site = slurm_site(max_nodes=1, nodes_per_pilot=1)
    directory = marks(site)
    with site.session() as session:
        futures = session.submit_many(
            tasks.note_run, [(str(directory), number, 2.0) for number in range(6)]
        )
        wait_until(lambda: len(list(directory.iterdir())) >= 2, DEADLINE_S, "the tasks to run")
        ((job, _),) = jobs(virtual_cluster, site).items()
        virtual_cluster.run("scancel", job)
        assert pilot.gather(futures, timeout=DEADLINE_S) == list(range(6))
        assert "crash" not in outcomes(site, futures)
        assert job not in jobs(virtual_cluster, site)


# --- a head inside of a job -----------------------------------------------------------------------

WORKFLOW = """
tasks:
  double:
    python: "support.tasks:square"
    foreach: {x: {from: 1, to: 20}}
    args: ["${x}"]
  wide:
    command: "hostname"
"""


def test_run_in_a_batch_job_uses_its_nodes(
    virtual_cluster: VirtualCluster, slurm_site: Callable[..., SiteUnderTest]
) -> None:
    site = slurm_site(max_nodes=2, nodes_per_pilot=2)
    (site.scratch / "workflow.yaml").write_text(WORKFLOW)
    script = (
        f"export PYTHONPATH={TESTS}\n"
        f"{sys.executable} -m pilot run --site {site.directory} --json workflow.yaml > told.json\n"
        "echo $? > status\n"
    )
    status = site.scratch / "status"
    with virtual_cluster.job_of(script, site.scratch, "--nodes=2", "--partition=main") as job:
        wait_until(lambda: status.exists() and status.read_text(), DEADLINE_S, "the run to end")
        assert status.read_text() == "0\n", (site.scratch / f"slurm-{job}.out").read_text()
        assert not jobs(virtual_cluster, site), "it needed no other job"
    assert json.loads((site.scratch / "told.json").read_text())
    wait_until(
        lambda: str(job) not in virtual_cluster.run("squeue", "--noheader", "--format=%i").split(),
        DEADLINE_S,
        "the job to end",
    )
