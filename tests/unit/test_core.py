"""The state machine, rule by rule; `tests/simulation` has what comes of all rules together."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from support.builders import done, spec, template

from pilot.head.core.core import Core
from pilot.head.core.dispatch import AVOID_S, STARVING_S, STUCK_S
from pilot.head.core.events import (
    AttemptsEnded,
    AttemptsHeldBack,
    AttemptsRunning,
    Effects,
    Ended,
    Event,
    PilotChanged,
    PilotJoined,
    PilotLost,
    Restored,
    ResultsReleased,
    SessionOpened,
    TasksCancelled,
    TasksLookedUp,
    TasksRestored,
    TasksSubmitted,
)
from pilot.head.janitor import who_needs
from pilot.model.states import FinalState, Outcome
from pilot.model.tasks import Children, Completion, TaskFailure, TaskOutcome, TaskSpec, Template
from pilot.model.values import RELEASED, Value
from pilot.scheduler.resources import NodeShape, Resources
from pilot.wire.messages.pilot import RunningTask


class Head:
    """A core, driven in the fewest words. Time goes on by a second with each event."""

    def __init__(self) -> None:
        self.core = Core()
        self.now = 0.0

    def apply(self, event: Event) -> Effects:
        self.now += 1.0
        return self.core.apply(event, self.now)

    def submit(
        self,
        *tasks: TaskSpec,
        templates: list[Template] | None = None,
        ended: dict[int, str] | None = None,
    ) -> Effects:
        known = [template()] if templates is None else templates
        return self.apply(TasksSubmitted(1, known, list(tasks), ended or {}))

    def join(
        self,
        name: str = "p",
        cores: int = 4,
        nodes: int = 1,
        held: list[tuple[int, int]] | None = None,
    ) -> Effects:
        return self.apply(PilotJoined(name, "main", NodeShape(cores), nodes, 0.0, held or []))

    def assign(self) -> dict[str, list[tuple[int, int]]]:
        """Pilot → (task, attempt) of what it gets."""
        self.now += 1.0
        given = self.core.assign(self.now)
        return {name: [(t.id, t.attempt) for t in tasks] for name, tasks in given.items()}

    def ask_back(self, after_s: float = STUCK_S) -> dict[str, list[int]]:
        """Pilot → what it is asked to give back, so many seconds later."""
        self.now += after_s
        return self.core.ask_back(self.now)

    def end(self, *completions: Completion, pilot: str = "p", **known: Any) -> Effects:
        return self.apply(AttemptsEnded(pilot, list(completions), **known))

    def state(self, task: int) -> str:
        return self.core.tasks[task].state


def states(effects: Effects) -> dict[int, str]:
    return {end.task: end.state for end in effects.ended}


@pytest.fixture
def head() -> Head:
    return Head()


# --- submission -----------------------------------------------------------------------------------


def test_task_goes_through_its_states(head: Head) -> None:
    effects = head.submit(spec(1))
    assert [item.id for item, _, _ in effects.accepted] == [1] and not effects.refused
    assert head.state(1) == "READY"
    head.join()
    assert head.assign() == {"p": [(1, 1)]}
    assert head.state(1) == "ASSIGNED"
    effects = head.apply(AttemptsRunning("p", [RunningTask(1, 1, "n", 5.0)]))
    assert effects.started == [1] and head.state(1) == "RUNNING"
    assert head.apply(AttemptsRunning("p", [RunningTask(1, 1, "n", 5.0)])).started == []
    effects = head.end(done(1, values=(Value(1, b"x"),)))
    assert states(effects) == {1: "COMPLETED"} and effects.ended[0].values == (Value(1, b"x"),)
    assert not head.core.tasks and head.core.pilots["p"].load == 0


def test_submission_that_is_sent_twice_changes_nothing(head: Head) -> None:
    head.submit(spec(1), spec(2))
    effects = head.submit(spec(1), spec(2))
    assert not effects.accepted and not effects.refused
    head.join()
    assert head.assign() == {"p": [(1, 1), (2, 1)]}


def test_task_waits_for_all_its_inputs(head: Head) -> None:
    head.join()
    head.submit(spec(1), spec(2), spec(3, needs=(1, 2, 1)))
    assert head.state(3) == "PENDING"
    assert head.assign() == {"p": [(1, 1), (2, 1)]}
    head.end(done(2))
    assert head.state(3) == "PENDING" and head.assign() == {}
    head.end(done(1))
    assert head.assign() == {"p": [(3, 1)]}


def test_inputs_that_have_ended_before(head: Head) -> None:
    effects = head.submit(spec(5, needs=(1,)), ended={1: "COMPLETED"})
    assert not effects.refused and head.state(5) == "READY"


@pytest.mark.parametrize(
    ("ended", "words"), [({}, "does not exist"), ({7: "DELETED"}, "which is DELETED")]
)
def test_impossible_inputs_are_refused(head: Head, ended: dict[int, str], words: str) -> None:
    effects = head.submit(spec(1, needs=(7,)), ended=ended)
    ((task, why),) = effects.refused
    assert task == 1 and "0.7" in why and words in why
    assert not head.core.tasks


def test_unknown_template_is_refused(head: Head) -> None:
    effects = head.submit(spec(1, template=9))
    assert effects.refused[0][0] == 1 and "never told what it is to run" in effects.refused[0][1]


def test_closed_session_takes_nothing_and_ends_with_its_last_task(head: Head) -> None:
    head.submit(spec(1))
    assert head.apply(SessionOpened(1, closed=True)).sessions_ended == []
    assert "closed" in head.submit(spec(2)).refused[0][1]
    head.join()
    head.assign()
    assert head.end(done(1)).sessions_ended == [1]
    core = head.core
    assert not core.sessions and not core.templates and not core.classes


def test_session_that_starves_gets_one_task_before_those_of_higher_priority(head: Head) -> None:
    head.apply(SessionOpened(2, priority=5))
    other = template(2, session=2)
    head.submit(spec(1), spec(2))
    rows = [spec(number, template=2) for number in range(10, 100)]
    head.apply(TasksSubmitted(2, [other], rows, {}))
    head.join(cores=2)
    assert head.assign() == {"p": [(10, 1), (11, 1)]}
    head.now += STARVING_S
    head.end(done(10), done(11))
    given = head.assign()["p"]
    assert given[0] == (1, 1) and (2, 1) not in given


def test_paused_session_starts_nothing(head: Head) -> None:
    head.join()
    head.submit(spec(1))
    head.apply(SessionOpened(1, paused=True))
    assert head.assign() == {} and head.core.demand() == []
    head.apply(SessionOpened(1))
    assert head.assign() == {"p": [(1, 1)]}


# --- how attempts end -----------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["error", "crash"])
def test_tries_again_up_to_its_limit(head: Head, outcome: Outcome) -> None:
    head.join()
    head.submit(spec(1), templates=[template(retries=2, max_crashes=2)])
    for attempt in (1, 2):
        assert head.assign() == {"p": [(1, attempt)]}
        effects = head.end(done(1, outcome, attempt))
        assert not effects.ended and effects.attempts[0].completion.attempt == attempt
    head.assign()
    effects = head.end(done(1, outcome, 3))
    assert states(effects) == {1: "FAILED"} and effects.ended[0].failure is not None


def test_what_is_tried_again_goes_first(head: Head) -> None:
    head.join(cores=1)
    head.submit(spec(1), spec(2), templates=[template(retries=1)])
    head.assign()
    head.end(done(1, "error"))
    assert head.assign() == {"p": [(1, 2)]}


def test_interruptions_cost_nothing(head: Head) -> None:
    head.submit(spec(1), templates=[template(max_crashes=0)])
    for number in range(10):
        head.join(f"p{number}")
        assert head.assign() == {f"p{number}": [(1, number + 1)]}
        effects = head.apply(PilotLost(f"p{number}", "preempted"))
        (attempt,) = effects.attempts
        assert attempt.completion.outcome == "interrupted"
        assert attempt.completion.failure and attempt.completion.failure.message == "preempted"
        assert (attempt.errors, attempt.crashes) == (0, 0)
    assert head.state(1) == "READY"


def test_tasks_of_a_pilot_that_ran_out_of_memory_have_crashed(head: Head) -> None:
    """One of them did that: it would end one pilot after the other."""
    head.submit(spec(1), templates=[template(max_crashes=1)])
    for number in range(2):
        head.join(f"p{number}")
        head.assign()
        effects = head.apply(PilotLost(f"p{number}", "out of memory", out_of_memory=True))
        (attempt,) = effects.attempts
        assert (attempt.completion.outcome, attempt.crashes) == ("crash", number + 1)
    assert states(effects) == {1: "FAILED"}
    failure = attempt.completion.failure
    assert failure is not None and failure.type == "TaskCrashed"
    assert failure.message.startswith("out of memory; this task, or another one there, needs more")


def test_end_that_is_told_twice_counts_once(head: Head) -> None:
    head.join()
    head.submit(spec(1), templates=[template(retries=1)])
    head.assign()
    assert head.end(done(1, "error"))
    effects = head.end(done(1, "error"))
    assert not effects.attempts and not effects.ended
    assert head.assign() == {"p": [(1, 2)]}
    assert not head.end(done(1, "error")).attempts, "the old attempt's end, once more"
    assert head.core.pilots["p"].load == 1, "the new attempt is still there"
    assert states(head.end(done(1, "ok", 2))) == {1: "COMPLETED"}
    assert not head.end(done(1, "ok", 2)).ended


def test_good_end_of_a_pilot_that_was_taken_for_lost_counts(head: Head) -> None:
    head.join("a")
    head.submit(spec(1))
    head.assign()
    head.apply(PilotLost("a", "silent"))
    head.join("b")
    assert head.assign() == {"b": [(1, 2)]}
    effects = head.end(done(1), pilot="a")
    assert states(effects) == {1: "COMPLETED"}
    assert effects.cancel == {"b": [1]}, "the other one is stopped"
    assert head.core.pilots["b"].load == 1, "its core is busy until it says so"
    head.end(done(1, "cancelled", 2), pilot="b")
    assert head.core.pilots["b"].load == 0


def test_bad_end_of_a_pilot_that_was_taken_for_lost_does_not(head: Head) -> None:
    head.join("a")
    head.submit(spec(1))
    head.assign()
    head.apply(PilotLost("a", "silent"))
    head.join("b")
    head.assign()
    effects = head.end(done(1, "error"), pilot="a")
    assert not effects.ended and not effects.attempts
    assert states(head.end(done(1, "ok", 2), pilot="b")) == {1: "COMPLETED"}


# --- what a failure means to others ---------------------------------------------------------------


def fail_first(head: Head, **options: Any) -> Effects:
    """Task 1 fails; 2 needs it, 3 needs 2, and 4 needs nothing."""
    head.join(cores=1)
    other = template(2)
    head.submit(
        spec(1),
        spec(2, template=2, needs=(1,)),
        spec(3, template=2, needs=(2,)),
        spec(4, template=2),
        templates=[template(1, priority=9, **options), other],
    )
    assert head.assign() == {"p": [(1, 1)]}
    return head.end(done(1, "error"))


def test_dependents_are_aborted_with_the_first_cause(head: Head) -> None:
    effects = fail_first(head)
    assert states(effects) == {1: "FAILED", 2: "ABORTED", 3: "ABORTED"}
    for end in effects.ended[1:]:
        assert end.failure is not None
        assert end.failure.message == "its input, task 0.1 (t1), is FAILED: ValueError: as told"
    assert head.state(4) == "READY"


def test_an_abortion_that_a_task_has_raised_itself_is_a_first_cause(head: Head) -> None:
    """As `result()` raises it of a task that this one has submitted elsewhere."""
    head.join()
    head.submit(spec(1), spec(2, needs=(1,)))
    head.assign()
    raised = TaskFailure("TaskAborted", "its input is gone", bases=("TaskAborted", "Exception"))
    effects = head.end(done(1, "error", failure=raised))
    assert effects.ended[1].failure is not None
    told = "its input, task 0.1 (t1), is FAILED: TaskAborted: its input is gone"
    assert effects.ended[1].failure.message == told


def causes(effects: Effects) -> dict[int, int]:
    return {end.task: end.failure.cause for end in effects.ended if end.failure is not None}


def test_successors_are_cancelled_down_the_graph(head: Head) -> None:
    effects = fail_first(head, on_failure="cancel_successors")
    assert states(effects) == {1: "FAILED", 2: "CANCELLED", 3: "CANCELLED"}
    assert causes(effects) == {1: 0, 2: 1, 3: 1}
    for end in effects.ended[1:]:
        assert end.failure is not None
        assert end.failure.message == "its input, task 0.1 (t1), is FAILED: ValueError: as told"


def test_what_follows_from_a_cancellation_by_hand(head: Head) -> None:
    """Its dependents are aborted; with `cancel_successors` all are cancelled."""
    kinds = [template(1), template(2, on_failure="cancel_successors")]
    head.submit(spec(1), spec(2, needs=(1,)), spec(3, needs=(2,)), templates=kinds)
    head.submit(spec(4, 2), spec(5, needs=(4,)), spec(6, needs=(5,)), templates=kinds)
    effects = head.apply(TasksCancelled(1, [1]))
    assert states(effects) == {1: "CANCELLED", 2: "ABORTED", 3: "ABORTED"}
    assert causes(effects) == {2: 1, 3: 1}
    effects = head.apply(TasksCancelled(1, [4]))
    assert states(effects) == {4: "CANCELLED", 5: "CANCELLED", 6: "CANCELLED"}
    assert causes(effects) == {5: 4, 6: 4}


POLICIES: tuple[dict[str, Any], ...] = (
    {},
    {"on_failure": "cancel_successors"},
    {"on_failure": "stop_session"},
    {"group": "g"},
    {"group": "g", "group_fails_together": True},
)
ENDS: tuple[tuple[FinalState, TaskFailure | None], ...] = (
    ("FAILED", TaskFailure("ValueError", "as told", "a traceback", bases=("ValueError",))),
    ("TIMED_OUT", TaskFailure("timeout", "too long")),
    ("CANCELLED", None),
    ("CANCELLED", TaskFailure("TaskAborted", "its input, task 0.9", cause=9)),
    ("ABORTED", TaskFailure("TaskAborted", "its input, task 0.9", cause=9)),
)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize(("state", "failure"), ENDS, ids=lambda each: str(each)[:20])
@pytest.mark.parametrize("group", ["", "g"])
def test_a_task_ends_alike_whether_it_is_submitted_before_or_after_the_end_of_its_input(
    policy: dict[str, Any], state: FinalState, failure: TaskFailure | None, group: str
) -> None:
    kinds = [template(1, **policy), template(2, group=group)]
    before, after = Head(), Head()
    tasks = [spec(1), spec(2, 2, needs=(1,)), spec(3, 2, needs=(2,))]
    before.submit(*tasks, templates=kinds)
    effects = Effects()
    before.core._life.end(before.core.tasks[1], state, 5.0, effects, (), failure)
    ends = {end.task: (end.state, end.failure) for end in effects.ended}
    assert ends.keys() == {1, 2, 3} and not before.core.tasks
    lost = Ended(1, 1, state, 5.0, (), failure, lost=kinds[0])
    effects = after.apply(TasksSubmitted(1, kinds, tasks[1:], {1: state}, lost={1: lost}))
    assert not effects.refused and not after.core.tasks
    assert {end.task: (end.state, end.failure) for end in effects.ended} == {
        task: ends[task] for task in (2, 3)
    }


def test_of_several_lost_inputs_the_one_that_ended_first_counts(head: Head) -> None:
    kinds = [template(1), template(2, on_failure="cancel_successors")]
    lost = {
        number: Ended(number, 1, "FAILED", at, (), None, lost=kinds[kind])
        for number, at, kind in ((7, 5.0, 0), (8, 4.0, 1), (9, 6.0, 0))
    }
    ended = dict.fromkeys(lost, "FAILED")
    effects = head.apply(TasksSubmitted(1, kinds, [spec(1, needs=(7, 8, 9))], ended, lost=lost))
    assert states(effects) == {1: "CANCELLED"} and causes(effects) == {1: 8}


def test_a_child_whose_input_is_lost_ends_as_others_do(head: Head) -> None:
    head.join()
    head.submit(spec(1), spec(2, needs=(1,)))
    head.assign()
    lost = Ended(7, 1, "FAILED", 1.0, (), None, lost=template(on_failure="cancel_successors"))
    effects = head.end(
        with_children(1, [spec(CHILD, needs=(7,))], {0: (CHILD, 0)}),
        ended={7: "FAILED"},
        lost={7: lost},
    )
    assert states(effects) == {CHILD: "CANCELLED", 1: "CANCELLED", 2: "CANCELLED"}
    assert causes(effects) == {CHILD: 7, 1: 7, 2: 7}


def test_failure_is_ignored(head: Head) -> None:
    effects = fail_first(head, on_failure="ignore", default=b"d")
    assert states(effects) == {1: "FAILED"}
    assert head.state(2) == "READY" and head.state(3) == "PENDING"


def test_session_is_stopped(head: Head) -> None:
    effects = fail_first(head, on_failure="stop_session")
    assert states(effects) == {1: "FAILED", **dict.fromkeys((2, 3, 4), "CANCELLED")}
    assert causes(effects) == {1: 0, **dict.fromkeys((2, 3, 4), 1)}
    assert effects.ended[-1].failure is not None
    assert effects.ended[-1].failure.message == (
        "its session was stopped by task 0.1 (t1), which is FAILED: ValueError: as told"
    )
    assert not head.core.tasks


def test_long_chains_end_without_recursion(head: Head) -> None:
    head.submit(spec(1), *(spec(n, needs=(n - 1,)) for n in range(2, MANY + 1)))
    effects = head.apply(TasksCancelled(1, [1]))
    assert len(effects.ended) == MANY and not head.core.tasks


# --- order without values -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["ok", "error", "timeout", "cancelled", "aborted"])
def test_a_task_starts_after_the_end_of_others_whatever_that_is(head: Head, how: str) -> None:
    head.join(cores=8)
    head.submit(spec(1), spec(2, needs=(1,)), spec(3), spec(4, after=(2, 3)))
    assert head.state(4) == "PENDING" and set(head.assign()["p"]) == {(1, 1), (3, 1)}
    head.end(done(3))
    assert head.state(4) == "PENDING"
    if how == "cancelled":
        effects = head.apply(TasksCancelled(1, [2]))
    elif how == "aborted":
        effects = head.end(done(1, "error"))
    else:
        head.end(done(1))
        assert head.state(4) == "PENDING" and head.assign() == {"p": [(2, 1)]}
        outcome: Any = how
        effects = head.end(done(2, outcome))
    assert 2 in states(effects) and 4 not in states(effects)
    assert head.assign()["p"][-1:] == [(4, 1)]
    assert head.core.tasks[4].inputs == ()


def test_a_retry_is_no_end(head: Head) -> None:
    head.join()
    head.submit(spec(1), spec(2, after=(1,)), templates=[template(retries=1)])
    assert head.assign() == {"p": [(1, 1)]}
    head.end(done(1, "error"))
    assert head.state(2) == "PENDING" and head.assign() == {"p": [(1, 2)]}
    head.end(done(1, "error", 2))
    assert head.assign() == {"p": [(2, 1)]}


def test_what_hands_its_result_on_ends_with_that(head: Head) -> None:
    head.join()
    head.submit(spec(1), spec(2, after=(1,)))
    head.assign()
    head.end(with_children(1, [spec(CHILD)], {0: (CHILD, 0)}))
    assert head.state(1) == "DELEGATED" and head.state(2) == "PENDING"
    assert head.assign() == {"p": [(CHILD, 1)]}
    head.end(done(CHILD, values=(Value(1, b"c"),)))
    assert head.assign() == {"p": [(2, 1)]}


def test_after_what_has_ended_before(head: Head) -> None:
    ended = {7: "FAILED", 8: "DELETED", 9: "CANCELLED"}
    head.submit(spec(1, after=(7, 8, 9)), ended=ended)
    assert head.state(1) == "READY"


def test_many_that_end_together_let_many_follow(head: Head) -> None:
    count = MANY // 2
    first = range(1, count + 1)
    followers = [spec(count + n, 2, after=(n,)) for n in first]
    kinds = [template(1, group="g", group_fails_together=True), template(2)]
    head.submit(*map(spec, first), *followers, templates=kinds)
    head.join(cores=1)
    assert head.assign() == {"p": [(1, 1)]}
    assert len(head.end(done(1, "error")).ended) == count
    assert {head.state(each.id) for each in followers} == {"READY"}


def test_an_input_may_be_among_those_before(head: Head) -> None:
    head.join()
    head.submit(spec(1), spec(2, needs=(1,), after=(1, 1)))
    head.assign()
    head.end(done(1))
    assert head.assign() == {"p": [(2, 1)]}
    head.end(done(2))
    head.submit(spec(3), spec(4, needs=(3,), after=(3,)))
    head.assign()
    assert states(head.end(done(3, "error"))) == {3: "FAILED", 4: "ABORTED"}
    assert not head.core.tasks


def test_what_ends_with_another_one_does_not_follow_it(head: Head) -> None:
    """The whole session is stopped: what was to come after goes with it, and is never ready."""
    head.join()
    head.submit(
        spec(1), spec(2, after=(1,)), templates=[template(1, on_failure="stop_session", cache=b"c")]
    )
    head.apply(TasksLookedUp({1: b"k"}, {}))
    head.assign()
    head.core.log.take()
    effects = head.end(done(1, "error"))
    assert states(effects) == {1: "FAILED", 2: "CANCELLED"} and not effects.lookups
    assert "READY" not in [change.state for change in head.core.log.take()]


@pytest.mark.parametrize(("number", "words"), [(1, "after itself"), (7, "does not exist")])
def test_impossible_orders_are_refused(head: Head, number: int, words: str) -> None:
    ((task, why),) = head.submit(spec(1, after=(number,))).refused
    assert task == 1 and words in why and not head.core.tasks


def test_no_circle_comes_of_one_submission(head: Head) -> None:
    """A task is known to those that are submitted after it, and to no other."""
    ((task, why),) = head.submit(spec(1, after=(2,)), spec(2, after=(1,)), spec(3)).refused[:1]
    assert task == 1 and "task 0.2, which does not exist" in why


def test_a_task_that_others_precede_is_not_sent_ahead_of_them(head: Head) -> None:
    """Its inputs are made in one pilot: it goes there once those before it have ended."""
    head.join(cores=4)
    head.submit(spec(1))
    head.assign()
    head.end(done(1, started=1.0, ended=1.001))
    head.submit(spec(2), spec(3), spec(4, needs=(2,), after=(3,)), spec(5, needs=(2,)))
    assert head.assign() == {"p": [(2, 1), (3, 1), (5, 1)]}
    head.end(done(3, started=1.0, ended=1.001))
    assert head.assign() == {"p": [(4, 1)]} and head.core.tasks[4].missing == 1


def test_the_order_holds_for_a_new_head(head: Head) -> None:
    first, second = restored(1), restored(2)
    second = msgspec.structs.replace(second, spec=spec(2, after=(1, 99)))
    head.apply(TasksRestored([template()], [second, first]))
    assert head.state(2) == "PENDING"
    head.join()
    assert head.assign() == {"p": [(1, 1)]}
    head.end(done(1, "error"))
    assert head.assign() == {"p": [(2, 1)]}


def test_children_come_after_each_other_and_after_their_parent(head: Head) -> None:
    head.join()
    head.submit(spec(1))
    head.assign()
    children = [spec(CHILD), spec(CHILD + 1, after=(CHILD, 1)), spec(CHILD + 2, after=(99,))]
    effects = head.end(with_children(1, children, {0: (CHILD + 1, 0)}))
    assert states(effects) == {CHILD + 2: "ABORTED"} and head.state(1) == "DELEGATED"
    assert head.assign() == {"p": [(CHILD, 1)]}
    head.end(done(CHILD, "error"))
    assert head.assign() == {"p": [(CHILD + 1, 1)]}
    effects = head.end(done(CHILD + 1, values=(Value(1, b"c"),)))
    assert states(effects) == {CHILD + 1: "COMPLETED", 1: "COMPLETED"}


@pytest.mark.parametrize("steps", [1, 3])
def test_a_result_is_not_handed_on_in_a_circle(head: Head, steps: int) -> None:
    """Detached children start after their parent, which then returns the result of the last."""
    head.join()
    head.submit(spec(1))
    head.assign()
    first = TasksSubmitted(1, [template()], [spec(CHILD, after=(1,))], {}, parent=1)
    assert not head.apply(first).refused
    for number in range(CHILD + 1, CHILD + steps):
        head.apply(TasksSubmitted(1, [], [spec(number, needs=(number - 1,))], {}, parent=1))
    effects = head.end(with_children(1, [], {0: (CHILD + steps - 1, 0)}))
    assert states(effects) == {1: "ABORTED"}
    assert effects.ended[0].failure is not None
    assert "which waits for it" in effects.ended[0].failure.message
    assert head.assign() == {"p": [(CHILD, 1)]}


# --- cancelling -----------------------------------------------------------------------------------


def test_cancelling_what_waits_and_what_runs(head: Head) -> None:
    head.join(cores=1)
    head.submit(spec(1), spec(2))
    head.assign()
    effects = head.apply(TasksCancelled(1, [1, 2, 99]))
    assert states(effects) == {1: "CANCELLED", 2: "CANCELLED"}
    assert effects.cancel == {"p": [1]}
    assert head.core.pilots["p"].load == 1
    head.end(done(1, "cancelled"))
    assert head.core.pilots["p"].load == 0 and head.assign() == {}


def test_cancelling_a_session_aborts_nobody(head: Head) -> None:
    head.submit(spec(1), spec(2, needs=(1,)), spec(3, needs=(2,)))
    effects = head.apply(TasksCancelled(1, None))
    assert set(states(effects).values()) == {"CANCELLED"} and len(effects.ended) == 3


def test_cancelling_what_waits_leaves_what_a_pilot_has(head: Head) -> None:
    head.join(cores=1)
    head.submit(spec(1))
    head.assign()
    head.submit(spec(2), spec(3, needs=(1,)), spec(4, needs=(3,)))
    effects = head.apply(TasksCancelled(1, [1, 2, 3, 4], waiting_only=True))
    assert states(effects) == {2: "CANCELLED", 3: "CANCELLED", 4: "CANCELLED"}
    assert not effects.cancel and head.state(1) == "ASSIGNED"
    assert states(head.end(done(1))) == {1: "COMPLETED"}


# --- pilots ---------------------------------------------------------------------------------------


def test_draining_pilot_gets_nothing(head: Head) -> None:
    head.join()
    head.apply(PilotChanged("p", 1, True))
    head.submit(spec(1))
    assert head.assign() == {}
    head.apply(PilotChanged("p", 1, False))
    assert head.assign() == {"p": [(1, 1)]}


def test_pilot_that_comes_back_keeps_what_it_holds(head: Head) -> None:
    head.join()
    head.submit(spec(1), spec(2))
    head.assign()
    head.apply(PilotLost("p", "silent"))
    effects = head.join(held=[(1, 1), (7, 1)])
    assert effects.cancel == {"p": [7]}, "what nobody wants any more"
    assert head.state(1) == "ASSIGNED" and head.assign() == {"p": [(2, 2)]}
    assert states(head.end(done(1))) == {1: "COMPLETED"}


def test_what_got_lost_on_the_way_is_run_again(head: Head) -> None:
    head.join()
    head.submit(spec(1), spec(2))
    head.assign()
    effects = head.join(held=[(1, 1)])
    assert [attempt.completion.task for attempt in effects.attempts] == [2]
    assert head.assign() == {"p": [(2, 2)]}


def test_task_is_with_one_pilot_only(head: Head) -> None:
    head.join("a")
    head.submit(spec(1))
    head.assign()
    head.apply(PilotLost("a", "silent"))
    head.join("b")
    head.assign()
    effects = head.join("a", held=[(1, 1)])
    assert effects.cancel == {"a": [1]}


# --- a new head -----------------------------------------------------------------------------------


def restored(number: int, needs: tuple[int, ...] = (), **counts: int) -> Restored:
    fields: dict[str, Any] = {"attempts": 0, "errors": 0, "crashes": 0, **counts}
    return Restored(spec(number, needs=needs), created=1.0, **fields)


def test_unfinished_tasks_are_taken_on(head: Head) -> None:
    tasks = [restored(2, attempts=3, errors=1), restored(3, needs=(2, 1))]
    head.apply(TasksRestored([template(retries=1)], tasks))
    assert (head.state(2), head.state(3)) == ("READY", "PENDING")
    head.join()
    assert head.assign() == {"p": [(2, 4)]}
    assert states(head.end(done(2, "error", 4)))[2] == "FAILED", "its errors are remembered"


def test_pilot_of_before_keeps_its_tasks(head: Head) -> None:
    head.apply(TasksRestored([template()], [restored(1)]))
    head.join(held=[(1, 1)])
    assert head.assign() == {}
    assert states(head.end(done(1))) == {1: "COMPLETED"}


def test_task_whose_submission_was_not_committed_begins_anew(head: Head) -> None:
    """The old head had given it out; its client sends it again after its pilot has joined."""
    effects = head.join(held=[(1, 1)])
    assert effects.cancel == {"p": [1]}
    assert not head.end(done(1)).ended, "it had ended meanwhile"
    head.submit(spec(1))
    assert head.assign() == {"p": [(1, 1)]}
    assert states(head.end(done(1))) == {1: "COMPLETED"}


def test_task_whose_submission_comes_before_its_pilot_goes_on(head: Head) -> None:
    head.submit(spec(1))
    assert not head.join(held=[(1, 1)]).cancel
    assert head.assign() == {}
    assert states(head.end(done(1))) == {1: "COMPLETED"}


def test_copy_of_a_task_whose_end_was_told_is_ended_when_its_pilot_comes(head: Head) -> None:
    """The pilot did not find the new head in time, and may have begun the task meanwhile."""
    head.apply(TasksRestored([template()], [restored(1)]))
    head.join("other")
    assert head.assign() == {"other": [(1, 1)]}
    assert states(head.end(done(1), pilot="other")) == {1: "COMPLETED"}
    assert head.join("late", held=[(1, 1)]).cancel == {"late": [1]}
    effects = head.end(done(1, "error"), pilot="late")
    assert not effects.ended and not effects.attempts


def test_error_that_was_written_but_not_acknowledged_counts_once(head: Head) -> None:
    """The old head died between its commit and its answer: the pilot tells it again."""
    known = [restored(1, attempts=1, errors=1)]
    head.apply(TasksRestored([template(retries=1)], known))
    head.join(held=[(1, 1)])
    effects = head.end(done(1, "error", 1))
    assert not effects.ended and not effects.attempts
    assert head.assign() == {"p": [(1, 2)]}
    assert states(head.end(done(1, "error", 2))) == {1: "FAILED"}


def test_task_whose_input_got_lost_with_the_head_waits_again(head: Head) -> None:
    """The head had given it away before the end of its input was written."""
    head.apply(TasksRestored([template()], [restored(1), restored(2, needs=(1,))]))
    head.join("b", held=[(2, 1)])
    head.apply(PilotLost("b", "gone"))
    assert head.state(2) == "PENDING"
    head.join("a")
    assert head.assign() == {"a": [(1, 1)]}
    head.end(done(1), pilot="a")
    assert head.assign() == {"a": [(2, 2)]}


def test_session_that_was_closing_ends(head: Head) -> None:
    head.apply(TasksRestored([template()], [restored(1)]))
    head.apply(SessionOpened(1, closed=True))
    head.join(held=[(1, 1)])
    assert head.end(done(1)).sessions_ended == [1]


# --- tasks that go where their inputs are made --------------------------------------------------


def teach(head: Head) -> None:
    """The class of the tasks is known to be short: they take a millisecond."""
    head.submit(spec(1))
    head.join()
    head.assign()
    head.end(done(1, started=1.0, ended=1.001))


def test_chain_of_short_tasks_goes_as_a_whole(head: Head) -> None:
    teach(head)
    head.submit(spec(2), spec(3, needs=(2,)), spec(4, needs=(3,)), spec(5, needs=(3, 4)))
    assert head.assign() == {"p": [(2, 1), (3, 1), (4, 1), (5, 1)]}
    assert head.state(5) == "ASSIGNED"
    effects = head.end(*(done(number) for number in (2, 3, 4, 5)))
    assert set(states(effects).values()) == {"COMPLETED"}


def test_tasks_that_may_be_long_wait_for_their_inputs(head: Head) -> None:
    head.join()
    head.submit(spec(2), spec(3, needs=(2,)))
    assert head.assign() == {"p": [(2, 1)]}
    head.end(done(2, started=1.0, ended=2.0))
    assert head.assign() == {"p": [(3, 1)]}


def test_task_with_inputs_in_two_pilots_waits(head: Head) -> None:
    teach(head)
    head.submit(spec(2))
    assert head.assign() == {"p": [(2, 1)]}
    head.join("q")
    head.apply(PilotChanged("p", 1, draining=True))
    head.submit(spec(3), spec(4, needs=(2, 3)))
    assert head.assign() == {"q": [(3, 1)]}
    head.apply(PilotChanged("p", 1, draining=False))
    head.end(done(2, started=1.0, ended=1.001))
    # What it still needs is with one pilot now.
    assert head.assign() == {"q": [(4, 1)]}


def test_task_whose_input_must_be_tried_again_comes_back(head: Head) -> None:
    teach(head)
    again = template(2, retries=1)
    head.submit(spec(2, template=2), spec(3, needs=(2,)), templates=[template(), again])
    head.assign()
    head.end(done(2, started=1.0, ended=1.001), pilot="nobody")
    head.submit(spec(4, template=2), spec(5, needs=(4,)), templates=[template(), again])
    assert head.assign() == {"p": [(4, 1), (5, 1)]}
    effects = head.end(done(4, "error"), done(5, "interrupted", started=0.0))
    assert [attempt.completion.task for attempt in effects.attempts] == [4]
    assert head.state(4) == "READY" and head.state(5) == "PENDING"
    assert head.assign() == {"p": [(4, 2), (5, 1)]}, "that was no attempt of 5"


def test_nothing_is_sent_early_while_its_session_is_paused(head: Head) -> None:
    teach(head)
    head.submit(spec(2))
    head.assign()
    head.apply(SessionOpened(1, paused=True))
    head.submit(spec(3, needs=(2,)))
    assert head.assign() == {}
    head.apply(SessionOpened(1))
    head.end(done(2))
    assert head.assign() == {"p": [(3, 1)]}


# --- tasks that wait where nothing ends -----------------------------------------------------------

LONG = template(2)
WIDE = template(3, resources=Resources(cores=4))


def run(head: Head, *tasks: int, pilot: str = "p") -> None:
    head.apply(AttemptsRunning(pilot, [RunningTask(task, 1, "n", head.now) for task in tasks]))


def given_back(task: int) -> Completion:
    return done(task, "interrupted", started=0.0)


def test_short_tasks_do_not_go_where_all_cores_are_held_by_others(head: Head) -> None:
    teach(head)
    head.submit(*(spec(number, template=2) for number in range(10, 14)), templates=[LONG])
    head.assign()
    head.submit(*(spec(number) for number in range(20, 40)))
    assert head.assign() == {}, "nobody knows how long the others take"
    head.end(done(10), pilot="p")
    assert len(head.assign()["p"]) == 20, "one core turns over"


def test_short_tasks_do_not_go_where_their_like_run_for_long(head: Head) -> None:
    teach(head)
    head.submit(*(spec(number) for number in range(10, 14)))
    head.assign()
    pilot = head.core.pilots["p"]
    assert (pilot.load, pilot.lasting) == (4, 0)
    run(head, 10, 11, 12, 13)
    assert (pilot.load, pilot.lasting) == (4, 4)
    head.submit(spec(20))
    assert head.assign() == {}
    head.end(done(10, "error"), done(11, started=1.0, ended=1.001))
    assert (pilot.load, pilot.lasting) == (2, 2)
    assert head.assign() == {"p": [(20, 1)]}
    head.apply(TasksCancelled(1, [12, 13]))
    assert pilot.lasting == 2, "their cores are busy until the pilot says so"
    head.end(done(12, "cancelled"), done(13, "cancelled"))
    assert (pilot.load, pilot.lasting) == (1, 0)


def stuck(head: Head) -> None:
    """Pilot p has four tasks of a short kind that do not end, and four more behind them."""
    teach(head)
    head.submit(*(spec(number) for number in range(10, 18)))
    assert len(head.assign()["p"]) == 8
    run(head, 10, 11, 12, 13)


def test_what_does_not_begin_goes_where_there_is_room(head: Head) -> None:
    stuck(head)
    assert head.ask_back() == {}, "there is no other pilot"
    head.join("q", cores=1)
    assert head.ask_back() == {"p": [14, 15, 16, 17]}
    assert head.ask_back(0.5) == {}, "it was asked just now"
    effects = head.end(*(given_back(task) for task in (14, 15)))
    assert not effects.attempts
    assert head.assign() == {"q": [(15, 1), (14, 1)]}, "that was no attempt of theirs"
    assert head.state(16) == "ASSIGNED", "what p keeps is p's"
    head.end(*(done(task, started=1.0, ended=1.001) for task in (14, 15)), pilot="q")
    assert head.ask_back() == {"p": [16, 17]}, "maybe they wait again"


def test_nothing_is_asked_back_that_could_begin_nowhere_else(head: Head) -> None:
    stuck(head)
    head.join("q", cores=1)
    given = head.core.tasks[14].assigned_at
    assert head.core.ask_back(given + 0.9 * STUCK_S) == {}, "they have just been given to it"
    head.apply(PilotChanged("q", 1, draining=True))
    assert head.ask_back() == {}
    head.apply(PilotChanged("q", 1, draining=False))
    head.apply(SessionOpened(1, paused=True))
    assert head.ask_back() == {}
    head.apply(SessionOpened(1))
    head.submit(spec(20, template=2), templates=[LONG])
    assert head.assign() == {"q": [(20, 1)]}
    assert head.ask_back() == {}, "q is busy"
    head.end(done(20), pilot="q")
    assert head.ask_back() == {"p": [14, 15, 16, 17]}


def test_what_waits_for_inputs_is_not_asked_back(head: Head) -> None:
    teach(head)
    head.submit(spec(10), spec(11, needs=(10,)), spec(12, needs=(11,)))
    assert head.assign() == {"p": [(10, 1), (11, 1), (12, 1)]}
    run(head, 10)
    head.join("q")
    assert head.ask_back() == {}
    head.end(done(10, started=1.0, ended=1.001))
    assert head.ask_back() == {"p": [11]}, "now it waits for a core"


def test_what_waits_for_inputs_is_in_nobodys_way(head: Head) -> None:
    teach(head)
    known = [template(), template(2)]
    head.submit(spec(10), spec(11, needs=(10,)), spec(12, template=2), templates=known)
    assert len(head.assign()["p"]) == 3
    run(head, 10)
    head.join("q")
    assert head.ask_back() == {"p": [12]}


def test_large_task_is_asked_back_where_another_pilot_can_start_it(head: Head) -> None:
    head.join()
    head.submit(spec(1, template=2), spec(2, template=3), templates=[LONG, WIDE])
    assert head.assign() == {"p": [(1, 1), (2, 1)]}, "it queues up there"
    run(head, 1)
    head.join("q", cores=4)
    head.submit(spec(3, template=2), templates=[LONG])
    head.assign()
    busy = next(name for name, pilot in head.core.pilots.items() if 3 in pilot.held)
    assert busy == "q" and head.ask_back() == {}, "there it would wait as well"
    head.end(done(3), pilot="q")
    assert head.ask_back() == {"p": [2]}


def test_what_was_taken_back_does_not_go_there_and_back_again(head: Head) -> None:
    """Pilots have cores enough for it, but not on one node, which the head does not know."""
    head.join("p", cores=4, nodes=2)
    head.submit(*(spec(n, template=2) for n in (1, 2)), templates=[LONG, WIDE])
    head.assign()
    run(head, 1, 2)
    head.submit(spec(3, template=3))
    assert head.assign() == {"p": [(3, 1)]}
    head.join("q", cores=4, nodes=2)
    assert head.ask_back() == {"p": [3]}
    head.end(given_back(3))
    assert head.assign() == {"q": [(3, 1)]}
    assert head.ask_back() == {}, "p has had it"
    assert head.ask_back(AVOID_S) == {"q": [3]}, "but things may have changed there"


def test_pilot_that_shows_that_it_can_gets_more_at_once(head: Head) -> None:
    stuck(head)
    head.join("q", cores=1)
    head.ask_back()
    head.end(given_back(14))
    pilot = head.core.pilots["p"]
    assert list(pilot.avoided) == [head.core.tasks[14].task_class]
    head.end(done(15))
    assert not pilot.avoided


def test_pilot_that_begins_nothing_keeps_nobody_waiting(head: Head) -> None:
    """It seems to be idle, but its nodes have not come up, say."""
    head.join("p")
    head.submit(spec(1), spec(2))
    assert head.assign() == {"p": [(1, 1), (2, 1)]}
    head.join("q", cores=2)
    assert head.ask_back() == {"p": [1, 2]}
    head.end(given_back(1), given_back(2))
    assert not head.core.pilots["p"].held
    assert head.assign() == {"q": [(2, 1), (1, 1)]}


def test_newer_attempt_is_ended_where_the_older_one_has_ended_well(head: Head) -> None:
    head.submit(spec(1))
    head.join("p")
    head.assign()
    head.apply(PilotLost("p", "silent"))
    head.join("p")
    assert head.assign() == {"p": [(1, 2)]}
    effects = head.end(done(1))
    assert states(effects) == {1: "COMPLETED"} and effects.cancel == {"p": [1]}
    assert head.core.pilots["p"].load == 1, "its core is busy until it says so"
    head.end(done(1, "cancelled", 2))
    assert head.core.pilots["p"].load == 0


def test_what_was_given_back_is_no_attempt_of_another_pilot_either(head: Head) -> None:
    stuck(head)
    head.join("q", cores=1)
    head.ask_back()
    head.end(given_back(14))
    assert head.assign() == {"q": [(14, 1)]}
    head.apply(PilotLost("q", "silent"))
    assert head.join("q", held=[(14, 1)]).cancel == {}, "it runs there"
    assert states(head.end(done(14), pilot="q")) == {14: "COMPLETED"}


def test_drained_pilot_is_not_avoided(head: Head) -> None:
    stuck(head)
    head.end(given_back(14))
    assert not head.core.pilots["p"].avoided, "it was not asked: it had its own reasons"


# --- children -------------------------------------------------------------------------------------

CHILD = 1 << 32


def with_children(
    task: int, children: list[TaskSpec], delegated: dict[int, tuple[int, int]] | None = None
) -> Completion:
    # Where the result is a child's, the parent's own value is an empty place.
    values = (Value(0, b""),) if delegated else (Value(1, b"x"),)
    return done(task, values=values, children=Children((), (), tuple(children), delegated or {}))


def test_children_come_with_their_parents_end(head: Head) -> None:
    head.join()
    head.submit(spec(1))
    head.assign()
    effects = head.end(with_children(1, [spec(CHILD), spec(CHILD + 1, needs=(CHILD,))]))
    assert states(effects) == {1: "COMPLETED"}
    assert [(item.id, parent) for item, _, parent in effects.accepted] == [
        (CHILD, 1),
        (CHILD + 1, 1),
    ]
    assert head.assign() == {"p": [(CHILD, 1)]}


def test_parent_that_fails_leaves_no_children(head: Head) -> None:
    head.join()
    head.submit(spec(1))
    head.assign()
    effects = head.end(done(1, "error"))
    assert states(effects) == {1: "FAILED"} and not effects.accepted


def test_delegated_result_comes_from_the_child(head: Head) -> None:
    head.join()
    head.submit(spec(1), spec(2, needs=(1,)))
    head.assign()
    effects = head.end(with_children(1, [spec(CHILD)], {0: (CHILD, 0)}))
    assert not effects.ended and head.state(1) == "DELEGATED" and head.state(2) == "PENDING"
    assert head.core.pilots["p"].load == 0
    assert head.assign() == {"p": [(CHILD, 1)]}
    effects = head.end(done(CHILD, values=(Value(1, b"c"),)))
    assert states(effects) == {CHILD: "COMPLETED", 1: "COMPLETED"}
    assert {end.task: end.values for end in effects.ended}[1] == (Value(1, b"c"),)
    assert head.state(2) == "READY"


def test_failed_child_fails_who_delegated_to_it(head: Head) -> None:
    head.join()
    head.submit(spec(1), spec(2, needs=(1,)))
    head.assign()
    head.end(with_children(1, [spec(CHILD)], {0: (CHILD, 0)}))
    head.assign()
    effects = head.end(done(CHILD, "error"))
    assert states(effects) == {CHILD: "FAILED", 1: "FAILED", 2: "ABORTED"}


def test_detached_children_begin_while_their_parent_runs(head: Head) -> None:
    head.join()
    head.submit(spec(1))
    head.assign()
    head.apply(SessionOpened(1, stopped=True))
    assert head.submit(spec(2)).refused, "clients submit no more"
    detached = TasksSubmitted(1, [template()], [spec(CHILD)], {}, parent=1)
    effects = head.apply(detached)
    assert [(item.id, parent) for item, _, parent in effects.accepted] == [(CHILD, 1)]
    assert head.assign() == {"p": [(CHILD, 1)]}
    assert states(head.end(done(1, "error"))) == {1: "FAILED"}
    assert head.state(CHILD) == "ASSIGNED", "whatever becomes of its parent"


def test_result_of_a_child_that_has_ended_is_there_at_once(head: Head) -> None:
    head.join()
    head.submit(spec(1), spec(2, needs=(1,)))
    head.assign()
    outcome = TaskOutcome(CHILD, "COMPLETED", (Value(1, b"c"), Value(1, b"d")))
    effects = head.end(with_children(1, [], {0: (CHILD, 1)}), outcomes={CHILD: outcome})
    assert states(effects) == {1: "COMPLETED"} and not effects.delegated
    assert effects.ended[0].values == (Value(1, b"d"),)
    assert head.assign() == {"p": [(2, 1)]}


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        ({CHILD: TaskOutcome(CHILD, "DELETED")}, "is DELETED"),
        ({}, "does not exist"),
    ],
)
def test_result_of_a_child_that_has_none_aborts(
    head: Head, outcomes: dict[int, TaskOutcome], words: str
) -> None:
    head.join()
    head.submit(spec(1), spec(2, needs=(1,)))
    head.assign()
    effects = head.end(with_children(1, [], {0: (CHILD, 0)}), outcomes=outcomes)
    assert states(effects) == {1: "ABORTED", 2: "ABORTED"}
    failure = effects.ended[0].failure
    assert failure is not None and words in failure.message
    assert head.core.pilots["p"].load == 0


@pytest.mark.parametrize("state", ["FAILED", "TIMED_OUT", "CANCELLED", "ABORTED"])
def test_who_hands_on_to_a_child_that_has_ended_badly_ends_as_if_it_ended_now(
    head: Head, state: FinalState
) -> None:
    head.join()
    head.submit(spec(1), spec(2, needs=(1,)))
    head.assign()
    why = TaskFailure("ValueError", "as told", bases=("ValueError",))
    outcomes = {CHILD: TaskOutcome(CHILD, state, (), why)}
    effects = head.end(with_children(1, [], {0: (CHILD, 0)}), outcomes=outcomes)
    assert effects.ended[0].state == state and effects.ended[0].failure == why
    assert states(effects).keys() == {1, 2} and head.core.pilots["p"].load == 0


def test_late_end_of_a_task_that_waits_again_is_taken_from_its_queue_once(head: Head) -> None:
    """Its only child has ended with it: nothing is left to wait for."""
    head.join("a")
    head.submit(spec(1), spec(2))
    head.assign()
    head.apply(PilotLost("a", "silent"))
    put = TaskSpec(CHILD, 1, b"", values=(Value(1, b"v"),))
    effects = head.end(with_children(1, [put], {0: (CHILD, 0)}), pilot="a")
    assert states(effects) == {CHILD: "COMPLETED", 1: "COMPLETED"}
    (work,) = head.core.classes.values()
    assert work.ready == 1
    head.join("b")
    assert head.assign() == {"b": [(2, 2)]}


def test_new_head_finds_those_delegated_results_that_are_there(head: Head) -> None:
    """One of two children had ended, and was written, before the old head died."""
    owed = ((Value(0), Value(0)), {0: (CHILD, 0), 1: (CHILD + 1, 0)})
    tasks = [Restored(spec(1), 1, 0, 0, 1.0, owed), restored(CHILD + 1), restored(2, needs=(1,))]
    outcomes = {CHILD: TaskOutcome(CHILD, "COMPLETED", (Value(1, b"c"),))}
    head.apply(TasksRestored([template(returns=2)], tasks, outcomes))
    assert head.state(1) == "DELEGATED" and head.state(2) == "PENDING"
    head.join()
    assert head.assign() == {"p": [(CHILD + 1, 1)]}
    effects = head.end(done(CHILD + 1, values=(Value(1, b"d"),)))
    assert {end.task: end.values for end in effects.ended}[1] == (Value(1, b"c"), Value(1, b"d"))


def test_delegated_task_does_not_run_again_where_a_pilot_brings_it_back(head: Head) -> None:
    head.join("a")
    head.submit(spec(1))
    head.assign()
    head.apply(PilotLost("a", "silent"))
    head.join("b")
    assert head.assign() == {"b": [(1, 2)]}
    head.end(with_children(1, [spec(CHILD)], {0: (CHILD, 0)}), pilot="a")
    head.apply(PilotLost("b", "silent"))
    effects = head.join("b", held=[(1, 2)])
    assert effects.cancel == {"b": [1]} and head.state(1) == "DELEGATED"


# --- values, and what has run before --------------------------------------------------------------


def put(number: int, *values: bytes) -> TaskSpec:
    return TaskSpec(number, 1, b"", values=tuple(Value(len(value), value) for value in values))


def test_values_are_complete_once_they_are_accepted(head: Head) -> None:
    effects = head.submit(put(1, b"v"), spec(2, needs=(1,)))
    assert states(effects) == {1: "COMPLETED"} and effects.ended[0].values == (Value(1, b"v"),)
    assert head.state(2) == "READY" and not effects.refused
    assert head.apply(SessionOpened(1, closed=True)).sessions_ended == []


def test_task_that_may_have_run_before_waits_for_the_answer(head: Head) -> None:
    head.join()
    effects = head.submit(spec(1), spec(2), templates=[template(cache=b"source")])
    assert [task.id for task in effects.lookups] == [1, 2]
    assert head.state(1) == "READY" and head.assign() == {}
    values = (Value(1, b"v"),)
    effects = head.apply(TasksLookedUp({1: b"one", 2: b"two"}, {1: values}))
    assert states(effects) == {1: "COMPLETED"}
    assert (effects.ended[0].values, effects.ended[0].memo) == (values, b"")
    assert head.assign() == {"p": [(2, 1)]}
    assert head.end(done(2)).ended[0].memo == b"two", "to be found by the next one"


def test_task_is_looked_up_once(head: Head) -> None:
    head.join()
    head.submit(spec(1), templates=[template(cache=b"source", retries=1)])
    head.apply(TasksLookedUp({1: b"one"}, {}))
    head.assign()
    assert not head.end(done(1, "error")).lookups
    assert not head.apply(TasksLookedUp({1: b"one"}, {1: (Value(1, b"v"),)})).ended
    assert head.assign() == {"p": [(1, 2)]}


def test_answer_that_comes_when_a_pilot_has_brought_the_task_back(head: Head) -> None:
    effects = head.apply(TasksRestored([template(cache=b"source", retries=1)], [restored(1)]))
    assert [task.id for task in effects.lookups] == [1]
    head.join(held=[(1, 1)])
    assert not head.apply(TasksLookedUp({1: b"one"}, {1: (Value(1, b"v"),)})).ended
    head.end(done(1, "error"))
    assert head.assign() == {"p": [(1, 2)]}


# --- pilots that come back ------------------------------------------------------------------------


def test_newer_attempt_got_lost_where_the_older_one_is_still_there(head: Head) -> None:
    """It tells again how the first one ended; the second one never came to it."""
    head.join()
    head.submit(spec(1), templates=[template(retries=5)])
    head.assign()
    head.end(done(1, "error"))
    assert head.assign() == {"p": [(1, 2)]}
    effects = head.join(held=[(1, 1)])
    assert [attempt.completion.outcome for attempt in effects.attempts] == ["interrupted"]
    assert effects.cancel == {"p": [1]}
    assert not head.end(done(1, "error")).attempts
    assert head.assign() == {"p": [(1, 3)]}


def test_attempt_of_the_same_number_in_another_pilot_is_another_one(head: Head) -> None:
    """Two heads have counted from 1, since the first could not write it down."""
    head.join("b")
    head.submit(spec(1))
    assert head.assign() == {"b": [(1, 1)]}
    head.apply(AttemptsRunning("a", [RunningTask(1, 1, "n", 5.0)]))
    head.end(done(1, "error"), pilot="a")
    assert head.state(1) == "ASSIGNED"


# --- the log --------------------------------------------------------------------------------------


def told(head: Head) -> list[tuple[str, str, list[int]]]:
    return [(c.state, c.detail, c.spans) for c in head.core.log.take() if c.kind == "task"]


def test_log_of_simple_lives(head: Head) -> None:
    head.join()
    head.core.log.take()
    head.submit(spec(1), spec(2), spec(3, needs=(1,)), templates=[template(retries=1)])
    assert told(head) == [("READY", "", [1, 2]), ("PENDING", "", [3, 1])]
    head.assign()
    assert told(head) == [("ASSIGNED", "p", [1, 2])]
    head.apply(AttemptsRunning("p", [RunningTask(1, 1, "n", 1.0)]))
    head.end(done(1, "error"), done(2))
    assert told(head) == [
        ("RUNNING", "", [1, 1]),
        ("RUNNING", "", [2, 1]),
        ("READY", "error", [1, 1]),
        ("COMPLETED", "", [2, 1]),
    ]
    head.assign()
    head.end(done(1, "error", 2))
    assert told(head) == [
        ("ASSIGNED", "p", [1, 1]),
        ("RUNNING", "", [1, 1]),
        ("FAILED", "ValueError", [1, 1]),
        ("ABORTED", "TaskAborted", [3, 1]),
    ]
    head.end(done(1, "error", 2))
    assert told(head) == [], "nothing is told twice"


def test_log_of_what_does_not_run(head: Head) -> None:
    head.submit(put(1, b"v"), spec(2), templates=[template(cache=b"source")])
    assert told(head) == [("COMPLETED", "", [1, 1]), ("READY", "", [2, 1])]
    head.apply(TasksLookedUp({2: b"two"}, {2: (Value(1, b"v"),)}))
    assert told(head) == [("COMPLETED", "", [2, 1])]


def test_log_of_a_new_head_tells_only_what_changes(head: Head) -> None:
    tasks = [restored(1), restored(2), restored(3, needs=(1,))]
    head.apply(TasksRestored([template(cache=b"source")], tasks))
    head.apply(SessionOpened(1, closed=True, restored=True))
    head.apply(TasksLookedUp({1: b"one", 2: b"two"}, {}))
    assert head.core.log.take() == []
    head.join(held=[(1, 1)])
    head.end(done(1))
    assert told(head) == [
        ("ASSIGNED", "p", [1, 1]),
        ("RUNNING", "", [1, 1]),
        ("COMPLETED", "", [1, 1]),
        ("READY", "", [3, 1]),
    ]


def test_log_tells_why_a_session_was_ended_where_nobody_asked_for_it(head: Head) -> None:
    head.apply(SessionOpened(1))
    head.submit(spec(1), spec(2, needs=(1,)))
    head.core.log.take()
    head.apply(SessionOpened(1, closed=True, reason="they have gone"))
    ended = head.apply(TasksCancelled(1, None, reason="they have gone")).ended
    assert {(end.task, end.state, end.failure) for end in ended} == {
        (number, "CANCELLED", TaskFailure("ClientGone", "they have gone")) for number in (1, 2)
    }
    said = [(each.kind, each.state, each.detail) for each in head.core.log.take()]
    assert said[0] == ("session", "CLOSING", "they have gone")
    assert said[-1] == ("session", "CLOSED", "")
    assert set(said[1:-1]) == {("task", "CANCELLED", "ClientGone")}


def test_log_of_a_session(head: Head) -> None:
    states: list[dict[str, Any]] = [
        {},
        {"paused": True},
        {"paused": True},
        {},
        {"stopped": True},
        {"closed": True},
    ]
    for changes in states:
        head.submit(spec(1))
        head.apply(SessionOpened(1, **changes))
    head.apply(SessionOpened(1, paused=True))
    assert head.core.sessions[1].state == "CLOSING", "that is not taken back"
    head.apply(TasksCancelled(1, None))
    said = [change.state for change in head.core.log.take() if change.kind == "session"]
    assert said == ["PAUSED", "RESUMED", "STOPPED", "CLOSING", "PAUSED", "CLOSED"]


# --- many -----------------------------------------------------------------------------------------

#: More than Python, or C, bears calls in each other.
MANY = 5_000


def test_delegation_to_any_depth(head: Head) -> None:
    head.join()
    head.submit(spec(1), spec(2, needs=(1,)))
    for number in range(CHILD, CHILD + MANY):
        ((task, _),) = head.assign()["p"]
        head.end(with_children(task, [spec(number)], {0: (number, 0)}))
    ((task, _),) = head.assign()["p"]
    effects = head.end(done(task, values=(Value(1, b"v"),)))
    assert len(effects.ended) == MANY + 1
    assert all(end.values == (Value(1, b"v"),) for end in effects.ended)
    assert head.assign() == {"p": [(2, 1)]}


def test_delegation_to_any_depth_fails_as_a_whole(head: Head) -> None:
    head.join()
    head.submit(spec(1), templates=[template(group="g", group_fails_together=True)])
    for number in range(CHILD, CHILD + MANY // 10):
        ((task, _),) = head.assign()["p"]
        head.end(with_children(task, [spec(number)], {0: (number, 0)}))
    ((task, _),) = head.assign()["p"]
    assert len(head.end(done(task, "error")).ended) == MANY // 10 + 1
    assert not head.core.tasks


def test_fan_in_of_any_width(head: Head) -> None:
    head.join(cores=MANY)
    everything = tuple(range(1, MANY + 1))
    head.submit(*map(spec, everything), spec(MANY + 1, needs=everything))
    given = head.assign()["p"]
    assert len(given) == MANY
    head.end(*(done(task) for task, _ in given[1:]))
    assert head.state(MANY + 1) == "PENDING"
    head.end(done(given[0][0]))
    assert head.assign() == {"p": [(MANY + 1, 1)]}


@pytest.mark.parametrize("policy", [{"group_fails_together": True}, {"on_failure": "stop_session"}])
def test_many_that_fail_together(head: Head, policy: dict[str, Any]) -> None:
    count = MANY // 10
    head.join(cores=count)
    head.submit(*map(spec, range(1, count + 1)), templates=[template(group="g", **policy)])
    given = head.assign()["p"]
    effects = head.end(*(done(task, "error") for task, _ in given))
    ends = list(states(effects).values())
    assert (ends.count("FAILED"), ends.count("CANCELLED")) == (1, count - 1)
    assert not head.core.tasks


def test_errors_before_the_attempt_that_a_pilot_holds_count_once(head: Head) -> None:
    """The old head had the task tried again, and died before its first errors were written."""
    head.apply(TasksRestored([template(retries=2)], [restored(1)]))
    head.join(held=[(1, 3)])
    counted = []
    for attempt in (1, 2, 1, 2):
        effects = head.end(done(1, "error", attempt))
        assert not effects.ended and not effects.cancel
        counted += [each.completion.attempt for each in effects.attempts]
    assert counted == [1, 2]
    (task,) = head.core.tasks.values()
    assert (task.errors, task.attempt, task.state) == (2, 3, "ASSIGNED")
    assert states(head.end(done(1, "error", 3))) == {1: "FAILED"}, "its errors are remembered"


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_the_later_attempt_goes_on_and_an_error_of_the_former_counts(
    head: Head, order: str
) -> None:
    """The old head had given the task to another pilot after an error that was not written."""
    head.apply(TasksRestored([template(retries=1)], [restored(1)]))
    held = {"a": [(1, 1)], "b": [(1, 2)]}
    head.core.log.take()
    cancelled = [head.join(name, held=held[name]).cancel for name in order]
    assert {"a": [1]} in cancelled and {"b": [1]} not in cancelled
    told = [change.state for change in head.core.log.take() if change.kind == "task"]
    assert told == (["ASSIGNED", "READY", "ASSIGNED"] if order == "ab" else ["ASSIGNED"])
    (work,) = head.core.classes.values()
    assert (work.ready, work.assigned) == (0, 1)
    (attempt,) = head.end(done(1, "error"), pilot="a").attempts
    assert (attempt.errors, attempt.pilot) == (1, "a")
    assert head.core.pilots["a"].load == 0 and head.core.pilots["b"].load == 1
    assert states(head.end(done(1, "error", 2), pilot="b")) == {1: "FAILED"}


# --- results in the memory of nodes ---------------------------------------------------------------

LARGE = Value(1 << 20, b"", "results/0/x.h5", "/0/t/1/0")


def without(task: int) -> Completion:
    """A good end whose result was let go."""
    return done(task, values=(RELEASED,))


def chain(head: Head, length: int) -> None:
    """A chain in a pilot, of which all results but the last are released."""
    head.join()
    head.submit(spec(99))
    head.assign()
    head.end(done(99, started=1.0, ended=1.01))
    head.submit(*[spec(n, needs=(n - 1,) if n > 1 else ()) for n in range(1, length + 1)])
    head.apply(ResultsReleased([(n, 0) for n in range(1, length)]))
    head.assign()
    assert all(task.pilot is not None for task in head.core.tasks.values())


def test_a_chain_without_its_inner_results_is_taken_as_a_whole(head: Head) -> None:
    chain(head, 3)
    effects = head.end(without(1), without(2), done(3, values=(LARGE,)))
    assert states(effects) == dict.fromkeys((1, 2, 3), "COMPLETED")
    assert set(effects.released) == {(1, 0), (2, 0)}
    assert not head.core.tasks


def test_a_result_that_is_missed_is_made_again(head: Head) -> None:
    chain(head, 3)
    # The second has not ended well, so it will need its input again: and that one its own.
    effects = head.end(without(1), done(2, "crash"))
    assert states(effects) == {}
    assert (head.state(1), head.state(2)) == ("READY", "PENDING")
    assert head.core.tasks[1].crashes == 0


def test_what_rests_on_a_missed_result_is_made_again_too(head: Head) -> None:
    chain(head, 4)
    effects = head.end(without(1), without(2), without(3))
    assert states(effects) == {}
    assert head.state(1) == "READY"


def test_a_result_that_nobody_has_released_is_not_let_go(head: Head) -> None:
    head.join()
    head.submit(spec(1))
    head.assign()
    assert states(head.end(without(1))) == {}
    assert head.state(1) == "READY"


def test_what_is_held_back_takes_no_cores(head: Head) -> None:
    head.join(cores=1)
    head.submit(spec(1), spec(2))
    assert head.assign() == {"p": [(1, 1)]}
    head.apply(AttemptsHeldBack("p", [(1, 1, 5.0), (1, 2, 5.0), (7, 1, 5.0)]))
    assert head.state(1) == "RUNNING"
    assert head.core.pilots["p"].load == 0
    assert head.assign() == {"p": [(2, 1)]}
    head.end(done(1))
    assert head.core.pilots["p"].load == 1
    head.end(done(2))
    assert head.core.pilots["p"].load == 0


def test_a_task_goes_to_the_pilot_that_has_made_its_input(head: Head) -> None:
    head.join("p", cores=1)
    head.join("q", cores=1)
    head.submit(spec(1), spec(2), templates=[template(1)])
    given = head.assign()
    first = {name: tasks[0][0] for name, tasks in given.items()}
    head.submit(*[spec(10 + n, template=2, needs=(n,)) for n in (1, 2)], templates=[template(2)])
    for name, task in reversed(first.items()):
        head.end(done(task, values=(LARGE,)), pilot=name)
    second = {name: tasks[0][0] - 10 for name, tasks in head.assign().items()}
    assert second == first


def test_a_version_that_a_member_is_to_get_is_needed(head: Head) -> None:
    first, second, third = (CHILD + n for n in (1, 2, 3))
    head.join(cores=1)
    head.submit(spec(first))
    head.assign()
    head.end(done(first, values=(LARGE,)))
    members = [
        msgspec.structs.replace(spec(n, needs=(first,)), commutative=((0, 0),))
        for n in (second, third)
    ]
    head.submit(*members, ended={first: "COMPLETED"})
    head.assign()
    head.end(done(second, values=(LARGE,)))
    assert who_needs(head.core.tasks.values(), (), {second: ()}) == (third, second)
