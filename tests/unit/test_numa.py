"""Cores that share near memory: how they are found, and how ranks are put on them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.scheduler.placement import FreeNode, place
from pilot.scheduler.resources import Resources, common_shape, node_shape
from pilot.worker.numa import domains

TWO = msgspec.structs.replace(node_shape(8), domains=((0, 1, 2, 3), (4, 5, 6, 7)))


def machine(directory: Path, *lists: str) -> Path:
    for number, processors in enumerate(lists):
        (directory / f"node{number}").mkdir()
        (directory / f"node{number}" / "cpulist").write_text(f"{processors}\n")
    return directory


def test_processors_become_cores_of_the_pilot(tmp_path: Path) -> None:
    sysfs = machine(tmp_path, "0-3,8-11", "4-7,12-15")
    assert domains(16, range(16), sysfs)[0] == (0, 1, 2, 3, 8, 9, 10, 11)
    # The job has some of them: they are numbered from 0.
    assert domains(4, [2, 3, 12, 13], sysfs) == ((0, 1), (2, 3))
    assert domains(2, [2, 3, 12, 13], sysfs) == (), "all that it has are of one"
    assert domains(5, [2, 3, 12, 13], sysfs) == (), "nothing is pinned"


@pytest.mark.parametrize("text", ["", "x", "0-"])
def test_what_cannot_be_read_is_not_known(tmp_path: Path, text: str) -> None:
    assert domains(4, range(4), machine(tmp_path, "0-1", text)) in ((), ((0, 1), (2, 3)))
    assert domains(4, range(4), tmp_path / "none") == ()


def test_a_task_is_on_one_numa_node_where_that_can_be() -> None:
    node = FreeNode("n0", TWO)
    (small,) = place(Resources(cores=1), [node]) or []
    node.take(small)
    assert small.cores == (0,)
    (wide,) = place(Resources(cores=4), [node]) or []
    assert wide.cores == (4, 5, 6, 7), "three are left beside the small one"
    node.take(wide)
    (rest,) = place(Resources(cores=2), [node]) or []
    assert rest.cores == (1, 2)
    node.release(wide)
    (large,) = place(Resources(cores=6), [node]) or []
    assert large.cores == (4, 5, 6, 7, 1, 2)


def test_ranks_are_each_on_one() -> None:
    node = FreeNode("n0", TWO)
    (share,) = place(Resources(cores=3, ranks=2), [node]) or []
    assert share.cores == (0, 1, 2, 4, 5, 6)


@given(st.sets(st.integers(0, 7)), st.integers(0, 3), st.integers(1, 4))
def test_as_many_as_asked_for_each_free_and_each_once(
    free: set[int], each: int, ranks: int
) -> None:
    node = FreeNode("n0", TWO)
    node.cores = free
    if node.fit(Resources(each)) >= ranks:
        cores = node.cut(Resources(each, ranks=ranks), ranks).cores
        assert len(cores) == len(set(cores)) == each * ranks and free.issuperset(cores)


def test_the_head_counts_nodes_alike_whatever_they_are_made_of() -> None:
    shapes = [TWO, node_shape(8)]
    assert common_shape(shapes).cores == 8
