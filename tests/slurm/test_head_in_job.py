"""Heads that run in jobs of a real Slurm, where no process stays on the login node."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from support.waiting import wait_until

import pilot
from pilot.client.query_client import QueryClient
from pilot.errors import HeadError
from pilot.head import head_jobs
from pilot.head.running import find_head
from pilot.site import Site, open_site

if TYPE_CHECKING:
    from slurm.conftest import VirtualCluster

DEADLINE_S = 90.0
PILOT = (sys.executable, "-m", "pilot")
WORKFLOW = """
name: naps
tasks:
  nap:
    run: sleep {seconds}
    foreach:
      number: {{from: 1, to: {count}}}
  last:
    python: builtins:len
    args: ["${{tasks.nap}}"]
results:
  naps: ${{tasks.last}}
"""


@pytest.fixture
def make(
    virtual_cluster: VirtualCluster, shared_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Site]]:
    """Make a site whose pilots have one node, with other keys of its head."""
    with contextlib.ExitStack() as stack:

        def made(**head: object) -> Site:
            virtual_cluster.enter(shared_directory, monkeypatch)
            directory = shared_directory / "site"
            stack.enter_context(
                virtual_cluster.site(directory, max_nodes=1, nodes_per_pilot=1, walltime="10m")
            )
            path = directory / "site.yaml"
            config = yaml.safe_load(path.read_text())
            path.write_text(yaml.safe_dump({**config, "head": head}))
            return open_site(directory)

        yield made


def workflow(directory: Path, count: int, seconds: float) -> Path:
    path = directory / "naps.yaml"
    path.write_text(WORKFLOW.format(count=count, seconds=seconds))
    return path


def run(site: Site, *words: object, timeout: float = DEADLINE_S) -> tuple[int, str, str]:
    """Run ``pilot`` on the login node; return its exit code and what it has printed."""
    done = subprocess.run(
        [*PILOT, "--site", str(site.directory), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def heads(cluster: VirtualCluster, site: Site) -> list[str]:
    """The head's jobs that Slurm has, whatever has become of them."""
    rows = cluster.run("squeue", "--noheader", "--states=all", "--format=%i|%j|%Z").splitlines()
    split = [row.split("|") for row in rows]
    return [job for job, name, where in split if name.endswith("-head") and where == str(site.jobs)]


def head_job(site: Site) -> str:
    record = head_jobs.wanted(site)
    return "" if record is None else head_jobs.job_of(site, record)


def test_a_workflow_and_its_head_are_in_one_job(
    virtual_cluster: VirtualCluster, make: Callable[..., Site], shared_directory: Path
) -> None:
    site = make()
    file = workflow(shared_directory, 4, 0.1)
    command = f"{' '.join(PILOT)} --site {site.directory} run {file}"
    output = shared_directory / "job.out"
    options = ("--ntasks-per-node=2", "--time=5", f"--output={output}")
    with virtual_cluster.job_of(command, shared_directory, *options) as job:
        virtual_cluster.wait_for(
            "the job to end",
            lambda: virtual_cluster.job(job)["JobState"] in ("COMPLETED", "FAILED"),
            DEADLINE_S,
        )
    told = output.read_text()
    assert f"runs in job {job}, whose nodes are its first pilot" in told
    assert "5 COMPLETED" in told and re.search(r"naps +4", told)
    assert find_head(site) is None and not virtual_cluster.jobs_of(site)
    assert head_jobs.wanted(site) is None


def test_a_run_as_job_outlives_the_walltime_of_its_head(
    virtual_cluster: VirtualCluster, make: Callable[..., Site], shared_directory: Path
) -> None:
    """Slurm's shortest walltime is a minute: the job hands over, and nothing is run again."""
    site = make()
    file = workflow(shared_directory, 20, 8)
    status, output, told = run(site, "run", "--as-job", "--time", "60s", file, timeout=180.0)
    assert status == 0, told
    assert "21 COMPLETED" in output and re.search(r"naps +20", output)
    said = (site.logs / "head.log").read_text()
    assert "is asked for, to take over" in said
    (successor, *_) = heads(virtual_cluster, site)
    assert "restored" in (site.jobs / f"{successor}.out").read_text()
    with QueryClient(site) as ask:
        (first,) = ask("sessions")
        tasks = ask("tasks", session=first["id"], limit=100)
        made = [len(ask("task", task=task["id"])["attempts_made"]) for task in tasks]
        assert set(made) == {1}, "nothing has run twice"


def test_programs_output_and_exit_status_are_those_of_the_job(
    make: Callable[..., Site], shared_directory: Path
) -> None:
    site = make()
    program = shared_directory / "program.py"
    program.write_text(
        "import os, sys, pilot\n"
        "with pilot.Session() as session:\n"
        "    print('got', session.submit(pow, 2, 5).result(60), sys.argv[1:], os.getcwd())\n"
        "sys.exit(7)\n"
    )
    status, output, told = run(site, "run", "--as-job", program, "a b")
    assert status == 7, told
    assert f"got 32 ['a b'] {os.getcwd()}\n" in output
    wait_until(lambda: find_head(site) is None, DEADLINE_S, "the head to end with its program")


def test_two_clients_share_a_head_in_a_job_and_outlive_it(
    virtual_cluster: VirtualCluster, make: Callable[..., Site], shared_directory: Path
) -> None:
    cluster = virtual_cluster
    site = make(place="job", job={"walltime": "10m"})
    submit = [*PILOT, "--site", str(site.directory), "submit", "--wait", "--", "sleep", "0.1"]
    both = [subprocess.Popen(submit, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [client.wait(DEADLINE_S) for client in both] == [0, 0]
    (first,) = heads(cluster, site)
    assert head_job(site) == first
    go = shared_directory / "go"

    def held() -> int:
        end = time.monotonic() + 120.0
        while not go.exists() and time.monotonic() < end:
            time.sleep(0.1)
        return pilot.context().attempt

    with pilot.Session(site) as session:
        future = session.submit(held)
        wait_until(lambda: future.running(), DEADLINE_S, "the task to run")
        # The head dies, and its job with it: its client has another one submitted.
        address = find_head(site)
        assert address is not None
        cluster.run("kill", "-9", str(address.pid), on=address.host)
        wait_until(lambda: head_job(site) not in ("", first), DEADLINE_S, "another job")
        go.touch()
        assert future.result(DEADLINE_S) == 1
        go.unlink()
        future = session.submit(held)
        second = head_job(site)
        # A job that its user cancels has no successor: whoever waits is told.
        wait_until(lambda: future.running(), DEADLINE_S, "the second task to run")
        cluster.run("scancel", second)
        with pytest.raises(HeadError, match="was cancelled"):
            future.result(DEADLINE_S)
        assert "cancelled" in run(site, "head", "status")[1]
        go.touch()
        session._connection.close()  # nobody is to start a head again
