"""The workloads of large values in ``scripts/bench`` compute what they should; nothing is timed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "lib"))

from bench import alltoall, arrays, blocked, chain, dense, measure

COUNT, SIZE = 3, 8


class Here:
    """A system that runs each call at once, in this process."""

    name = "here"
    takes_futures = True

    def __init__(self) -> None:
        self.calls = 0
        self.released: list[Any] = []

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run it; the value is its own future."""
        self.calls += 1
        return function(*args)

    def submit_many(
        self, function: Callable[..., Any], rows: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        return [self.submit(function, *row) for row in rows]

    def values(self, futures: Sequence[Any], timeout_s: float) -> list[Any]:
        return list(futures)

    def wait(self, futures: Sequence[Any], timeout_s: float) -> None:
        return None

    def release(self, futures: Sequence[Any]) -> None:
        self.released += futures

    def traffic(self) -> dict[str, float]:
        return {"written": 10.0 * self.calls, "moved": 0.0}


@pytest.mark.parametrize(
    ("load", "made", "steps", "replaced"),
    [
        # Each block of the product has one product, and two that are added.
        (blocked.matmul, 18, 27, 18),
        # 3 factors, 3 solved, 4 less a product; each of them replaces a block.
        (blocked.cholesky, 6, 10, 10),
    ],
)
def test_algebra_in_blocks_gives_what_numpy_gives(
    load: Callable[..., dict[str, float]], made: int, steps: int, replaced: int, tmp_path: Path
) -> None:
    expected = tmp_path / "expected.npy"
    dense.seconds(load.__name__, COUNT, SIZE, 1, expected, 60.0)
    system = Here()
    found = load(system, count=COUNT, size=SIZE, expected=str(expected))
    assert system.calls == made + steps
    assert found["written"] == 10 * steps
    # What the load has made itself is released at the end, where it was not replaced.
    assert len(system.released) == replaced + (made if load is blocked.matmul else 0)


@pytest.mark.parametrize("load", [blocked.matmul, blocked.cholesky])
def test_a_wrong_block_is_found(load: Callable[..., dict[str, float]], tmp_path: Path) -> None:
    expected = tmp_path / "expected.npy"
    dense.seconds(load.__name__, COUNT, SIZE, 1, expected, 60.0)
    whole = np.load(expected)
    whole[-1, -1] *= 1.001
    np.save(expected, whole)
    with pytest.raises(RuntimeError, match="block 2, 2 is not what NumPy computes"):
        load(Here(), count=COUNT, size=SIZE, expected=str(expected))


@pytest.mark.parametrize("way", sorted(chain.WAYS))
def test_each_way_of_a_chain_makes_a_step_and_leaves_one_file(way: str, tmp_path: Path) -> None:
    save, step, load = chain.WAYS[way]
    before, after = str(tmp_path / "before"), str(tmp_path / "after")
    save(arrays.made(0, 100), before)
    step(before, after)
    assert arrays.is_made(load(after), 1)
    assert not arrays.is_made(load(after), 0)
    assert [path.name for path in tmp_path.iterdir()] == ["after"]


def test_what_is_gathered_over_values_and_over_files_is_the_same(tmp_path: Path) -> None:
    makers = range(alltoall.NODES * alltoall.LANES)
    values = [arrays.made_parts(number, alltoall.PARTS, 64) for number in makers]
    files = [
        arrays.saved_parts(number, alltoall.PARTS, 64, str(tmp_path), number == 0)
        for number in makers
    ]
    totals = [
        arrays.gathered(*(maker[part] for maker in lane)) for lane, part in alltoall._lanes(values)
    ]
    assert totals == [
        arrays.gathered_from_files(part, lane) for lane, part in alltoall._lanes(files)
    ]
    alltoall._check(totals, 64)
    totals[3] += 1
    with pytest.raises(RuntimeError, match="did not gather"):
        alltoall._check(totals, 64)


def test_each_block_is_gathered_once() -> None:
    lanes = alltoall._lanes(list(range(alltoall.NODES * alltoall.LANES)))
    blocks = [(maker, part) for lane, part in lanes for maker in lane]
    assert len(blocks) == len(set(blocks)) == alltoall.NODES * alltoall.LANES * alltoall.PARTS


def test_readers_meet(tmp_path: Path) -> None:
    (tmp_path / "1").touch()
    assert arrays.met(arrays.made(1, 4), 0, str(tmp_path), 2) == 10


def test_the_kernel_tells_what_was_read_and_what_memory_is_shared(tmp_path: Path) -> None:
    before = measure.read(os.getpid())
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_bytes(bytes(1 << 20))
    assert len((tmp_path / "below" / "file").read_bytes()) == 1 << 20
    assert measure.read(os.getpid()) - before >= 1 << 20
    assert measure.size_mib(tmp_path) == 1
    assert measure.shared_mib([os.getpid()]) > 1
