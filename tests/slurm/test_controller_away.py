"""slurmctld hangs, or is killed, in the middle of a run: nothing is lost, nothing is doubled.

``PILOT_TEST_AWAY_S=60`` keeps it away for so many seconds.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.waiting import wait_until

import pilot

if TYPE_CHECKING:
    from slurm.conftest import VirtualCluster

AWAY_S = float(os.environ.get("PILOT_TEST_AWAY_S", "8"))
DEADLINE_S = 120.0
#: The number of tasks that there are at first: 64 s of work for one node, so a second one comes.
FIRST = 512


def note(directory: str, number: int) -> int:
    """Note each time that this begins, and take a moment."""
    (Path(directory) / f"{number}-{time.time_ns()}").touch()
    time.sleep(0.25)
    return number


@pytest.mark.parametrize(("away", "back"), [("stop", "continue"), ("kill", "start")])
def test_work_goes_on_without_slurm_and_nothing_is_doubled(
    virtual_cluster: VirtualCluster,
    shared_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    away: str,
    back: str,
) -> None:
    cluster, directory = virtual_cluster, shared_directory
    cluster.enter(directory, monkeypatch)
    runs = directory / "runs"
    runs.mkdir()
    pools: dict[str, dict[str, Any]] = {"main": {"max_nodes": 2}, "other": {"max_nodes": 1}}
    # No pilot ends because it has nothing to do, however long Slurm is away.
    keys: dict[str, Any] = {"nodes_per_pilot": 1, "cores_per_node": 2, "idle_time": "10m"}
    began = time.strftime("%H:%M:%S")
    with (
        cluster.site(directory / "site", pools, **keys) as site,
        pilot.Session(site) as session,
    ):
        run = pilot.task(pool="main")(note)
        # Enough for the second pilot to come while they run.
        first = session.submit_many(run, [(str(runs), n) for n in range(FIRST)])

        def running() -> int:
            return sum(row["state"] == "RUNNING" for row in session.query("fleet", alive=True))

        def trouble() -> str:
            return str(session.query("head")["trouble"])

        wait_until(lambda: running() == 2, DEADLINE_S, "the pilots")
        cluster.do("controller", away)
        try:
            late = session.submit(pilot.task(pool="other")(note), str(runs), FIRST)
            since = time.monotonic()
            wait_until(lambda: "does not answer" in trouble(), DEADLINE_S, "that")
            wait_until(lambda: time.monotonic() - since > AWAY_S, DEADLINE_S + AWAY_S, "a while")
            numbers = range(FIRST + 1, FIRST + 9)
            meanwhile = session.submit_many(run, [(str(runs), n) for n in numbers])
            assert pilot.gather(meanwhile, timeout=DEADLINE_S) == [*numbers], "work goes on"
            assert "Slurm has not answered since" in late.why()
        finally:
            cluster.do("controller", back)
        assert pilot.gather([*first, late], timeout=DEADLINE_S) == [*range(FIRST + 1)]
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not trouble(), DEADLINE_S)
        assert trouble() == ""
        starts = Counter(int(mark.name.split("-")[0]) for mark in runs.iterdir())
        assert starts == dict.fromkeys(range(FIRST + 9), 1), "each was begun once"
        rows = session.query("fleet")
    told = cluster.run("sacct", "-X", "-n", "-P", "--format=JobName", f"--starttime={began}")
    jobs = Counter(line for line in told.splitlines() if line.startswith(rows[0]["name"][:-1]))
    # Accounting may not have heard of all of them.
    assert jobs.keys() <= {row["name"] for row in rows} and set(jobs.values()) <= {1}
    ran = [row for row in rows if row["pool"] == "main" and row["started"]]
    assert len(ran) == 2, "no pilot was given up because Slurm was away"
