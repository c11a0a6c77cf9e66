"""How many nodes to ask for, and which pilots to end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilot.scheduler.assignment import DRAIN_S, START_S, fits, longest_s, required_walltime_s
from pilot.scheduler.elasticity import (
    AT_ONCE,
    ENOUGH,
    MAX_NODES,
    MAX_QUEUED,
    PATIENCE_S,
    ClassDemand,
    End,
    Grow,
    PilotSupply,
    PoolLimits,
    decide,
    nodes_wanted,
    standings,
)
from pilot.scheduler.resources import NodeShape, Resources


def pool(name: str = "main", **changes: Any) -> PoolLimits:
    fields: dict[str, Any] = {
        "shape": NodeShape(4),
        "min_nodes": 0,
        "max_nodes": 8,
        "nodes_per_pilot": 4,
        "max_queued": 2,
        "walltime_s": 3600.0,
        "idle_s": 60.0,
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
        (demand(400, PATIENCE_S / 10), 10),
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


# --- growing --------------------------------------------------------------------------------------


def grown(decisions: list[Grow | End]) -> list[tuple[str, int]]:
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
    late = supply(left_s=LATE, idle_s=60.0)
    assert ended(decide([pool(max_nodes=1)], [work], [late])) == ["p1"]
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


@settings(deadline=None)
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


def ended(decisions: list[Grow | End]) -> list[str]:
    return [each.pilot for each in decisions if isinstance(each, End)]


def test_idle_pilot_ends_after_its_time() -> None:
    assert ended(decide([pool()], [], [supply(idle_s=59.0)])) == []
    assert ended(decide([pool()], [], [supply(idle_s=60.0)])) == ["p1"]


def test_busy_pilot_never_ends() -> None:
    assert ended(decide([pool()], [demand(1)], [supply("a"), supply("b")])) == []


def test_queued_pilot_ends_when_nothing_is_left() -> None:
    queued = supply(queued=True)
    assert ended(decide([pool()], [], [queued])) == ["p1"]
    assert ended(decide([pool()], [demand(1)], [queued])) == []


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
        idle_s=st.sampled_from([0.0, 10.0, 100.0]),
        draining=st.booleans(),
        left_s=st.sampled_from([10.0, 100.0, 3600.0]),
        load=st.integers(0, 8),
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
        if new:
            assert held + sum(new) <= limits.max_nodes
            assert sum(p.queued for p in mine) + len(new) <= limits.max_queued
    by_name = {pilot.name: pilot for pilot in pilots}
    names = ended(decisions)
    assert len(names) == len(set(names))
    for name in names:
        pilot = by_name[name]
        assert not pilot.draining
        assert pilot.queued or pilot.idle_s > 0, "work that runs is never ended to save a node"


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
    limits = PoolLimits("main", NodeShape(4), 0, 8, 1, 2, 3600.0, 60.0)
    limits = msgspec.structs.replace(limits, **changes)
    work = ClassDemand(Resources(cores=4), "", count, 600.0)
    (its,) = standings([limits], [work], pilots)
    assert its.blocked_by == why
    grows = [d for d in decide([limits], [work], pilots) if isinstance(d, Grow)]
    assert bool(grows) == (not why)


def test_nodes_at_once_that_are_in_use() -> None:
    limits = PoolLimits("main", NodeShape(4), 0, 4, 4, 2, 3600.0, 60.0)
    work = ClassDemand(Resources(cores=4, ranks=4), "", 1, 600.0)
    pilots = [PilotSupply("p", "main", 2, queued=False)]
    assert standings([limits], [work], pilots)[0].blocked_by == AT_ONCE


def test_no_pilot_is_asked_for_that_is_too_short_for_the_task() -> None:
    limits = PoolLimits("main", NodeShape(4), 0, 4, 4, 2, 3600.0, 60.0)
    work = ClassDemand(Resources(), "", 1, None, required_walltime_s=3590.0)
    assert decide([limits], [work], []) == []
