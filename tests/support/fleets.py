"""A fleet against a batch system that answers as the test tells it to."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import yaml

from pilot.head.core.state import Pilot
from pilot.head.fleet import Fleet, Told
from pilot.head.outlook import RUNNING, PilotRow
from pilot.head.store.store import Store
from pilot.scheduler.batch import (
    Allocation,
    BatchError,
    BatchUnavailable,
    JobRequest,
    JobStatus,
    Phase,
    SubmitRefused,
)
from pilot.scheduler.demand import ClassDemand
from pilot.scheduler.resources import Resources
from pilot.site import open_site

NOW = 1000.0


def running_row(now: float, **changes: Any) -> PilotRow:
    """Return a pilot that runs and spoke a moment ago."""
    fields: dict[str, Any] = {
        "name": "p",
        "pool": "main",
        "nodes": 1,
        "walltime": 3600.0,
        "state": RUNNING,
        "job": "7",
        "reason": "said so",
        "created": now - 5000.0,
        "submitted": now - 5000.0,
        "heard": now - 1.0,
        "job_runs_since": now - 4000.0,
    }
    return PilotRow(**{**fields, **changes})


class FakeBatch:
    """Takes jobs, or refuses them, once it `may` answer; all that it took runs at once."""

    def __init__(self) -> None:
        self.refusal = ""
        #: What it says of jobs other than that they run, by id; and those that it leaves out.
        self.said: dict[str, dict[str, Any]] = {}
        self.hidden: set[str] = set()
        self.accounts: dict[str, JobStatus] = {}
        self.cancelled: list[str] = []
        #: What users have allocated, by job.
        self.allocations: dict[str, Allocation] = {}
        #: The nodes that jobs were to keep; and the error that says that they keep all.
        self.kept: list[tuple[str, list[str]]] = []
        self.shrinking: BatchError | None = None
        #: It has been asked for a job.
        self.asked = threading.Event()
        self.may = threading.Event()
        self.may.set()
        self.taken: list[JobRequest] = []
        #: Why it does not list jobs; empty: it does, and how often it was asked to.
        self.away = ""
        self.looks = 0

    def submit(self, request: JobRequest) -> str:
        self.asked.set()
        assert self.may.wait(20)
        if self.refusal:
            raise SubmitRefused(self.refusal)
        self.taken.append(request)
        return str(len(self.taken))

    def jobs(self, name_prefix: str, job_ids: Collection[str] = ()) -> dict[str, JobStatus]:
        self.looks += 1
        if self.away:
            raise BatchUnavailable(self.away)
        names = {str(job): request.name for job, request in enumerate(self.taken, 1)}
        # Those of others that it was told of, if they are asked for.
        names |= {job: "another" for job in job_ids if job in self.said and job not in names}
        running: dict[str, Any] = {"phase": Phase.RUNNING, "state": "RUNNING"}
        return {
            job: JobStatus(**{"job_id": job, "name": name, **running, **self.said.get(job, {})})
            for job, name in names.items()
            if job not in self.hidden
        }

    def account(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        return {job: self.accounts[job] for job in job_ids if job in self.accounts}

    def allocation(self, job_id: str) -> Allocation:
        if job_id not in self.allocations:
            raise BatchError(f"Slurm knows no job {job_id}")
        return self.allocations[job_id]

    def cancel(self, job_ids: Iterable[str]) -> None:
        self.cancelled += job_ids

    def check(self, pools: object) -> str:
        return ""

    def release_nodes(self, job_id: str, keep: Iterable[str]) -> None:
        if self.shrinking is not None:
            raise self.shrinking
        self.kept.append((job_id, list(keep)))

    def close(self) -> None:
        pass


class Head:
    """A fleet with all around it; `demand` is what its pools are asked for."""

    def __init__(
        self, directory: Path, batch: FakeBatch, submit_interval: str = "1ms", **keys: Any
    ) -> None:
        pool = {"cores_per_node": 4, "max_nodes": 4, "nodes_per_pilot": 1, "walltime": "1h"}
        pool |= keys
        directory.mkdir(mode=0o700)
        config: dict[str, Any] = {"name": "test", "batch": "slurm", "pools": {"main": pool}}
        config["slurm"] = {"submit_interval": submit_interval}
        (directory / "site.yaml").write_text(yaml.safe_dump(config))
        self.site = open_site(directory)
        self.site.prepare()
        self.batch = batch
        self.rooms: dict[str, Pilot] = {}
        self.demand: list[ClassDemand] = []
        self.lost: list[str] = []
        self._woken = threading.Event()
        self.start()

    def start(self) -> None:
        """Have a head's part of it begin, with what the database has."""
        self.store = Store(self.site.database)
        self.fleet = Fleet(
            self.site,
            self.store,
            self.batch,
            self.rooms,
            self._woken.set,
            lambda name, _reason, **_: self.lost.append(name),
            lambda state, text: None,
        )

    def close(self) -> None:
        """Have the head's part of it end; jobs go on."""
        self.batch.may.set()
        self.fleet.close()
        self.store.close()

    def again(self) -> None:
        """Have the next head begin."""
        self.close()
        self.start()

    def wants(self, **changes: Any) -> None:
        fields: dict[str, Any] = {"need": Resources(), "pool": "", "count": 1, "mean_s": None}
        self.demand = [ClassDemand(**{**fields, **changes})]

    def tick(self, now: float) -> list[Told]:
        return self.fleet.tick(now, lambda: self.demand)

    def look(self, now: float) -> None:
        """Have it look at the queue, and take in what it hears, and what it asks then."""
        self.fleet._polled = 0.0
        self.fleet.poll(now)
        self.settle()

    def settle(self) -> None:
        """Take in all that the batch system has been asked."""
        for _ in range(4):
            self.fleet._thread.wait_for(lambda: None)
            self.fleet.take()

    def a_pilot(self, now: float = NOW) -> PilotRow:
        """One pilot whose job runs, and that has joined."""
        self.wants()
        self.tick(now)
        self.settle()
        (row,) = self.fleet.pilots.values()
        self.fleet.joined(row.name, row.job or "", "main", 1, now)
        self.fleet.worked(row.name)
        self.look(now)
        return row

    def take(self) -> None:
        """Take in what the batch system answers to the command under way."""
        assert self._woken.wait(20)
        self._woken.clear()
        self.fleet.take()
