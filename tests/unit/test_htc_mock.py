"""The tree of the HTC Mock and what must come out of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.htc import MANY_FAULTS, TREE, htc_mock

Mock = htc_mock.Mock


@st.composite
def mocks(draw: st.DrawFn) -> htc_mock.Mock:
    levels = draw(st.integers(1, 40))
    return Mock(draw(st.integers(2 * levels + 1, 400)), levels, seed=draw(st.integers(0, 99)))


@given(mocks())
def test_each_number_is_that_of_one_task(mock: htc_mock.Mock) -> None:
    found = [n for branch in htc_mock.walk(mock) for n in {branch.first, branch.last}]
    assert sorted(found) == list(range(mock.tasks))


@given(mocks())
def test_a_tree_has_its_levels(mock: htc_mock.Mock) -> None:
    levels, depth = [mock.root], 0
    while below := [child for b in levels if not b.is_leaf for child in b.children(mock)]:
        levels, depth = below, depth + 1
    assert depth == mock.levels


def test_seeds_make_different_trees_and_answers() -> None:
    found = {htc_mock.expected(TREE._replace(seed=seed)).value for seed in range(10)}
    shapes = {tuple(htc_mock.walk(TREE._replace(seed=seed))) for seed in range(10)}
    assert len(found) == len(shapes) == 10


def test_the_answer_tells_when_results_come_in_another_order() -> None:
    assert htc_mock.result(TREE, 5, [b"1", b"2"]) != htc_mock.result(TREE, 5, [b"2", b"1"])
    assert htc_mock.result(TREE, 5, [b"12", b""]) != htc_mock.result(TREE, 5, [b"1", b"2"])


def test_results_carry_their_data() -> None:
    assert len(htc_mock.result(TREE._replace(data=1000), 5)) == 16 + 1000
    assert len(htc_mock.result(TREE, 5)) == 16


@pytest.mark.parametrize(("tasks", "levels"), [(0, 0), (2, 1), (2, 0), (10, 0), (4, 2), (3, -1)])
def test_a_tree_that_cannot_be_is_refused(tasks: int, levels: int) -> None:
    with pytest.raises(ValueError, match="tree"):
        htc_mock.expected(Mock(tasks, levels))


def test_a_task_is_tried_as_often_as_its_policy_says() -> None:
    mock = TREE._replace(faults=htc_mock.Faults(error=1.0))
    assert htc_mock.attempts(mock, 7, is_leaf=True) == ["error"] * 2
    assert htc_mock.attempts(mock, 7, is_leaf=False) == ["error"] * 21
    mock = TREE._replace(faults=htc_mock.Faults(kill=1.0))
    assert htc_mock.attempts(mock, 7, is_leaf=True) == ["crash"] * 2
    mock = TREE._replace(faults=htc_mock.Faults(hang=1.0))
    assert htc_mock.attempts(mock, 7, is_leaf=True) == ["timeout"]
    assert htc_mock.attempts(mock, 7, is_leaf=False) == ["ok"]
    with pytest.raises(ValueError, match="fails for good"):
        htc_mock.expected(TREE._replace(faults=htc_mock.Faults(error=1.0)))


def test_the_small_tree_suffers_from_every_kind_of_fault() -> None:
    mock = TREE._replace(faults=MANY_FAULTS)
    found = {
        htc_mock.fault(mock, number, attempt, branch.is_leaf)
        for branch in htc_mock.walk(mock)
        for number in {branch.first, branch.last}
        for attempt in range(1, 1 + len(htc_mock.attempts(mock, number, branch.is_leaf)))
    }
    assert found == {"", "error", "exit", "kill", "hang"}
    assert htc_mock.expected(mock).states["FAILED"] > 0
