"""Which nodes, cores and GPUs a task gets in a pilot."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pilot.scheduler.placement import FreeNode, Share, place
from pilot.scheduler.resources import NodeShape, Resources


def nodes(*cores: int, memory_mib: int = 0, gpus: int = 0) -> list[FreeNode]:
    return [
        FreeNode(f"n{number}", NodeShape(count, memory_mib, gpus), number)
        for number, count in enumerate(cores)
    ]


def layout(shares: list[Share] | None) -> list[tuple[str, int]] | None:
    return None if shares is None else [(share.node, share.ranks) for share in shares]


def test_plain_task_leaves_the_larger_hole() -> None:
    assert layout(place(Resources(cores=2), nodes(8, 2, 4))) == [("n1", 1)]


def test_no_room() -> None:
    assert place(Resources(cores=5), nodes(4, 4)) is None
    assert place(Resources(ranks=9), nodes(4, 4)) is None
    assert place(Resources(gpus=1), nodes(4)) is None


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
    need = Resources(memory_mib=600)
    assert place(need, nodes(4, memory_mib=500)) is None
    free = nodes(4, memory_mib=1000)
    first = place(need, free)
    assert first is not None
    free[0].take(first[0])
    assert place(need, free) is None
    free[0].give_back(first[0])
    assert place(need, free) is not None


needs = st.builds(
    Resources,
    cores=st.integers(1, 4),
    memory_mib=st.sampled_from([0, 100, 400]),
    gpus=st.integers(0, 1),
    ranks=st.integers(1, 6),
    ranks_per_node=st.integers(0, 3),
).map(lambda n: Resources(n.cores, n.memory_mib, n.gpus, n.ranks, min(n.ranks, n.ranks_per_node)))


@given(
    st.lists(st.integers(1, 8), min_size=1, max_size=4),
    st.lists(st.tuples(needs, st.booleans()), max_size=20),
)
def test_nothing_is_given_twice(cores: list[int], steps: list[tuple[Resources, bool]]) -> None:
    free = {node.name: node for node in nodes(*cores, memory_mib=1000, gpus=2)}
    taken: list[list[Share]] = []
    for need, leave in steps:
        if leave and taken:
            for share in taken.pop(0):
                free[share.node].give_back(share)
        shares = place(need, free.values())
        if shares is None:
            continue
        assert sum(share.ranks for share in shares) == need.ranks
        assert [share.node for share in shares] == sorted({share.node for share in shares})
        for share in shares:
            assert free[share.node].holds(share)
            assert len(share.cores) == need.cores * share.ranks
            assert len(share.gpus) == need.gpus * share.ranks
            free[share.node].take(share)
        taken.append(shares)
        for name, node in free.items():
            used = [c for shares in taken for s in shares if s.node == name for c in s.cores]
            assert sorted([*used, *node.cores]) == list(range(node.shape.cores))
            assert node.memory_mib is not None and node.memory_mib >= 0
    for shares in taken:
        for share in shares:
            free[share.node].give_back(share)
    for node in free.values():
        assert node.cores == set(range(node.shape.cores)) and node.gpus == {0, 1}
        assert node.memory_mib == 1000
