"""Which nodes, cores and other things a task gets in a pilot."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pilot.scheduler.amounts import UNIT
from pilot.scheduler.placement import FreeNode, Indexed, NodeAllocation, Portion, Sum, place, things
from pilot.scheduler.resources import Resources, Supply, indexed, needs, node_shape


def nodes(
    *cores: int, memory_mib: int = 0, gpus: int = 0, others: tuple[Supply, ...] = ()
) -> list[FreeNode]:
    return [
        FreeNode(f"n{number}", node_shape(count, memory_mib, gpus, others), number)
        for number, count in enumerate(cores)
    ]


def layout(shares: list[NodeAllocation] | None) -> list[tuple[str, int]] | None:
    return None if shares is None else [(share.node, share.ranks) for share in shares]


def taken(need: Resources, free: list[FreeNode]) -> list[NodeAllocation]:
    shares = place(need, free)
    assert shares is not None
    for share in shares:
        next(node for node in free if node.name == share.node).take(share)
    return shares


def test_plain_task_leaves_the_larger_hole() -> None:
    assert layout(place(Resources(cores=2), nodes(8, 2, 4))) == [("n1", 1)]


def test_no_room() -> None:
    assert place(Resources(cores=5), nodes(4, 4)) is None
    assert place(Resources(ranks=9), nodes(4, 4)) is None
    assert place(needs(gpus=1), nodes(4)) is None
    assert place(needs(named={"fpga": UNIT}), nodes(4, gpus=4)) is None


def test_ranks_stay_on_one_node_where_they_can() -> None:
    assert layout(place(Resources(ranks=4), nodes(2, 4, 8))) == [("n1", 4)]


def test_ranks_take_as_few_nodes_as_possible_in_their_order() -> None:
    assert layout(place(Resources(ranks=6), nodes(1, 2, 4))) == [("n1", 2), ("n2", 4)]


def test_given_layout_is_kept() -> None:
    need = Resources(ranks=5, ranks_per_node=2)
    assert layout(place(need, nodes(4, 1, 4, 4))) == [("n0", 2), ("n2", 2), ("n3", 1)] or layout(
        place(need, nodes(4, 1, 4, 4))
    ) == [("n0", 2), ("n2", 1), ("n3", 2)]
    assert place(need, nodes(4, 1, 4)) is None


def test_memory_counts_where_it_is_known() -> None:
    need = needs(memory_mib=600)
    assert place(need, nodes(4, memory_mib=500)) is None
    assert place(need, nodes(4)) is not None
    free = nodes(4, memory_mib=1000)
    (first,) = taken(need, free)
    assert place(need, free) is None
    free[0].release(first)
    assert place(need, free) is not None


def test_each_rank_has_things_of_its_own() -> None:
    free = nodes(4, gpus=4, others=(indexed("fpga", ["a", "b"]),))
    (share,) = taken(needs(gpus=2, named={"fpga": UNIT}, ranks=2), free)
    by_name = {portion.name: portion for portion in share.named}
    assert by_name["gpus"].indices == ("0", "1", "2", "3")
    assert [by_name["gpus"].of_rank(rank).indices for rank in (0, 1)] == [("0", "1"), ("2", "3")]
    assert [by_name["fpga"].of_rank(rank).indices for rank in (0, 1)] == [("a",), ("b",)]


def test_parts_share_one_thing_and_leave_whole_ones_whole() -> None:
    free = nodes(8, gpus=2)
    half = needs(named={"gpus": UNIT // 2})
    first, second = taken(half, free)[0], taken(half, free)[0]
    assert first.named[0].indices == second.named[0].indices == ("0",)
    assert taken(needs(gpus=1), free)[0].named[0].indices == ("1",)
    assert place(half, free) is None
    free[0].release(first)
    assert place(needs(gpus=1), free) is None
    (again,) = taken(half, free)
    assert again.named[0].indices == ("0",)


def test_two_parts_do_not_make_a_larger_one() -> None:
    free = nodes(8, gpus=2)
    for _ in range(2):
        taken(needs(named={"gpus": 3 * UNIT // 4}), free)
    assert place(needs(named={"gpus": UNIT // 2}), free) is None
    assert place(needs(named={"gpus": UNIT // 4}, ranks=2), free) is not None


def test_more_than_one_is_given_whole() -> None:
    assert place(needs(named={"gpus": 3 * UNIT // 2}), nodes(8, gpus=4)) is None
    assert place(
        needs(named={"space": 3 * UNIT // 2}), nodes(8, others=(Supply("space", 2 * UNIT),))
    )


def test_what_is_in_the_way_of_a_share_is_one_of_the_things_of_whoever_has_it() -> None:
    free = nodes(4, memory_mib=1000, gpus=2)
    (node,) = free
    (share,) = taken(needs(2, memory_mib=800, gpus=1), free)
    for wanted in (
        NodeAllocation("n0", 1, (0,)),
        NodeAllocation("n0", 1, (3,), (Portion("gpus", UNIT, 1, ("0",)),)),
        NodeAllocation("n0", 1, (3,), (Portion("gpus", UNIT // 2, 1, ("0",)),)),
        NodeAllocation("n0", 1, (3,), (Portion("memory", 300 * UNIT),)),
    ):
        assert node.obstacle(wanted) in things(share)
        node.release(share)
        assert node.obstacle(wanted) is None
        node.take(share)


PARTS = (UNIT // 4, UNIT // 2, UNIT, 2 * UNIT)

random_needs = st.builds(
    needs,
    st.integers(1, 4),
    memory_mib=st.sampled_from([0, 100, 400]),
    gpus=st.integers(0, 1),
    ranks=st.integers(1, 6),
    ranks_per_node=st.integers(0, 3),
    named=st.fixed_dictionaries(
        {},
        optional={"fpga": st.sampled_from(PARTS), "space": st.integers(1, 2 * UNIT)},
    ),
)
OTHERS = (indexed("fpga", "abc"), Supply("space", 3 * UNIT))


@given(
    st.lists(st.integers(1, 8), min_size=1, max_size=4),
    st.lists(st.tuples(random_needs, st.booleans()), max_size=20),
)
def test_nothing_is_given_twice(cores: list[int], steps: list[tuple[Resources, bool]]) -> None:
    free = {node.name: node for node in nodes(*cores, memory_mib=1000, gpus=2, others=OTHERS)}
    given_away: list[list[NodeAllocation]] = []
    for need, leave in steps:
        if leave and given_away:
            for share in given_away.pop(0):
                free[share.node].release(share)
        shares = place(need, free.values())
        if shares is None:
            continue
        assert sum(share.ranks for share in shares) == need.ranks
        assert [share.node for share in shares] == sorted({share.node for share in shares})
        for share in shares:
            node = free[share.node]
            assert node.obstacle(share) is None
            assert len(share.cores) == need.cores * share.ranks
            _check_portions(need, share, node)
            node.take(share)
        given_away.append(shares)
        for name, node in free.items():
            here = [share for shares in given_away for share in shares if share.node == name]
            used = [core for share in here for core in share.cores]
            assert sorted([*used, *node.cores]) == list(range(node.shape.cores))
            _check_node(node, here)
    for shares in given_away:
        for share in shares:
            free[share.node].release(share)
    for node in free.values():
        assert node.cores == set(range(node.shape.cores))
        _check_node(node, [])


def _check_portions(need: Resources, share: NodeAllocation, node: FreeNode) -> None:
    """Each rank has what it needs, and nobody else's."""
    assert [(portion.name, portion.amount) for portion in share.named] == list(need.named)
    for portion in share.named:
        if isinstance(node.named[portion.name], Sum):
            assert not portion.indices
            continue
        ranks = [portion.of_rank(rank).indices for rank in range(share.ranks)]
        assert all(len(set(its)) == max(1, portion.amount // UNIT) for its in ranks)
        assert [index for its in ranks for index in its] == list(portion.indices)


def _check_node(node: FreeNode, here: list[NodeAllocation]) -> None:
    """What is free and what is given away is what there is."""
    for supply in node.shape.named:
        stock = node.named[supply.name]
        mine = [(s, portion) for s in here for portion in s.named if portion.name == supply.name]
        if isinstance(stock, Indexed):
            used: Counter[str] = Counter()
            for _, portion in mine:
                for index in portion.indices:
                    used[index] += min(portion.amount, UNIT)
            assert stock.free == {index: UNIT - used[index] for index in supply.indices}
            assert min(stock.free.values()) >= 0
        else:
            assert stock.free == supply.amount - sum(p.amount * s.ranks for s, p in mine) >= 0
