"""The virtual cluster, as the tests in this directory have it.

One cluster serves the whole test session. One that is already up is used and left up; otherwise it
is brought up, and taken down at the end. Where the machine can't have one, the tests are skipped,
saying why; where it could but does not come up, they fail.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pilot.site import Site, create_site

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "virtual-cluster"
sys.path.insert(0, str(SCRIPT.parent / "lib"))  # for the tests of its parts

#: Exit status of the script where the machine can't have a virtual cluster.
UNFIT = 4

UP_DEADLINE_S = 600.0  # it may have to install packages
COMMAND_DEADLINE_S = 90.0
_LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class VirtualCluster:
    """The cluster of one state directory, used through ``scripts/virtual-cluster`` only."""

    #: Where all of it is; None for the default.
    state_directory: Path | None = None

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start the script; what it prints can be read from the process that comes back."""
        environment = dict(os.environ)
        if self.state_directory:
            environment["PILOT_VIRTUAL_CLUSTER"] = str(self.state_directory)
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), *map(str, arguments)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def script(
        self, *arguments: str | Path, deadline_s: float = COMMAND_DEADLINE_S
    ) -> subprocess.CompletedProcess[str]:
        """Call the script; what comes back holds the exit status and what it printed."""
        with self.start(*arguments) as process:
            try:
                output, errors = process.communicate(timeout=deadline_s)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def do(self, *arguments: str | Path, deadline_s: float = COMMAND_DEADLINE_S) -> str:
        """Call the script, which must succeed, and return what it printed."""
        answer = self.script(*arguments, deadline_s=deadline_s)
        assert answer.returncode == 0, f"{arguments}: {answer.stdout}{answer.stderr}"
        return answer.stdout

    def run(
        self,
        *command: str | Path,
        on: str | None = None,
        deadline_s: float = COMMAND_DEADLINE_S,
    ) -> str:
        """Run a command, which must succeed, on the login node or on a node; return its output."""
        where = ["--on", on] if on else []
        return self.do("run", *where, *command, deadline_s=deadline_s)

    def status(self) -> dict[str, Any]:
        """Return what ``status --json`` says."""
        content: dict[str, Any] = json.loads(self.script("status", "--json").stdout)
        return content

    @functools.cached_property
    def shared(self) -> Path:
        """The directory that plays the parallel file system."""
        return Path(self.status()["shared_directory"])

    @contextlib.contextmanager
    def job_of(self, script: str, directory: Path, *options: str) -> Iterator[int]:
        """Submit a batch script, which runs in `directory`, and cancel the job in the end."""
        file = directory / "job.sh"
        file.write_text(f"#!/bin/bash\n{script}\n")
        job_id = int(self.run("sbatch", "--parsable", f"--chdir={directory}", *options, file))
        try:
            yield job_id
        finally:
            self.run("scancel", "--quiet", str(job_id))

    def job(self, job_id: int) -> dict[str, str]:
        """Return what ``scontrol show job`` says of a job."""
        answer = self.run("scontrol", "--oneliner", "show", "job", str(job_id))
        return dict(word.split("=", 1) for word in answer.split() if "=" in word)

    def node_states(self) -> dict[str, str]:
        """Return Slurm's word for the state of each node; a star says that it does not respond."""
        answer = self.run("sinfo", "--Node", "--noheader", "--partition=main", "--format=%N %T")
        return dict(line.split() for line in answer.splitlines())

    def wait_for(self, what: str, happened: Callable[[], bool], deadline_s: float) -> None:
        """Return as soon as `happened` is true; fail, saying `what` did not come, after a while."""
        end = time.monotonic() + deadline_s
        while not happened():
            assert time.monotonic() < end, f"waited {deadline_s:g} s in vain for: {what}"
            time.sleep(_LOOK_EVERY_S)


@pytest.fixture(scope="session")
def virtual_cluster() -> Iterator[VirtualCluster]:
    """A cluster of 4 nodes with 4 cores each, which is up."""
    cluster = VirtualCluster()
    was_up = os.geteuid() == 0 and cluster.status()["up"]
    answer = cluster.script("up", deadline_s=UP_DEADLINE_S)
    if answer.returncode == UNFIT:
        pytest.skip(answer.stderr.strip())
    assert answer.returncode == 0, answer.stderr
    yield cluster
    if not was_up:
        cluster.do("down")


@pytest.fixture
def spare_cluster(virtual_cluster: VirtualCluster) -> Iterator[VirtualCluster]:
    """Another cluster, which is down, for tests of going up and down."""
    spare = VirtualCluster(Path(f"/var/lib/pilot-virtual-cluster-test-{os.getpid()}"))
    yield spare
    spare.do("down")


@pytest.fixture
def shared_directory(virtual_cluster: VirtualCluster) -> Iterator[Path]:
    """A directory that every node sees, for one test."""
    with tempfile.TemporaryDirectory(dir=virtual_cluster.shared) as directory:
        yield Path(directory)


@pytest.fixture
def site(
    virtual_cluster: VirtualCluster, shared_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """A site on the virtual cluster; its head and its jobs are ended with the test."""
    for line in virtual_cluster.do("env").splitlines():
        name, _, value = shlex.split(line)[1].partition("=")
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PILOT_HOME", str(shared_directory))
    monkeypatch.chdir(shared_directory)  # the nodes must see where the work is done
    made = create_site(shared_directory / "virtual", "virtual")
    try:
        yield made
    finally:
        subprocess.run(
            [sys.executable, "-m", "pilot", "--site", "virtual", "head", "stop"],
            check=False,
            capture_output=True,
            timeout=60,
        )
        jobs = {row["job"] for row in _fleet_of_job_names(virtual_cluster, made)}
        for job in jobs:
            virtual_cluster.run("scancel", job)
        virtual_cluster.wait_for(
            "the jobs to be gone", lambda: not _fleet_of_job_names(virtual_cluster, made), 60.0
        )


def _fleet_of_job_names(cluster: VirtualCluster, site: Site) -> list[dict[str, str]]:
    """The jobs of this site that Slurm has, told by the directory that they write to."""
    rows = cluster.run("squeue", "--noheader", "--format=%i|%Z").splitlines()
    split = [row.split("|") for row in rows]
    return [{"job": job} for job, directory in split if directory.startswith(str(site.directory))]
