"""Which tasks run again, and as what."""

from __future__ import annotations

import msgspec
import pytest

from pilot.errors import PilotError
from pilot.model.session_retry import Ended, chosen, renumbered
from pilot.model.states import FinalState
from pilot.model.tasks import TaskSpec

S = 1 << 32  # the first session


def ended(
    number: int,
    state: FinalState = "FAILED",
    inputs: tuple[int, ...] = (),
    above: tuple[int, ...] = (),
    again: int = 0,
) -> Ended:
    refs = tuple((S + source, 0) for source in inputs)
    spec = TaskSpec(S + number, 7, b"payload", refs, ordinal=number, digest=b"d")
    ancestors = (*(S + one for one in above), 0)
    return Ended(state, ancestors, spec, again and S + again)


def ids(specs: list[TaskSpec]) -> list[int]:
    return [spec.id - S for spec in specs]


def test_all_that_failed_and_what_was_aborted_for_it_run_again() -> None:
    tasks = [ended(2), ended(3, "TIMED_OUT"), ended(5, "ABORTED", (2, 4))]
    assert ids(chosen(tasks, None)) == [2, 3, 5]


def test_of_single_tasks_only_those_that_waited_for_them_come_along() -> None:
    tasks = [
        ended(2),
        ended(3),
        ended(4, "ABORTED", (2,)),
        ended(5, "ABORTED", (4,)),
        ended(6, "ABORTED", (3,)),
        ended(7, "FAILED", (2,)),
    ]
    assert ids(chosen(tasks, [S + 2])) == [2, 4, 5]


def test_children_of_a_task_that_runs_again_are_submitted_by_it() -> None:
    # Of 4 the one that has submitted it, 8, has completed.
    tasks = [ended(2), ended(3, above=(2,)), ended(4, above=(8, 2)), ended(5, above=(9,))]
    assert ids(chosen(tasks, None)) == [2, 5]
    assert ids(chosen(tasks, [S + 3])) == [3]


def test_children_of_a_task_that_ran_again_do_not_run_again_themselves() -> None:
    tasks = [ended(2, again=7), ended(3, above=(2,)), ended(4, above=(8, 2)), ended(7)]
    assert ids(chosen(tasks, None)) == [7]
    with pytest.raises(PilotError, match=r"task 1\.4 is a child of task 1\.2, which ran again"):
        chosen(tasks, [S + 4])


def test_what_ran_again_meanwhile_is_the_input_of_what_runs_again_now() -> None:
    tasks = [ended(2), ended(3, again=6), ended(6, again=8), ended(5, "ABORTED", (2, 3))]
    (_, spec) = chosen(tasks, [S + 2])
    assert spec.inputs == ((S + 2, 0), (S + 8, 0))


def test_the_order_is_kept_among_those_that_run_again() -> None:
    first, second = ended(2), ended(5)
    second = msgspec.structs.replace(
        second, spec=msgspec.structs.replace(second.spec, after=(S + 2, S + 3, S + 4))
    )
    specs = chosen([first, ended(3, again=8), second], None)
    assert specs[1].after == (S + 2, S + 8, S + 4)
    assert renumbered(specs, [S + 10, S + 11])[1].after == (S + 10, S + 8, S + 4)


def test_what_ran_again_already_does_not_twice() -> None:
    tasks = [ended(2, again=8), ended(3, "ABORTED", (2,), again=9), ended(8)]
    assert ids(chosen(tasks, None)) == [8]
    with pytest.raises(PilotError, match=r"task 1\.2 ran again already, as 1\.8"):
        chosen(tasks, [S + 2])


def test_a_task_that_has_not_failed_is_refused() -> None:
    with pytest.raises(PilotError, match=r"task 1\.4 has not failed"):
        chosen([ended(2)], [S + 4])


def test_cancelled_tasks_run_again_where_they_are_named() -> None:
    tasks = [ended(2), ended(3, "CANCELLED"), ended(4, "ABORTED", (3,))]
    assert ids(chosen(tasks, None)) == [2], "without 3 there is no 4"
    assert ids(chosen(tasks, [S + 3])) == [3, 4]


def test_what_was_aborted_for_want_of_several_waits_for_the_last_of_them() -> None:
    tasks = [
        ended(2),
        ended(3, again=7),
        ended(4),
        ended(5, "ABORTED", (2, 3, 4)),
        ended(6, "ABORTED"),
    ]
    assert ids(chosen(tasks, [S + 2])) == [2]
    assert ids(chosen(tasks, [S + 2, S + 4])) == [2, 4, 5]
    assert ids(chosen([*tasks, ended(7)], [S + 2, S + 4])) == [2, 4]
    assert ids(chosen(tasks, None)) == [2, 4, 5, 6]


def test_new_tasks_have_the_arguments_of_the_old_and_each_others_results() -> None:
    specs = chosen([ended(2), ended(5, "ABORTED", (2, 4))], None)
    first, second = renumbered(specs, [S + 10, S + 11])
    assert (first.id, first.retry_of, first.inputs) == (S + 10, S + 2, ())
    assert (second.id, second.retry_of) == (S + 11, S + 5)
    assert second.inputs == ((S + 10, 0), (S + 4, 0))
    assert (second.payload, second.template, second.digest) == (b"payload", 7, b"d")
    assert second.ordinal == 0  # it is no child of its parent's next attempt
