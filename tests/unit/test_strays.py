"""Jobs that no pilot has."""

from __future__ import annotations

from pilot.head.strays import AGAIN_S, QUEUED_S, RUNNING_S, Strays
from pilot.scheduler.batch import JobStatus, Phase

NOW = 1000.0


def jobs(phase: Phase, name: str = "pilot-site-abc-3") -> dict[str, JobStatus]:
    return {"7": JobStatus(job_id="7", name=name, phase=phase, state="")}


def seen(strays: Strays, phase: Phase, now: float, names: tuple[str, ...] = ()) -> list[str]:
    return strays.to_cancel(jobs(phase), names, "pilot-site-abc-", now)


def test_a_job_that_nobody_knows_is_cancelled_after_a_while_and_again() -> None:
    strays = Strays()
    assert not seen(strays, Phase.QUEUED, NOW)
    assert not seen(strays, Phase.QUEUED, NOW + QUEUED_S - 1.0)
    assert seen(strays, Phase.QUEUED, NOW + QUEUED_S) == ["7"]
    assert not seen(strays, Phase.QUEUED, NOW + QUEUED_S + 1.0)
    assert seen(strays, Phase.QUEUED, NOW + QUEUED_S + AGAIN_S) == ["7"]


def test_one_that_runs_may_report_itself() -> None:
    strays = Strays()
    assert not seen(strays, Phase.QUEUED, NOW)
    assert not seen(strays, Phase.RUNNING, NOW + QUEUED_S)
    assert not seen(strays, Phase.RUNNING, NOW + RUNNING_S)
    assert not seen(strays, Phase.RUNNING, NOW + RUNNING_S + 1.0, ("pilot-site-abc-3",))
    assert not seen(strays, Phase.RUNNING, NOW + RUNNING_S + 2.0), "it was known in between"
    assert seen(strays, Phase.RUNNING, NOW + 2 * RUNNING_S + 2.0) == ["7"]


def test_others_jobs_and_those_that_end_are_left_alone() -> None:
    strays = Strays()
    for number in range(10):
        now = NOW + number * RUNNING_S
        for phase in (Phase.ENDED, Phase.ENDING):
            assert not seen(strays, phase, now)
        other = jobs(Phase.QUEUED, "pilot-other-abc-3")
        assert not strays.to_cancel(other, (), "pilot-site-abc-", now)
