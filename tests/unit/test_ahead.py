"""Tasks that are sent to a process ahead of their inputs, which are made there."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from support.builders import done, template, work

from pilot.agent.rules import actions as a
from pilot.agent.rules.executors import ALONE_S
from pilot.agent.rules.rules import Rules
from pilot.model.tasks import Children, Completion
from pilot.model.values import Value
from pilot.scheduler.resources import NodeShape
from pilot.wire.messages.pilot import AttemptSpec, InputValue
from pilot.worker.recent import RecentResults, not_here

#: Tasks that end so soon are short.
SOON: dict[str, Any] = {"started": 1.0, "ended": 1.0001}


def value(text: bytes) -> Value:
    return Value(len(text), text)


def needs(task: int, *sources: int, number: int = 1) -> AttemptSpec:
    inputs = tuple(InputValue(source, 0, None) for source in sources)
    return msgspec.structs.replace(work(task, 1, number), inputs=inputs)


def chain(first: int, last: int) -> list[AttemptSpec]:
    """Each task needs the result of the one before; the first needs nothing."""
    return [work(first), *(needs(task, task - 1) for task in range(first + 1, last + 1))]


class Pilot:
    """The rules of a pilot of one node whose first task was a short one."""

    def __init__(self, cores: int = 1) -> None:
        self.rules = Rules(["n0"], NodeShape(cores))
        self.now = 100.0
        self.rules.add_node("n0", NodeShape(cores), self.now, 0)
        self.add(work(1))
        self.rules.executor_ready(1, 1001, self.now)
        self.done(done(1, **SOON))
        self.rules.take_completions()

    def add(self, *works: AttemptSpec, number: int = 1) -> list[AttemptSpec]:
        self.rules.add_work([template(number)], works, self.now)
        return self.sent()

    def done(self, *ends: Completion, executor: int = 1) -> list[AttemptSpec]:
        self.rules.executor_done(executor, ends, self.now)
        return self.sent()

    def ok(self, task: int) -> list[AttemptSpec]:
        return self.done(done(task, values=(value(b"%d" % task),), **SOON))

    def sent(self) -> list[AttemptSpec]:
        actions = self.rules.take_actions()
        return [w for each in actions if isinstance(each, a.RunOnExecutor) for w in each.work]

    @property
    def reported(self) -> list[tuple[int, str]]:
        return [(end.task, end.outcome) for end in self.rules.take_completions()]


def tasks(works: list[AttemptSpec]) -> list[int]:
    return [each.task for each in works]


def begun(last: int = 9) -> Pilot:
    """A pilot whose executor has all of a chain from 2 to `last`."""
    pilot = Pilot()
    assert tasks(pilot.add(*chain(2, last))) == list(range(2, last + 1))
    return pilot


def test_a_chain_is_sent_whole_and_its_ends_are_told_in_order() -> None:
    pilot = begun(5)
    ends = [done(task, values=(value(b"x"),), **SOON) for task in range(2, 6)]
    assert pilot.done(*ends) == []
    assert pilot.reported == [(task, "ok") for task in range(2, 6)]
    assert not pilot.rules.held


def test_a_long_chain_follows_as_there_is_room() -> None:
    pilot = Pilot()
    first = tasks(pilot.add(*chain(2, 400)))
    assert first == list(range(2, 2 + len(first))) and 10 < len(first) < 200
    there = [*first]
    for task in range(2, 401):
        there += tasks(pilot.ok(task))
    assert there == list(range(2, 401))


def test_others_that_may_run_at_once_are_not_sent_behind_one() -> None:
    pilot = Pilot(2)
    # Two need the same, and a core is free.
    assert tasks(pilot.add(work(2), needs(3, 2), needs(4, 2))) == [2]
    # What waits for a core has its turn first.
    other = Pilot()
    assert tasks(other.add(work(2), needs(3, 2), needs(4, 3))) == [2, 3, 4]
    assert other.add(work(5)) == [] and tasks(other.add(needs(6, 4))) == []
    other.done(*(done(task, values=(value(b"x"),), **SOON) for task in (2, 3)))
    assert tasks(other.ok(4)) == [5, 6]


def test_a_task_of_another_class_is_not_sent_ahead() -> None:
    pilot = Pilot()
    pilot.rules.add_work([template(2)], [], pilot.now)
    assert tasks(pilot.add(work(2), needs(3, 2, number=2))) == [2]
    assert tasks(pilot.ok(2)) == [3]


def test_a_task_that_needs_what_is_made_elsewhere_too_waits_for_it() -> None:
    pilot = Pilot(2)
    assert tasks(pilot.add(work(2), work(3))) == [2]
    pilot.rules.executor_ready(2, 1002, pilot.now)
    assert tasks(pilot.sent()) == [3]
    assert pilot.add(needs(4, 2, 3)) == [] and pilot.ok(2) == []
    (ready,) = pilot.done(done(3, values=(value(b"3"),), **SOON), executor=2)
    assert [item.value for item in ready.inputs] == [value(b"2"), value(b"3")]


def test_after_a_failure_what_was_sent_behind_it_is_given_back() -> None:
    pilot = begun(4)
    failed = done(2, "error", **SOON)
    pilot.done(failed, *(not_here(needs(task, task - 1), "n0") for task in (3, 4)))
    assert pilot.reported == [(2, "error"), (3, "interrupted"), (4, "interrupted")]
    assert not pilot.rules.held


def test_what_has_run_on_a_result_that_does_not_count_runs_again() -> None:
    pilot = begun(3)
    # The process has ended it well, but its children make the result.
    delegated = Children((), (), (), {0: (9, 0)})
    pilot.done(done(2, children=delegated, **SOON), done(3, values=(value(b"?"),), **SOON))
    assert pilot.reported == [(2, "ok"), (3, "interrupted")]


def test_a_large_result_is_waited_for() -> None:
    pilot = begun(4)
    pilot.rules.executor_ran(1, [2], pilot.now)
    assert pilot.done(*(not_here(needs(task, task - 1), "n0") for task in (3, 4))) == []
    assert pilot.reported == []
    large = Value(1 << 20, b"", "results/1/x.h5", "/1/t/2/0")
    # It is not tried again for a while.
    (third,) = pilot.done(done(2, values=(large,), **SOON))
    assert third.task == 3 and [item.value for item in third.inputs] == [large]
    pilot.now += ALONE_S
    assert tasks(pilot.done(done(3, values=(value(b"3"),), **SOON))) == [4]
    assert tasks(pilot.add(needs(5, 4), needs(6, 5))) == []
    assert tasks(pilot.ok(4)) == [5, 6]


@pytest.mark.parametrize("has_ended", [0, 1])
def test_a_crash_costs_those_behind_it_nothing(has_ended: int) -> None:
    pilot = begun(5)
    if has_ended:
        pilot.ok(2)
    first = 2 + has_ended
    pilot.rules.executor_exited(1, -9, first, pilot.now, (), "", pilot.now)
    assert pilot.reported[has_ended:] == [
        (first, "crash"),
        *((task, "interrupted") for task in range(first + 1, 6)),
    ]
    assert not pilot.rules.held


def test_what_is_taken_back_waits_for_its_inputs_again() -> None:
    pilot = begun(5)
    pilot.now += 1.0
    pilot.rules.tick(pilot.now)
    (asked,) = (e for e in pilot.rules.take_actions() if isinstance(e, a.UnsendFromExecutor))
    pilot.rules.unsent(1, asked.upto - 3, asked.upto, pilot.now)  # it is in the first still
    assert pilot.sent() == [] and pilot.reported == []
    sent = pilot.ok(2)
    assert tasks(sent)[0] == 3 and [item.value for item in sent[0].inputs] == [value(b"2")]


def test_a_cancelled_one_is_not_run_and_what_needs_it_is_given_back() -> None:
    pilot = begun(5)
    pilot.rules.cancel([4], pilot.now)
    (asked,) = (e for e in pilot.rules.take_actions() if isinstance(e, a.UnsendFromExecutor))
    pilot.rules.unsent(1, asked.upto - 3, asked.upto, pilot.now)
    assert (4, "cancelled") in (told := pilot.reported)
    assert (5, "interrupted") in told and pilot.rules.held.keys() == {2, 3}


# --- in the process


def test_inputs_are_filled_in_where_they_are_made() -> None:
    recent = RecentResults()
    recent.note(done(2, values=(value(b"two"),)))
    filled = recent.fill(needs(3, 2))
    assert filled is not None and [item.value for item in filled.inputs] == [value(b"two")]
    complete = work(4)
    assert recent.fill(complete) is complete and recent.fill(needs(5, 4)) is None


@pytest.mark.parametrize(
    "end",
    [
        done(2, "error"),
        done(2, children=Children((), (), (), {0: (9, 0)}), values=(Value(0),)),
        done(2, values=(Value(9, b"", "results/1/x.h5"),)),
    ],
)
def test_the_last_run_of_a_task_counts(end: Completion) -> None:
    recent = RecentResults()
    recent.note(done(2, values=(value(b"two"),)))
    recent.note(end)
    assert recent.fill(needs(3, 2)) is None


def test_what_is_kept_is_bounded() -> None:
    recent = RecentResults()
    large = Value(3 << 20, b"x")
    for task in (2, 3, 4):
        recent.note(done(task, values=(large,)))
    assert recent.fill(needs(9, 2)) is None and recent.fill(needs(9, 4)) is not None
    for task in range(10, 1_000):
        recent.note(done(task, values=(value(b"x"),)))
    assert recent.fill(needs(9, 800)) is None and recent.fill(needs(9, 999)) is not None
    assert recent._bytes == len(recent._values)
