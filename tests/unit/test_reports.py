"""What the agent keeps of ends that the head has not acknowledged."""

from __future__ import annotations

import math
from collections.abc import Iterable

from support.builders import done, work

from pilot.agent.rules.reports import TOGETHER_S, Reports
from pilot.model.tasks import Completion
from pilot.wire.messages.pilot import AttemptSpec


def given_back(task: int, attempt: int = 1) -> Completion:
    return Completion(task, attempt, "interrupted")


def told(reports: Reports, *completions: Completion) -> int:
    """The number of a frame with these."""
    reports.add(completions, 0.0)
    return reports.close_frame()


def tasks(completions: Iterable[Completion | AttemptSpec]) -> list[int]:
    return [each.task for each in completions]


def test_end_is_held_until_its_frame_is_acknowledged() -> None:
    reports = Reports()
    first, second = told(reports, done(1), done(2)), told(reports, done(3))
    reports.add([done(4)], 0.0)
    assert reports.held() == {1: 1, 2: 1, 3: 1, 4: 1}
    assert tasks(reports.acknowledge(first)) == [1, 2]
    assert reports.acknowledge(first) == []
    assert reports.held() == {3: 1, 4: 1} and list(reports.frames) == [second]


def test_what_has_ended_is_not_run_again_under_the_same_number() -> None:
    reports = Reports()
    first = told(reports, done(1))
    assert tasks(reports.meet([work(1), work(2)], 0.0)) == [2]
    assert tasks(reports.next) == [1], "it is told again"
    assert reports.meet([work(1)], 0.0) == [] and tasks(reports.next) == [1], "once"
    second = reports.close_frame()
    reports.acknowledge(first)
    assert reports.meet([work(1)], 0.0) == [], "the head has not acknowledged the second frame"
    reports.acknowledge(second)
    reports.acknowledge(reports.close_frame())
    assert reports.meet([work(1)], 0.0) == [work(1)]


def test_next_attempt_of_what_has_ended_is_run() -> None:
    reports = Reports()
    told(reports, done(1, "error"))
    again = work(1, attempt=2)
    assert reports.meet([again], 0.0) == [again]


def test_what_was_given_back_runs_when_it_comes_again_and_is_not_told_any_more() -> None:
    reports = Reports()
    number = told(reports, done(1), given_back(2))
    reports.add([given_back(3), done(4)], 0.0)
    assert reports.held() == {1: 1, 4: 1}
    assert reports.meet([work(2), work(3)], 0.0) == [work(2), work(3)]
    assert tasks(reports.frames[number]) == [1] and tasks(reports.next) == [4]


def test_ends_wait_for_others_only_while_no_core_waits_for_the_head() -> None:
    reports = Reports()
    assert reports.wait_s(0.0, has_waiting=False) == math.inf
    reports.add([done(1)], 0.0)
    assert reports.wait_s(0.0, has_waiting=False) == 0.0
    assert reports.wait_s(0.0, has_waiting=True) == TOGETHER_S
    reports.add([done(2)], TOGETHER_S)
    assert reports.wait_s(TOGETHER_S, has_waiting=True) == 0.0, "the first has waited"
