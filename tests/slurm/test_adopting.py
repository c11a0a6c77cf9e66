"""Allocations of users in a real Slurm become pilots that use what the job has, and no more."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from click.testing import CliRunner

import pilot
from pilot.cli import cli
from pilot.site import Site

if TYPE_CHECKING:
    from slurm.conftest import VirtualCluster

DEADLINE_S = 90.0


def order(site: Site, *words: str, code: int = 0) -> str:
    answer = CliRunner().invoke(cli, ["fleet", *words, "--site", str(site.directory)])
    assert answer.exit_code == code, answer.output
    return answer.output


def test_job_of_two_cores_runs_two_tasks_at_once_and_stays(
    shared_site: Site, shared_directory: Path, virtual_cluster: VirtualCluster
) -> None:
    def when() -> tuple[float, float, str]:
        start = time.time()
        time.sleep(1.0)
        return start, time.time(), os.uname().nodename

    order(shared_site, "hold", "main", "--reason", "adopted ones alone")
    with (
        virtual_cluster.job_of(
            "sleep 300", shared_directory, "-N1", "-n1", "-c2", "--mem=200M"
        ) as job,
        pilot.Session(shared_site) as session,
    ):
        virtual_cluster.wait_for(
            "the job to run",
            lambda: virtual_cluster.job(job)["JobState"] == "RUNNING",
            DEADLINE_S,
        )
        said = order(shared_site, "adopt", str(job), "--reason", "a notebook")
        assert said.rstrip().endswith("1 node, with 2 cores, 200 MiB for tasks on each")
        ran = pilot.gather(session.submit_many(when, [()] * 6), timeout=DEADLINE_S)
        moments = [start for start, _, _ in ran]
        at_once = [sum(start <= at < end for start, end, _ in ran) for at in moments]
        assert max(at_once) == 2
        assert {node for _, _, node in ran} == {virtual_cluster.job(job)["NodeList"]}
        refused = order(shared_site, "cancel", str(job), code=1)
        assert f"`scancel {job}` ends the allocation" in refused
        order(shared_site, "drain", str(job))
        virtual_cluster.wait_for(
            "the pilot to leave",
            lambda: not session.query("fleet", alive=True),
            DEADLINE_S,
        )
        assert virtual_cluster.job(job)["JobState"] == "RUNNING"
