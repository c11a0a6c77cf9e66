"""``pilot doctor --job`` on a Slurm that can be told to do things: its job never stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_slurm import FakeSlurm, slurm_template
from support.sites import SiteUnderTest, site_under_test
from support.waiting import wait_until


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    made = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{made.commands}{os.pathsep}{os.environ['PATH']}")
    return made


@pytest.fixture
def site(slurm: FakeSlurm, tmp_path: Path) -> Iterator[SiteUnderTest]:
    # The name of this machine may be known to itself only.
    template = slurm_template(
        head={"address": "127.0.0.1"}, mpi={"launcher": "mpiexec"}, pool={"max_nodes": 1}
    )
    with site_under_test(template, tmp_path) as made:
        yield made


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(site: SiteUnderTest) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def run(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pilot", "--site", str(site.directory), "doctor", "--json"]
        process = subprocess.Popen(
            [*command, "--job", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def findings(process: subprocess.Popen[str], check: str) -> list[dict[str, Any]]:
    output, errors = process.communicate(timeout=120)
    assert output, errors
    return [each for each in json.loads(output)["findings"] if each["check"] == check]


def is_cancelled(slurm: FakeSlurm) -> bool:
    """Tell whether there is one job, which was cancelled and has ended."""
    (job,) = (slurm.directory / "jobs").iterdir()
    return (job / "cancelled").exists() and (job / "exit").exists()


def left(site: SiteUnderTest) -> list[str]:
    return [path.name for path in site.site.jobs.iterdir()]


def test_a_job_checks_a_node_from_inside(
    slurm: FakeSlurm, site: SiteUnderTest, start: Start
) -> None:
    process = start()
    (node,) = findings(process, "node")
    assert node["nodes"] and node["level"] == "ok"
    assert slurm.submitted() == 1
    assert is_cancelled(slurm)
    assert left(site) == []


def test_a_job_that_waits_is_given_up_and_cancelled(
    slurm: FakeSlurm, site: SiteUnderTest, start: Start
) -> None:
    slurm.switch("hold")
    (finding,) = findings(start("--deadline", "1s"), "job")
    assert finding["level"] == "warning"
    assert "--deadline" in finding["todo"]
    assert is_cancelled(slurm)
    assert left(site) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_job(
    slurm: FakeSlurm, site: SiteUnderTest, start: Start, number: signal.Signals
) -> None:
    slurm.switch("hold")
    process = start()
    # What is written last: a `sbatch` that is killed before has submitted nothing.
    jobs = slurm.directory / "jobs"
    wait_until(lambda: [*jobs.glob("*/script")], 60.0, "the job to be submitted")
    process.send_signal(number)
    assert process.wait(60.0) == 128 + number
    assert is_cancelled(slurm)
    assert left(site) == []


def test_a_job_that_was_taken_without_an_answer_is_cancelled(
    slurm: FakeSlurm, site: SiteUnderTest, start: Start
) -> None:
    slurm.switch("hold")
    slurm.switch("answer", "welcome to the cluster")
    (finding,) = findings(start(), "job")
    assert finding["level"] == "problem" and "no job id" in finding["found"]
    assert is_cancelled(slurm)


def test_a_refusal_is_told(slurm: FakeSlurm, site: SiteUnderTest, start: Start) -> None:
    slurm.switch("refuse", "sbatch: error: Invalid account")
    process = start()
    (finding,) = findings(process, "job")
    assert "Invalid account" in finding["found"] and "pools.main" in finding["todo"]
    assert process.returncode == 1
