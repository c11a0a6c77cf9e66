"""The head is killed around a submission: each intent has one job at most, and none is unknown.

``sbatch`` is slow, and the head is killed at a step that differs from round to round: while its
pilots run, in each step once, and while they wait in the queue, ``PILOT_TEST_KILLS`` times.
``PILOT_TEST_SEED`` makes the same rounds again.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.waiting import wait_until

import pilot
from pilot.cli.common import commanding
from pilot.client.query_client import QueryClient
from pilot.head.running import find_head
from pilot.wire.messages import client as m

if TYPE_CHECKING:
    from slurm.conftest import VirtualCluster

    from pilot.site import Site

KILLS = int(os.environ.get("PILOT_TEST_KILLS", "10"))
SEED = int(os.environ.get("PILOT_TEST_SEED", str(random.randrange(10_000))))
DEADLINE_S = 180.0

#: The steps of a submission at which the head is killed: a moment after it was asked for a pilot;
#: before sbatch has begun, while it works, when the job is there, and when it has answered.
STEPS = ("asked", "before", "during", "after", "answered")

SBATCH = """#!/bin/sh
# The head is the parent of this process.
step=none wait=0
mv {directory}/step {directory}/step.$$ 2>/dev/null && read -r step wait < {directory}/step.$$
later() {{ (sleep "$wait"; kill -KILL "$PPID") </dev/null >/dev/null 2>&1 & }}
[ $step = before ] && kill -KILL "$PPID"
sleep 0.3
[ $step = during ] && later
answer=$({real} "$@")
status=$?
[ $step = after ] && kill -KILL "$PPID"
sleep 0.3
printf '%s\\n' "$answer"
[ $step = answered ] && later
exit $status
"""


def note(directory: str, number: int) -> int:
    """Note each time that this begins."""
    (Path(directory) / f"{number}-{time.time_ns()}").touch()
    return number


class Killer:
    """Has heads of a site killed while they submit."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._random = random.Random(SEED)
        self.steps: Counter[str] = Counter()

    @contextlib.contextmanager
    def kills(self, site: Site, number: int) -> Iterator[None]:
        """Have the head killed while it does what it is asked for in the block."""
        step = STEPS[number % len(STEPS)]
        self.steps[step] += 1
        head = find_head(site)
        assert head is not None
        wait_s = self._random.uniform(0.0, 0.1)
        if step != "asked":
            (self._directory / "step").write_text(f"{step} {wait_s:.3f}\n")
        yield
        if step == "asked":
            time.sleep(wait_s)  # it is killed at any moment of these
            os.kill(head.pid, signal.SIGKILL)
        wait_until(head.is_dead, DEADLINE_S, f"the end of the head, round {number}, {self}")

    def __str__(self) -> str:
        return f"seed {SEED}, {dict(self.steps)}"


@pytest.fixture
def killer(
    virtual_cluster: VirtualCluster, shared_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Killer:
    virtual_cluster.enter(shared_directory, monkeypatch)
    real = shutil.which("sbatch")
    assert real is not None
    commands = shared_directory / "bin"
    commands.mkdir()
    (commands / "sbatch").write_text(SBATCH.format(directory=shared_directory, real=real))
    (commands / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(shared_directory))  # killed heads leave something there
    return Killer(shared_directory)


class Ledger:
    """All jobs that Slurm has had of a site: it lists those that have ended for a few minutes."""

    def __init__(self, cluster: VirtualCluster, site: Site, killer: Killer) -> None:
        self._cluster = cluster
        self._directory = f"{site.directory}/"
        self._killer = killer
        self._jobs: set[str] = set()

    def look(self) -> None:
        """Note those that are there now."""
        told = self._cluster.run("squeue", "--states=all", "--noheader", "--format=%j|%i|%Z")
        rows = [line.rpartition("|") for line in told.splitlines()]
        self._jobs |= {job for job, _, place in rows if place.startswith(self._directory)}

    def check(self, pilots: list[dict[str, Any]]) -> None:
        """Compare them with the pilots that there were."""
        self.look()
        known = {f"{row['name']}|{row['job']}" for row in pilots if row["job"]}
        assert known
        assert self._jobs == known, f"each job is known, and is of another pilot: {self._killer}"


def test_tasks_of_killed_heads_run_once_in_pilots_that_are_known(
    virtual_cluster: VirtualCluster, shared_directory: Path, killer: Killer
) -> None:
    cluster = virtual_cluster
    runs = shared_directory / "runs"
    runs.mkdir()
    keys: dict[str, Any] = {"max_nodes": 2, "nodes_per_pilot": 1, "idle_time": "1s"}
    with cluster.site(shared_directory / "site", **keys) as site, pilot.Session(site) as session:
        ledger = Ledger(cluster, site, killer)
        for number in range(len(STEPS)):
            session.query("head")
            with killer.kills(site, number):
                future = session.submit(note, str(runs), number)
                session.flush()
            assert future.result(DEADLINE_S) == number
            wait_until(
                lambda: not session.query("fleet", alive=True), DEADLINE_S, f"its end: {killer}"
            )
            ledger.look()
        rows = session.query("fleet", limit=100_000)
        starts = Counter(int(mark.name.split("-")[0]) for mark in runs.iterdir())
        assert starts == dict.fromkeys(range(len(STEPS)), 1)
        assert not cluster.jobs_of(site), "nothing is left in the queue"
        ledger.check(rows)


def test_no_kill_of_the_head_leaves_an_unknown_job_or_two_for_one_pilot(
    virtual_cluster: VirtualCluster, shared_directory: Path, killer: Killer
) -> None:
    cluster = virtual_cluster
    keys: dict[str, Any] = {"max_nodes": KILLS, "max_pilots_queued": KILLS, "nodes_per_pilot": 1}
    keys["sbatch_options"] = ["--begin=now+5hours"]  # they wait
    with cluster.site(shared_directory / "site", **keys) as site:

        def want(nodes: int) -> None:
            """Have so many pilots; a head is started where there is none."""
            with commanding(site) as command:
                command(lambda n: m.ControlFleet(n, "scale", "main", nodes))

        def there() -> list[dict[str, Any]]:
            with QueryClient(site) as ask:
                rows: list[dict[str, Any]] = ask("fleet", limit=100_000)
            return rows

        def wait_for(nodes: int) -> None:
            """Wait for so many pilots to be in the queue."""
            wait_until(
                lambda: sum(row["state"] == "QUEUED" for row in there()) == nodes,
                DEADLINE_S,
                f"{nodes} pilots in the queue: {killer}",
            )

        ledger = Ledger(cluster, site, killer)
        for number in range(KILLS):
            want(number)
            with killer.kills(site, number):
                want(number + 1)
            want(number + 1)
            wait_for(number + 1)
            ledger.look()
        rows = there()
        queued = [row["job"] for row in rows if row["state"] == "QUEUED"]
        assert sorted(cluster.jobs_of(site)) == sorted(queued)
        ledger.check(rows)
