"""Which pilot gets how many tasks of which class."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.scheduler.assignment import (
    DRAIN_S,
    PREFETCH_S,
    START_S,
    PilotRoom,
    WorkClass,
    _spread,
    assign,
    early_slots,
    fits,
    free_slots,
    longest_s,
    order,
    required_walltime_s,
    starts_at_once,
    why_infeasible,
)
from pilot.scheduler.elasticity import PoolLimits
from pilot.scheduler.resources import NodeShape, Resources, needs, node_shape, nodes_needed

NOW = 1000.0


@dataclass(eq=False)
class Work:
    need: Resources = field(default_factory=Resources)
    ready: int = 10
    pool: str = ""
    time_limit_s: float = 0.0
    mean_s: float | None = None
    rank: tuple[int, int] = (0, 0)
    starving: bool = False
    late: bool = False
    share: float = 0.0
    longest_s: float = math.inf
    session: Hashable = field(default_factory=object)
    waits: bool = False
    depth: int = 0

    def may_wait_on(self, shape: NodeShape) -> bool:
        return True


@dataclass(eq=False)
class Room:
    pool: str = "main"
    shape: NodeShape = field(default_factory=lambda: NodeShape(4))
    nodes: int = 1
    load: int = 0
    ends_at: float = 0.0
    got: int = 0
    lasting: int = 0
    coreless: int = 0
    stuck: int = 0
    avoided: set[object] = field(default_factory=set)
    has_waits: bool = False
    crowded: set[int] = field(default_factory=set)

    def is_crowded(self, depth: int) -> bool:
        return depth in self.crowded


Rule = Callable[[list[Work], list[Room]], Iterator[tuple[WorkClass, PilotRoom, int]]]


def assigned(classes: list[Work], rooms: list[Room]) -> Iterator[tuple[WorkClass, PilotRoom, int]]:
    return assign(classes, rooms, NOW)


def hand_out(
    classes: list[Work], rooms: list[Room], rule: Rule = assigned
) -> list[tuple[Work, Room, int]]:
    """Carry the decisions out as the core does."""
    given = []
    for work, pilot, count in rule(classes, rooms):
        assert isinstance(work, Work) and isinstance(pilot, Room)
        assert 0 < count <= work.ready
        work.ready -= count
        pilot.load += count * work.need.total_cores
        pilot.got += count
        for other in classes:
            if other.session == work.session:
                other.share += count * work.need.total_cores
                other.starving = False
        given.append((work, pilot, count))
    return given


# --- what fits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "pilot", "answer"),
    [
        (Work(), Room(), True),
        (Work(pool="gpu"), Room(), False),
        (Work(pool="main"), Room(), True),
        (Work(Resources(cores=5)), Room(nodes=2), False),
        (Work(Resources(ranks=8)), Room(nodes=2), True),
        (Work(Resources(ranks=9)), Room(nodes=2), False),
        (Work(Resources(ranks=2, ranks_per_node=1)), Room(), False),
        (Work(time_limit_s=100), Room(ends_at=NOW + 100 + DRAIN_S), True),
        (Work(time_limit_s=100), Room(ends_at=NOW + 99 + DRAIN_S), False),
        (Work(mean_s=100), Room(ends_at=NOW + 149 + DRAIN_S), False),
        (Work(mean_s=100), Room(ends_at=NOW + 150 + DRAIN_S), True),
        (Work(), Room(ends_at=NOW), False),
    ],
)
def test_fits(work: Work, pilot: Room, answer: bool) -> None:
    assert fits(work, pilot, NOW) is answer


HOUR = 3600.0


@pytest.mark.parametrize("mean_s", [0.5 * HOUR, 0.7 * HOUR, HOUR, 9 * HOUR])
def test_task_without_a_limit_may_always_start_in_a_pilot_that_has_just_begun(
    mean_s: float,
) -> None:
    work = Work(mean_s=mean_s, longest_s=HOUR)
    # What Slurm counts from is a while before the pilot can be given anything.
    assert fits(work, Room(ends_at=NOW + HOUR - START_S), NOW)
    # But not where it would hardly end.
    assert not fits(work, Room(ends_at=NOW + 0.75 * HOUR), NOW)


def test_limit_of_nearly_the_walltime_is_no_reason_never_to_start() -> None:
    work = Work(time_limit_s=HOUR - DRAIN_S, longest_s=HOUR)
    assert fits(work, Room(ends_at=NOW + HOUR - START_S), NOW)
    assert not fits(work, Room(ends_at=NOW + HOUR - 2 * START_S), NOW)
    # What is longer than all walltimes is not for any pilot.
    work = Work(time_limit_s=HOUR, longest_s=HOUR)
    assert not fits(work, Room(ends_at=NOW + HOUR), NOW)


@pytest.mark.parametrize("walltime_s", [30.0, 120.0, 600.0, HOUR, 24 * HOUR])
def test_pilot_may_take_a_tenth_of_its_walltime_to_start(walltime_s: float) -> None:
    started = Room(ends_at=NOW + walltime_s - min(START_S, walltime_s / 10))
    for work in (Work(mean_s=1e9), Work(time_limit_s=walltime_s - DRAIN_S)):
        assert fits(replace(work, longest_s=walltime_s), started, NOW)


def test_longest_walltime_is_that_of_a_pool_that_can_hold_the_task() -> None:
    def pool(name: str, cores: int, walltime_s: float) -> PoolLimits:
        return PoolLimits(name, NodeShape(cores), 0, 4, 2, 2, walltime_s)

    pools = [pool("short", 8, 600.0), pool("small", 2, 7200.0)]
    assert longest_s(Resources(), "", pools) == 7200.0
    assert longest_s(Resources(), "short", pools) == 600.0
    assert longest_s(Resources(cores=4), "", pools) == 600.0
    assert longest_s(Resources(ranks=16), "", pools) == 600.0
    assert longest_s(Resources(ranks=17), "", pools) == math.inf
    assert longest_s(Resources(), "", [*pools, pool("endless", 1, 0.0)]) == math.inf
    # A pool of short pilots is not for a task that would end in one of longer ones.
    assert required_walltime_s(Work(mean_s=500.0, longest_s=7200.0)) == 750.0


def test_unknown_tasks_fill_the_cores_and_no_more() -> None:
    assert free_slots(Work(), Room()) == 4
    assert free_slots(Work(), Room(load=3)) == 1
    assert free_slots(Work(), Room(load=4)) == 0
    assert free_slots(Work(Resources(cores=3)), Room()) == 1


def test_large_task_queues_up_in_a_busy_pilot() -> None:
    assert free_slots(Work(Resources(cores=4)), Room(load=1)) == 1
    assert free_slots(Work(Resources(cores=4)), Room(load=4)) == 0


def test_short_tasks_are_sent_ahead() -> None:
    assert free_slots(Work(mean_s=PREFETCH_S * 2), Room()) == 4
    assert free_slots(Work(mean_s=PREFETCH_S / 10), Room()) == 4 * 11
    assert free_slots(Work(mean_s=0.0), Room()) == 4 * 1001


def test_nothing_queues_up_for_cores_that_may_never_be_free() -> None:
    short = Work(mean_s=PREFETCH_S / 10)
    assert free_slots(short, Room(load=4)) == 4 * 10
    assert free_slots(short, Room(load=4, lasting=3)) == 10
    assert free_slots(short, Room(load=24, lasting=2)) == 0
    assert free_slots(short, Room(load=4, lasting=4)) == 0
    # A task of several cores, beyond what there are, is no credit for short ones.
    assert free_slots(short, Room(load=7, lasting=7)) == 0
    assert free_slots(Work(), Room(load=3, lasting=3)) == 1


def test_class_that_has_waited_in_vain_gets_no_more_room() -> None:
    work = Work()
    assert (
        free_slots(work, Room(avoided={work})) == 0
        and free_slots(Work(), Room(avoided={work})) == 4
    )


def test_what_starts_at_once() -> None:
    assert starts_at_once(Work(), Room(load=3), NOW)
    assert not starts_at_once(Work(mean_s=0.001), Room(load=4), NOW), "there it would wait"
    assert starts_at_once(Work(Resources(cores=4)), Room(), NOW)
    assert not starts_at_once(Work(Resources(cores=4)), Room(load=1), NOW)
    assert not starts_at_once(Work(pool="gpu"), Room(), NOW)
    work = Work()
    assert not starts_at_once(work, Room(avoided={work}), NOW)


# --- the shares -----------------------------------------------------------------------------------


def test_high_rank_goes_first() -> None:
    low, high, higher = Work(rank=(0, 0)), Work(rank=(0, 5)), Work(rank=(1, 0))
    given = hand_out([low, high, higher], [Room(nodes=3)])
    assert [(work, count) for work, _, count in given] == [(higher, 10), (high, 2)]


def test_tasks_of_several_cores_that_are_late_go_before_others_of_their_session_alone() -> None:
    session = object()
    small, gang = Work(session=session), Work(Resources(cores=4), session=session, late=True)
    given = hand_out([small, gang, Work(rank=(1, 0), ready=2)], [Room(nodes=2)])
    assert [work.need.cores for work, _, _ in given[:2]] == [1, 4]


def test_a_pilot_gets_what_may_go_before_a_large_task_that_waits_there() -> None:
    room = Room(load=3 + 4, stuck=4)
    assert free_slots(Work(), room) == 1
    assert free_slots(Work(), Room(load=4 + 4, stuck=4)) == 0
    assert free_slots(Work(Resources(cores=4)), room) == 0


def test_starving_session_gets_one_task_before_higher_ranks() -> None:
    starving, other, high = Work(starving=True), Work(), Work(rank=(5, 0))
    given = hand_out([high, other, starving], [Room(nodes=2)])
    assert given[0][0] is starving
    assert (starving.ready, other.ready, high.ready) == (9, 10, 3)


def test_emptiest_pilot_goes_first() -> None:
    full, empty = Room(load=3), Room()
    hand_out([Work(ready=4)], [full, empty])
    assert (full.got, empty.got) == (0, 4)


def test_nobody_hoards_what_others_could_run() -> None:
    rooms = [Room(load=1), Room(load=1)]
    hand_out([Work(ready=20, mean_s=0.001)], rooms)
    assert abs(rooms[0].got - rooms[1].got) <= 1 and rooms[0].got + rooms[1].got == 20


def test_sessions_share_the_room() -> None:
    one, two = Work(ready=1000), Work(ready=1000)
    given: dict[int, int] = {id(one): 0, id(two): 0}
    for work, _, count in hand_out([one, two], [Room(shape=NodeShape(64))]):
        given[id(work)] += count
    assert sum(given.values()) == 64
    assert min(given.values()) >= 16


def test_no_class_is_stuck_behind_one_that_fits_nowhere() -> None:
    impossible, small = Work(Resources(cores=99), rank=(9, 9)), Work()
    hand_out([impossible, small], [Room()])
    assert (impossible.ready, small.ready) == (10, 6)


def test_cost_grows_with_the_classes_and_not_with_their_square() -> None:
    class Counting(Work):
        asked = 0

        @property
        def rank(self) -> tuple[int, int]:
            Counting.asked += 1
            return 0, 0

        @rank.setter
        def rank(self, value: tuple[int, int]) -> None:
            pass

    for classes, least in ((200, 150), (400, 300)):
        sessions = [object() for _ in range(4)]
        work = [Counting(session=sessions[n % 4], ready=1) for n in range(classes)]
        Counting.asked = 0
        assert len(hand_out(list(work), [Room(shape=NodeShape(least))])) == least
        assert Counting.asked <= 20 * classes


def plainly(classes: list[Work], pilots: list[Room]) -> Iterator[tuple[WorkClass, PilotRoom, int]]:
    """`assign` as it would be if cost did not matter: it looks at all that wait, each time."""
    waiting = [work for work in classes if work.ready]
    while waiting:
        work = min(waiting, key=order)
        starving, rivals = work.starving, sum(other.rank == work.rank for other in waiting)
        placed = False
        for pilot, count in _spread(work, list(pilots), NOW, rivals, work.ready):
            yield work, pilot, 1 if starving else count
            placed = True
            if starving or rivals > 1:
                break
        if not placed or not work.ready or (rivals == 1 and not starving):
            waiting.remove(work)


@given(st.data())
def test_sessions_are_served_as_if_all_were_looked_at_each_time(data: st.DataObject) -> None:
    sessions = data.draw(st.lists(st.tuples(st.booleans(), st.integers(0, 1)), min_size=1))
    drawn = [
        Work(
            rank=(sessions[of][1], data.draw(st.integers(0, 1))),
            starving=sessions[of][0],
            share=float(of % 3),
            session=of,
            ready=data.draw(st.integers(0, 20)),
            need=Resources(cores=data.draw(st.sampled_from([1, 2, 9]))),
            mean_s=data.draw(st.sampled_from([None, 0.001, 0.05])),
        )
        for of in data.draw(st.lists(st.integers(0, len(sessions) - 1), max_size=8))
    ]
    shapes = data.draw(st.lists(st.integers(1, 9), max_size=3))

    def outcome(rule: Rule) -> list[tuple[int, int, int]]:
        classes = [replace(work) for work in drawn]
        pilots = [Room(shape=NodeShape(cores)) for cores in shapes]
        given = hand_out(classes, pilots, rule)
        return [(classes.index(work), pilots.index(room), count) for work, room, count in given]

    assert outcome(assigned) == outcome(plainly)


works = st.builds(
    Work,
    need=st.builds(Resources, cores=st.integers(1, 5), ranks=st.integers(1, 6)),
    ready=st.integers(0, 500),
    pool=st.sampled_from(["", "main", "other"]),
    mean_s=st.sampled_from([None, 0.0, 0.001, 0.05, 10.0]),
    rank=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    share=st.floats(0, 10),
)
rooms = st.builds(
    Room,
    pool=st.sampled_from(["main", "other"]),
    nodes=st.integers(1, 3),
    load=st.integers(0, 20),
    lasting=st.integers(0, 20),
    ends_at=st.sampled_from([0.0, NOW + 10, NOW + 1e6]),
)


@given(st.lists(works, max_size=5), st.lists(rooms, max_size=4))
def test_decisions_keep_the_rules(classes: list[Work], pilots: list[Room]) -> None:
    before = [(work.ready, work) for work in classes]
    given = []
    # What an even share leaves over is given in the head's next turn.
    while more := hand_out(classes, pilots):
        given += more
    assert all(fits(work, pilot, NOW) for work, pilot, _ in given)
    for ready, work in before:
        assert work.ready == ready - sum(count for other, _, count in given if other is work)
    # Nobody waits while a pilot that it fits has the cores for it.
    for work in classes:
        assert not work.ready or not any(
            fits(work, pilot, NOW)
            and pilot.load + work.need.total_cores <= pilot.shape.cores * pilot.nodes
            for pilot in pilots
        )


# --- refusals -------------------------------------------------------------------------------------

POOLS = [("small", node_shape(2, 1000), 1, 600.0), ("large", node_shape(8, 4000, 1), 4, 3600.0)]


@pytest.mark.parametrize(
    ("need", "pool", "limit_s"),
    [
        (Resources(), "", 0.0),
        (Resources(cores=8), "", 0.0),
        (Resources(ranks=32), "large", 0.0),
        (needs(gpus=1), "", 3600 - DRAIN_S),
    ],
)
def test_possible_tasks_are_not_refused(need: Resources, pool: str, limit_s: float) -> None:
    assert why_infeasible(need, pool, POOLS, limit_s) == ""


@pytest.mark.parametrize(
    ("need", "pool", "limit_s", "words"),
    [
        (Resources(cores=9), "", 0.0, ["9 cores", "pool 'small' has 2 cores, 1000 MiB"]),
        (Resources(cores=4), "small", 0.0, ["4 cores", "pool 'small' has 2 cores"]),
        (Resources(ranks=33), "large", 0.0, ["5 nodes", "at most 4"]),
        (needs(gpus=2), "large", 0.0, ["2 GPUs", "1 GPU, 4000 MiB"]),
        (Resources(), "", 7200.0, ["7200 s", "walltime of pool 'small', 600 s"]),
        (Resources(), "huge", 0.0, ["no pool 'huge'", "small, large"]),
    ],
)
def test_refusal_names_the_reason(
    need: Resources, pool: str, limit_s: float, words: list[str]
) -> None:
    reason = why_infeasible(need, pool, POOLS, limit_s)
    assert reason and all(word in reason for word in words), reason


def test_what_is_not_refused_fits_an_empty_pilot() -> None:
    for name, shape, count, walltime_s in POOLS:
        for cores in range(1, 10):
            need = Resources(cores=cores)
            pilot = Room(name, shape, count, ends_at=NOW + walltime_s)
            possible = not why_infeasible(need, name, POOLS, 0.0)
            assert possible == fits(Work(need), pilot, NOW)
            assert possible == ((nodes_needed(need, shape) or 99) <= count)


# --- ahead of their inputs ------------------------------------------------------------------------


@pytest.mark.parametrize("mean_s", [None, 0.001, 10.0])
def test_as_many_as_fill_the_cores_once_more_go_ahead_of_inputs_that_take_long(
    mean_s: float | None,
) -> None:
    """Short ones, too: their inputs are made by tasks that are not, and fill all cores."""
    full = Room(load=4, lasting=4)
    assert free_slots(Work(mean_s=mean_s), full) == 0
    assert early_slots(Work(mean_s=mean_s), full) == 4
    assert early_slots(Work(mean_s=mean_s), Room(load=8, lasting=4)) == 0
