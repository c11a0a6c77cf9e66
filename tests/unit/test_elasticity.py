"""How many nodes to ask for, and which pilots to end."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.scheduler.assignment import DRAIN_S, START_S, fits, longest_s, required_walltime_s
from pilot.scheduler.demand import ClassDemand, nodes_wanted
from pilot.scheduler.elasticity import (
    AT_ONCE,
    ENOUGH,
    MAX_NODES,
    MAX_QUEUED,
    End,
    Grow,
    PilotSupply,
    PoolLimits,
    Shrink,
    decide,
    standings,
    unwanted,
)
from pilot.scheduler.resources import NodeShape, Resources, needs, node_shape
from pilot.scheduler.waits import LEAST_S, MOST_WORK_S


def pool(name: str = "main", **changes: Any) -> PoolLimits:
    fields: dict[str, Any] = {
        "shape": NodeShape(4),
        "min_nodes": 0,
        "max_nodes": 8,
        "nodes_per_pilot": 4,
        "max_queued": 2,
        "walltime_s": 3600.0,
    }
    return PoolLimits(name=name, **{**fields, **changes})


def demand(count: int, mean_s: float | None = 100.0, **changes: Any) -> ClassDemand:
    fields: dict[str, Any] = {"need": Resources(), "pool": ""}
    return ClassDemand(count=count, mean_s=mean_s, **{**fields, **changes})


def supply(name: str = "p1", nodes: int = 1, **changes: Any) -> PilotSupply:
    fields: dict[str, Any] = {"pool": "main", "queued": False}
    return PilotSupply(name=name, nodes=nodes, **{**fields, **changes})


# --- the demand -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "nodes"),
    [
        (demand(0), 0),
        (demand(1), 1),
        (demand(4), 1),
        (demand(5), 2),
        (demand(1000), 250),
        # A thousand tasks of a millisecond need no second node.
        (demand(1000, 0.001), 1),
        (demand(400, MOST_WORK_S / 10), 10),
        (demand(8, None), 2),
        (demand(2, need=Resources(cores=4)), 2),
        (demand(3, need=Resources(ranks=8)), 6),
        (demand(1, need=Resources(ranks=2, ranks_per_node=1)), 2),
        # What can run nowhere here is no reason to grow.
        (demand(9, need=Resources(cores=5)), 0),
        (demand(9, need=Resources(ranks=100)), 0),
        (demand(9, pool="other"), 0),
    ],
)
def test_nodes_wanted(work: ClassDemand, nodes: int) -> None:
    assert nodes_wanted(pool(), [work])[0] == nodes


def test_short_work_is_worth_more_nodes_where_they_come_soon() -> None:
    """25 node-seconds: alone, or on nodes that are there in a second or two."""
    work = [demand(100, 1.0)]
    assert nodes_wanted(pool(), work)[0] == 1
    assert nodes_wanted(pool(patience_s=10.0), work)[0] == 3


# --- tasks over several nodes ---------------------------------------------------------------------

GANG = Resources(ranks=2, ranks_per_node=1)


def test_no_pilot_is_asked_for_that_is_too_small_for_all_that_waits() -> None:
    """Of four nodes three wait in the queue again; one more is of use to none of the tasks."""
    limits, gangs = pool(max_nodes=4), demand(60, 5.0, need=GANG)
    requeued = supply("p1", 3, queued=True, held_back=True)
    assert decide([limits], [gangs], [requeued]) == []
    assert standings([limits], [gangs], [requeued])[0].blocked_by == AT_ONCE
    # A task of one node finds its place.
    assert grown(decide([limits], [gangs, demand(1)], [requeued])) == [("main", 1)]


def test_an_idle_pilot_too_small_for_all_that_waits_ends() -> None:
    limits, gangs = pool(max_nodes=4), demand(60, 5.0, need=GANG)
    small = supply("p1", 1, idle_s=100.0)
    large = supply("p2", 3, load=4)
    assert decide([limits], [gangs], [small, large]) == [End("p1", "idle for 100 s")]
    assert decide([limits], [gangs, demand(1)], [small, large]) == []
    busy = supply("p1", 1, load=1)
    assert decide([limits], [gangs], [busy, large]) == []


def test_nodes_that_are_left_over_beside_gangs_go_back() -> None:
    gangs = demand(60, 5.0, need=GANG)
    odd = supply("p1", 3, load=4, idle_nodes_s=(100.0,))
    limits = pool(max_nodes=4)
    assert decide([limits], [gangs], [odd]) == [Shrink("p1", 1, "1 of 3 nodes idle for 60 s")]
    # As far as tasks of one node do not need them.
    decisions = decide([limits], [gangs, demand(8)], [odd])
    assert not any(isinstance(each, Shrink) for each in decisions)
    even = supply("p1", 4, load=4, idle_nodes_s=(100.0, 100.0))
    assert decide([limits], [gangs], [even]) == []


def test_pilots_for_gangs_have_no_nodes_left_over() -> None:
    threes = demand(60, 500.0, need=Resources(ranks=3, ranks_per_node=1))
    assert grown(decide([pool(max_queued=1)], [threes], [])) == [("main", 3)]
    assert grown(decide([pool(max_queued=1)], [threes, demand(100)], [])) == [("main", 4)]


# --- growing --------------------------------------------------------------------------------------


def grown(decisions: Sequence[Grow | End | Shrink]) -> list[tuple[str, int]]:
    return [(each.pool, each.nodes) for each in decisions if isinstance(each, Grow)]


def test_nothing_is_decided_without_demand() -> None:
    assert decide([pool()], [], []) == []


def test_first_pilot_is_as_large_as_the_demand() -> None:
    assert grown(decide([pool()], [demand(8)], [])) == [("main", 2)]


def test_pilots_have_at_most_their_nodes_and_queue_at_most_so_many() -> None:
    assert grown(decide([pool()], [demand(1000)], [])) == [("main", 4), ("main", 4)]
    assert grown(decide([pool(max_queued=1)], [demand(1000)], [])) == [("main", 4)]
    assert grown(decide([pool(max_nodes=5)], [demand(1000)], [])) == [("main", 4), ("main", 1)]


def test_what_is_queued_counts() -> None:
    queued = supply(nodes=4, queued=True)
    assert grown(decide([pool()], [demand(16)], [queued])) == []
    assert grown(decide([pool()], [demand(20)], [queued])) == [("main", 1)]


def test_what_slurm_holds_back_after_it_took_its_nodes_keeps_nobody_from_asking_for_more() -> None:
    back = supply(nodes=2, queued=True, held_back=True)
    limits = pool(max_queued=1)
    assert grown(decide([limits], [demand(1000)], [back])) == [("main", 4)]
    (its,) = standings([limits], [demand(1000)], [back])
    assert (its.queued, its.have, its.free) == (0, 2, 6), "it comes, and its nodes count"
    assert grown(decide([limits], [demand(8)], [back])) == []
    assert grown(decide([pool(max_nodes=2)], [demand(1000)], [back])) == []
    eligible = msgspec.structs.replace(back, held_back=False)
    assert grown(decide([limits], [demand(1000)], [eligible])) == [], "it waits as others do"


def test_what_drains_is_no_supply_but_counts_against_the_limit() -> None:
    draining = supply(nodes=4, draining=True)
    assert grown(decide([pool()], [demand(16)], [draining])) == [("main", 4)]
    assert grown(decide([pool(max_nodes=5)], [demand(16)], [draining])) == [("main", 1)]


def test_task_over_several_nodes_gets_a_pilot_that_is_large_enough() -> None:
    wide = demand(1, need=Resources(ranks=12, ranks_per_node=4))
    small = [supply("p1"), supply("p2"), supply("p3")]
    assert grown(decide([pool()], [wide], small)) == [("main", 3)]
    assert grown(decide([pool()], [wide], [supply(nodes=3)])) == []


def test_small_idle_pilots_make_room_for_a_wide_task() -> None:
    wide = demand(1, need=Resources(ranks=12, ranks_per_node=4))
    small = [supply(f"p{n}", idle_s=100.0) for n in range(3)]
    decisions = decide([pool(max_nodes=4)], [wide], small)
    assert grown(decisions) == []
    assert {each.pilot for each in decisions if isinstance(each, End)} == {"p0", "p1", "p2"}


def test_least_nodes_are_kept() -> None:
    assert grown(decide([pool(min_nodes=2)], [], [])) == [("main", 2)]
    idle = supply(nodes=2, idle_s=1e6)
    assert decide([pool(min_nodes=2)], [], [idle]) == []


def test_first_pool_that_can_takes_the_work() -> None:
    pools = [pool("a"), pool("b")]
    assert grown(decide(pools, [demand(4)], [])) == [("a", 1)]
    assert grown(decide(pools, [demand(4, pool="b")], [])) == [("b", 1)]
    wide = demand(1, need=Resources(cores=8))
    assert grown(decide([pool("a"), pool("b", shape=NodeShape(8))], [wide], [])) == [("b", 1)]


# --- walltime that is left ------------------------------------------------------------------------

HOUR = 3600.0
LATE = HOUR - 600.0


def test_pilot_that_ends_too_soon_is_not_enough() -> None:
    """One task runs; another that comes later could not end in the walltime that is left."""
    work = demand(2, 3300.0, required_walltime_s=3300.0, assigned=1)
    assert grown(decide([pool()], [work], [supply(left_s=HOUR, load=1)])) == []
    short = supply(left_s=LATE, load=1)
    assert grown(decide([pool()], [work], [short])) == [("main", 1)]
    # Once, and not where the pool may have no more.
    coming = supply("p2", queued=True, left_s=HOUR)
    assert grown(decide([pool()], [work], [short, coming])) == []
    (its,) = standings([pool(max_nodes=1)], [work], [short])
    assert its.blocked_by == MAX_NODES


def test_what_runs_already_needs_no_other_pilot() -> None:
    work = demand(4, 3300.0, required_walltime_s=3300.0, assigned=4)
    assert grown(decide([pool()], [work], [supply(left_s=60.0, load=4)])) == []


def test_short_tasks_go_where_long_ones_cannot() -> None:
    long = demand(4, 3300.0, required_walltime_s=3300.0)
    short = demand(8, 100.0, required_walltime_s=150.0)
    late = [supply("p1", 2, left_s=LATE)]
    assert grown(decide([pool()], [short], late)) == []
    assert grown(decide([pool()], [short, long], late)) == [("main", 1)]
    new = supply("p2", 1, left_s=HOUR)
    assert grown(decide([pool()], [short, long], [*late, new])) == []
    # What is long enough for the long ones is taken by them.
    more = demand(12, 100.0, required_walltime_s=150.0)
    assert grown(decide([pool()], [more, long], [*late, new])) == [("main", 1)]


def test_a_pilot_that_is_long_enough_may_be_full() -> None:
    work = demand(8, 3300.0, required_walltime_s=3300.0, assigned=4)
    full, late = supply("p1", left_s=HOUR, load=4), supply("p2", left_s=LATE, idle_s=9.0)
    assert grown(decide([pool()], [work], [full, late])) == [("main", 1)]
    # Not where what fills it is done in a moment.
    short = demand(4, 0.01, required_walltime_s=0.015, assigned=4)
    waits = demand(3, 3300.0, required_walltime_s=3300.0)
    assert grown(decide([pool()], [short, waits], [full, late])) == []


def test_idle_pilot_that_ends_too_soon_makes_room() -> None:
    work = demand(1, 3300.0, required_walltime_s=3300.0)
    late = supply(left_s=LATE, idle_s=2.0)
    assert ended(decide([pool(max_nodes=1)], [work], [late])) == ["p1"]
    assert ended(decide([pool(max_nodes=1)], [work], [supply(left_s=LATE, idle_s=0.5)])) == []
    assert ended(decide([pool(max_nodes=1)], [work], [supply(left_s=HOUR, idle_s=60.0)])) == []
    # Beside one that is long enough, and full.
    more, full = (
        demand(8, 3300.0, required_walltime_s=3300.0, assigned=4),
        supply("p2", left_s=HOUR, load=4),
    )
    assert ended(decide([pool(max_nodes=2)], [more], [late, full])) == ["p1"]
    busy = demand(2, 3300.0, required_walltime_s=3300.0, assigned=1)
    assert ended(decide([pool(max_nodes=1)], [busy], [supply(left_s=LATE, load=1)])) == []


def test_wide_task_needs_a_pilot_that_is_large_and_long_enough() -> None:
    wide = demand(1, 3300.0, need=Resources(ranks=12, ranks_per_node=4), required_walltime_s=3300.0)
    pilots = [supply("p1", 3, left_s=LATE), supply("p2", 2, left_s=HOUR)]
    assert grown(decide([pool()], [wide], pilots)) == [("main", 3)]
    (its,) = standings([pool(max_nodes=7)], [wide], pilots)
    assert its.blocked_by == AT_ONCE
    assert grown(decide([pool()], [wide], [*pilots, supply("p3", 3, left_s=HOUR)])) == []


def test_pool_of_longer_pilots_grows_for_tasks_that_turn_out_long() -> None:
    pools = [pool("short", walltime_s=600.0), pool("long", walltime_s=HOUR)]
    assert grown(decide(pools, [demand(8, None)], [])) == [("short", 2)]
    assert grown(decide(pools, [demand(8, 500.0, required_walltime_s=750.0)], [])) == [("long", 2)]
    # What runs in the short ones nevertheless is no work for the long ones.
    there = supply(nodes=2, pool="short", left_s=300.0, load=8)
    work = demand(8, 500.0, required_walltime_s=750.0, assigned=8)
    assert grown(decide(pools, [work], [there])) == []


@given(
    mean_s=st.floats(0.0, 1e6),
    limit_s=st.sampled_from([0.0, 0.0, 30.0, 540.0, 3540.0, 3585.0, 86_000.0]),
    walltimes=st.lists(st.sampled_from([60.0, 600.0, HOUR, 86_400.0]), min_size=1, max_size=3),
    start=st.floats(0.0, 1.0),
)
def test_what_a_pool_grows_for_starts_in_its_new_pilots(
    mean_s: float, limit_s: float, walltimes: list[float], start: float
) -> None:
    pools = [pool(f"p{n}", walltime_s=walltime_s) for n, walltime_s in enumerate(walltimes)]
    need = Resources()
    work: Any = SimpleNamespace(
        need=need,
        pool="",
        mean_s=mean_s,
        time_limit_s=limit_s,
        longest_s=longest_s(need, "", pools),
    )
    asked = grown(
        decide(pools, [demand(1, mean_s, required_walltime_s=required_walltime_s(work))], [])
    )
    # Nobody starves: only what no walltime allows is not asked for.
    assert bool(asked) == (limit_s + DRAIN_S <= max(walltimes))
    for name, nodes in asked:
        walltime_s = next(its.walltime_s for its in pools if its.name == name)
        left_s = walltime_s - start * min(START_S, walltime_s / 10)
        room: Any = SimpleNamespace(
            pool=name, shape=NodeShape(4), nodes=nodes, load=0, ends_at=left_s
        )
        assert fits(work, room, 0.0)
        # Nor is one more asked for beside a pilot that can be given it.
        there = supply(pool=name, nodes=nodes, left_s=left_s)
        assert not grown(
            decide(
                pools, [demand(1, mean_s, required_walltime_s=required_walltime_s(work))], [there]
            )
        )


# --- ending ---------------------------------------------------------------------------------------


def ended(decisions: Sequence[Grow | End | Shrink]) -> list[str]:
    return [each.pilot for each in decisions if isinstance(each, End)]


def shrunk(decisions: Sequence[Grow | End | Shrink]) -> dict[str, int]:
    return {each.pilot: each.nodes for each in decisions if isinstance(each, Shrink)}


@pytest.mark.parametrize(
    ("tasks", "idle_nodes_s", "nodes"),
    [
        (1, (60.0, 60.0, 60.0), 3),  # one long task on the first node
        (1, (60.0, 59.0, 60.0), 2),
        (8, (60.0, 60.0), 2),  # 2 of 4 nodes are wanted
        (12, (60.0, 60.0), 1),
        (16, (60.0, 60.0), 0),  # all are
    ],
)
def test_nodes_that_are_idle_for_long_go_back_while_others_work(
    tasks: int, idle_nodes_s: tuple[float, ...], nodes: int
) -> None:
    work = demand(tasks, assigned=tasks)
    decisions = decide([pool()], [work], [supply(nodes=4, load=tasks, idle_nodes_s=idle_nodes_s)])
    assert shrunk(decisions) == ({"p1": nodes} if nodes else {})


@pytest.mark.parametrize(("left_s", "nodes"), [(1000.0, 0), (100.0, 2)])
def test_nodes_that_are_idle_as_their_pilot_ends_too_soon_go_back(
    left_s: float, nodes: int
) -> None:
    long = demand(64, 400.0, required_walltime_s=600.0, assigned=4)
    # Not only those that have been idle for as long as they are kept: nothing comes for them.
    pilot = supply(nodes=4, load=4, left_s=left_s, idle_nodes_s=(60.0, 2.0, 0.5))
    gone = shrunk(decide([pool()], [long], [pilot]))
    assert gone == ({"p1": nodes} if nodes else {})


def test_a_pilot_keeps_the_nodes_that_a_waiting_task_needs_at_once() -> None:
    wide = demand(1, need=Resources(ranks=3, ranks_per_node=1, cores=4))
    idle = {"load": 4, "idle_nodes_s": (60.0, 60.0, 60.0)}
    pilots = [supply("p1", 4, **idle), supply("p2", 4, **idle)]
    decisions = decide([pool()], [wide, demand(1, assigned=1)], pilots)
    assert all(nodes <= 1 for nodes in shrunk(decisions).values())


def test_the_nodes_of_ones_own_allocation_stay() -> None:
    mine = supply(nodes=4, own=True, idle_nodes_s=(100.0, 100.0))
    assert decide([pool()], [], [mine]) == []


def test_idle_pilot_ends_after_its_time() -> None:
    assert ended(decide([pool()], [], [supply(idle_s=59.0)])) == []
    assert ended(decide([pool()], [], [supply(idle_s=60.0)])) == ["p1"]


def test_busy_pilot_never_ends() -> None:
    assert ended(decide([pool()], [demand(1)], [supply("a"), supply("b")])) == []


def test_queued_pilot_keeps_its_place_in_a_short_gap_of_the_work() -> None:
    queued = supply(queued=True)
    assert unwanted(standings([pool()], [], [queued]), [queued]) == {"p1"}
    waiting = msgspec.structs.replace(queued, idle_s=queued.keep_s - 1.0)
    assert ended(decide([pool()], [], [waiting])) == []
    over = msgspec.structs.replace(queued, idle_s=queued.keep_s)
    assert ended(decide([pool()], [], [over])) == ["p1"]
    assert ended(decide([pool()], [demand(1)], [over])) == []


def test_queued_pilot_is_wanted_while_there_is_work_or_it_is_to_be_kept() -> None:
    queued = [supply("a", queued=True), supply("b", queued=True), supply("c")]
    assert unwanted(standings([pool()], [demand(1)], queued), queued) == set()
    kept = pool(min_nodes=2)
    assert len(unwanted(standings([kept], [], queued), queued)) == 1


def test_pilot_that_does_not_come_is_no_supply_and_takes_nobodys_place() -> None:
    held = supply("h", nodes=2, queued=True, comes=False)
    (its,) = standings([pool()], [demand(8)], [held])
    assert (its.have, its.free, its.queued) == (0, 6, 1)
    assert grown(decide([pool()], [demand(8)], [held])) == [("main", 2)]
    assert grown(decide([pool(max_nodes=2)], [demand(8)], [held])) == []
    kept, idle = pool(min_nodes=1), supply("a", idle_s=100.0)
    assert ended(decide([kept], [], [held, idle])) == [], "the idle one is what is to be kept"
    coming = supply("q", queued=True)
    pilots = [coming, held]
    assert unwanted(standings([kept], [], pilots), pilots) == {"h"}
    over = [msgspec.structs.replace(each, idle_s=100.0) for each in pilots]
    assert ended(decide([kept], [], over)) == ["h"]
    assert ended(decide([pool(min_nodes=2)], [], [over[1]])) == []


def test_needed_idle_pilots_stay() -> None:
    idle = [supply(f"p{n}", idle_s=100.0 + n) for n in range(3)]
    assert len(ended(decide([pool()], [demand(4)], idle))) == 2


# --- always ---------------------------------------------------------------------------------------

pools = st.lists(
    st.builds(
        pool,
        name=st.sampled_from(["main", "other"]),
        min_nodes=st.integers(0, 2),
        max_nodes=st.integers(4, 8),
        nodes_per_pilot=st.integers(1, 4),
        max_queued=st.integers(1, 3),
    ),
    min_size=1,
    max_size=2,
    unique_by=lambda p: p.name,
)
demands = st.lists(
    st.builds(
        demand,
        count=st.integers(0, 10_000),
        mean_s=st.sampled_from([None, 0.0, 0.01, 1.0, 1e4]),
        pool=st.sampled_from(["", "main", "other"]),
        need=st.builds(Resources, cores=st.integers(1, 6), ranks=st.integers(1, 20)),
        required_walltime_s=st.sampled_from([0.0, 50.0, 3000.0, 1e5]),
    ),
    max_size=4,
)
supplies = st.lists(
    st.builds(
        supply,
        name=st.integers(0, 9).map(lambda n: f"p{n}"),
        pool=st.sampled_from(["main", "other"]),
        nodes=st.integers(1, 4),
        queued=st.booleans(),
        held_back=st.booleans(),
        comes=st.booleans(),
        idle_s=st.sampled_from([0.0, 10.0, 100.0]),
        idle_nodes_s=st.lists(st.sampled_from([0.0, 10.0, 100.0]), max_size=3).map(tuple),
        draining=st.booleans(),
        left_s=st.sampled_from([10.0, 100.0, 3600.0]),
        load=st.integers(0, 8),
        may_be_followed=st.booleans(),
    ),
    max_size=5,
    unique_by=lambda p: p.name,
)


@given(pools, demands, supplies)
def test_limits_are_kept(
    pools: list[PoolLimits], demands: list[ClassDemand], pilots: list[PilotSupply]
) -> None:
    decisions = decide(pools, demands, pilots)
    for limits in pools:
        mine = [pilot for pilot in pilots if pilot.pool == limits.name]
        new = [d.nodes for d in decisions if isinstance(d, Grow) and d.pool == limits.name]
        held = sum(pilot.nodes for pilot in mine)
        assert all(0 < nodes <= limits.nodes_per_pilot for nodes in new)
        followed = {d.after: d.nodes for d in decisions if isinstance(d, Grow) and d.after}
        by_name = {pilot.name: pilot for pilot in mine}
        assert all(nodes <= by_name[n].nodes for n, nodes in followed.items() if n in by_name)
        if new:
            assert held + sum(new) <= max(limits.max_nodes, held) + sum(followed.values())
            waiting = [pilot for pilot in mine if pilot.queued and not pilot.held_back]
            assert len(waiting) + len(new) <= limits.max_queued
    by_name = {pilot.name: pilot for pilot in pilots}
    names = ended(decisions)
    assert len(names) == len(set(names))
    for name in names:
        pilot = by_name[name]
        assert not pilot.draining
        assert pilot.queued or pilot.idle_s > 0, "work that runs is never ended to save a node"
    too_short_s = {its.pool.name: its.too_short_s for its in standings(pools, demands, pilots)}
    for name, nodes in shrunk(decisions).items():
        pilot = by_name[name]
        assert not pilot.draining and not pilot.queued and name not in names
        assert 0 < nodes < pilot.nodes
        ends_too_soon = pilot.left_s < too_short_s[pilot.pool]
        keep_s = LEAST_S if ends_too_soon else pilot.keep_s
        assert nodes <= sum(idle_s >= keep_s for idle_s in pilot.idle_nodes_s)
    for its in standings(pools, demands, pilots):
        here = [pilot for pilot in pilots if pilot.pool == its.pool.name and not pilot.draining]
        gone = {name: n for name, n in shrunk(decisions).items() if name in {p.name for p in here}}
        kept = [p.nodes - gone.get(p.name, 0) for p in here if p.name not in names]
        if its.at_once and any(pilot.nodes >= its.at_once for pilot in here) and gone:
            assert max(kept, default=0) >= its.at_once, "a task that waits still finds its nodes"


# --- successors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pilots", "after"),
    [
        # Nothing more may be asked for, and the one drains: what waits will need its nodes.
        ([supply("p1", 2, draining=True, left_s=10.0, may_be_followed=True)], ["p1"]),
        ([supply("p1", 2, draining=True, left_s=10.0)], []),  # it has a successor
        ([supply("p1", 2, draining=True, may_be_followed=True)], []),  # told to: it has no end
        # It may be preempted, and waits again soon.
        ([supply("p1", 2, draining=True, left_s=1000.0, may_be_followed=True)], []),
        ([supply("p1", 2, left_s=1000.0, may_be_followed=True)], []),  # there is time
        # Too little time is left for what waits.
        ([supply("p1", 2, left_s=50.0, may_be_followed=True)], ["p1"]),
        (
            [
                supply("p1", 1, left_s=51.0, may_be_followed=True),
                supply("p2", 1, left_s=50.0, may_be_followed=True),
            ],
            ["p2", "p1"],  # in the order of their ends
        ),
    ],
)
def test_nodes_are_asked_for_before_those_end_that_a_full_pool_has(
    pilots: list[PilotSupply], after: list[str]
) -> None:
    work = demand(100, required_walltime_s=100.0)
    decisions = decide([pool(max_nodes=2)], [work], pilots)
    assert [d.after for d in decisions if isinstance(d, Grow)] == after


def test_nobody_follows_a_pilot_that_is_too_small_for_what_waits() -> None:
    """Two that follow small ones would never leave room for one that is large enough."""
    small = [supply(name, 1, left_s=50.0, may_be_followed=True) for name in ("p1", "p2")]
    wide = demand(1, need=Resources(ranks=2, ranks_per_node=1), required_walltime_s=100.0)
    assert not [d for d in decide([pool(max_nodes=2)], [wide], small) if isinstance(d, Grow)]


def test_a_pool_with_room_waits_for_nobodys_end() -> None:
    leaving = supply("p1", 2, draining=True, left_s=10.0, may_be_followed=True)
    (grow,) = [
        d for d in decide([pool(max_nodes=4)], [demand(8)], [leaving]) if isinstance(d, Grow)
    ]
    assert (grow.nodes, grow.after) == (2, "")


def test_nobody_follows_where_nothing_is_left_to_do() -> None:
    leaving = supply("p1", 2, draining=True, left_s=10.0, may_be_followed=True)
    assert decide([pool(max_nodes=2)], [demand(4, assigned=4)], [leaving]) == []


# --- why a pool asks for no more -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "pilots", "changes", "why"),
    [
        (1, [], {}, ""),
        (1, [PilotSupply("p", "main", 1, queued=True)], {}, ENOUGH),
        (100, [PilotSupply("p", "main", 2, queued=False)], {"max_nodes": 2}, MAX_NODES),
        (100, [PilotSupply("p", "main", 1, queued=True)], {"max_queued": 1}, MAX_QUEUED),
    ],
)
def test_a_pool_says_why_it_asks_for_no_more(
    count: int, pilots: list[PilotSupply], changes: dict[str, Any], why: str
) -> None:
    limits = PoolLimits("main", NodeShape(4), 0, 8, 1, 2, 3600.0)
    limits = msgspec.structs.replace(limits, **changes)
    work = ClassDemand(Resources(cores=4), "", count, 600.0)
    (its,) = standings([limits], [work], pilots)
    assert its.blocked_by == why
    grows = [d for d in decide([limits], [work], pilots) if isinstance(d, Grow)]
    assert bool(grows) == (not why)


def test_nodes_at_once_that_are_in_use() -> None:
    limits = PoolLimits("main", NodeShape(4), 0, 4, 4, 2, 3600.0)
    work = ClassDemand(Resources(cores=4, ranks=4), "", 1, 600.0)
    pilots = [PilotSupply("p", "main", 2, queued=False)]
    assert standings([limits], [work], pilots)[0].blocked_by == AT_ONCE


def test_no_pilot_is_asked_for_that_is_too_short_for_the_task() -> None:
    limits = PoolLimits("main", NodeShape(4), 0, 4, 4, 2, 3600.0)
    work = ClassDemand(Resources(), "", 1, None, required_walltime_s=3590.0)
    assert decide([limits], [work], []) == []


# --- several resources, and nodes that have too little -------------------------------------------

GPU_NODE = node_shape(4, 16_000, 1)


def test_classes_share_nodes_by_the_resource_that_is_fullest() -> None:
    gpus = demand(4, need=needs(1, gpus=1))
    cores = demand(12)
    memory = demand(4, need=needs(1, memory_mib=16_000))
    limits = pool(shape=GPU_NODE)
    assert nodes_wanted(limits, [gpus])[0] == 4
    assert nodes_wanted(limits, [cores])[0] == 3
    assert nodes_wanted(limits, [gpus, cores])[0] == 4, "each node has three cores left"
    assert nodes_wanted(limits, [gpus, memory, cores])[0] == 5, "20 cores are needed"
    assert nodes_wanted(limits, [memory, memory])[0] == 8


def test_nodes_without_what_a_task_needs_are_none_for_it() -> None:
    """An allocation that a user has made has no GPU; the pool's nodes do."""
    mine = supply("mine", 2, own=True, shape=NodeShape(4), idle_s=1e6)
    limits = pool(shape=GPU_NODE)
    gpus = demand(2, need=needs(1, gpus=1))
    assert grown(decide([limits], [demand(8)], [mine])) == []
    assert grown(decide([limits], [gpus], [mine])) == [("main", 2)]
    assert grown(decide([limits], [gpus], [mine, supply("p", 1, queued=True)])) == [("main", 1)]
    assert grown(decide([limits], [gpus], [mine, supply("p", 2)])) == []
    assert grown(decide([limits], [demand(2, need=needs(1, gpus=2))], [mine])) == [], "nobody has"


needs_of_all_kinds = st.builds(
    needs,
    cores=st.integers(0, 6),
    memory_mib=st.sampled_from([0, 1000, 9000, 20_000]),
    gpus=st.integers(0, 2),
    ranks=st.integers(1, 20),
    ranks_per_node=st.sampled_from([0, 0, 1, 2]),
)
mixes = st.lists(
    st.builds(
        demand,
        count=st.integers(1, 200),
        mean_s=st.sampled_from([None, 0.01, 1.0, 1e4]),
        need=needs_of_all_kinds,
        required_walltime_s=st.sampled_from([0.0, 3000.0, 1e5]),
    ),
    max_size=4,
)


@given(mixes)
def test_several_classes_are_worth_no_more_than_one_after_the_other(
    mix: list[ClassDemand],
) -> None:
    limits = pool(shape=GPU_NODE)
    alone = [nodes_wanted(limits, [work])[0] for work in mix]
    together = nodes_wanted(limits, mix)[0]
    assert max(alone, default=0) <= together <= sum(alone)


class Pool:
    """A pool under a constant load: what is decided comes true at the next step.

    Busy nodes are those that the load is worth; all that a pilot has beyond is idle.
    """

    def __init__(self, limits: PoolLimits, mix: list[ClassDemand]) -> None:
        self.limits, self.mix = limits, mix
        self.pilots: dict[str, PilotSupply] = {}
        self.asked = 0

    def step(self) -> list[Grow | End | Shrink]:
        pilots = list(self.pilots.values())
        stands = standings([self.limits], self.mix, pilots)
        surplus = unwanted(stands, pilots)
        decisions = decide([self.limits], self.mix, pilots)
        busy, at_once = nodes_wanted(self.limits, self.mix)
        aged = {}
        # The largest pilots work first: gangs need them.
        for pilot in sorted(pilots, key=lambda pilot: -pilot.nodes):
            used = 0 if pilot.queued else min(busy, pilot.nodes)
            if at_once > pilot.nodes and at_once == busy:
                used = 0
            busy -= used
            is_idle = pilot.name in surplus if pilot.queued else not used
            idle = sorted(pilot.idle_nodes_s, reverse=True)[: pilot.nodes - used]
            idle += [0.0] * (pilot.nodes - used - len(idle))
            aged[pilot.name] = msgspec.structs.replace(
                pilot,
                queued=False,
                idle_s=pilot.idle_s + 30.0 if is_idle else 0.0,
                idle_nodes_s=tuple(s + 30.0 for s in idle) if used else (),
            )
        self.pilots = aged
        for each in decisions:
            if isinstance(each, Grow):
                self.asked += 1
                name = f"p{self.asked}"
                # As many as the batch system has to give.
                nodes = each.nodes if self.asked % 2 else each.least_nodes or each.nodes
                self.pilots[name] = supply(name, nodes, queued=True)
            elif isinstance(each, End):
                del self.pilots[each.pilot]
            else:
                its = self.pilots[each.pilot]
                self.pilots[each.pilot] = msgspec.structs.replace(
                    its, nodes=its.nodes - each.nodes, idle_nodes_s=()
                )
        assert sum(pilot.nodes for pilot in self.pilots.values()) <= self.limits.max_nodes
        assert sum(pilot.queued for pilot in self.pilots.values()) <= self.limits.max_queued
        return decisions


@given(mixes, st.integers(1, 4), st.integers(4, 12), st.integers(1, 3), st.booleans())
def test_constant_load_comes_to_rest_and_no_load_to_nothing(
    mix: list[ClassDemand], per_pilot: int, most: int, queued: int, is_flexible: bool
) -> None:
    limits = pool(
        shape=GPU_NODE,
        max_nodes=most,
        nodes_per_pilot=per_pilot,
        max_queued=queued,
        is_flexible=is_flexible,
    )
    world = Pool(limits, mix)
    for _ in range(60):
        world.step()
    for _ in range(10):
        assert world.step() == [], "it goes to and fro"
    if not nodes_wanted(limits, mix)[0]:
        assert not world.pilots, "it grows for what cannot run"
    world.mix = []
    for _ in range(10):
        world.step()
    assert not world.pilots
