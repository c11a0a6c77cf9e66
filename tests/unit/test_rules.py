"""What an agent decides: what starts where, what follows from an end, what is reported."""

from __future__ import annotations

from collections import deque
from typing import Any, TypeVar

import pytest
from support.builders import done, template, work

from pilot.agent.rules import actions as a
from pilot.agent.rules.completions import describe_exit, merge_tails
from pilot.agent.rules.executors import MOST_FAILED, REST_S, START_PROGRAM_S, START_S
from pilot.agent.rules.prefetch import AGAIN_S, BEHIND_S
from pilot.agent.rules.queues import STARVED_S
from pilot.agent.rules.rules import Rules
from pilot.agent.rules.warm_pool import IDLE_S
from pilot.agent.rules.worlds import PATIENCE_S, RANKS_LEAVE_S
from pilot.agent.rules.worlds import START_S as WORLD_START_S
from pilot.model.software import Software
from pilot.model.tasks import Completion
from pilot.scheduler.resources import NodeShape, Resources
from pilot.wire.messages.pilot import AttemptSpec, InputValue

A = TypeVar("A")


class Pilot:
    """The rules of a pilot, driven in the fewest words."""

    def __init__(self, *cores: int) -> None:
        self.hosts = [f"n{number}" for number in range(len(cores))]
        self.rules = Rules(self.hosts, NodeShape(max(cores)))
        self.now = 100.0
        for number, (host, count) in enumerate(zip(self.hosts, cores, strict=True)):
            self.rules.add_node(host, NodeShape(count), self.now, number)

    def add(self, *tasks: int, attempt: int = 1, **options: Any) -> list[a.Action]:
        known = template(**options)
        items = [work(task, attempt, known.id) for task in tasks]
        self.rules.add_work([known], items, self.now)
        return self.rules.take_actions()

    def ready(self, *executors: int) -> list[a.Action]:
        for number in executors:
            self.rules.executor_ready(number, 1000 + number, self.now)
        return self.rules.take_actions()

    def done(self, executor: int, *completions: Completion) -> list[a.Action]:
        self.rules.executor_done(executor, completions, self.now)
        return self.rules.take_actions()

    def exited(self, executor: int, status: int = -9, task: int = 0) -> list[a.Action]:
        self.rules.executor_exited(executor, status, task, self.now, (), "last words", self.now)
        return self.rules.take_actions()

    def unsent(self, number: int, begun: int, upto: int) -> list[a.Action]:
        self.rules.unsent(number, begun, upto, self.now)
        return self.rules.take_actions()

    def wait(self, seconds: float) -> list[a.Action]:
        self.now += seconds
        self.rules.tick(self.now)
        return self.rules.take_actions()

    @property
    def reported(self) -> list[tuple[int, int, str]]:
        """What is new to report: task, attempt, outcome."""
        return [(c.task, c.attempt, c.outcome) for c in self.rules.take_completions()]


def only(actions: list[a.Action], kind: type[A]) -> list[A]:
    return [action for action in actions if isinstance(action, kind)]


def running(actions: list[a.Action]) -> dict[int, list[int]]:
    """Executor → the tasks that it is sent."""
    return {
        action.executor: [item.task for item in action.work]
        for action in only(actions, a.RunOnExecutor)
    }


# --- executors ------------------------------------------------------------------------------------


def test_executors_start_for_work_and_have_cores_of_their_own() -> None:
    pilot = Pilot(4)
    starts = only(pilot.add(1, 2, resources=Resources(cores=2)), a.StartExecutor)
    assert sorted(core for start in starts for core in start.cores) == [0, 1, 2, 3]
    assert running(pilot.ready(*(start.executor for start in starts))) == {1: [1], 2: [2]}


def test_no_more_start_than_there_are_cores() -> None:
    pilot = Pilot(2)
    assert len(only(pilot.add(*range(1, 10)), a.StartExecutor)) == 2
    pilot.ready(1, 2)
    assert running(pilot.done(1, done(1))) == {1: [3]}
    assert pilot.reported == [(1, 1, "ok")]


def test_executor_is_kept_warm_and_used_again() -> None:
    pilot = Pilot(2)
    pilot.add(1)
    pilot.ready(1)
    pilot.done(1, done(1))
    assert running(pilot.add(2)) == {1: [2]}


def test_sessions_do_not_share_executors() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    pilot.ready(1)
    pilot.done(1, done(1))
    actions = pilot.add(2, number=2, session=2)
    (start,) = only(actions, a.StartExecutor)
    assert start.session == 2 and not running(actions)


def test_short_tasks_are_sent_several_at_a_time() -> None:
    pilot = Pilot(1)
    pilot.add(*range(1, 101))
    pilot.ready(1)
    actions = pilot.done(1, done(1, started=1.0, ended=1.0001))
    assert len(running(actions)[1]) > 10
    longer = Pilot(1)
    longer.add(*range(1, 101))
    longer.ready(1)
    assert running(longer.done(1, done(1))) == {1: [2]}


def test_an_executor_that_is_spent_is_ended_and_blamed_for_nothing() -> None:
    pilot = Pilot(1)
    pilot.add(1, 2)
    pilot.ready(1)
    assert running(pilot.done(1, done(1))) == {1: [2]}
    pilot.rules.executor_spent(1)
    (stop,) = only(pilot.rules.take_actions(), a.StopExecutor)
    (start,) = only(pilot.exited(1, -15), a.StartExecutor)
    assert running(pilot.ready(start.executor)) == {start.executor: [2]}
    assert stop.executor == 1 and pilot.reported == [(1, 1, "ok")]
    pilot.rules.executor_spent(99)  # it is gone already


def test_idle_executor_is_closed_after_its_time() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    pilot.ready(1)
    pilot.done(1, done(1))
    assert not only(pilot.wait(IDLE_S - 1), a.StopExecutor)
    assert only(pilot.wait(2), a.StopExecutor)
    pilot.exited(1, 0)
    assert not pilot.rules.executors


def test_nothing_is_kept_of_a_session_that_has_ended() -> None:
    pilot = Pilot(2)
    pilot.add(1, number=1, session=1)
    pilot.add(2, number=2, session=2)
    pilot.ready(1, 2)
    pilot.done(1, done(1))
    pilot.rules.end_session(1)
    (stop,) = only(pilot.wait(0.1), a.StopExecutor)
    assert stop.executor == 1 and list(pilot.rules.templates) == [1, 2]
    pilot.exited(1, 0)
    assert only(pilot.wait(0.1), a.ForgetSession) == [a.ForgetSession(1)]
    assert list(pilot.rules.templates) == [2]
    assert not pilot.wait(0.1), "once is enough"


def test_session_is_forgotten_when_its_last_attempt_has_ended() -> None:
    """It was cancelled, or has ended elsewhere."""
    pilot = Pilot(1)
    pilot.add(1, 2)
    pilot.ready(1)
    pilot.rules.end_session(1)
    assert not pilot.wait(0.1)
    assert running(pilot.done(1, done(1))) == {1: [2]}
    pilot.done(1, done(2))
    assert only(pilot.wait(0.1), a.StopExecutor)
    pilot.exited(1, 0)
    assert only(pilot.wait(0.1), a.ForgetSession)


def test_session_whose_end_was_lost_with_a_head_goes_on() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    pilot.rules.end_session(1)
    pilot.add(2)
    pilot.ready(1)
    pilot.done(1, done(1))
    pilot.done(1, done(2))
    assert not pilot.wait(0.1) and list(pilot.rules.templates) == [1]


def test_results_that_wait_for_the_disk_hold_no_core() -> None:
    pilot = Pilot(1)
    pilot.add(1, 2)
    pilot.ready(1)
    pilot.rules.executor_ran(1, [1], pilot.now)
    assert running(pilot.rules.take_actions()) == {1: [2]}
    assert pilot.reported == [] and pilot.rules.held == {1: 1, 2: 1}
    pilot.done(1, done(1), done(2))
    assert pilot.reported == [(1, 1, "ok"), (2, 1, "ok")]


# --- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_run", [False, True], ids=["before it ran", "after it ran"])
def test_task_that_was_cancelled_and_whose_result_is_lost_does_not_run_again(has_run: bool) -> None:
    pilot = Pilot(1)
    _, second, third, *_ = queued_behind(pilot)
    if has_run:
        pilot.rules.executor_ran(1, [2, second], pilot.now)
    pilot.rules.cancel([second], pilot.now)
    if not has_run:
        pilot.rules.executor_ran(1, [2, second], pilot.now)
    pilot.rules.take_actions()
    (start,) = only(pilot.exited(1, -9, task=third), a.StartExecutor)
    assert (second, 1, "cancelled") in pilot.reported
    assert second not in running(pilot.ready(start.executor))[start.executor]


def test_crash_is_blamed_on_the_task_that_ran() -> None:
    pilot = Pilot(1)
    pilot.add(*range(1, 101))
    pilot.ready(1)
    sent = running(pilot.done(1, done(1, started=1.0, ended=1.0001)))[1]
    assert pilot.reported == [(1, 1, "ok")]
    actions = pilot.exited(1, task=sent[0])
    (crash,) = pilot.rules.take_completions()
    assert (crash.task, crash.outcome) == (sent[0], "crash")
    assert crash.failure is not None
    assert "SIGKILL" in crash.failure.message and crash.failure.detail == "last words"
    (start,) = only(actions, a.StartExecutor)
    assert running(pilot.ready(start.executor))[start.executor][0] == sent[1], "in their order"


def test_too_much_memory_is_an_error_of_the_task_that_had_it() -> None:
    pilot = Pilot(1)
    pilot.add(*range(1, 101))
    pilot.ready(1)
    sent = running(pilot.done(1, done(1, started=1.0, ended=1.0001)))[1]
    pilot.rules.take_completions()
    pilot.rules.executor_exited(1, -9, sent[0], 1.0, (), "", pilot.now, "it used 5G", 5000)
    (error,) = pilot.rules.take_completions()
    assert (error.task, error.outcome, error.peak_mib) == (sent[0], "error", 5000)
    assert error.failure is not None
    assert (error.failure.type, error.failure.message) == ("TaskOutOfMemory", "it used 5G")
    assert {"TaskOutOfMemory", "TaskError", "Exception"} <= set(error.failure.bases)


def test_a_task_that_is_cancelled_has_not_failed_for_its_memory() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    pilot.ready(1)
    pilot.rules.cancel([1], pilot.now)
    pilot.rules.executor_exited(1, -9, 1, 1.0, (), "", pilot.now, "it used 5G", 5000)
    (end,) = pilot.rules.take_completions()
    assert end.outcome == "cancelled"


def test_too_much_memory_of_a_rank_is_an_error_of_its_task() -> None:
    pilot = Pilot(2)
    world = start_world(pilot)
    pilot.rules.rank_exited(world, 1, 1.0, 1, None, "rank 1: it used 5G")
    pilot.rules.world_exited(world, 137, "tail", pilot.now)
    (error,) = pilot.rules.take_completions()
    assert error.outcome == "error" and error.failure is not None
    assert (error.failure.type, error.failure.message) == ("TaskOutOfMemory", "rank 1: it used 5G")


def queued_behind(pilot: Pilot, **options: Any) -> list[int]:
    """The tasks that executor 1 has been sent, several at a time."""
    pilot.add(*range(1, 101), **options)
    pilot.ready(1)
    sent = running(pilot.done(1, done(1, started=pilot.now, ended=pilot.now + 1e-4)))[1]
    assert len(sent) > 2
    assert pilot.reported == [(1, 1, "ok")]
    return sent


def test_task_that_begins_when_its_executor_is_ended_for_another_goes_back() -> None:
    """It is neither blamed nor counted."""
    pilot = Pilot(1)
    first, second, *_ = queued_behind(pilot)
    pilot.rules.cancel([first], pilot.now)
    assert only(pilot.rules.take_actions(), a.StopExecutor)
    pilot.done(1, done(first))  # it had just ended
    assert pilot.reported == [(first, 1, "ok")]
    (start,) = only(pilot.exited(1, -15, task=second), a.StartExecutor)
    assert pilot.reported == []
    assert running(pilot.ready(start.executor))[start.executor][0] == second


def test_task_that_waits_behind_a_cancelled_one_is_not_harmed() -> None:
    pilot = Pilot(1)
    _, second, third, *_ = sent = queued_behind(pilot)
    pilot.rules.cancel([second], pilot.now)
    (asked,) = pilot.rules.take_actions()
    assert isinstance(asked, a.UnsendFromExecutor) and asked.upto == 1 + len(sent)
    assert not pilot.unsent(1, 2, asked.upto)
    assert pilot.reported == [(second, 1, "cancelled")]
    assert third in running(pilot.done(1, done(sent[0])))[1]


def test_task_that_was_cancelled_when_it_had_begun_is_ended() -> None:
    """The agent had not heard of the end of the one before it."""
    pilot = Pilot(1)
    _, second, *_ = sent = queued_behind(pilot)
    pilot.rules.cancel([second], pilot.now)
    pilot.rules.take_actions()
    assert only(pilot.unsent(1, 3, 1 + len(sent)), a.StopExecutor)
    pilot.exited(1, -15, task=second)
    assert pilot.reported == [(second, 1, "cancelled")]


def test_nothing_waits_behind_a_task_that_turns_out_to_be_long() -> None:
    pilot = Pilot(2)
    sent = queued_behind(pilot)
    assert not only(pilot.wait(BEHIND_S / 2), a.UnsendFromExecutor)
    (asked,) = only(pilot.wait(BEHIND_S), a.UnsendFromExecutor)
    assert not only(pilot.wait(0.1), a.UnsendFromExecutor)  # the answer is on its way
    assert only(pilot.wait(AGAIN_S), a.UnsendFromExecutor)  # it was not
    pilot.ready(2)
    pilot.unsent(1, 2, asked.upto)
    assert not pilot.unsent(1, 2, asked.upto)  # both have been answered
    ran, todo = set(), deque([2])
    while todo:
        ran.add(task := todo.popleft())
        actions = pilot.done(2, done(task, started=pilot.now, ended=pilot.now + 1e-4))
        todo.extend(running(actions).get(2, []))
    assert ran == set(range(2, 101)) - {sent[0]}
    assert list(pilot.rules.held) == [sent[0]]


def test_executor_goes_on_after_something_was_taken_back() -> None:
    pilot = Pilot(1)
    sent = queued_behind(pilot)
    (asked,) = only(pilot.wait(2 * BEHIND_S), a.UnsendFromExecutor)
    # It went on just before: two had begun, and the answers cross.
    pilot.done(1, done(sent[0]))
    pilot.unsent(1, 3, asked.upto)
    again = running(pilot.done(1, done(sent[1])))[1]
    assert again[0] == sent[2]
    assert {number for number, _, _ in pilot.reported} == set(sent[:2])


def test_executor_from_which_all_was_taken_back_holds_no_cores() -> None:
    """It has ended what it was in meanwhile, and that was heard first."""
    pilot = Pilot(1)
    sent = queued_behind(pilot)
    (asked,) = only(pilot.wait(2 * BEHIND_S), a.UnsendFromExecutor)
    pilot.rules.cancel(list(pilot.rules.held.keys() - {sent[0]}), pilot.now)
    pilot.rules.take_actions()
    pilot.done(1, done(sent[0]))
    pilot.unsent(1, 2, asked.upto)
    assert not pilot.rules.held and pilot.rules._cores.free == 1


def test_executor_from_which_all_was_taken_back_goes_on() -> None:
    pilot = Pilot(1)
    sent = queued_behind(pilot)
    (asked,) = only(pilot.wait(2 * BEHIND_S), a.UnsendFromExecutor)
    pilot.done(1, done(sent[0]))
    assert running(pilot.unsent(1, 2, asked.upto))[1][0] == sent[1]


def test_late_answer_takes_nothing_of_what_was_sent_since() -> None:
    pilot = Pilot(1)
    sent = queued_behind(pilot)
    (first,) = only(pilot.wait(2 * BEHIND_S), a.UnsendFromExecutor)
    # It was just through with all of it.
    ends = [done(task, started=pilot.now, ended=pilot.now + 1e-4) for task in sent]
    sent = running(pilot.done(1, *ends))[1]
    (second,) = only(pilot.wait(2 * BEHIND_S), a.UnsendFromExecutor)
    assert second.upto == first.upto + len(sent)
    pilot.unsent(1, first.upto, first.upto)
    assert [work.task for work in pilot.rules.executors[1].pipeline] == sent
    assert not pilot.done(1, done(sent[0])), "there is a question still"
    pilot.unsent(1, second.upto - 1, second.upto)
    assert [work.task for work in pilot.rules.executors[1].pipeline] == sent[1:-1]


def test_what_has_begun_is_asked_for_once() -> None:
    """The agent has not heard of the end of the first: there is nothing behind the second."""
    pilot = Pilot(1)
    sent = queued_behind(pilot)
    (asked,) = only(pilot.wait(2 * BEHIND_S), a.UnsendFromExecutor)
    pilot.unsent(1, 3, asked.upto)
    assert [work.task for work in pilot.rules.executors[1].pipeline] == sent[:2]
    assert not only(pilot.wait(2 * AGAIN_S), a.UnsendFromExecutor)


def test_time_limit_is_that_of_the_task_which_runs() -> None:
    """Though the agent has not heard yet that the one before it has ended."""
    pilot = Pilot(1)
    first, second, third, *_ = queued_behind(pilot, time_limit_s=2.0)
    assert only(pilot.wait(2.5), a.StopExecutor)
    pilot.rules.executor_exited(1, -15, second, pilot.now - 2.4, (), "", pilot.now)
    assert pilot.reported == [(second, 1, "timeout")]
    (start,) = only(pilot.rules.take_actions(), a.StartExecutor)
    assert running(pilot.ready(start.executor))[start.executor][:2] == [first, third]


@pytest.mark.parametrize("outcome", ["timeout", "interrupted"])
def test_task_that_raises_when_it_is_told_to_end_has_not_failed(outcome: str) -> None:
    pilot = Pilot(1)
    pilot.add(1, time_limit_s=2.0)
    pilot.ready(1)
    if outcome == "timeout":
        pilot.wait(2.5)
    else:
        pilot.rules.stop_all("preempted", pilot.now)
        pilot.rules.take_actions()
    (stop,) = only(pilot.done(1, done(1, "error")), a.StopExecutor)
    assert stop.grace_s == 0, "it needs no more of it"
    (ended,) = pilot.rules.take_completions()
    assert ended.outcome == outcome and ended.failure is not None
    assert not ended.failure.exception and ended.failure.type != "ValueError"


def test_executor_that_does_not_come_up_costs_the_task_nothing() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    assert not only(pilot.exited(1, 1), a.StartExecutor), "the node rests"
    (again,) = only(pilot.wait(REST_S), a.StartExecutor)
    assert running(pilot.ready(again.executor)) == {again.executor: [1]}
    pilot.done(again.executor, done(1))
    assert pilot.reported == [(1, 1, "ok")]


def test_it_is_tried_elsewhere_at_once() -> None:
    pilot = Pilot(2, 1)
    (first,) = only(pilot.add(1), a.StartExecutor)
    (again,) = only(pilot.exited(first.executor, 1), a.StartExecutor)
    assert again.node != first.node
    pilot.ready(again.executor)
    starts = only(pilot.add(2, 3, 4), a.StartExecutor)
    assert first.node not in {start.node for start in starts}
    assert first.node in {start.node for start in only(pilot.wait(REST_S), a.StartExecutor)}


def test_a_node_where_none_comes_up_is_given_up_with_the_reason() -> None:
    pilot = Pilot(2, 1)
    nodes = []
    (start,) = only(pilot.add(1, resources=Resources(cores=2)), a.StartExecutor)
    for _ in range(MOST_FAILED - 1):
        nodes.append(start.node)
        actions = pilot.exited(start.executor, 1)
        assert not only(actions, a.GiveUpNode)
        (start,) = only(pilot.wait(60), a.StartExecutor)
    assert set(nodes) == {"n0"}
    (given_up,) = only(pilot.exited(start.executor, 1), a.GiveUpNode)
    assert given_up.node == "n0"
    assert given_up.reason == (
        f"{MOST_FAILED} executors in a row did not start on n0 (exit status 1: last words)"
    )
    assert not only(pilot.wait(1), a.StartExecutor)
    assert not pilot.reported


def test_those_that_were_started_together_count_once_and_one_that_comes_up_is_enough() -> None:
    pilot = Pilot(8)
    starts = only(pilot.add(*range(1, 9)), a.StartExecutor)
    for start in starts[:-1]:
        assert not only(pilot.exited(start.executor, 1), a.GiveUpNode)
    more = only(pilot.ready(starts[-1].executor), a.StartExecutor)
    assert len(more) == 7, "the node rests no more"
    for start in more:
        pilot.now += 0.01
        assert not only(pilot.exited(start.executor, 1), a.GiveUpNode)


def test_one_that_is_told_to_end_before_it_has_come_up_tells_nothing() -> None:
    pilot = Pilot(1)
    for task in range(1, MOST_FAILED + 3):
        (start,) = only(pilot.add(task), a.StartExecutor)
        pilot.rules.cancel([task], pilot.now)
        assert not only(pilot.exited(start.executor), a.GiveUpNode)
    assert {outcome for _, _, outcome in pilot.reported} == {"cancelled"}


def test_one_that_has_come_up_when_it_was_told_to_end_gets_no_work() -> None:
    pilot = Pilot(1)
    pilot.add(1, 2)
    pilot.rules.cancel([1], pilot.now)
    assert only(pilot.rules.take_actions(), a.StopExecutor)
    assert not running(pilot.ready(1)), "its task may need what is there no more"
    assert only(pilot.exited(1, -15), a.StartExecutor)
    assert pilot.reported == [(1, 1, "cancelled")] and pilot.rules.held == {2: 1}


def test_one_that_enters_an_environment_when_another_task_is_cancelled_blames_nobody() -> None:
    software = Software("/v")
    pilot = Pilot(1)
    pilot.add(1, software=software)
    pilot.ready(1)
    pilot.done(1, done(1, started=1.0, ended=1.0001))
    pilot.exited(1, 0)
    pilot.add(2, 3, software=software)  # short ones: it gets both
    pilot.rules.cancel([3], pilot.now)
    assert only(pilot.rules.take_actions(), a.StopExecutor)
    (start,) = only(pilot.exited(2, -15), a.StartExecutor)
    assert running(pilot.ready(start.executor)) == {start.executor: [2]}
    assert pilot.reported[1:] == [(3, 1, "cancelled")]


def test_one_that_cannot_enter_its_environment_is_the_fault_of_its_task() -> None:
    for status, wait_s in ((1, 0.0), (0, 0.0), (-9, START_PROGRAM_S + 1.0)):
        pilot = Pilot(1)
        pilot.add(1, software=Software("/v"))
        assert bool(only(pilot.wait(wait_s), a.StopExecutor)) == bool(wait_s)
        pilot.exited(1, status)
        assert pilot.reported == [(1, 1, "crash")]


def test_executor_that_does_not_report_is_given_up() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    (stop,) = only(pilot.wait(START_S + 1), a.StopExecutor)
    assert stop.grace_s == 0


def test_time_limit_is_the_tasks_own() -> None:
    pilot = Pilot(1)
    pilot.add(1, 2, time_limit_s=10.0)
    pilot.wait(20)
    pilot.ready(1)
    assert not only(pilot.wait(9), a.StopExecutor), "the time before its start does not count"
    assert only(pilot.wait(2), a.StopExecutor)
    pilot.exited(1, -15, task=1)
    (over, *_) = pilot.rules.take_completions()
    assert (over.task, over.outcome) == (1, "timeout")
    assert over.failure is not None and "time limit of 10 s" in over.failure.message


def test_task_that_ended_in_its_grace_time_has_ended() -> None:
    pilot = Pilot(1)
    pilot.add(1, time_limit_s=10.0)
    pilot.ready(1)
    pilot.wait(11)
    pilot.done(1, done(1))
    pilot.exited(1, -15)
    assert pilot.reported == [(1, 1, "ok")]


def test_cancelling() -> None:
    pilot = Pilot(1)
    pilot.add(1, 2, 3)
    pilot.ready(1)
    pilot.rules.cancel([1, 2, 99], pilot.now)
    assert pilot.reported == [(2, 1, "cancelled")]
    assert only(pilot.rules.take_actions(), a.StopExecutor)
    actions = pilot.exited(1, -15, task=1)
    assert pilot.reported == [(1, 1, "cancelled")]
    assert only(actions, a.StartExecutor) and pilot.rules.held == {3: 1}


def test_task_that_comes_twice_runs_once() -> None:
    pilot = Pilot(2)
    pilot.add(1)
    assert not only(pilot.add(1), a.StartExecutor)
    pilot.ready(1)
    pilot.done(1, done(1))
    assert pilot.reported == [(1, 1, "ok")]


def test_newer_attempt_of_what_is_being_ended() -> None:
    """The old one's end is told as the new one's, so that the head gives it out again."""
    pilot = Pilot(1)
    pilot.add(1)
    pilot.ready(1)
    pilot.rules.cancel([1], pilot.now)
    pilot.add(1, attempt=3)
    pilot.exited(1, -15, task=1)
    assert pilot.reported == [(1, 3, "interrupted")]
    assert not pilot.rules.held


# --- draining -------------------------------------------------------------------------------------


def test_draining_pilot_hands_back_and_starts_nothing() -> None:
    pilot = Pilot(1)
    pilot.add(1, 2)
    pilot.ready(1)
    pilot.rules.drain("preempted", pilot.now)
    assert pilot.reported == [(2, 1, "interrupted")]
    assert not pilot.done(1, done(1))
    assert pilot.reported == [(1, 1, "ok")] and pilot.rules.is_idle
    assert not pilot.add(3)
    assert pilot.reported == [(3, 1, "interrupted")] and pilot.rules.is_idle


def test_stopping_all_interrupts_what_runs() -> None:
    pilot = Pilot(1)
    pilot.add(1, 2)
    pilot.ready(1)
    pilot.rules.stop_all("its job was cancelled", pilot.now)
    assert only(pilot.rules.take_actions(), a.StopExecutor)
    pilot.exited(1, -15, task=1)
    assert sorted(pilot.reported) == [(1, 1, "interrupted"), (2, 1, "interrupted")]


# --- giving back ----------------------------------------------------------------------------------


def test_what_waits_for_a_core_is_given_back_and_nothing_else() -> None:
    pilot = Pilot(1)
    pilot.add(1, 2, 3, 4)
    pilot.ready(1)
    pilot.rules.return_to_head([1, 2, 4, 99], pilot.now)
    completions = pilot.rules.take_completions()
    assert [done.task for done in completions] == [2, 4]
    assert all(done.is_unstarted for done in completions)
    assert pilot.rules.held == {1: 1, 3: 1} and not pilot.rules.take_actions()
    assert running(pilot.done(1, done(1))) == {1: [3]}


def test_what_waits_for_an_input_of_this_pilot_is_not_given_back() -> None:
    pilot = Pilot(1)
    waits = AttemptSpec(3, 1, 1, b"", (InputValue(2, 0, None),))
    pilot.rules.add_work([template()], [work(1), work(2), waits], pilot.now)
    pilot.ready(1)
    pilot.rules.return_to_head([3], pilot.now)
    assert pilot.reported == [] and set(pilot.rules.held) == {1, 2, 3}
    # But its input goes elsewhere, and it cannot stay without that.
    pilot.rules.return_to_head([2], pilot.now)
    assert pilot.reported == [(2, 1, "interrupted"), (3, 1, "interrupted")]


def test_smaller_tasks_start_once_a_large_one_is_given_back() -> None:
    pilot = Pilot(2)
    pilot.add(1)
    pilot.add(2, number=2, resources=Resources(cores=2))
    pilot.wait(STARVED_S + 0.1)
    assert not only(pilot.add(3), a.StartExecutor), "the large one goes first"
    pilot.rules.return_to_head([2], pilot.now)
    assert len(only(pilot.rules.take_actions(), a.StartExecutor)) == 1
    # Another one has not waited for long when it comes.
    pilot.add(4, number=2, resources=Resources(cores=2))
    pilot.ready(1, 2)
    assert running(pilot.done(1, done(1))) == {}
    assert running(pilot.add(5)) == {1: [5]}


def test_a_fresh_task_has_an_executor_for_itself() -> None:
    pilot = Pilot(2)
    pilot.add(1)
    pilot.ready(1)
    pilot.done(1, done(1))
    starts = only(pilot.add(2, 3, 4, number=2, fresh=True), a.StartExecutor)
    assert [start.executor for start in starts] == [2, 3], "not the warm one"
    assert running(pilot.ready(2, 3)) == {2: [2], 3: [3]}
    # One with a large result lives until that is sealed.
    pilot.rules.executor_ran(2, [2], pilot.now)
    (start,) = only(actions := pilot.rules.take_actions(), a.StartExecutor)
    assert start.executor == 4 and not only(actions, a.StopExecutor)
    (stop,) = only(pilot.done(2, done(2)), a.StopExecutor)
    assert stop.executor == 2
    (stop,) = only(pilot.done(3, done(3)), a.StopExecutor)
    assert stop.executor == 3
    pilot.ready(4)
    pilot.done(4, done(4))
    assert {task for task, _, outcome in pilot.reported if outcome == "ok"} == {1, 2, 3, 4}
    # What it is to others: nothing.
    assert running(pilot.add(5)) == {1: [5]}


# --- nodes ----------------------------------------------------------------------------------------


def test_lost_node_takes_its_tasks_only() -> None:
    pilot = Pilot(1, 1)
    starts = only(pilot.add(1, 2), a.StartExecutor)
    pilot.ready(1, 2)
    lost = starts[0].node
    pilot.rules.lose_node(lost, "it does not answer", pilot.now)
    ((task, _, outcome),) = pilot.reported
    assert outcome == "interrupted" and set(pilot.rules.held) == {1, 2} - {task}
    assert lost not in pilot.rules.hosts


def test_task_that_fits_no_more_is_handed_back() -> None:
    """It would wait for ever, and hold up everything behind it."""
    pilot = Pilot(1, 1)
    pilot.add(1)
    pilot.add(2, number=2, kind="mpi", resources=Resources(ranks=2, ranks_per_node=1))
    pilot.rules.lose_node("n1", "gone", pilot.now)
    assert (2, 1, "interrupted") in pilot.reported
    pilot.add(3, number=3, kind="mpi", resources=Resources(ranks=2, ranks_per_node=1))
    assert (3, 1, "interrupted") in pilot.reported


def test_large_task_is_not_starved_by_small_ones() -> None:
    pilot = Pilot(2)
    pilot.add(*range(1, 20))
    pilot.ready(1, 2)
    pilot.add(100, number=2, resources=Resources(cores=2))
    pilot.done(1, done(1))
    pilot.wait(STARVED_S + 0.1)
    pilot.done(2, done(2))
    pilot.done(1, done(3))
    actions = pilot.rules.take_actions()
    busy = [e for e in pilot.rules.executors.values() if e.pipeline]
    assert [e.pipeline[0].task for e in busy] == [100], (actions, busy)


# --- MPI worlds -----------------------------------------------------------------------------------

MPI: dict[str, Any] = {"kind": "mpi", "resources": Resources(ranks=2)}


def ranks_ready(pilot: Pilot, start: a.StartWorld) -> list[a.Action]:
    for rank in range(start.need.ranks):
        pilot.rules.rank_ready(start.world, rank, pilot.now)
    return pilot.rules.take_actions()


def start_world(pilot: Pilot, task: int = 1, **options: Any) -> int:
    (start,) = only(pilot.add(task, **{**MPI, **options}), a.StartWorld)
    (run,) = only(ranks_ready(pilot, start), a.RunOnWorld)
    assert [work.task for work in run.work] == [task]
    return start.world


def world_done(pilot: Pilot, world: int, *tasks: int) -> list[a.Action]:
    """They were short."""
    pilot.rules.world_done(world, [done(task, ended=1.001) for task in tasks], pilot.now)
    return pilot.rules.take_actions()


def world_with(pilot: Pilot, *tasks: int, **options: Any) -> int:
    """A world that has been sent all these tasks, of a class known to be short."""
    world = start_world(pilot, 1000, **options)
    world_done(pilot, world, 1000)
    assert pilot.reported == [(1000, 1, "ok")]
    (run,) = only(pilot.add(*tasks, **{**MPI, **options}), a.RunOnWorld)
    assert (run.world, [work.task for work in run.work]) == (world, list(tasks))
    return world


def test_what_ranks_have_said_last_is_told_once_and_from_its_inner_end() -> None:
    stack = "Stack (most recent call first):\n" + "\n".join(f"  line {n}" for n in range(90))
    told = merge_tails({2: f"before\n{stack}", 0: f"before\n{stack}\n", 1: "other", 3: " "})
    assert told.startswith("rank 0, 2:\nbefore\nStack") and told.endswith("rank 1:\nother")
    assert "line 19" in told and "line 20" not in told
    assert merge_tails({}) == ""


def test_ranks_that_hang_are_to_tell_where_they_are_and_cancelled_ones_are_not() -> None:
    pilot = Pilot(2)
    (start,) = only(pilot.add(1, time_limit_s=1.0, **MPI), a.StartWorld)
    ranks_ready(pilot, start)
    assert only(pilot.wait(2.0), a.StopWorld) == [a.StopWorld(start.world, tells=True)]
    for rank in range(2):
        pilot.rules.rank_exited(start.world, 1, 100.0, rank, None, tail="Stack: here")
    pilot.rules.world_exited(start.world, 0, "the launcher", pilot.now)
    (completion,) = pilot.rules.take_completions()
    assert completion.failure is not None
    assert completion.failure.detail == "rank 0, 1:\nStack: here"


def test_a_fresh_task_has_a_world_for_itself() -> None:
    pilot = Pilot(4)
    (warm,) = only(pilot.add(1, **MPI), a.StartWorld)
    ranks_ready(pilot, warm)
    world_done(pilot, warm.world, 1)
    starts = only(pilot.add(2, 3, 4, number=2, fresh=True, **MPI), a.StartWorld)
    assert len(starts) == 2 and warm.world not in {start.world for start in starts}
    first, second = starts
    for start in starts:
        (run,) = only(ranks_ready(pilot, start), a.RunOnWorld)
        assert len(run.work) == 1
    actions = world_done(pilot, first.world, 2)
    assert [stop.world for stop in only(actions, a.StopWorld)] == [first.world]
    (third,) = only(actions, a.StartWorld)
    pilot.rules.world_exited(first.world, 0, "", pilot.now)
    ranks_ready(pilot, third)
    world_done(pilot, second.world, 3)
    world_done(pilot, third.world, 4)
    assert {task for task, _, outcome in pilot.reported if outcome == "ok"} == {1, 2, 3, 4}
    (run,) = only(pilot.add(5, **MPI), a.RunOnWorld)
    assert run.world == warm.world


def test_world_runs_a_task_and_is_kept() -> None:
    pilot = Pilot(2)
    world = start_world(pilot)
    world_done(pilot, world, 1)
    assert pilot.reported == [(1, 1, "ok")]
    (run,) = only(pilot.add(2, **MPI), a.RunOnWorld)
    assert run.world == world


def test_idle_world_holds_no_cores() -> None:
    pilot = Pilot(2)
    world = start_world(pilot)
    world_done(pilot, world, 1)
    assert len(only(pilot.add(2, 3, number=2), a.StartExecutor)) == 2
    assert not only(pilot.add(4, **MPI), a.RunOnWorld), "its cores are taken"


def test_idle_world_ends_with_its_session() -> None:
    pilot = Pilot(2)
    world = world_with(pilot, 1)
    world_done(pilot, world, 1)
    pilot.rules.end_session(1)
    assert only(pilot.wait(0.1), a.StopWorld) == [a.StopWorld(world)]
    pilot.rules.world_exited(world, 0, "", pilot.now)
    assert only(pilot.wait(0.1), a.ForgetSession) and not pilot.rules.templates


def test_world_of_another_shape_is_another_world() -> None:
    pilot = Pilot(4)
    world = start_world(pilot)
    world_done(pilot, world, 1)
    assert start_world(pilot, 2, number=2, resources=Resources(ranks=4)) != world


def test_short_tasks_wait_for_the_cores_of_an_idle_world() -> None:
    """Two of the four cores are free, but so would be the world's in less time than a start."""
    pilot = Pilot(4)
    world = start_world(pilot)
    world_done(pilot, world, 1)
    pilot.add(2, 3, number=2)
    pilot.ready(*pilot.rules.executors)
    assert not only(pilot.add(4, **MPI), a.StartWorld)
    ticks = 0.1
    for _ in range(int(PATIENCE_S / ticks)):
        assert not only(pilot.wait(ticks), a.StartWorld)
    assert only(pilot.wait(2 * ticks), a.StartWorld), "these take longer"


def test_dead_world_is_the_tasks_crash() -> None:
    pilot = Pilot(2)
    world = start_world(pilot)
    pilot.rules.world_exited(world, 137, "tail", pilot.now)
    (crash,) = pilot.rules.take_completions()
    assert crash.outcome == "crash" and crash.failure is not None
    assert "SIGKILL" in crash.failure.message and crash.failure.detail == "tail"
    assert len(pilot.rules.nodes["n0"].cores) == 2


def test_a_world_that_can_never_come_up_is_an_error_at_once() -> None:
    pilot = Pilot(2)
    (start,) = only(pilot.add(1, 2, kind="mpi", resources=Resources(ranks=2)), a.StartWorld)
    pilot.rules.world_exited(start.world, 1, "", pilot.now, "it has no MPI", hopeless=True)
    (error,) = pilot.rules.take_completions()
    assert error.outcome == "error" and error.failure is not None
    assert error.failure.message == "the MPI world could not be started: it has no MPI"


def test_a_world_that_has_not_formed_in_time_says_how_many_ranks_came() -> None:
    pilot = Pilot(2)
    (start,) = only(pilot.add(1, **MPI), a.StartWorld)
    pilot.rules.rank_ready(start.world, 1, pilot.now)
    assert not only(pilot.wait(WORLD_START_S - 1.0), a.StopWorld)
    assert only(pilot.wait(2.0), a.StopWorld)
    pilot.rules.world_exited(start.world, -15, "", pilot.now)
    (crash,) = pilot.rules.take_completions()
    assert crash.outcome == "crash" and crash.failure is not None
    assert crash.failure.message == (
        "the MPI world could not be started: 1 of 2 ranks have reported within 60 s"
    )


def test_world_is_blamed_on_the_task_that_a_rank_was_in() -> None:
    """What was before it had ended unheard of, what is behind had not begun: both run again."""
    pilot = Pilot(2)
    world = world_with(pilot, 1, 2, 3)
    pilot.rules.rank_exited(world, 2, pilot.now)
    pilot.rules.rank_exited(world, 0, 0.0)
    assert only(pilot.rules.take_actions(), a.StopWorld)
    pilot.rules.world_exited(world, 137, "", pilot.now)
    assert pilot.reported == [(2, 1, "crash")]
    (start,) = only(pilot.rules.take_actions(), a.StartWorld)
    (run,) = only(ranks_ready(pilot, start), a.RunOnWorld)
    assert [work.task for work in run.work] == [1, 3]


def test_dead_world_is_blamed_on_the_first_task_where_nothing_is_known() -> None:
    pilot = Pilot(2)
    world = world_with(pilot, 1, 2, 3)
    world_done(pilot, world, 1)
    pilot.rules.world_exited(world, 137, "", pilot.now)
    assert pilot.reported == [(1, 1, "ok"), (2, 1, "crash")]
    assert set(pilot.rules.held) == {3}


def test_time_limit_is_that_of_the_task_that_runs() -> None:
    limited = {"time_limit_s": 2.0}
    pilot = Pilot(2)
    world = world_with(pilot, 1, 2, 3, **limited)
    pilot.wait(1.5)
    world_done(pilot, world, 1)
    assert not only(pilot.wait(1.5), a.StopWorld), "the second has its own time"
    assert only(pilot.wait(1.0), a.StopWorld)
    began = pilot.now - 0.5
    pilot.rules.rank_exited(world, 3, began)
    pilot.rules.world_exited(world, 15, "", pilot.now)
    assert pilot.reported == [(1, 1, "ok")], "the second had ended, the third has not had its time"

    (start,) = only(pilot.rules.take_actions(), a.StartWorld)
    ranks_ready(pilot, start)
    assert only(pilot.wait(2.5), a.StopWorld)
    pilot.rules.world_exited(start.world, 15, "", pilot.now)
    assert pilot.reported == [(2, 1, "timeout")] and set(pilot.rules.held) == {3}


def test_cancelled_task_behind_others_costs_no_world() -> None:
    pilot = Pilot(2)
    world = world_with(pilot, 1, 2, 3)
    pilot.rules.cancel([2], pilot.now)
    assert pilot.rules.take_actions() == [a.UnsendFromWorld(world, 4)]
    assert not pilot.unsent(world, 2, 4)
    assert pilot.reported == [(2, 1, "cancelled")]
    (run,) = only(world_done(pilot, world, 1), a.RunOnWorld)
    assert [work.task for work in run.work] == [3]


def test_cancelled_task_that_has_begun_behind_others_is_ended_when_it_is_not_short() -> None:
    """All ranks may go on with it, but the agent has not heard of the end of the one before."""
    pilot = Pilot(2)
    world = world_with(pilot, 1, 2, 3)
    pilot.rules.cancel([2], pilot.now)
    pilot.rules.take_actions()
    assert not only(pilot.unsent(world, 3, 4), a.StopWorld)
    assert not only(pilot.wait(0.1), a.StopWorld)
    world_done(pilot, world, 1)
    assert only(pilot.wait(0.1), a.StopWorld), "its turn has come, and it is not short"
    pilot.rules.rank_exited(world, 2, pilot.now)
    pilot.rules.world_exited(world, 15, "", pilot.now)
    assert pilot.reported == [(1, 1, "ok"), (2, 1, "cancelled")]
    assert set(pilot.rules.held) == {3}


def test_task_that_is_cancelled_while_its_world_starts_is_taken_back() -> None:
    pilot = Pilot(4)
    world_done(pilot, start_world(pilot, 1000), 1000)
    assert pilot.reported == [(1000, 1, "ok")]
    (start,) = only(pilot.add(*range(1, 11), **MPI), a.StartWorld)
    behind = [work.task for work in pilot.rules.worlds[start.world].pipeline][1:]
    assert behind
    pilot.rules.cancel(behind[:1], pilot.now)
    assert not pilot.rules.take_actions()
    (asked,) = only(ranks_ready(pilot, start), a.UnsendFromWorld)
    assert asked == a.UnsendFromWorld(start.world, 1 + len(behind))
    pilot.unsent(start.world, 1, asked.upto)
    assert pilot.reported == [(behind[0], 1, "cancelled")]
    assert set(pilot.rules.held) == set(range(1, 11)) - {behind[0]}


def test_nothing_waits_in_a_world_behind_a_task_that_turns_out_to_be_long() -> None:
    pilot = Pilot(4)
    others = only(pilot.add(50, 51, number=2), a.StartExecutor)
    pilot.ready(*(other.executor for other in others))
    world = world_with(pilot, 1, 2, 3)
    assert not only(pilot.wait(BEHIND_S / 2), a.UnsendFromWorld)
    (asked,) = only(pilot.wait(BEHIND_S), a.UnsendFromWorld)
    assert asked == a.UnsendFromWorld(world, 4)
    assert not only(pilot.wait(0.1), a.UnsendFromWorld)  # the answer is on its way
    assert only(pilot.wait(AGAIN_S), a.UnsendFromWorld)  # it was not
    assert not pilot.unsent(world, 2, 4)
    assert not pilot.unsent(world, 2, 4)  # both have been answered
    for other, task in zip(others, (50, 51), strict=True):
        actions = pilot.done(other.executor, done(task))
    assert pilot.reported == [(50, 1, "ok"), (51, 1, "ok")]
    (start,) = only(actions, a.StartWorld)
    runs = only(ranks_ready(pilot, start), a.RunOnWorld)
    while runs:
        (run,) = runs
        assert run.world == start.world
        tasks = [work.task for work in run.work]
        runs = only(world_done(pilot, start.world, *tasks), a.RunOnWorld)
    assert pilot.reported == [(2, 1, "ok"), (3, 1, "ok")]
    assert list(pilot.rules.held) == [1]


def test_world_goes_on_after_something_was_taken_back() -> None:
    pilot = Pilot(2)
    world = world_with(pilot, 1, 2, 3, 4)
    (asked,) = only(pilot.wait(2 * BEHIND_S), a.UnsendFromWorld)
    # The first rank has left the first task before that, and all go on with the second.
    pilot.unsent(world, 3, asked.upto)
    assert not only(pilot.wait(2 * AGAIN_S), a.UnsendFromWorld), "nothing more can be had"
    (run,) = only(world_done(pilot, world, 1, 2), a.RunOnWorld)
    assert [work.task for work in run.work] == [3, 4]
    (asked,) = only(pilot.wait(2 * BEHIND_S), a.UnsendFromWorld)
    assert asked == a.UnsendFromWorld(world, 7)


def test_world_from_which_all_was_taken_back_goes_on_or_holds_no_cores() -> None:
    for is_cancelled in (False, True):
        pilot = Pilot(2)
        world = world_with(pilot, 1, 2, 3)
        (asked,) = only(pilot.wait(2 * BEHIND_S), a.UnsendFromWorld)
        if is_cancelled:
            pilot.rules.cancel([2, 3], pilot.now)
            pilot.rules.take_actions()
        world_done(pilot, world, 1)
        runs = only(pilot.unsent(world, 2, asked.upto), a.RunOnWorld)
        if is_cancelled:
            assert not runs and not pilot.rules.held and pilot.rules._cores.free == 2
        else:
            assert runs[0].work[0].task == 2


def test_what_is_taken_back_from_a_world_that_is_ended_is_put_back_once() -> None:
    pilot = Pilot(2)
    world = world_with(pilot, 1, 2, 3, time_limit_s=2.0)
    (asked,) = only(pilot.wait(1.0), a.UnsendFromWorld)
    assert only(pilot.wait(1.5), a.StopWorld)
    pilot.unsent(world, 2, asked.upto)
    pilot.rules.world_exited(world, 15, "", pilot.now)
    pilot.unsent(world, 2, asked.upto)
    assert pilot.reported == [(1, 1, "timeout")] and set(pilot.rules.held) == {2, 3}


def test_task_that_has_begun_behind_a_cancelled_one_runs_again() -> None:
    """The cancelled one had ended, unheard of: the death of the world is nobody's fault."""
    pilot = Pilot(2)
    world = world_with(pilot, 1, 2, 3)
    pilot.rules.cancel([1], pilot.now)
    assert only(pilot.rules.take_actions(), a.StopWorld)
    pilot.rules.rank_exited(world, 2, pilot.now)
    pilot.rules.world_exited(world, 15, "", pilot.now)
    assert pilot.reported == [(1, 1, "cancelled")] and set(pilot.rules.held) == {2, 3}


def test_world_that_cannot_be_started_is_blamed_on_one_task() -> None:
    pilot = Pilot(2)
    world = start_world(pilot)
    world_done(pilot, world, 1)
    pilot.rules.world_exited(world, 0, "", pilot.now)
    (start,) = only(pilot.add(2, 3, **MPI), a.StartWorld)
    pilot.rules.world_exited(start.world, 127, "no such launcher", pilot.now)
    assert pilot.reported == [(1, 1, "ok"), (2, 1, "crash")]


def test_end_of_the_pilot_gives_back_what_is_behind() -> None:
    pilot = Pilot(2)
    world = world_with(pilot, 1, 2)
    pilot.rules.stop_all("its job was cancelled", pilot.now)
    pilot.rules.world_exited(world, 15, "", pilot.now)
    ends = {c.task: c for c in pilot.rules.take_completions()}
    assert {c.outcome for c in ends.values()} == {"interrupted"}
    assert ends[1].started and not ends[2].started and pilot.rules.is_idle


def test_ranks_that_wait_for_one_that_raised_are_killed() -> None:
    pilot = Pilot(2)
    world = start_world(pilot)
    pilot.rules.rank_done(world, 1, done(1, "error"), pilot.now)
    assert not only(pilot.wait(RANKS_LEAVE_S - 0.5), a.StopWorld)
    assert only(pilot.wait(1), a.StopWorld)
    pilot.rules.world_exited(world, 15, "", pilot.now)
    (failed,) = pilot.rules.take_completions()
    assert failed.outcome == "error" and failed.failure is not None
    assert failed.failure.detail.startswith("1 of 2 ranks failed, 1 did not leave the task")


def test_failure_is_heard_of_before_what_ended_well_before_it() -> None:
    """Ranks have a connection each; the world goes on when all have left the task."""
    pilot = Pilot(2)
    world = world_with(pilot, 1, 2, 3)
    pilot.rules.rank_done(world, 1, done(2, "error"), pilot.now)
    assert pilot.reported == []
    world_done(pilot, world, 1)
    pilot.rules.rank_done(world, 0, done(2), pilot.now)
    world_done(pilot, world, 3)
    assert pilot.reported == [(1, 1, "ok"), (2, 1, "error"), (3, 1, "ok")]
    assert not only(pilot.wait(2 * RANKS_LEAVE_S), a.StopWorld)


def test_good_end_is_heard_of_before_all_of_a_failure_before_it() -> None:
    pilot = Pilot(2)
    world = world_with(pilot, 1, 2, 3)
    pilot.rules.rank_done(world, 0, done(1), pilot.now)
    world_done(pilot, world, 2)
    assert pilot.reported == []
    pilot.rules.rank_done(world, 1, done(1, "error"), pilot.now)
    assert pilot.reported == [(1, 1, "error"), (2, 1, "ok")]
    world_done(pilot, world, 3)
    assert pilot.reported == [(3, 1, "ok")] and pilot.rules.is_idle


def test_ranks_that_fail_alike_are_told_once() -> None:
    pilot = Pilot(3)
    world = start_world(pilot, resources=Resources(ranks=3))
    for rank in range(3):
        pilot.rules.rank_done(world, rank, done(1, "error"), pilot.now)
    (failed,) = pilot.rules.take_completions()
    assert failed.failure is not None
    assert "3 of 3 ranks failed" in failed.failure.detail
    assert "rank 0, 1, 2:" in failed.failure.detail


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (-9, "killed by SIGKILL (out of memory?)"),
        (-11, "killed by SIGSEGV"),
        (139, "killed by SIGSEGV"),
        (3, "exit status 3"),
        (0, "exit status 0"),
        (255, "exit status 255"),
    ],
)
def test_exits_in_words(status: int, words: str) -> None:
    assert describe_exit(status) == words


# --- nodes that go back ---------------------------------------------------------------------------


def test_a_node_is_idle_while_nothing_uses_it() -> None:
    pilot = Pilot(2, 2, 2)
    assert pilot.rules.idle_nodes(100.0) == [("n1", 0.0), ("n2", 0.0)], "never the first"
    pilot.add(1, 2, 3)  # two on the first node, one on the next
    assert pilot.rules.idle_nodes(110.0) == [("n2", 10.0)]
    for executor, task in ((1, 1), (2, 2), (3, 3)):
        pilot.ready(executor)
        pilot.done(executor, done(task))
    assert pilot.rules.idle_nodes(120.0) == [("n1", 0.0), ("n2", 20.0)]
    pilot.add(4, 5, 6)
    for executor, task in ((1, 4), (2, 5), (3, 6)):
        pilot.done(executor, done(task))
    assert pilot.rules.idle_nodes(130.0) == [("n1", 0.0), ("n2", 30.0)], "it was used meanwhile"


def test_only_nodes_on_which_nothing_runs_are_given_back() -> None:
    pilot = Pilot(1, 1, 1, 1)
    pilot.add(1, 2)
    pilot.ready(1, 2)
    pilot.done(2, done(2))  # its executor is idle, and goes with the node
    assert pilot.rules.give_back(["n0", "n1", "n2", "nowhere"], pilot.now) == ["n1", "n2"]
    assert pilot.rules.hosts == ["n0", "n3"]
    assert 1 in pilot.rules.executors and 2 not in pilot.rules.executors
    starts = [x for x in pilot.add(3, 4) if isinstance(x, a.StartExecutor)]
    assert [start.node for start in starts] == ["n3"], "nothing starts on a node that was left"


def test_no_node_is_given_back_while_a_task_waits_for_several() -> None:
    pilot = Pilot(1, 1, 1)
    pilot.add(1)
    pilot.ready(1)
    pilot.add(2, resources=Resources(ranks=3, ranks_per_node=1), kind="mpi")
    assert pilot.rules.idle_nodes(pilot.now) == []
    assert pilot.rules.give_back(["n2"], pilot.now) == [], "it was asked for before the task came"


def test_a_node_left_over_beside_tasks_over_several_can_be_given_back() -> None:
    pilot = Pilot(1, 1, 1)
    gang: dict[str, Any] = {"resources": Resources(ranks=2, ranks_per_node=1), "kind": "mpi"}
    pilot.add(1, 2, **gang)  # one runs, one waits for its nodes
    assert len(pilot.rules.worlds) == 1
    ((left_over, _),) = pilot.rules.idle_nodes(pilot.now)
    assert pilot.rules.give_back([left_over], pilot.now) == [left_over]
    assert len(pilot.rules.hosts) == 2 and pilot.rules.idle_nodes(pilot.now) == []


def test_work_that_needs_more_nodes_than_are_left_goes_back_to_the_head() -> None:
    pilot = Pilot(1, 1, 1)
    pilot.add(1)
    pilot.ready(1)
    pilot.add(2, resources=Resources(ranks=3, ranks_per_node=1), kind="mpi")
    pilot.rules.lose_node("n2", "as told", pilot.now)
    (returned,) = pilot.rules.take_completions()
    assert (returned.task, returned.outcome) == (2, "interrupted")


def test_a_node_that_has_to_be_kept_is_used_again() -> None:
    pilot = Pilot(1, 1)
    assert pilot.rules.give_back(["n1"], pilot.now) == ["n1"]
    pilot.rules.add_node("n1", NodeShape(1), pilot.now, 1)
    starts = [x for x in pilot.add(1, 2) if isinstance(x, a.StartExecutor)]
    assert sorted(start.node for start in starts) == ["n0", "n1"]
