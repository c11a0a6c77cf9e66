"""Results that one node of a pilot fetches from another: which, where to, and what if it cannot."""

from __future__ import annotations

import pytest
from support.keeping import SIZE, Pilot, large

from pilot.agent.rules.attempts import MOST_FETCH_S
from pilot.agent.rules.fetches import TRY_AGAIN, Fetches
from pilot.wire.messages.pilot import ReleasedResult


def two_kept(pilot: Pilot) -> None:
    """Have a result on each of two nodes, and a task that needs both."""
    for task in (1, 2):
        pilot.add(task)
    pilot.add(3, 1, 2)
    for task in (1, 2):
        pilot.keep(task)


def test_what_a_task_lacks_on_its_node_is_fetched_from_the_other() -> None:
    pilot = Pilot(1, 1)
    two_kept(pilot)
    assert pilot.node_of(3) == ""
    ((node, source, path),) = pilot.fetches
    assert {node, source} == {"n0", "n1"}
    assert path == large(1 if pilot.node_of(1) == source else 2).path
    pilot.fetched(node, path)
    assert pilot.node_of(3) == node
    pilot.ends(3)
    # Its end rests on both results all the same.
    assert pilot.reported == []
    pilot.written(1)
    assert pilot.reported == [(1, "ok")]
    pilot.written(2)
    assert pilot.reported == [(2, "ok"), (3, "ok")]


def test_it_is_fetched_while_all_cores_are_busy() -> None:
    pilot = Pilot(1, 1)
    for task in (1, 2):
        pilot.add(task)
    for task in (1, 2):
        pilot.keep(task)
    for task in (4, 5):
        pilot.add(task)
    busy = {pilot.node_of(4), pilot.node_of(5)}
    assert busy == {"n0", "n1"}
    pilot.add(3, 1, 2)
    ((node, _, path),) = pilot.fetches
    pilot.fetched(node, path)
    assert pilot.node_of(3) == ""
    pilot.ends(4 if pilot.node_of(4) == node else 5)
    assert pilot.node_of(3) == node


def test_who_waits_for_it_is_told() -> None:
    pilot = Pilot(1, 1)
    two_kept(pilot)
    ((node, source, path),) = pilot.fetches
    (told,) = pilot.rules.fetches(10)
    assert (told.task, told.attempt, told.size) == (3, 1, SIZE)
    assert (told.source, told.node) == (source, node)
    assert pilot.rules.fetches(0) == []
    pilot.fetched(node, path, "no answer")
    (told,) = pilot.rules.fetches(10)
    assert (told.source, told.node) == ("", node), "it is being written"
    pilot.written(1, 2)
    assert pilot.rules.fetches(10) == []


def test_it_is_fetched_once_for_all_tasks_there() -> None:
    pilot = Pilot(2, 1)
    for task in (1, 2, 3):
        pilot.add(task)
    there = [task for task in (1, 2, 3) if pilot.node_of(task) == "n0"]
    (other,) = {1, 2, 3} - {*there}
    for task in (4, 5):
        pilot.add(task, *there, other)  # most of what it needs is on the first node
    for task in (1, 2, 3):
        pilot.keep(task)
    assert pilot.fetches == [("n0", "n1", large(other).path)]
    pilot.fetched("n0", large(other).path)
    assert pilot.node_of(4) == pilot.node_of(5) == "n0"


def test_what_is_written_before_it_has_come_is_read_from_there() -> None:
    pilot = Pilot(1, 1)
    two_kept(pilot)
    ((node, source, path),) = pilot.fetches
    pilot.written(1 if pilot.node_of(1) == source else 2)
    assert pilot.node_of(3) == node
    pilot.fetched(node, path)  # it comes late, and does no harm


def test_a_fetch_that_fails_leaves_the_way_by_the_disk() -> None:
    pilot = Pilot(1, 1)
    two_kept(pilot)
    ((node, source, path),) = pilot.fetches
    pilot.fetched(node, path, "no answer")
    assert pilot.node_of(3) == ""
    assert path in pilot.persisted
    pilot.written(1 if pilot.node_of(1) == source else 2)
    assert pilot.node_of(3) == node
    # For a while nothing else is tried between these two.
    before = len(pilot.fetches)
    fetches = pilot.rules._attempts._fetches
    assert [fetches.may_begin(source, node) for _ in range(TRY_AGAIN)] == [False] * TRY_AGAIN
    assert fetches.may_begin(source, node)
    assert len(pilot.fetches) == before


def test_a_released_result_that_is_fetched_is_never_written() -> None:
    pilot = Pilot(1, 1)
    for task in (1, 2):
        pilot.add(task)
    pilot.add(3, 1, 2)
    pilot.rules.release([ReleasedResult(1, 0, (3,)), ReleasedResult(2, 0, (3,))])
    for task in (1, 2):
        pilot.keep(task)
    assert pilot.persisted == []
    ((node, _, path),) = pilot.fetches
    pilot.fetched(node, path)
    pilot.ends(3)
    assert pilot.persisted == []
    assert sorted(pilot.reported) == [(1, "ok"), (2, "ok"), (3, "ok")]
    # Neither the originals nor the copy stay.
    assert sorted(pilot.dropped) == sorted([large(1).path, large(2).path, path])


def test_a_released_result_whose_fetch_fails_is_written_after_all() -> None:
    pilot = Pilot(1, 1)
    for task in (1, 2):
        pilot.add(task)
    pilot.add(3, 1, 2)
    pilot.rules.release([ReleasedResult(1, 0, (3,)), ReleasedResult(2, 0, (3,))])
    for task in (1, 2):
        pilot.keep(task)
    ((node, _, path),) = pilot.fetches
    pilot.fetched(node, path, "no room")
    assert pilot.persisted == [path]


@pytest.mark.parametrize("lost", ["giver", "taker"])
@pytest.mark.parametrize("has_come", [False, True])
def test_a_node_that_is_lost_in_the_middle_costs_what_was_nowhere_else(
    lost: str, has_come: bool
) -> None:
    pilot = Pilot(1, 1)
    two_kept(pilot)
    ((node, source, path),) = pilot.fetches
    if has_come:
        pilot.fetched(node, path)
    gone = source if lost == "giver" else node
    made_there = 1 if pilot.node_of(1) == gone else 2
    pilot.lose(gone)
    assert (made_there, "interrupted") in (told := pilot.reported)
    if not has_come:
        assert (3, "interrupted") in told
    else:
        pilot.ends(3)
        assert (3, "interrupted") in told + pilot.reported
    assert not pilot.rules._attempts._fetches.waiting()
    if not has_come:
        pilot.fetched(node, path)  # what comes of it is known to nobody
    if lost == "giver":
        assert path in pilot.dropped


def test_where_its_node_is_busy_another_one_fetches_the_input() -> None:
    pilot = Pilot(1, 1)
    pilot.add(1)
    source = pilot.node_of(1)
    pilot.keep(1)
    for task in (2, 3, 4):
        pilot.add(task, 1)
    assert pilot.node_of(2) == source
    pilot.wait(MOST_FETCH_S + 0.1)
    other = "n1" if source == "n0" else "n0"
    # Once, and for as many as there is room for.
    assert pilot.fetches == [(other, source, large(1).path)]
    pilot.fetched(other, large(1).path)
    assert pilot.node_of(3) == other
    assert pilot.node_of(4) == ""
    pilot.ends(3)
    pilot.wait(MOST_FETCH_S + 0.1)
    pilot.wait(MOST_FETCH_S + 0.1)
    assert pilot.node_of(4) == other
    assert len(pilot.fetches) == 1


def test_tasks_with_inputs_everywhere_are_spread() -> None:
    pilot = Pilot(2, 2)
    for task in range(1, 5):
        pilot.add(task)
    on = {
        node: [task for task in range(1, 5) if pilot.node_of(task) == node] for node in pilot.hosts
    }
    for task in range(1, 5):
        pilot.keep(task)
    for task, needed in enumerate(zip(*on.values(), strict=True), start=5):
        pilot.add(task, *needed)
    assert sorted(node for node, _, _ in pilot.fetches) == ["n0", "n1"]
    for node, _, path in list(pilot.fetches):
        pilot.fetched(node, path)
    assert sorted(pilot.node_of(task) for task in (5, 6)) == ["n0", "n1"]


def test_a_node_is_not_given_back_while_work_waits_to_start_there() -> None:
    pilot = Pilot(1, 1)
    two_kept(pilot)
    pilot.wait(60.0)
    assert pilot.rules.idle_nodes(pilot.now) == []


def test_what_waits_for_a_fetch_is_cancelled_as_all_else() -> None:
    pilot = Pilot(1, 1)
    two_kept(pilot)
    pilot.rules.cancel([3], pilot.now)
    assert pilot.reported == [(3, "cancelled")]
    ((node, _, path),) = pilot.fetches
    pilot.fetched(node, path)
    assert pilot.node_of(3) == ""


def test_the_way_that_has_taken_less_time_is_taken_and_the_other_tried_at_times() -> None:
    fetches = Fetches()
    assert fetches.may_begin("n0", "n1")  # nothing is known
    fetches.written.note(SIZE, 1.0)
    assert fetches.may_begin("n0", "n1")
    fetches.fetched.note(SIZE, 0.5)
    assert fetches.may_begin("n0", "n1")
    for _ in range(20):
        fetches.fetched.note(SIZE, 2.0)
    tried = [fetches.may_begin("n0", "n1") for _ in range(2 * TRY_AGAIN)]
    assert tried.count(True) == 2
    for _ in range(20):
        fetches.fetched.note(SIZE, 0.1)
    assert all(fetches.may_begin("n0", "n1") for _ in range(TRY_AGAIN))


def test_a_way_that_was_never_taken_is_tried_once() -> None:
    """Where all results are released none is written by itself."""
    fetches = Fetches()
    fetches.fetched.note(SIZE, 1.0)
    tried = [fetches.may_begin("n0", "n1") for _ in range(2 * TRY_AGAIN)]
    assert tried.count(False) == 2, "until it is known"
    fetches.written.note(SIZE, 2.0)
    assert all(fetches.may_begin("n0", "n1") for _ in range(2 * TRY_AGAIN))


def test_small_files_say_nothing_of_a_way() -> None:
    fetches = Fetches()
    fetches.written.note(1000, 1.0)
    assert fetches.written.s_per_byte is None
