"""Slurm's answers, release by release: what is known of each is in a file of `slurm_releases`.

Of some the output of the commands was recorded on a virtual cluster, of all the states of jobs and
the messages that there is no answer were taken from the source. Whoever has another release adds a
file.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pilot.scheduler.batch import JobStatus, Phase, WhyEnded
from pilot.scheduler.batch.slurm import kinds_of_mpi
from pilot.scheduler.batch.slurm.allocation import read_allocation
from pilot.scheduler.batch.slurm.answers import (
    SEPARATOR,
    STATES,
    missing_partitions,
    parse_accounting,
    parse_queue,
    parse_submitted,
    release_of,
)
from pilot.scheduler.batch.slurm.checks import parse_partitions, parse_settings
from pilot.scheduler.batch.slurm.commands import _NO_ANSWER, _NOT_THERE
from pilot.scheduler.batch.slurm.nodelist import expand_nodelist
from pilot.site_configs import pool_type

_DIRECTORY = Path(__file__).with_name("slurm_releases")
_PoolConfig: Any = pool_type("slurm")


@cache
def known_of(release: str) -> dict[str, str]:
    """Return the parts of the file of a release, by their titles."""
    text = (_DIRECTORY / f"{release}.txt").read_text(encoding="utf-8")
    parts = re.split(r"^== (.*)\n", text, flags=re.M)[1:]
    return {
        title: content.replace("␟", SEPARATOR)
        for title, content in zip(parts[::2], parts[1::2], strict=True)
    }


RELEASES = sorted(path.stem for path in _DIRECTORY.glob("*.txt"))
FROM_SOURCE = [release for release in RELEASES if "states" in known_of(release)]
RECORDED = [release for release in RELEASES if "squeue" in known_of(release)]

from_source = pytest.mark.parametrize("release", FROM_SOURCE)
recorded = pytest.mark.parametrize("release", RECORDED)


def test_the_releases_of_five_years_are_known() -> None:
    known = {release_of(release) for release in FROM_SOURCE}
    assert known >= {(20, 11), (21, 8), (22, 5), (23, 2), (23, 11), (24, 5), (24, 11), (25, 5)}
    assert (25, 11) in known
    assert {release_of(release) for release in RECORDED} >= {(22, 5), (24, 5), (25, 11)}


@from_source
def test_every_state_has_a_meaning(release: str) -> None:
    assert set(known_of(release)["states"].split()) <= set(STATES)


@from_source
def test_silence_is_told_from_a_refusal(release: str) -> None:
    known = known_of(release)
    messages = known["messages that there is no answer"].splitlines()
    assert len(messages) > 10
    # A job may be there after any of these: to take one for a refusal would double it.
    assert [message for message in messages if not _NO_ANSWER.search(message)] == []
    for what in ("is unknown", "has ended"):
        message = known[f"message that a job {what}"]
        assert _NOT_THERE.search(message)
        assert not _NO_ANSWER.search(message)


#: By the names of the jobs that were recorded: phase, reason of the end, exit status, nodes.
JOBS: dict[str, tuple[Phase, WhyEnded | None, int | None, int]] = {
    "pilot-ok": (Phase.ENDED, WhyEnded.COMPLETED, 0, 1),
    "pilot-fails": (Phase.ENDED, WhyEnded.FAILED, 3, 1),
    "pilot-high": (Phase.ENDED, WhyEnded.FAILED, 130, 1),
    "pilot-dies": (Phase.ENDED, WhyEnded.FAILED, 128 + 11, 1),
    "pilot-runs": (Phase.RUNNING, None, None, 2),
    "pilot-victim": (Phase.QUEUED, None, None, 0),
    "pilot-queued": (Phase.QUEUED, None, None, 0),
    "pilot-held": (Phase.QUEUED, None, None, 0),
    "pilot-later": (Phase.QUEUED, None, None, 0),
    "pilot-never": (Phase.QUEUED, None, None, 0),
    "pilot-array": (Phase.QUEUED, None, None, 0),
}


def by_name(jobs: list[JobStatus]) -> dict[str, JobStatus]:
    return {job.name: job for job in jobs}


@recorded
def test_reads_the_queue(release: str) -> None:
    jobs = by_name(parse_queue(known_of(release)["squeue"]))
    for name, expected in JOBS.items():
        job = jobs[name]
        found = (job.phase, job.why_ended, job.exit_status, len(job.nodes))
        assert found == expected, name
        assert job.submitted_at is not None
        assert (job.started_at is None) is (job.phase is Phase.QUEUED)
    cancelled, quiet = jobs["pilot-cancelled"], jobs["pilot-quiet"]
    assert {cancelled.why_ended, quiet.why_ended} == {WhyEnded.CANCELLED}
    assert (cancelled.nodes != (), quiet.nodes, quiet.started_at) == (True, (), None)
    assert jobs["pilot-victim"].restart_count == 1
    assert jobs["pilot-queued"].node_count == 4
    assert jobs["pilot-held"].reason == "JobHeldUser"
    assert jobs["pilot-held"].expected_at is None
    later, runs = jobs["pilot-later"], jobs["pilot-runs"]
    assert later.expected_at is not None
    assert later.submitted_at is not None
    assert later.expected_at - later.submitted_at == pytest.approx(86400, abs=5)
    assert runs.ends_at is not None
    assert runs.started_at is not None
    assert runs.ends_at - runs.started_at == 600


@recorded
def test_reads_accounting(release: str) -> None:
    jobs = by_name(parse_accounting(known_of(release)["sacct"]))
    for name, (phase, why, status, nodes) in JOBS.items():
        job = jobs[name]
        if name == "pilot-high" and (release_of(release) or (0, 0)) < (25, 11):
            status = 130 - 128  # as sacct told it
        assert (job.phase, job.why_ended, job.exit_status) == (phase, why, status), name
        assert len(job.nodes) == nodes
    for name in ("pilot-cancelled", "pilot-quiet"):
        assert jobs[name].why_ended is WhyEnded.CANCELLED
    assert jobs["pilot-quiet"].started_at is None


@recorded
def test_both_lists_have_the_same_ids(release: str) -> None:
    known = known_of(release)
    queue = by_name(parse_queue(known["squeue"]))
    accounts = by_name(parse_accounting(known["sacct"]))
    for name in JOBS:
        assert queue[name].job_id == accounts[name].job_id


@recorded
def test_reads_what_a_job_has(release: str) -> None:
    known = known_of(release)
    runs = by_name(parse_queue(known["squeue"]))["pilot-runs"]
    allocation = read_allocation(runs.job_id, known["scontrol show job"], 0)
    assert tuple(expand_nodelist(allocation.nodelist)) == runs.nodes
    assert allocation.node_count == 2
    assert (allocation.cores, allocation.memory_mib, allocation.gpus) == (2, 500, 0)
    assert (allocation.restart_count, allocation.parts) == (0, 1)
    assert allocation.ends_at is not None


@recorded
def test_reads_the_id_of_a_submitted_job(release: str) -> None:
    known = known_of(release)
    ids = [
        int(parse_submitted(known[title]))
        for title in ("sbatch", "sbatch -M pilot --parsable", "sbatch -M pilot")
    ]
    assert ids == list(range(ids[0], ids[0] + 3))
    first = by_name(parse_queue(known["squeue"]))["pilot-ok"]
    assert parse_submitted(known["sbatch --parsable"]) == first.job_id


@recorded
def test_failures_are_told_apart(release: str) -> None:
    known = known_of(release)
    silent = [title for title in known if title.startswith(("no controller", "no slurm.conf"))]
    assert len(silent) == 7
    for title in silent:
        assert _NO_ANSWER.search(known[title]), title
    for title in ("sbatch refuses a partition", "scontrol update, no such node"):
        assert not _NO_ANSWER.search(known[title]), title
    assert _NOT_THERE.search(known["scontrol show job, none"])
    assert _NOT_THERE.search(known["scontrol update, none"])
    # Cancelling what is not there is no error, or one that is known.
    for title in ("scancel, none", "scancel, ended"):
        assert not known[title].strip() or _NOT_THERE.search(known[title])


@recorded
def test_reads_what_the_cluster_is(release: str) -> None:
    known = known_of(release)
    assert release_of(known["sbatch --version"]) == release_of(release)
    assert (
        missing_partitions(
            {"a": _PoolConfig(cores_per_node=1, partition="main")}, known["sinfo partitions"]
        )
        == ""
    )
    there = {part.name: part for part in parse_partitions(known["sinfo nodes"])}
    assert set(there) == {"main", "urgent"}
    assert (there["main"].nodes, there["main"].cores, there["main"].memory_mib) == (4, 4, 4000)
    assert there["main"].walltime_s == 0
    settings = parse_settings(known["scontrol show config"])
    assert settings["MinJobAge"].split()[0] == "300"
    assert kinds_of_mpi(known["srun --mpi=list"])[0] == "pmix"
