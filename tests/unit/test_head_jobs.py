"""Heads in batch jobs: the records, when another job is asked for, and what becomes of the job."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.fleets import FakeBatch
from support.waiting import wait_until

from pilot.client.head_in_job import MISSING_S, SILENT_S, judge, prospect
from pilot.errors import HeadError
from pilot.head import head_jobs, in_job
from pilot.head.hand_over import AGAIN_S, LEAD_S, TRIES, Do, Facts, HandOver, Successor, decide
from pilot.head.head_jobs import HOST_VARIABLE, HeadJob, Host
from pilot.head.machine import HERE
from pilot.scheduler.batch import JobStatus, Phase, WhyEnded
from pilot.scheduler.batch.slurm.script import directives
from pilot.site import Site, open_site

NOW = 1000.0
HOUR = 3600.0


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Site]:
    def made(**head: Any) -> Site:
        directory = tmp_path / "site"
        directory.mkdir(mode=0o700, exist_ok=True)
        pool = {"cores_per_node": 4, "account": "mine", "constraint": "gpu"}
        other = {"cores_per_node": 4, "partition": "serial", "memory_request": "none"}
        config = {"batch": "slurm", "head": head, "pools": {"main": pool, "small": other}}
        (directory / "site.yaml").write_text(yaml.safe_dump(config))
        site = open_site(directory)
        site.prepare()
        return site

    return made


def wanted(site: Site, **fields: Any) -> HeadJob:
    made = head_jobs.add(site, head_jobs.newest(site), HeadJob(number=0, name="head", **fields))
    assert made is not None
    return made


# --- records -------------------------------------------------------------------------------------


def test_one_of_many_makes_the_next_record(make: Callable[..., Site]) -> None:
    site = make()
    assert head_jobs.newest(site) is None
    first = wanted(site)
    made: list[HeadJob | None] = []
    start = threading.Barrier(8)

    def try_it(number: int) -> None:
        # As processes of their own: each has its own files.
        record = HeadJob(number=0, name=f"by-{number}")
        start.wait()
        made.append(head_jobs.add(site, first, record))

    threads = [threading.Thread(target=try_it, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [record for record in made if record is not None]
    assert head_jobs.newest(site) == winner and winner.number == 2


def test_what_is_known_later_stands_beside_the_record(make: Callable[..., Site]) -> None:
    site = make()
    record = wanted(site)
    assert head_jobs.job_of(site, record) == "" and not head_jobs.is_here(site, 1)
    head_jobs.note_job(site, 1, "77")
    head_jobs.note_here(site, 1, "77")
    assert head_jobs.job_of(site, record) == "77" and head_jobs.is_here(site, 1)
    assert head_jobs.close(site, 1, "idle")
    assert head_jobs.wanted(site) is None
    assert not head_jobs.close(site, 1, "again"), "a later record counts"
    assert prospect(site) == "idle"
    for _ in range(3):
        record = wanted(site)
    names = sorted(path.name for path in site.directory.glob("head.job*"))
    assert names == [f"head.job.{record.number - 1}", f"head.job.{record.number}"]


def test_damaged_records_and_those_of_a_copied_site_have_no_job(
    make: Callable[..., Site], tmp_path: Path
) -> None:
    site = make()
    wanted(site)
    other = tmp_path / "copy"
    site.directory.rename(tmp_path / "aside")
    (tmp_path / "aside").rename(other)
    assert head_jobs.wanted(open_site(other)) is not None, "it was moved"
    (other / "head.job.2").write_text("{")
    assert head_jobs.wanted(open_site(other)) is None
    (other / "head.job.3").mkdir()
    record = head_jobs.newest(open_site(other))
    assert record is not None and record.number == 3 and not record.is_open
    (other / "head.job.4").write_bytes(b'{"number":4,"name":"a","directory":"/another","inode":1}')
    assert head_jobs.wanted(open_site(other)) is None


def test_a_host_is_one_only_in_its_own_job(
    make: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make()
    monkeypatch.delenv("PILOT_JOB_ID", raising=False)
    monkeypatch.setenv(HOST_VARIABLE, '{"job":"7","adopts":false,"pool":"small"}')
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert head_jobs.host_here(site) is None
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    host = head_jobs.host_here(site)
    assert host == Host(job="7", adopts=False, pool="small")
    record = head_jobs.host(site, host)
    assert record is not None and (record.job, record.pool) == ("7", "small")
    assert head_jobs.host(site, host) == record, "another head in the same job"
    monkeypatch.setenv(HOST_VARIABLE, "7")
    assert head_jobs.host_here(site) is None


def test_a_job_asks_for_little_and_has_the_keys_of_a_pool(make: Callable[..., Site]) -> None:
    def options(site: Site, *wish: Any) -> list[str]:
        return directives(head_jobs.request(site, "name", ["true"], *wish))

    asked = options(make())
    assert {"--nodes=1", "--ntasks-per-node=1", "--time=12:00:00", "--mem=2048M"} <= set(asked)
    assert "--account=mine" in asked
    assert not any(o.startswith(("--constraint", "--signal", "--partition")) for o in asked)
    asked = options(make(job={"partition": "long", "walltime": "1d", "cores": 2}))
    assert {"--partition=long", "--account=mine", "--time=1-00:00:00"} <= set(asked)
    asked = options(make(job={"pool": "small"}))
    assert "--partition=serial" in asked and not any("--mem" in option for option in asked)
    asked = options(make(job={"partition": "long"}), 600.0, "small")
    assert {"--partition=serial", "--time=00:10:00"} <= set(asked)


def test_a_job_that_must_not_begin_anew_is_not_requeued(make: Callable[..., Site]) -> None:
    site = make()
    asked = directives(head_jobs.request(site, "run", ["true"]))
    once = directives(head_jobs.request(site, "run", ["true"], restarts=False))
    assert "--requeue" in asked and "--no-requeue" not in asked
    assert "--no-requeue" in once and "--requeue" not in once


# --- decisions -----------------------------------------------------------------------------------


def facts(**changes: Any) -> Facts:
    usual = Facts(
        left_s=10 * HOUR,
        walltime_s=12 * HOUR,
        waited_s=0.0,
        has_work=True,
        successor=Successor.NONE,
        may_ask=True,
    )
    return usual._replace(**changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Do.GO_ON),
        ({"left_s": math.inf, "walltime_s": math.inf}, Do.GO_ON),
        ({"left_s": LEAD_S}, Do.ASK),
        ({"left_s": LEAD_S, "has_work": False}, Do.GO_ON),
        ({"left_s": LEAD_S, "may_ask": False}, Do.GO_ON),
        ({"left_s": 2 * HOUR, "waited_s": 1.1 * HOUR}, Do.ASK),
        ({"left_s": 5 * HOUR, "waited_s": 90 * HOUR}, Do.ASK),
        ({"left_s": 7 * HOUR, "waited_s": 90 * HOUR}, Do.GO_ON),
        ({"left_s": LEAD_S, "successor": Successor.COMING}, Do.GO_ON),
        ({"left_s": LEAD_S, "successor": Successor.UNWANTED}, Do.GO_ON),
        ({"left_s": LEAD_S, "successor": Successor.FAILED}, Do.ASK),
        ({"successor": Successor.HERE}, Do.LEAVE),
        ({"successor": Successor.HERE, "has_work": False}, Do.LEAVE),
        # The last moments.
        ({"left_s": 20.0}, Do.ASK),
        ({"left_s": 20.0, "successor": Successor.COMING}, Do.LEAVE),
        ({"left_s": 20.0, "successor": Successor.UNWANTED}, Do.LEAVE),
        ({"left_s": 20.0, "may_ask": False}, Do.LEAVE),
        ({"left_s": 20.0, "has_work": False}, Do.END),
        ({"left_s": 40.0, "walltime_s": 60.0, "has_work": False}, Do.GO_ON),
        ({"left_s": 29.0, "walltime_s": 60.0}, Do.ASK),
        ({"left_s": 14.0, "walltime_s": 60.0, "successor": Successor.ASKED}, Do.GO_ON),
        ({"left_s": 7.0, "walltime_s": 60.0, "successor": Successor.ASKED}, Do.LEAVE),
        # The program that the head was started for is over.
        ({"program_ended": True, "has_work": False}, Do.END),
        ({"program_ended": True}, Do.ASK),
        ({"program_ended": True, "successor": Successor.ASKED}, Do.GO_ON),
        ({"program_ended": True, "successor": Successor.COMING}, Do.LEAVE),
        ({"program_ended": True, "may_ask": False}, Do.LEAVE),
    ],
)
def test_when_a_head_in_a_job_is_to_end(changes: dict[str, Any], expected: Do) -> None:
    assert decide(facts(**changes)) is expected


def status(phase: Phase, **more: Any) -> JobStatus:
    return JobStatus(job_id="7", name="head", phase=phase, state=phase.value.upper(), **more)


@pytest.mark.parametrize(
    ("found", "known", "missing_s", "ran_s", "over", "words"),
    [
        (status(Phase.QUEUED, reason="Priority"), True, 0, 0, False, "waits in the queue (Prio"),
        (status(Phase.RUNNING), True, 0, 1, False, "is RUNNING"),
        (status(Phase.RUNNING), True, 0, SILENT_S + 1, True, "no head has shown itself"),
        (status(Phase.ENDING), True, 0, 0, False, "is ENDING"),
        (status(Phase.ENDED, why_ended=WhyEnded.TIMEOUT), True, 0, 0, True, "timeout"),
        (
            status(Phase.ENDED, why_ended=WhyEnded.FAILED, exit_status=3),
            *(True, 0, 0, True, "failed (exit status 3)"),
        ),
        (None, True, MISSING_S - 1, 0, False, "is being submitted"),
        (None, True, MISSING_S + 1, 0, True, "does not know it"),
        (None, False, MISSING_S + 29, 0, False, "is being submitted"),
        (None, False, MISSING_S + 31, 0, True, "does not know it"),
    ],
)
def test_whether_a_job_can_still_become_head(
    found: JobStatus | None, known: bool, missing_s: float, ran_s: float, over: bool, words: str
) -> None:
    verdict = judge(found, known, missing_s, ran_s, limit_s=30.0)
    assert verdict.is_over is over and words in verdict.words and not verdict.cancelled


def test_a_cancelled_job_is_told_from_a_failed_one() -> None:
    verdict = judge(status(Phase.ENDED, why_ended=WhyEnded.CANCELLED), True, 0, 0, 30.0)
    assert verdict.is_over and verdict.cancelled


# --- handing over --------------------------------------------------------------------------------


class Job:
    """A head's job whose walltime of an hour begins at `NOW`, by a clock that the test sets."""

    def __init__(self, site: Site) -> None:
        self.site, self.batch, self.now = site, FakeBatch(), NOW
        self.record = wanted(site, job="900", walltime_s=HOUR)
        self.hand_over = HandOver(
            site,
            self.record,
            "900",
            0.0,
            self.batch,
            lambda: None,
            HERE._replace(now=lambda: self.now),
        )
        self.hand_over._ends_at = NOW + HOUR

    def tick(self, after_s: float = 0.0, has_work: bool = True, ended: bool = False) -> Do:
        self.now += after_s
        return self.hand_over.tick(self.now, has_work, ended)

    def until(self, successor: Successor) -> None:
        def came() -> bool:
            self.tick()
            return self.hand_over._successor is successor

        wait_until(came, 20.0, f"the successor to be {successor.value}")


@pytest.fixture
def job(make: Callable[..., Site]) -> Iterator[Job]:
    made = Job(make())
    yield made
    made.batch.may.set()
    made.hand_over.close()


def test_a_successor_takes_over_when_its_job_has_begun(job: Job) -> None:
    assert job.tick() is Do.GO_ON and not job.batch.taken
    assert job.tick(HOUR - LEAD_S) is Do.GO_ON
    job.until(Successor.COMING)
    (request,) = job.batch.taken
    record = head_jobs.newest(job.site)
    assert record is not None and (record.name, record.after) == (request.name, "900")
    assert head_jobs.job_of(job.site, record) == "1" and request.walltime_s == HOUR
    assert request.command[-2:] == [str(job.site.directory), str(record.number)]
    assert job.hand_over.status()["successor"] == "1"
    head_jobs.note_here(job.site, record.number, "1")
    assert job.tick(2.0) is Do.LEAVE
    assert len(job.batch.taken) == 1 and not job.batch.cancelled


def test_a_walltime_that_is_moved_is_noticed(job: Job) -> None:
    # The batch system's clock is another one: only what is left counts.
    job.batch.said["900"] = {"started_at": 6.0, "ends_at": 6.0 + 2 * HOUR, "submitted_at": 1.0}
    before = job.hand_over._ends_at
    job.tick()
    wait_until(lambda: job.tick() is Do.GO_ON and job.hand_over._ends_at != before, 20.0)
    assert job.hand_over._walltime_s == pytest.approx(2 * HOUR)
    assert job.hand_over._waited_s == 5.0


def test_work_that_ends_before_the_successor_has_begun_cancels_it(job: Job) -> None:
    job.tick(HOUR - LEAD_S)
    job.until(Successor.COMING)
    assert job.tick(LEAD_S - 20.0, has_work=False) is Do.END
    job.hand_over.finish("nothing is left")
    wait_until(lambda: job.batch.cancelled == ["1"], 20.0)
    assert head_jobs.wanted(job.site) is None


def test_a_refusal_is_told_and_tried_again_but_not_for_ever(job: Job) -> None:
    job.batch.refusal = "no such account"
    job.tick(HOUR - LEAD_S)
    job.until(Successor.FAILED)
    assert "no such account" in job.hand_over.trouble
    assert job.tick(1.0) is Do.GO_ON and job.hand_over._tries == 1
    for tries in range(2, TRIES + 1):
        job.now += AGAIN_S
        job.tick()
        assert job.hand_over._tries == tries
        job.until(Successor.FAILED)
    job.tick(AGAIN_S)
    assert job.hand_over._tries == TRIES


def test_a_successor_that_its_user_cancels_is_not_asked_for_again(job: Job) -> None:
    job.tick(HOUR - LEAD_S)
    job.until(Successor.COMING)
    job.batch.said["1"] = {"phase": Phase.ENDED, "why_ended": WhyEnded.CANCELLED}
    job.now += 60.0
    job.until(Successor.UNWANTED)
    assert "job 1 was cancelled" in job.hand_over.trouble
    assert job.tick(AGAIN_S) is Do.GO_ON and len(job.batch.taken) == 1
    assert job.tick(LEAD_S) is Do.LEAVE


# --- the job that takes over ---------------------------------------------------------------------


def test_only_the_job_of_the_last_record_becomes_head(
    make: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, batch = make(), FakeBatch()
    monkeypatch.setattr(in_job, "open_batch", lambda *_: batch)
    monkeypatch.setenv("PILOT_JOB_ID", "12")
    monkeypatch.setenv("PILOT_JOB_ENDS_AT", "5000")
    first = wanted(site, after="11")
    entered = in_job.enter(site, first.number)
    assert (entered.job, entered.ends_at, entered.hosted) == ("12", 5000.0, False)
    assert head_jobs.is_here(site, 1) and head_jobs.job_of(site, first) == "12"
    second = wanted(site, after="12")
    with pytest.raises(in_job.NotWanted, match="another one was asked for"):
        in_job.enter(site, first.number)
    batch.said["12"] = {"phase": Phase.ENDED, "why_ended": WhyEnded.CANCELLED}
    with pytest.raises(in_job.NotWanted, match="job 12, in which the head ran, was cancelled"):
        in_job.enter(site, second.number)
    with pytest.raises(HeadError, match="was cancelled"):
        in_job.enter(site, second.number)
    assert head_jobs.wanted(site) is None
