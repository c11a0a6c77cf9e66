"""Parts of arguments for ranks, and the results of all of them."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pilot
from pilot.client.caching.keys import source_digest
from pilot.client.rank_function import RankFunction, make_rank_function, rows_of_rank


@given(st.integers(0, 200), st.integers(1, 20))
def test_rows_of_ranks_are_all_rows_in_order(count: int, size: int) -> None:
    rows = list(range(count))
    parts = [rows[rows_of_rank(count, rank, size)] for rank in range(size)]
    assert [row for part in parts for row in part] == rows
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert parts == sorted(parts, key=len, reverse=True), "the first ones have more"


def scale(x: Any, factor: float = 1.0, *, offset: float = 0.0) -> Any:
    return np.asarray(x) * factor + offset


@pytest.mark.parametrize(
    ("split", "result", "told"),
    [
        ("y", "first", "has no parameter 'y'; it has x, factor, offset"),
        (["x", "z"], "first", "has no parameter 'z'"),
        (7, "first", "give the names"),
        ("x", "all", "give one of first, list, rows"),
    ],
)
def test_wrong_parts_are_refused(split: Any, result: str, told: str) -> None:
    with pytest.raises(pilot.OptionError, match=told):
        pilot.mpi(ranks=2, split=split, result=result)(scale)


def test_a_task_has_no_parts() -> None:
    with pytest.raises(pilot.OptionError, match="plain function"):
        pilot.mpi(ranks=2, split="x")(pilot.task(scale))


def test_without_parts_it_is_the_function() -> None:
    assert pilot.mpi(ranks=2)(scale).function is scale
    assert make_rank_function(scale, (), "first") is scale


def test_it_looks_like_the_function_and_can_be_called_here() -> None:
    task = pilot.mpi(ranks=2, split="x", result="list")(scale)
    assert (task.__name__, task.kind) == ("scale", "mpi")
    (value,) = task([1, 2], factor=3.0)
    assert value.tolist() == [3.0, 6.0]
    again: Any = pickle.loads(pickle.dumps(task.function))
    assert isinstance(again, RankFunction) and (again.split, again.result) == (("x",), "list")


def test_methods_have_parts() -> None:
    class Model:
        factor = 2.0

        @pilot.mpi(ranks=2, split="x", result="rows")
        def run(self, x: Any) -> Any:
            return np.asarray(x) * self.factor

    assert Model().run([1.0]).tolist() == [2.0]


def test_earlier_results_are_those_of_the_same_parts() -> None:
    def digest(**parts: Any) -> bytes:
        return source_digest(pilot.mpi(ranks=2, **parts)(scale), 2)

    digests = [
        digest(),
        digest(split="x"),
        digest(split="x", result="rows"),
        digest(result="list"),
    ]
    assert len({*digests}) == 4 and digest(split="x") == digests[1]
