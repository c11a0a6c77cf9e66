"""The virtual cluster, as the tests in this directory have it.

One cluster serves the whole test session. One that is already up is used and left up; otherwise it
is brought up, and taken down at the end. Where the machine can't have one, the tests are skipped,
saying why; where it could but does not come up, they fail. It has four nodes at least; with more,
more can happen at once.
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
import yaml

from pilot.site import Site, create_site, open_site

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "virtual-cluster"
sys.path.insert(0, str(SCRIPT.parent / "lib"))  # for the tests of its parts

#: As in scripts/test: with so many, what takes the longest in `test_lost_nodes` waits for nothing.
NODES = 12

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

    @functools.cached_property
    def nodes(self) -> list[str]:
        """The names of its nodes."""
        return [node["name"] for node in self.status()["nodes"]]

    def full(self, directory: Path) -> contextlib.AbstractContextManager[int]:
        """A job that has all nodes, until the end of the block."""
        all_nodes = f"--nodes={len(self.nodes)}"
        return self.job_of("sleep 600", directory, all_nodes, "--time=10", "--exclusive")

    def enter(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        """Be on its login node, in a directory that its nodes see too, and that sites are in."""
        for line in self.do("env").splitlines():
            name, _, value = shlex.split(line)[1].partition("=")
            patch.setenv(name, value)
        patch.setenv("PILOT_HOME", str(directory))
        patch.chdir(directory)

    @contextlib.contextmanager
    def site(
        self,
        directory: Path,
        pools: dict[str, dict[str, Any]] | None = None,
        amounts: dict[str, int] | None = None,
        **changes: Any,
    ) -> Iterator[Site]:
        """A site on it, with one pool if that is changed, or with these pools, which are changes
        of that one, and with what it has only once; its head and jobs end with the block."""
        site = create_site(directory, "virtual")
        transport = os.environ.get("PILOT_TEST_TRANSPORT")
        if changes or pools or amounts or transport:
            path = directory / "site.yaml"
            config = yaml.safe_load(path.read_text())
            if changes or pools:
                main = {**config["pools"]["main"], **changes}
                config["pools"] = {
                    name: {**main, **keys} for name, keys in (pools or {"main": {}}).items()
                }
            if amounts:
                config["resources"] = amounts
            if transport:
                config["head"] = {"transport": transport}
            path.write_text(yaml.safe_dump(config))
            site = open_site(directory)
        try:
            yield site
        finally:
            subprocess.run(
                [sys.executable, "-m", "pilot", "--site", str(directory), "head", "stop"],
                check=False,
                capture_output=True,
                timeout=60,
            )
            for job in self.jobs_of(site):
                self.run("scancel", job)
            self.wait_for("the jobs to be gone", lambda: not self.jobs_of(site), 60.0)

    def jobs_of(self, site: Site) -> list[str]:
        """The jobs of a site that Slurm has, told by the directory that they write to."""
        rows = self.run("squeue", "--noheader", "--format=%i|%Z").splitlines()
        split = [row.split("|") for row in rows]
        return [job for job, directory in split if directory.startswith(str(site.directory))]

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
    """A cluster of `NODES` nodes with 4 cores each, which is up."""
    cluster = VirtualCluster()
    if os.geteuid() == 0 and cluster.status()["up"]:
        yield cluster
        return
    answer = cluster.script("up", f"--nodes={NODES}", deadline_s=UP_DEADLINE_S)
    if answer.returncode == UNFIT:
        pytest.skip(answer.stderr.strip())
    assert answer.returncode == 0, answer.stderr
    yield cluster
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


@pytest.fixture(scope="module")
def shared_site(virtual_cluster: VirtualCluster) -> Iterator[Site]:
    """A site on the virtual cluster for all tests of a module: for those that do no harm to it."""
    with (
        tempfile.TemporaryDirectory(dir=virtual_cluster.shared) as directory,
        pytest.MonkeyPatch.context() as patch,
    ):
        virtual_cluster.enter(Path(directory), patch)
        with virtual_cluster.site(Path(directory) / "virtual") as made:
            yield made
