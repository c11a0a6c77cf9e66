"""Nodes that are cut off, killed or taken away under a running pilot, in a real Slurm.

Whatever becomes of a node, its tasks are run again elsewhere and end well, and no attempt counts as
a fault of its task: none may crash or fail even once here.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from support.waiting import wait_until

import pilot
from pilot.agent.agent import NODE_SILENT_S
from pilot.site import Site, open_site

if TYPE_CHECKING:
    from tests.slurm.conftest import VirtualCluster

#: Slurm gives a node up after 20 s, the head a pilot after 60 s; a job waits for some time before
#: it may start again.
DEADLINE_S = 120.0


@pytest.fixture
def all_nodes(site: Site, virtual_cluster: VirtualCluster) -> Iterator[None]:
    """In the end every node is there again: before the site ends, whose jobs may be on it."""
    yield
    for node in virtual_cluster.status()["nodes"]:
        virtual_cluster.do("join", node["name"])


def with_pool(site: Site, **changes: Any) -> Site:
    """The same site with one pool, which is changed; no head has read it yet."""
    path = site.directory / "site.yaml"
    config = yaml.safe_load(path.read_text())
    config["pools"] = {"main": {**config["pools"]["main"], **changes}}
    path.write_text(yaml.safe_dump(config))
    return open_site(site.directory)


@pilot.task(retries=0, max_crashes=0)
def held(number: int, directory: str) -> int:
    """Leave a mark for each time that this is run, and end when it may."""
    mark = f"{number}-{os.uname().nodename}-{os.getpid()}-{time.time_ns()}"
    (Path(directory) / mark).touch()
    end = time.monotonic() + 240.0
    while not (Path(directory) / "go").exists():
        if time.monotonic() > end:
            raise TimeoutError("nobody has let it go")
        time.sleep(0.05)
    return number * number


class Runs:
    """Tasks that run until they are let go, and where they were begun."""

    def __init__(self, session: pilot.Session, directory: Path, count: int) -> None:
        self._session = session
        self._directory = directory / "runs"
        self._directory.mkdir()
        arguments = [(number, str(self._directory)) for number in range(count)]
        self.futures = session.submit_many(held, arguments)

    @property
    def where(self) -> dict[int, list[str]]:
        """The nodes on which each task was begun, in this order."""
        marks = [mark.name.split("-") for mark in self._directory.iterdir() if mark.name != "go"]
        found: dict[int, list[str]] = {}
        for number, node, _, _ in sorted(marks, key=lambda mark: int(mark[3])):
            found.setdefault(int(number), []).append(node)
        return found

    def wait(self, what: str, starts: int = 1, of: set[int] | None = None) -> None:
        """Return when each of these tasks, or of all, was begun so often."""
        wanted = set(range(len(self.futures))) if of is None else of
        wait_until(
            lambda: all(len(self.where.get(number, ())) >= starts for number in wanted),
            DEADLINE_S,
            what,
        )

    def job(self) -> str:
        """The one job that runs."""
        rows = [row for row in self._session.query("fleet", alive=True) if row["job"]]
        (row,) = [row for row in rows if row["state"] == "RUNNING"]
        return str(row["job"])

    def end(self) -> list[list[str]]:
        """Let all tasks go, which must end well; returns how the attempts of each have ended."""
        (self._directory / "go").touch()
        wanted = [number * number for number in range(len(self.futures))]
        assert pilot.gather(self.futures, timeout=DEADLINE_S) == wanted
        shown = [self._session.query("task", task=future.task_id) for future in self.futures]
        for each in shown:
            assert each["state"] == "COMPLETED"
            numbers = [attempt["number"] for attempt in each["attempts_made"]]
            assert numbers == list(range(1, len(numbers) + 1)), "each try has its number"
        return [[attempt["outcome"] for attempt in each["attempts_made"]] for each in shown]


def test_a_killed_node_takes_only_its_own_tasks(
    site: Site, virtual_cluster: VirtualCluster, shared_directory: Path, all_nodes: None
) -> None:
    """One that the agent is not on: the pilot goes on with the others."""
    site = with_pool(site, max_nodes=3, nodes_per_pilot=2)
    with pilot.Session(site) as session:
        runs = Runs(session, shared_directory, 8)
        runs.wait("all to run")
        job = runs.job()
        first = virtual_cluster.job(int(job))["BatchHost"]
        where = {number: nodes[0] for number, nodes in runs.where.items()}
        assert Counter(where.values()) == dict.fromkeys(set(where.values()), 4)
        (other,) = set(where.values()) - {first}
        lost = {number for number, node in where.items() if node == other}
        virtual_cluster.do("kill", other)
        runs.wait("the lost tasks to run again", starts=2, of=lost)
        assert virtual_cluster.job(int(job))["JobState"] == "RUNNING"
        outcomes = runs.end()
    for number, nodes in runs.where.items():
        assert outcomes[number] == (["interrupted", "ok"] if number in lost else ["ok"])
        assert len(nodes) == len(outcomes[number]) and other not in nodes[1:]


def test_a_killed_node_with_the_agent_ends_the_pilot(
    site: Site, virtual_cluster: VirtualCluster, shared_directory: Path, all_nodes: None
) -> None:
    site = with_pool(site, max_nodes=2, nodes_per_pilot=1)
    with pilot.Session(site) as session:
        runs = Runs(session, shared_directory, 4)
        runs.wait("all to run")
        node = virtual_cluster.job(int(runs.job()))["BatchHost"]
        virtual_cluster.do("kill", node)
        runs.wait("all to run again", starts=2)
        assert runs.end() == [["interrupted", "ok"]] * 4
    assert all(nodes[0] == node != nodes[1] for nodes in runs.where.values())


def test_what_a_lost_agent_leaves_of_its_job_is_given_back_and_replaced(
    site: Site, virtual_cluster: VirtualCluster, shared_directory: Path, all_nodes: None
) -> None:
    """The job goes on on its other node, where no process is left: the pool may have no more."""
    site = with_pool(site, max_nodes=2, nodes_per_pilot=2)
    with pilot.Session(site) as session:
        runs = Runs(session, shared_directory, 8)
        runs.wait("all to run")
        job = runs.job()
        virtual_cluster.do("kill", virtual_cluster.job(int(job))["BatchHost"])
        runs.wait("all to run again", starts=2)
        assert virtual_cluster.job(int(job))["JobState"] != "RUNNING"
        (row,) = [row for row in session.query("fleet") if row["job"] == job]
        assert row["state"] == "ENDED" or row["draining"]
        assert runs.end() == [["interrupted", "ok"]] * 8


def test_no_more_nodes_are_asked_for_while_a_job_waits_to_start_again(
    site: Site, virtual_cluster: VirtualCluster, shared_directory: Path
) -> None:
    """A pilot that is taken down tells of fewer nodes each moment; its job keeps its claim."""
    site = with_pool(site, max_nodes=2, nodes_per_pilot=2)
    with pilot.Session(site) as session:
        runs = Runs(session, shared_directory, 8)
        runs.wait("all to run")
        job = runs.job()
        virtual_cluster.run("scontrol", "requeue", job)
        virtual_cluster.wait_for(
            "the job to wait",
            lambda: virtual_cluster.job(int(job))["JobState"] == "PENDING",
            DEADLINE_S,
        )
        virtual_cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
        runs.wait("all to run again", starts=2)
        assert [row["job"] for row in session.query("fleet")] == [job]
        assert runs.end() == [["interrupted", "ok"]] * 8


def test_a_suspended_pilot_of_two_nodes_goes_on(
    site: Site, virtual_cluster: VirtualCluster, shared_directory: Path
) -> None:
    site = with_pool(site, max_nodes=2, nodes_per_pilot=2)
    with pilot.Session(site) as session:
        runs = Runs(session, shared_directory, 8)
        runs.wait("all to run")
        job = runs.job()
        virtual_cluster.run("scontrol", "suspend", job)
        rows = session.query("fleet")
        wait_until(
            lambda: [row["state"] for row in session.query("fleet")] == ["SUSPENDED"],
            DEADLINE_S,
            "the suspension to be told",
        )
        # Longer than a node worker may be silent.
        end = time.monotonic() + NODE_SILENT_S + 5.0
        wait_until(lambda: time.monotonic() > end, DEADLINE_S, "that time to go by")
        virtual_cluster.run("scontrol", "resume", job)
        wait_until(
            lambda: [row["state"] for row in session.query("fleet")] == ["RUNNING"],
            DEADLINE_S,
            "the pilot to go on",
        )
        assert runs.end() == [["ok"]] * 8
        assert [row["job"] for row in session.query("fleet")] == [row["job"] for row in rows]


def test_tasks_of_a_node_that_is_cut_off_run_elsewhere(
    site: Site, virtual_cluster: VirtualCluster, shared_directory: Path, all_nodes: None
) -> None:
    """Its processes live on, and end their tasks too: nobody gets to know, and nothing is told
    twice when it comes back."""
    site = with_pool(site, max_nodes=2, nodes_per_pilot=1)
    with pilot.Session(site) as session:
        runs = Runs(session, shared_directory, 4)
        runs.wait("all to run")
        node = virtual_cluster.job(int(runs.job()))["BatchHost"]
        virtual_cluster.do("cut", node)
        runs.wait("all to run again", starts=2)
        assert runs.end() == [["interrupted", "ok"]] * 4
        virtual_cluster.do("join", node)
        assert session.submit(held, 9, str(shared_directory / "runs")).result(DEADLINE_S) == 81
        ends = Counter(event.task for event in session.events() if event.state == "COMPLETED")
    assert list(ends.values()) == [1] * 5
    assert all(len(runs.where[number]) == 2 for number in range(4))


def test_a_node_that_is_cut_off_for_a_moment_loses_nothing(
    site: Site, virtual_cluster: VirtualCluster, shared_directory: Path, all_nodes: None
) -> None:
    site = with_pool(site, max_nodes=1, nodes_per_pilot=1)
    with pilot.Session(site) as session:
        runs = Runs(session, shared_directory, 4)
        runs.wait("all to run")
        node = virtual_cluster.job(int(runs.job()))["BatchHost"]
        virtual_cluster.do("cut", node)
        (shared_directory / "runs" / "go").touch()  # they end while nobody can be told
        virtual_cluster.do("join", node)
        assert runs.end() == [["ok"]] * 4
    assert all(len(nodes) == 1 for nodes in runs.where.values())


def test_a_preempted_pilot_starts_again(
    site: Site, virtual_cluster: VirtualCluster, shared_directory: Path
) -> None:
    """A job of higher priority takes its node; when that has ended, it is the same job again."""
    site = with_pool(site, max_nodes=1, nodes_per_pilot=1)
    with pilot.Session(site) as session:
        runs = Runs(session, shared_directory, 4)
        runs.wait("all to run")
        job = runs.job()
        node = virtual_cluster.job(int(job))["BatchHost"]
        options = ("--partition=urgent", f"--nodelist={node}", "--exclusive", "--time=10")
        with virtual_cluster.job_of("sleep 600", shared_directory, *options) as urgent:
            virtual_cluster.wait_for(
                "the urgent job to have the node",
                lambda: virtual_cluster.job(urgent)["JobState"] == "RUNNING",
                DEADLINE_S,
            )
            assert virtual_cluster.job(int(job))["JobState"] != "RUNNING"
            # Other nodes are free: the pilot need not wait for the end of what has taken this one.
            runs.wait("all to run again", starts=2)
            assert runs.job() == job and virtual_cluster.job(int(job))["Restarts"] == "1"
        assert runs.end() == [["interrupted", "ok"]] * 4
    assert all(nodes[0] == node != nodes[1] for nodes in runs.where.values())
