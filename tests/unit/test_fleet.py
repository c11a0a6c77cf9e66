"""The fleet against a batch system that answers as the test tells it to."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pilot.head import fleet as f
from pilot.head.fleet import Fleet
from pilot.head.outlook import pool_limits
from pilot.head.state import Pilot
from pilot.head.store import Store
from pilot.site import create_site, open_site
from scheduler.batch import JobRequest, JobStatus, Phase, SubmitRefused
from scheduler.elasticity import ClassDemand
from scheduler.resources import NodeShape, Resources

NOW = 1000.0
HOUR = 3600.0


class FakeBatch:
    """Takes jobs, or refuses them, once it `may` answer; all that it took runs at once."""

    name = "slurm"

    def __init__(self) -> None:
        self.refusal = ""
        self.may = threading.Event()
        self.may.set()
        self.taken: list[JobRequest] = []

    def submit(self, request: JobRequest) -> str:
        assert self.may.wait(20)
        if self.refusal:
            raise SubmitRefused(self.refusal)
        self.taken.append(request)
        return str(len(self.taken))

    def jobs(self, name_prefix: str) -> dict[str, JobStatus]:
        return {
            str(job): JobStatus(
                job_id=str(job), name=request.name, phase=Phase.RUNNING, state="RUNNING"
            )
            for job, request in enumerate(self.taken, 1)
        }

    def ended(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        return {}

    def cancel(self, job_ids: Iterable[str]) -> None:
        pass

    def close(self) -> None:
        pass


class Head:
    """A fleet with all around it; `demand` is what its pools are asked for."""

    def __init__(self, directory: Path, batch: FakeBatch) -> None:
        pool = {"cores_per_node": 4, "max_nodes": 4, "nodes_per_pilot": 1, "walltime": "1h"}
        directory.mkdir(mode=0o700)
        config = {"name": "test", "batch": "slurm", "pools": {"main": pool}}
        (directory / "site.yaml").write_text(yaml.safe_dump(config))
        site = open_site(directory)
        site.prepare()
        self.batch = batch
        self.store = Store(site.database)
        self.rooms: dict[str, Pilot] = {}
        self.demand: list[ClassDemand] = []
        self._woken = threading.Event()
        self.fleet = Fleet(
            site,
            self.store,
            self.rooms,
            self._woken.set,
            lambda name, reason: None,
            lambda state, text: None,
        )

    def wants(self, **changes: Any) -> None:
        fields: dict[str, Any] = {"need": Resources(), "pool": "", "count": 1, "mean_s": None}
        self.demand = [ClassDemand(**{**fields, **changes})]

    def tick(self, now: float) -> None:
        self.fleet.tick(now, lambda: self.demand)

    def take(self) -> None:
        """Take in what the batch system answers to the command under way."""
        assert self._woken.wait(20)
        self._woken.clear()
        self.fleet.take()


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Head]:
    batch = FakeBatch()
    monkeypatch.setattr(f, "open_batch", lambda config, jobs: batch)
    made = Head(tmp_path / "site", batch)
    yield made
    batch.may.set()
    made.fleet.close()
    made.store.close()


# --- refusals ------------------------------------------------------------------------------------


def test_refusal_is_told_while_the_pool_wants_what_was_refused(head: Head) -> None:
    head.batch.refusal = "Invalid account"
    head.wants()
    head.tick(NOW)
    head.take()
    assert head.fleet.trouble == "no pilot for pool main: Invalid account"
    head.tick(NOW + 1.0)
    assert head.fleet.trouble and head.fleet.outlook().refused
    head.demand = []
    head.tick(NOW + 2.0)
    assert not head.fleet.trouble and not head.fleet.outlook().refused


def test_waits_grow_while_refusals_follow_each_other(head: Head) -> None:
    head.batch.refusal = "Invalid account"
    head.wants()
    head.tick(NOW)
    head.take()
    waits = [f.BACK_OFF_S[0]]
    for _ in range(3):
        refused = head.fleet.outlook().refused["main"]
        assert refused.wait_s == waits[-1]
        head.tick(refused.until - 0.1)
        assert not head.fleet.pilots, "it is not time yet"
        head.batch.may.clear()
        head.tick(refused.until + 1.0)
        # While this is asked for, nothing more is wanted; it may be refused again.
        head.tick(refused.until + 2.0)
        assert head.fleet.trouble
        head.batch.may.set()
        head.take()
        waits.append(2 * waits[-1])
    assert head.fleet.outlook().refused["main"].wait_s == waits[-1]


def test_refusal_is_forgotten_with_the_next_pilot(head: Head) -> None:
    head.batch.refusal = "Invalid account"
    head.wants()
    head.tick(NOW)
    head.take()
    head.batch.refusal = ""
    head.tick(NOW + f.BACK_OFF_S[0])
    head.take()
    assert not head.fleet.trouble and len(head.batch.taken) == 1


# --- what elasticity sees ------------------------------------------------------------------------


def test_supply_has_the_walltime_that_is_left_and_what_pilots_hold(head: Head) -> None:
    head.wants()
    head.tick(NOW)
    head.take()
    (pilot,) = head.fleet.supply(NOW)
    assert (pilot.left_s, pilot.load, pilot.queued) == (HOUR, 0, True)
    head.fleet.joined(pilot.name, "1", "main", 1, NOW)
    room = Pilot(pilot.name, "main", NodeShape(4), 1, NOW + HOUR)
    room.load = 3
    head.rooms[pilot.name] = room
    (pilot,) = head.fleet.supply(NOW + 600.0)
    assert (pilot.left_s, pilot.load, pilot.queued) == (HOUR - 600.0, 3, False)
    room.ends_at = 0.0
    assert head.fleet.supply(NOW)[0].left_s == math.inf


def test_pilot_that_ends_too_soon_is_joined_by_another(head: Head) -> None:
    head.wants(needed_s=0.9 * HOUR)
    head.tick(NOW)
    head.take()
    (name,) = head.fleet.pilots
    head.fleet.joined(name, "1", "main", 1, NOW)
    head.rooms[name] = Pilot(name, "main", NodeShape(4), 1, NOW + HOUR)
    head.tick(NOW + 10.0)
    assert len(head.fleet.pilots) == 1
    head.tick(NOW + 600.0)
    assert len(head.fleet.pilots) == 2


def test_pools_are_those_of_the_site(tmp_path: Path) -> None:
    site = create_site(tmp_path / "other", "virtual")
    main, urgent = pool_limits(site.config)
    assert (main.name, main.max_nodes, main.walltime_s, main.idle_s) == ("main", 4, 1800.0, 30.0)
    assert urgent.name == "urgent"
