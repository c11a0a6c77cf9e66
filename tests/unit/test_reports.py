"""What the agent keeps of ends that the head has not acknowledged."""

from __future__ import annotations

from support.builders import done, work

from pilot.agent.reports import Reports
from pilot.wire.messages import Completion


def given_back(task: int, attempt: int = 1) -> Completion:
    return Completion(task, attempt, "interrupted")


def test_end_is_held_until_its_frame_is_acknowledged() -> None:
    reports = Reports()
    first, second = reports.add([done(1), done(2)]), reports.add([done(3)])
    assert reports.held() == {1: 1, 2: 1, 3: 1}
    assert [each.task for each in reports.acknowledge(first)] == [1, 2]
    assert reports.acknowledge(first) == []
    assert reports.held() == {3: 1} and list(reports.frames) == [second]


def test_what_has_ended_is_not_run_again_under_the_same_number() -> None:
    reports = Reports()
    first = reports.add([done(1)])
    run, again = reports.meet([work(1), work(2)])
    assert [item.task for item in run] == [2] and [each.task for each in again] == [1]
    second = reports.add(again)
    reports.acknowledge(first)
    assert reports.meet([work(1)])[0] == [], "the head has not acknowledged the second frame"
    reports.acknowledge(second)
    assert reports.meet([work(1)]) == ([work(1)], [])


def test_next_attempt_of_what_has_ended_is_run() -> None:
    reports = Reports()
    reports.add([done(1, "error")])
    again = work(1, attempt=2)
    assert reports.meet([again]) == ([again], [])


def test_what_was_given_back_runs_when_it_comes_again_and_is_not_told_any_more() -> None:
    reports = Reports()
    number = reports.add([done(1), given_back(2)])
    assert reports.held() == {1: 1}
    assert reports.meet([work(2)]) == ([work(2)], [])
    assert [each.task for each in reports.frames[number]] == [1]
