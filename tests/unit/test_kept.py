"""Results in the memory of a node: who may use them, what is told when, and what a loss costs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.builders import done, template
from support.keeping import SIZE, Pilot, large

from pilot.agent.rules.attempts import MOST_FETCH_S
from pilot.agent.rules.kept import Kept
from pilot.agent.rules.places import LEAST_BYTES, Places
from pilot.agent.rules.queues import UNUSED, Queue
from pilot.model.tasks import Completion
from pilot.model.values import RELEASED, Value
from pilot.scheduler.resources import NodeShape, Resources
from pilot.wire.messages.pilot import AttemptSpec, InputValue, ReleasedResult

# --- told when it is written


def test_a_large_result_is_written_and_then_told() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    pilot.keep(1)
    assert pilot.persisted == [large(1).path]
    assert pilot.reported == []
    assert not pilot.rules.is_idle
    pilot.written(1)
    assert pilot.reported == [(1, "ok")]
    assert pilot.rules.is_idle


def test_a_dependent_starts_before_it_is_written_and_is_told_after() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    pilot.add(2, 1)
    pilot.keep(1)
    assert pilot.node_of(2) == "n0"
    pilot.ends(2)
    assert pilot.reported == []
    assert not pilot.rules.is_idle
    pilot.written(1)
    assert pilot.reported == [(1, "ok"), (2, "ok")]


def test_a_failure_that_rests_on_a_result_is_told_after_it() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    pilot.add(2, 1)
    pilot.keep(1)
    pilot.ends(2, outcome="error")
    assert pilot.reported == []
    pilot.written(1)
    assert pilot.reported == [(1, "ok"), (2, "error")]


def test_a_chain_is_told_in_its_order_however_it_is_written() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    for task in (2, 3, 4):
        pilot.add(task, task - 1)
    for task in (1, 2, 3, 4):
        pilot.keep(task)
    pilot.written(4, 2, 3)
    assert pilot.reported == []
    pilot.written(1)
    assert pilot.reported == [(1, "ok"), (2, "ok"), (3, "ok"), (4, "ok")]


def test_what_is_held_back_takes_no_cores() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    pilot.add(2)
    pilot.keep(1)
    assert pilot.node_of(2)
    assert pilot.rules.take_held_back() == [(1, 1, 1.0)]
    assert pilot.rules.take_held_back() == []
    pilot.rules.tell_held_back_again()
    assert pilot.rules.take_held_back() == [(1, 1, 1.0)]


def test_where_nobody_could_write_it_the_task_has_failed() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    pilot.keep(1)
    path = large(1).path
    pilot.rules.persisted([], {path: "no space left on device"}, pilot.now, in_vain=[path])
    pilot.step()
    assert pilot.reported == [(1, "error")]


def test_a_file_that_cannot_be_written_is_a_crash_and_what_used_it_runs_again() -> None:
    pilot = Pilot(2)
    pilot.add(1)
    pilot.add(2, 1)
    pilot.add(3, 2)
    pilot.keep(1)
    pilot.ends(2, values=(Value(1, b"x"),))
    assert pilot.node_of(3)
    pilot.rules.persisted([], {large(1).path: "no space left on device"}, pilot.now)
    pilot.step()
    assert sorted(pilot.reported) == [(1, "crash"), (2, "interrupted")]
    # The third is in its executor, which is ended: whatever comes of it counts for nothing.
    assert pilot.stopped == [pilot.executor_of(3)]
    pilot.ends(3)
    assert pilot.reported == [(3, "interrupted")]
    assert pilot.rules.is_idle


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_released_value_leaves_the_caches_of_all_nodes(is_shared: bool) -> None:
    pilot = Pilot(1, 1)
    value = Value(SIZE, b"", "results/0/put.h5", "/0/value/99/0", shared=is_shared)
    pilot.add(1, value)
    pilot.ends(1)
    pilot.rules.release([ReleasedResult(99, 0)])
    pilot.step()
    assert pilot.dropped == [value.path, value.path] * is_shared
    pilot.rules.release([ReleasedResult(99, 0)])
    pilot.step()
    assert len(pilot.dropped) == 2 * is_shared, "once"


def test_the_file_of_an_attempt_whose_input_was_lost_goes_at_once() -> None:
    pilot = Pilot(2)
    pilot.add(1)
    pilot.add(2, 1)
    pilot.keep(1)
    assert pilot.node_of(2)
    pilot.rules.persisted([], {large(1).path: "no space left on device"}, pilot.now)
    pilot.step()
    pilot.dropped.clear()
    pilot.keep(2)
    assert ("interrupted", [large(2).path]) == (pilot.reported[-1][1], pilot.dropped)


def test_the_file_of_an_attempt_that_is_not_here_any_more_goes_from_wherever_it_is() -> None:
    pilot = Pilot(1, 1)
    pilot.add(1)
    number = pilot.executor_of(1)
    pilot.rules.executor_exited(number, -9, 0, 0.0, (), "", pilot.now)
    pilot.step()
    value = large(1)
    pilot.rules.executor_kept(number, [done(1, values=(value,))], [value.path], pilot.now)
    pilot.step()
    assert pilot.dropped == [value.path, value.path]


def test_a_file_goes_only_if_nobody_is_told_of_anything_in_it() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    pilot.add(2, 1)
    pilot.keep(1)
    pilot.add(3)
    number = pilot.executor_of(2)
    pilot.rules.executor_ran(number, [2], pilot.now)
    pilot.step()
    assert pilot.executor_of(3) == number
    pilot.rules.persisted([], {large(1).path: "no space left on device"}, pilot.now)
    pilot.step()
    pilot.dropped.clear()
    path = "results/0/both.h5"
    ends = [done(task, values=(large(task, path),)) for task in (2, 3)]
    pilot.rules.executor_kept(number, ends, [path], pilot.now)
    pilot.step()
    assert pilot.persisted[-1:] == [path] and not pilot.dropped
    assert pilot.reported == [(1, "crash"), (2, "interrupted")]


def test_results_in_one_file_are_told_when_it_is_written() -> None:
    pilot = Pilot(1)
    for task in (1, 2):
        pilot.add(task)
    number = pilot.executor_of(1)
    ends = [done(task, values=(large(task, "results/0/x.h5"),)) for task in (1,)]
    pilot.rules.executor_kept(number, ends, ["results/0/x.h5"], pilot.now)
    pilot.step()
    ends = [done(2, values=(large(2, "results/0/x.h5"),))]
    pilot.rules.executor_kept(pilot.executor_of(2), ends, ["results/0/x.h5"], pilot.now)
    pilot.step()
    assert set(pilot.persisted) == {"results/0/x.h5"}
    pilot.rules.persisted(["results/0/x.h5"], {}, pilot.now)
    assert pilot.reported == [(1, "ok"), (2, "ok")]


@pytest.mark.parametrize("outcome", ["ok", "error"])
def test_a_task_that_comes_after_an_end_that_is_held_back_gets_its_input_or_goes_back(
    outcome: str,
) -> None:
    pilot = Pilot(1)
    pilot.add(1)
    pilot.add(2, 1)
    pilot.keep(1)
    pilot.ends(2, outcome=outcome, values=(Value(1, b"x"),) if outcome == "ok" else ())
    assert pilot.reported == []
    pilot.add(3, 2)
    if outcome == "ok":
        assert pilot.node_of(3)
    else:
        assert pilot.reported == [(3, "interrupted")]


# --- losses


def test_a_lost_node_takes_what_was_not_written_and_all_that_used_it() -> None:
    pilot = Pilot(1, 1)
    for task in (1, 2):
        pilot.add(task)
    lost, other = pilot.node_of(1), pilot.node_of(2)
    pilot.keep(1)
    pilot.keep(2)
    pilot.add(3, 1)
    pilot.add(4, 2)
    pilot.ends(3)
    pilot.written(2)
    assert pilot.reported == [(2, "ok")]
    pilot.rules.lose_node(lost, "it is gone", pilot.now)
    pilot.step()
    assert sorted(pilot.reported) == [(1, "interrupted"), (3, "interrupted")]
    assert pilot.node_of(4) == other


def test_what_was_written_survives_its_node() -> None:
    pilot = Pilot(1, 1)
    pilot.add(1)
    pilot.keep(1)
    pilot.written(1)
    pilot.rules.lose_node(pilot.node_of(1), "it is gone", pilot.now)
    assert pilot.reported == [(1, "ok")]


def test_a_dead_executor_loses_nothing_that_it_has_kept() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    pilot.keep(1)
    pilot.rules.executor_exited(pilot.executor_of(1), -9, 0, 0.0, (), "", pilot.now)
    pilot.written(1)
    assert pilot.reported == [(1, "ok")]


def test_a_node_is_not_given_back_with_what_is_nowhere_else() -> None:
    pilot = Pilot(1, 1)
    for task in (1, 2):
        pilot.add(task)
    here = next(task for task in (1, 2) if pilot.node_of(task) == "n1")
    pilot.keep(1)
    pilot.keep(2)
    pilot.wait(60.0)
    assert pilot.rules.idle_nodes(pilot.now) == []
    pilot.written(here)
    assert [name for name, _ in pilot.rules.idle_nodes(pilot.now)] == ["n1"]


def test_a_cancelled_task_takes_what_used_its_result_along() -> None:
    pilot = Pilot(2)
    pilot.add(1)
    pilot.add(2, 1)
    pilot.keep(1)
    pilot.ends(2)
    pilot.rules.cancel([1], pilot.now)
    pilot.step()
    assert sorted(pilot.reported) == [(1, "cancelled"), (2, "interrupted")]
    assert pilot.dropped == [large(1).path]
    pilot.written(1)
    assert pilot.reported == []


def test_a_pilot_that_drains_ends_when_all_is_written() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    pilot.keep(1)
    pilot.rules.drain("it is time", pilot.now)
    assert not pilot.rules.is_idle
    pilot.written(1)
    assert pilot.rules.is_idle


def test_a_session_is_forgotten_after_its_last_result_is_written() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    pilot.keep(1)
    pilot.rules.end_session(1)
    # The end of the task is reported, and its session is 0 by its number.
    pilot.rules.end_session(0)
    pilot.wait(1.0)
    pilot.written(1)
    assert pilot.reported == [(1, "ok")]


# --- where tasks start


def test_a_task_starts_on_the_node_that_has_its_input_alone() -> None:
    pilot = Pilot(1, 1)
    for task in (1, 2):
        pilot.add(task)
    for task in (1, 2):
        pilot.keep(task)
    pilot.add(4, 2)
    pilot.add(3, 1)
    assert (pilot.node_of(3), pilot.node_of(4)) == (pilot.node_of(1), pilot.node_of(2))


def test_it_waits_for_that_node_even_if_others_are_free() -> None:
    pilot = Pilot(1, 1)
    pilot.add(1)
    node = pilot.node_of(1)
    pilot.keep(1)
    pilot.add(2, 1)
    pilot.add(3, 1)
    assert pilot.node_of(2) == node
    assert pilot.node_of(3) == ""
    pilot.ends(2)
    assert pilot.node_of(3) == node


def test_once_it_is_written_another_node_takes_it_after_a_moment() -> None:
    pilot = Pilot(1, 1)
    pilot.add(1)
    node = pilot.node_of(1)
    pilot.keep(1)
    pilot.written(1)
    pilot.add(2, large(1))
    pilot.add(3, large(1))
    assert pilot.node_of(2) == node
    assert pilot.node_of(3) == ""
    pilot.wait(MOST_FETCH_S + 0.1)
    assert pilot.node_of(3) not in ("", node)


def test_a_task_of_several_nodes_waits_until_its_input_is_written() -> None:
    pilot = Pilot(1, 1)
    pilot.add(1)
    pilot.add(2, 1, number=2, kind="mpi", resources=Resources(ranks=2, ranks_per_node=1))
    pilot.keep(1)
    assert not pilot.rules.worlds
    pilot.written(1)
    assert pilot.rules.worlds


def test_what_waits_for_a_node_is_cancelled_and_handed_back_as_all_else() -> None:
    pilot = Pilot(1, 1)
    for task in (1, 2):
        pilot.add(task)
    for task in (1, 2):
        pilot.keep(task)
    pilot.add(3, 1)
    pilot.add(4, 1)  # behind the third
    pilot.add(5, 1, 2)  # for either to be written
    pilot.rules.cancel([5], pilot.now)
    pilot.rules.drain("it is time", pilot.now)
    assert sorted(pilot.reported) == [(4, "interrupted"), (5, "cancelled")]


def queue() -> Queue:
    return Queue(template(), 1, 1, NodeShape(1))


def test_the_node_with_most_of_the_inputs_is_the_nearest() -> None:
    places = Places()
    places.note((1, 0), "a", "n0", LEAST_BYTES, queue())
    places.note((1, 1), "b", "n1", 3 * LEAST_BYTES, queue())
    places.note((1, 2), "c", "n0", LEAST_BYTES, queue())
    assert places.nearest(["a", "b", "c"], (), ("n0", "n1")) == ["n1"]
    assert places.nearest(["a", "c"], (), ("n0", "n1")) == ["n0"]
    assert places.nearest(["a", "b"], ("n0",), ("n0", "n1")) == ["n0"]
    assert places.nearest(["b"], (), ("n0",)) == []
    # Copies count as well.
    places.copy("b", "n0")
    assert places.nearest(["b"], (), ("n0", "n1")) == ["n1", "n0"]
    assert places.nearest(["a", "b"], (), ("n0", "n1")) == ["n0"]
    places.lose_copy("b", "n0")
    assert places.nearest(["b"], (), ("n0", "n1")) == ["n1"]
    places.copy("a", "n1")
    places.lose_node("n1")
    assert places.nodes_of("a") == ["n0"]
    assert places.release((1, 1)) == ("b", ["n1"])
    places.forget(0)
    assert places.nearest(["a", "b", "c"], (), ("n0", "n1")) == []


def test_small_inputs_are_had_anywhere() -> None:
    places = Places()
    places.note((1, 3), "a", "n0", LEAST_BYTES - 1, queue())
    assert places.nearest(["a"], (), ("n0",)) == []


# --- what always holds


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int, tuple[int, ...]]]:
    """Tasks that use the results of earlier ones, that end, are written or lost, in any order."""
    steps: list[tuple[str, int, tuple[int, ...]]] = []
    begun: list[int] = []
    for task in range(draw(st.integers(1, 12))):
        makers = draw(st.lists(st.sampled_from(begun), unique=True, max_size=3)) if begun else []
        steps.append(("end", task, tuple(makers)))
        begun.append(task)
        for _ in range(draw(st.integers(0, 2))):
            what = draw(st.sampled_from(("write", "write", "lose")))
            steps.append((what, draw(st.sampled_from(begun)), ()))
    return steps + [("write", task, ()) for task in begun]


@given(histories(), st.sets(st.integers(0, 12)))
def test_nothing_is_told_before_what_it_rests_on_and_nothing_is_told_twice(
    history: list[tuple[str, int, tuple[int, ...]]], small: set[int]
) -> None:
    kept = Kept()
    told: list[int] = []
    lost: set[int] = set()
    written: set[int] = set()
    makers: dict[int, tuple[int, ...]] = {}

    def take(ends: list[Completion]) -> None:
        for end in ends:
            assert set(makers[end.task]) <= set(told), "it was told before what it rests on"
            assert end.task in written or end.task in small
            told.append(end.task)

    for what, task, used in history:
        if what == "end":
            makers[task] = tuple(maker for maker in used if maker not in lost)
            kept.use(task, makers[task])
            paths = () if task in small else (f"{task}",)
            if not kept.hold(done(task), "n0", paths):
                take([done(task)])
        elif what == "write" and task not in lost:
            written.add(task)
            take(kept.written(f"{task}"))
        elif what == "lose" and task not in told and task not in lost:
            ends, unended, _ = kept.lose([task])
            assert not unended
            gone = {end.task for end in ends}
            rest_on_it = {task}
            for later in range(task + 1, len(makers)):
                if rest_on_it.intersection(makers[later]) and later not in lost:
                    rest_on_it.add(later)
            assert gone == rest_on_it
            lost |= gone
    assert not set(told) & lost
    assert sorted(told) == sorted(set(makers) - lost)
    assert not kept
    assert not kept._users
    assert not kept._used
    assert not kept._of_path


def test_a_task_that_has_not_ended_is_named_when_its_input_is_lost() -> None:
    kept = Kept()
    assert kept.hold(done(1), "n0", ("1",))
    kept.use(2, [1])
    ends, unended, _ = kept.lose([1])
    assert ([end.task for end in ends], unended) == ([1], {2})
    assert not kept.hold(done(2), "n0", ())


def test_an_interrupted_task_is_given_back_at_once() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    pilot.add(2, 1)
    pilot.keep(1)
    pilot.rules.stop_all("it is preempted", pilot.now)
    pilot.rules.executor_exited(pilot.executor_of(2), -15, 2, 1.0, (), "", pilot.now)
    assert pilot.reported == [(2, "interrupted")]
    pilot.written(1)
    assert pilot.reported == [(1, "ok")]


# --- what need not be written


def released_chain(pilot: Pilot, length: int) -> None:
    """A chain whose results were released but for the last."""
    pilot.add(1)
    for task in range(2, length + 1):
        pilot.add(task, task - 1)
        pilot.rules.release([ReleasedResult(task - 1, 0, (task,))])


def test_of_a_chain_of_released_results_the_last_is_written_alone() -> None:
    pilot = Pilot(1)
    released_chain(pilot, 4)
    for task in (1, 2, 3):
        pilot.keep(task)
    assert pilot.persisted == []
    assert pilot.reported == []
    assert not pilot.rules.is_idle
    pilot.keep(4)
    assert pilot.persisted == [large(4).path]
    pilot.written(4)
    ends = pilot.rules.take_completions()
    assert [end.task for end in ends] == [1, 2, 3, 4]
    assert [end.values[0] for end in ends] == [RELEASED, RELEASED, RELEASED, large(4)]
    pilot.step()
    assert pilot.dropped == [large(task).path for task in (1, 2, 3)]
    assert pilot.rules.is_idle


def test_a_released_result_with_a_small_one_after_it_is_never_written() -> None:
    pilot = Pilot(1)
    released_chain(pilot, 2)
    pilot.keep(1)
    pilot.ends(2)
    assert pilot.persisted == []
    assert pilot.reported == [(1, "ok"), (2, "ok")]


def test_a_released_result_that_nobody_needs_is_never_written() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    pilot.rules.release([ReleasedResult(1, 0)])
    pilot.keep(1)
    assert pilot.persisted == []
    assert pilot.reported == [(1, "ok")]
    assert pilot.dropped == [large(1).path]


def test_a_result_that_all_its_readers_have_used_is_never_written() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    for task in (2, 3, 4):
        pilot.add(task, 1)
    pilot.rules.release([ReleasedResult(1, 0, (2, 3, 4))])
    pilot.keep(1)
    for task in (2, 3):
        pilot.ends(task)
    assert pilot.reported == []
    pilot.ends(4)
    assert pilot.reported == [(1, "ok"), (2, "ok"), (3, "ok"), (4, "ok")]
    assert pilot.persisted == []


@pytest.mark.parametrize("outcome", ["error", "crash"])
def test_a_reader_that_fails_has_it_written(outcome: Any) -> None:
    pilot = Pilot(1)
    released_chain(pilot, 2)
    pilot.keep(1)
    pilot.ends(2, outcome=outcome)
    assert pilot.persisted == [large(1).path]
    assert pilot.reported == []
    pilot.written(1)
    assert [(end.task, end.values) for end in pilot.rules.take_completions()] == [
        (1, (large(1),)),
        (2, ()),
    ]


def test_a_reader_that_goes_back_to_the_head_has_it_written() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    pilot.add(2, 1)
    pilot.add(3, 1)
    pilot.rules.release([ReleasedResult(1, 0, (2, 3))])
    pilot.keep(1)
    assert pilot.node_of(3) == ""
    pilot.rules.return_to_head([3], pilot.now)
    pilot.step()
    assert pilot.reported == [(3, "interrupted")]
    assert pilot.persisted == [large(1).path]


def test_a_pilot_that_drains_writes_what_others_will_need() -> None:
    pilot = Pilot(1)
    released_chain(pilot, 3)
    pilot.keep(1)
    pilot.keep(2)
    pilot.rules.drain("it is time", pilot.now)
    pilot.step()
    # The third runs, and might not end in time.
    assert pilot.persisted == [large(2).path]
    pilot.written(2)
    assert pilot.reported == [(1, "ok"), (2, "ok")]


def test_ends_are_not_held_back_for_long() -> None:
    pilot = Pilot(1)
    released_chain(pilot, 3)
    pilot.keep(1)
    pilot.keep(2)
    pilot.now = 2.0
    pilot.wait(29.0)
    assert pilot.persisted == []
    pilot.wait(2.0)
    pilot.wait(0.0)
    assert pilot.persisted == [large(2).path]
    pilot.written(2)
    assert pilot.reported == [(1, "ok"), (2, "ok")]


def test_a_result_of_which_a_part_was_not_released_is_written() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    pilot.rules.release([ReleasedResult(1, 1)])
    both = (large(1), large(1))
    pilot.rules.executor_kept(
        pilot.executor_of(1), [done(1, values=both)], [large(1).path], pilot.now
    )
    pilot.step()
    assert pilot.persisted == [large(1).path]


def test_a_lost_reader_has_the_result_of_another_node_written() -> None:
    pilot = Pilot(1, 1)
    for task in (1, 2):
        pilot.add(task)
    first = 1 if pilot.node_of(1) == "n0" else 2
    pilot.add(3, first)
    pilot.add(4, 3)
    pilot.rules.release([ReleasedResult(first, 0, (3,)), ReleasedResult(3, 0, (4,))])
    pilot.keep(first)
    pilot.keep(3)
    pilot.rules.cancel([3], pilot.now)
    pilot.step()
    assert pilot.persisted == [large(first).path]


def test_what_is_released_after_it_was_told_goes_from_the_store() -> None:
    pilot = Pilot(1)
    pilot.add(1)
    pilot.keep(1)
    pilot.written(1)
    pilot.rules.forget([1])
    pilot.rules.release([ReleasedResult(1, 0), ReleasedResult(1, 1), ReleasedResult(9, 0)])
    pilot.step()
    assert pilot.dropped == [large(1).path]


# --- results that nobody here uses


def test_results_that_no_task_here_uses_are_written_at_once_after_some() -> None:
    pilot = Pilot(1)
    for task in range(1, UNUSED + 1):
        pilot.add(task)
        pilot.keep(task)
        pilot.written(task)
    assert pilot.keeps == [True] * UNUSED
    pilot.add(20)
    assert pilot.keeps[-1] is False
    pilot.ends(20)
    # A task that waits for one is reason enough.
    known = template()
    work = [AttemptSpec(21, 1, 1, b""), AttemptSpec(22, 1, 1, b"", (InputValue(21, 0, None),))]
    pilot.rules.add_work([known], work, pilot.now)
    pilot.step()
    assert pilot.keeps[-1] is True
    # And where one has used a result, others may.
    pilot.keep(21)
    pilot.ends(22)
    pilot.add(23)
    assert pilot.keeps[-1] is True


def test_a_released_result_is_told_when_the_last_other_one_is_that_its_user_rests_on() -> None:
    pilot = Pilot(2)
    for task in (1, 2):
        pilot.add(task)
    pilot.add(3, 1, 2)
    pilot.rules.release([ReleasedResult(1, 0, (3,))])
    pilot.keep(1)
    pilot.keep(2)
    assert pilot.persisted == [large(2).path]
    pilot.ends(3)
    assert pilot.reported == []
    pilot.written(2)
    assert pilot.reported == [(2, "ok"), (1, "ok"), (3, "ok")]


@pytest.mark.parametrize("late", [False, True])
def test_a_released_result_that_is_needed_on_several_nodes_is_written(late: bool) -> None:
    pilot = Pilot(1, 1)
    pilot.add(1)
    pilot.rules.release([ReleasedResult(1, 0, ())])
    world: dict[str, Any] = {"number": 2, "kind": "mpi"}
    world["resources"] = Resources(ranks=2, ranks_per_node=1)
    if late:
        pilot.add(5, 1)
        pilot.rules.release([ReleasedResult(1, 0, (5,))])
        pilot.keep(1)
        assert pilot.persisted == []
    pilot.add(2, 1, **world)
    if not late:
        pilot.rules.release([ReleasedResult(1, 0, (2,))])
        pilot.keep(1)
    assert pilot.persisted == [large(1).path]


def test_a_released_result_is_written_where_no_node_that_has_room_can_fetch_it() -> None:
    pilot = Pilot(1, 1)
    pilot.add(1)
    pilot.add(2, 1)
    pilot.add(3, 1)
    pilot.rules.release([ReleasedResult(1, 0, (2, 3))])
    pilot.keep(1)
    assert pilot.persisted == []
    assert pilot.node_of(3) == ""
    pilot.wait(MOST_FETCH_S + 0.1)
    ((node, _, path),) = pilot.fetches
    pilot.fetched(node, path, "it has no room")
    assert pilot.persisted == [large(1).path]
    pilot.written(1)
    pilot.wait(MOST_FETCH_S + 0.1)
    pilot.wait(MOST_FETCH_S + 0.1)
    assert pilot.node_of(3) not in ("", pilot.node_of(2))
