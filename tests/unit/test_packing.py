"""How tasks of different shapes share a pilot: nothing is used twice, large ones get their turn."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from support.builders import template
from support.packing import Job, list_schedule_s, most_at_once
from support.virtual_pilot import Run, VirtualPilot, VirtualSite

from pilot.agent.rules.bookings import MOST_MOVES, RENEW_S
from pilot.agent.rules.queues import STARVED_S
from pilot.head.core.dispatch import LATE_S
from pilot.model.tasks import Template
from pilot.scheduler.amounts import UNIT
from pilot.scheduler.booking import Booking, Stay, book
from pilot.scheduler.placement import FreeNode, NodeAllocation, place
from pilot.scheduler.resources import NodeShape, Resources, indexed, needs, node_shape


def assert_nothing_is_used_twice(runs: list[Run], shapes: dict[str, NodeShape]) -> None:
    """At no time does a core, or more than there is of anything, belong to two tasks."""
    changes: list[tuple[float, int, int, NodeAllocation]] = []
    for number, run in enumerate(runs):
        for share in run.shares:
            changes.append((run.began, 1, number, share))
            changes.append((run.ended, -1, number, share))
    used: defaultdict[tuple[str, str, str], int] = defaultdict(int)
    # What ends goes first: its cores may be given on at the same moment.
    for _, sign, _, share in sorted(changes, key=lambda change: (change[0], change[1])):
        for core in share.cores:
            used[share.node, "core", str(core)] += sign * UNIT
        for portion in share.named:
            supply = shapes[share.node].supply(portion.name)
            assert supply is not None
            if portion.indices:
                for index in portion.indices:
                    used[share.node, portion.name, index] += sign * portion.of_each
            else:
                key = share.node, portion.name, ""
                used[key] += sign * portion.amount * portion.ranks
                assert used[key] <= supply.amount
        for key, amount in used.items():
            assert amount <= UNIT or not key[2], f"{key} is used {amount / UNIT} times"


def gang(number: int, nodes: int, each: int, **changes: Any) -> Template:
    need = Resources(ranks=nodes * each, ranks_per_node=each)
    return template(number, kind="mpi", resources=need, **changes)


def began(pilot: VirtualPilot, task: int) -> float:
    return next(run.began for run in pilot.runs if run.task == task)


# --- bookings are pure ----------------------------------------------------------------------------


def nodes(*cores: int) -> list[FreeNode]:
    return [FreeNode(f"n{number}", node_shape(count), number) for number, count in enumerate(cores)]


def stay(node: FreeNode, cores: int, until: float) -> Stay:
    share = node.cut(Resources(cores=cores), 1)
    node.take(share)
    return Stay(share, 0.0, until)


def test_a_booking_is_where_the_task_can_begin_first() -> None:
    free = nodes(4, 4, 4)
    stays = [stay(free[0], 4, 50.0), stay(free[1], 2, 20.0), stay(free[2], 3, 30.0)]
    assert book(Resources(cores=4), free, stays) == Booking(20.0, {"n1": 1})
    two = Resources(ranks=8, ranks_per_node=4)
    assert book(two, free, stays) == Booking(30.0, {"n1": 4, "n2": 4})
    assert book(Resources(ranks=7), free, stays) == Booking(30.0, {"n1": 4, "n2": 3})
    assert book(Resources(cores=2), free, stays) == Booking(-math.inf, {"n1": 1})
    assert book(Resources(cores=5), free, stays) is None


def test_nobody_knows_when_a_task_begins_that_needs_what_nobody_knows_the_end_of() -> None:
    free = nodes(4, 4)
    stays = [stay(free[0], 1, math.inf), stay(free[1], 4, 10.0)]
    assert book(Resources(cores=4), free, stays) == Booking(10.0, {"n1": 1})
    booking = book(Resources(ranks=8, ranks_per_node=4), free, stays)
    assert booking == Booking(math.inf, {"n0": 4, "n1": 4})


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.floats(0.0, 100.0)), max_size=12),
    st.sampled_from([Resources(cores=3), Resources(ranks=6), Resources(ranks=4, ranks_per_node=2)]),
)
def test_a_booked_task_fits_once_all_has_ended_that_ends_by_then(
    taken: list[tuple[int, int, float]], need: Resources
) -> None:
    free = nodes(4, 4, 4, 4)
    stays = [
        stay(free[node], cores, until)
        for node, cores, until in taken
        if len(free[node].cores) >= cores
    ]
    before = [set(node.cores) for node in free]
    booking = book(need, free, stays)
    assert booking is not None and [node.cores for node in free] == before
    for each in stays:
        if each.until <= booking.starts_at:
            next(node for node in free if node.name == each.share.node).release(each.share)
    booked = [node for node in free if node.name in booking.ranks]
    assert place(need, booked) is not None


# --- gangs and small tasks ------------------------------------------------------------------------


def test_small_tasks_fill_the_hole_while_a_gang_waits_and_do_not_delay_it() -> None:
    pilot = VirtualPilot([node_shape(4), node_shape(4)])
    long, short = template(1, time_limit_s=100.0), template(2)
    pilot.submit(0.0, short, [900], 2.0)  # so it is known how long they take
    pilot.submit(3.0, long, [1], 50.0)
    pilot.submit(3.5, gang(3, 2, 4), [2], 10.0)
    pilot.submit(6.0, short, range(1000, 2000), 2.0)
    pilot.run(200.0)
    start = began(pilot, 2)
    # Its limit was all that was known of the long task: those that were let in meanwhile end first.
    assert 53.0 <= start <= 53.0 + RENEW_S + 2.0
    before = [run for run in pilot.runs if run.task >= 1000 and run.began < start]
    assert all(run.ended <= start for run in before)
    busy = sum(run.ended - run.began for run in before)
    assert busy > 0.9 * 7 * 43.0, "seven cores are free for 43 s"
    assert_nothing_is_used_twice(pilot.runs, pilot.shapes)


def test_tasks_of_which_nothing_is_known_do_not_go_before_a_gang_that_waits() -> None:
    pilot = VirtualPilot([node_shape(4), node_shape(4)])
    pilot.submit(0.0, template(1, time_limit_s=20.0), [1], 20.0)
    pilot.submit(0.5, gang(3, 2, 4), [2], 10.0)
    pilot.submit(5.0, template(2), [3], 500.0)
    pilot.run(200.0)
    assert began(pilot, 2) == 20.0 and 3 not in [run.task for run in pilot.runs]


def test_what_a_gang_does_not_need_is_for_others() -> None:
    """Those that run long start on cores beside the booked ones, on booked nodes too."""
    pilot = VirtualPilot([node_shape(8), node_shape(8)])
    pilot.submit(0.0, template(1, time_limit_s=30.0), range(1, 12), 30.0)
    pilot.submit(0.5, gang(3, 2, 4), [100], 5.0)
    pilot.submit(5.0, template(2), range(200, 300), 500.0)
    pilot.run(40.0)
    assert began(pilot, 100) == 30.0
    assert_nothing_is_used_twice(pilot.runs, pilot.shapes)


def test_a_threaded_task_drains_no_more_of_its_node_than_it_needs() -> None:
    pilot = VirtualPilot([node_shape(8)])
    for task in range(8):
        pilot.submit(0.0, template(1), [task], 10.0 + task)
    pilot.submit(0.5, template(2, resources=Resources(cores=4)), [100], 5.0)
    pilot.submit(0.6, template(3), range(200, 206), 300.0)
    pilot.run(400.0)
    assert began(pilot, 100) == 13.0
    assert sorted(run.began for run in pilot.runs if run.task >= 200) == [
        14.0,
        15.0,
        16.0,
        17.0,
        18.0,
        18.0,
    ]


def test_where_nobody_knows_an_end_only_tasks_that_are_short_for_the_wait_go_before() -> None:
    pilot = VirtualPilot([node_shape(2)])
    quick, slow = template(2), template(3)
    pilot.submit(0.0, quick, [900], 0.5)
    pilot.submit(0.0, slow, [901], 3.0)
    pilot.submit(4.0, template(1), [1], 40.0)  # nothing is known of it
    pilot.submit(4.5, template(4, resources=Resources(cores=2)), [2], 1.0)
    pilot.submit(6.0, slow, [3], 3.0)
    pilot.submit(6.0, quick, range(1000, 1100), 0.5)
    pilot.run(100.0)
    assert 44.0 <= began(pilot, 2) <= 44.0 + 0.1 * 40.0
    first = min(run.began for run in pilot.runs if run.task >= 1000)
    assert 9.5 <= first < 10.0, "a tenth of the wait is half a second then"


def test_a_gang_whose_nodes_turn_out_to_be_busy_for_long_gets_others() -> None:
    pilot = VirtualPilot([node_shape(1), node_shape(1), node_shape(1)])
    work = template(1)
    pilot.submit(0.0, work, [900], 2.0)
    pilot.submit(3.0, work, [1], 500.0)
    pilot.submit(3.0, work, [2], 4.0)
    pilot.submit(3.0, work, [3], 6.0)
    pilot.submit(3.1, gang(2, 2, 1), [4], 1.0)
    pilot.run(600.0)
    assert began(pilot, 4) == 9.0


def test_a_lost_node_and_a_cancelled_gang_leave_nothing_kept() -> None:
    pilot = VirtualPilot([node_shape(2), node_shape(2), node_shape(2)])
    pilot.submit(0.0, template(1, time_limit_s=50.0), [1], 50.0)
    pilot.submit(0.5, gang(2, 3, 2), [2], 1.0)
    pilot.submit(5.0, template(3), range(10, 14), 100.0)
    pilot.run(20.0)
    pilot.rules.lose_node("n2", "gone", pilot.now)
    assert [c.outcome for c in pilot.rules.take_completions() if c.task == 2] == ["interrupted"]
    pilot.run(30.0)
    assert pilot.rules._cores.free == 0 or not pilot.rules._bookings
    assert sum(1 for e in pilot.rules.executors.values() if e.pipeline) == 4


NEEDS = [
    Resources(),
    Resources(cores=3),
    needs(1, gpus=1),
    needs(2, gpus=2, memory_mib=40),
    needs(1, memory_mib=60),
    needs(1, named={"fpga": UNIT // 2}),
    Resources(ranks=8, ranks_per_node=4),
    Resources(ranks=5),
    Resources(ranks=4, ranks_per_node=1),
    needs(4, nodes=2),
]
SHAPE = node_shape(4, memory_mib=100, gpus=2, others=[indexed("fpga", [0])])


@example(
    [(0, 0.0, 0.001, 0.0, 6), (1, 1.0, 2.0, 0.0, 4), (2, 1.0, 7.0, 0.0, 8), (3, 2.0, 0.1, 0.0, 1)]
)
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(NEEDS) - 1),
            st.floats(0.0, 20.0),
            st.sampled_from([0.001, 0.05, 0.5, 2.0, 7.0]),
            st.sampled_from([0.0, 30.0]),
            st.integers(1, 12),
        ),
        min_size=1,
        max_size=10,
    )
)
def test_mixes_use_nothing_twice_and_all_end(
    mix: list[tuple[int, float, float, float, int]],
) -> None:
    pilot = VirtualPilot([SHAPE] * 4)
    number = 0
    for place_, (which, moment, took_s, limit_s, count) in enumerate(mix):
        need = NEEDS[which]
        kind: Any = "mpi" if need.ranks > 1 and not need.one_process else "python"
        known = template(1 + place_, kind=kind, resources=need, time_limit_s=limit_s)
        pilot.submit(moment, known, range(number, number + count), took_s)
        number += count
    pilot.run()
    assert sorted(run.task for run in pilot.runs) == list(range(number))
    assert_nothing_is_used_twice(pilot.runs, pilot.shapes)
    assert not pilot.rules._bookings and pilot.rules._cores.free == 16


@given(
    st.lists(
        st.tuples(st.floats(0.0, 30.0), st.sampled_from([0.01, 0.3, 1.0, 4.0, 9.0])),
        min_size=5,
        max_size=120,
    ),
    st.integers(1, 3),
)
def test_a_gang_waits_no_longer_than_what_runs_beside_it(
    small: list[tuple[float, float]], nodes_: int
) -> None:
    """However many small tasks come, of however many lengths in one class."""
    pilot = VirtualPilot([node_shape(2)] * 3)
    for number, (moment, took_s) in enumerate(small):
        pilot.submit(moment, template(1), [number], took_s)
    pilot.submit(5.0, gang(2, nodes_, 2), [1000], 1.0)
    pilot.run()
    most_s = STARVED_S + (2 + MOST_MOVES) * 9.0 + 1.0
    assert began(pilot, 1000) - 5.0 <= most_s


# --- with a head ----------------------------------------------------------------------------------


def mixed(number: int, **changes: Any) -> Template:
    return template(number, session=1, **changes)


#: What each class needs, how many tasks there are, and how long each takes.
MIX: list[tuple[Template, int, float, int]] = [
    (mixed(1), 120, 1.0, 0),
    (gang(2, 4, 4), 3, 4.0, 0),
    (gang(3, 2, 4), 6, 3.0, 0),
    (mixed(4, resources=Resources(cores=4)), 12, 3.0, 0),
    (mixed(5, resources=needs(1, gpus=1)), 16, 2.0, 0),
    (mixed(6, resources=needs(1, site={"licence": UNIT})), 12, 2.0, 1),
]


def test_a_mix_of_all_shapes_is_packed_as_an_offline_scheduler_would() -> None:
    shapes = [node_shape(4, gpus=2)] * 4
    site = VirtualSite(shapes, (("licence", 3 * UNIT),))
    jobs, number = [], 1
    for known, count, took_s, licences in MIX:
        site.submit(0.0, known, range(number, number + count), took_s)
        jobs += [Job(known.resources, took_s, licences)] * count
        number += count
    makespan_s = site.run()
    assert len(site.runs) == len(jobs)
    assert_nothing_is_used_twice(site.runs, site.shapes)
    first = number - 12
    used = [(run.began, run.ended, 1) for run in site.runs if run.task >= first]
    assert most_at_once(used) <= 3
    offline_s = list_schedule_s(jobs, shapes, 3)
    assert offline_s / makespan_s >= 0.95


def test_a_gang_gets_its_turn_before_the_many_small_tasks_that_came_first() -> None:
    site = VirtualSite([node_shape(4)] * 2)
    site.submit(0.0, template(1), range(1, 1001), 1.0)
    site.submit(3.5, gang(2, 2, 4), [2000, 2001], 5.0)
    site.run(60.0)
    first, second = (began(site, task) for task in (2000, 2001))
    assert first - 3.5 <= LATE_S + STARVED_S + RENEW_S + 2 * 1.0
    assert second - first <= 5.0 + LATE_S + STARVED_S + RENEW_S + 2 * 1.0


def test_a_pilot_is_given_what_can_fill_the_hole_while_a_gang_waits_there() -> None:
    site = VirtualSite([node_shape(4)] * 2)
    site.submit(0.0, template(1), [1], 1.0)  # so it is known how long they take
    site.submit(1.5, template(3, time_limit_s=40.0), [2], 40.0)
    site.submit(2.0, gang(2, 2, 4), [2000], 5.0)
    site.submit(6.0, template(1), range(10, 400), 1.0)
    site.run(100.0)
    assert 41.5 <= began(site, 2000) <= 41.5 + RENEW_S + 1.0
    before = [run for run in site.runs if 10 <= run.task < 400 and run.began < 41.0]
    assert len(before) >= 0.9 * 7 * 34, "seven cores are free"


def test_a_pilot_is_not_flooded_with_large_tasks_that_wait_there_for_something_else() -> None:
    site = VirtualSite([node_shape(8, gpus=1)])
    site.submit(0.0, template(1, resources=needs(1, gpus=1)), [1], 90.0)
    site.submit(1.0, template(2, resources=needs(2, gpus=1)), range(10, 1000), 1.0)
    site.run(80.0)
    assert len(site.core.pilots["p"].held) <= 1 + 8, "twice as many as there are cores for"


def test_a_booking_says_for_whom_and_when() -> None:
    pilot = VirtualPilot([NodeShape(4), NodeShape(4)])
    pilot.submit(0.5, template(1, time_limit_s=9.0), range(10, 18), 6.0)
    pilot.submit(0.6, gang(2, 2, 4), [1], 1.0)
    told = []
    for moment in (1.0, 3.0, 20.0):
        pilot.at(moment, lambda: told.append((pilot.now, pilot.rules.booking(pilot.now))))
    pilot.run()
    (_, none), (now, booking), (_, ended) = told
    assert none is None and ended is None
    assert booking is not None and (booking.task, booking.nodes) == (1, ("n0", "n1"))
    assert booking.in_s == 9.5 - now and STARVED_S < booking.waited_s < 3.0
