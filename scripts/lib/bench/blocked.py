"""The loads of MATMUL and CHOLESKY: linear algebra in square blocks, one task for each step of one.

The matrices are made by tasks before the clock starts; it stops when all blocks of the result are
there, and these are compared with NumPy's after that. What a later step has replaced is released.
Peers run these loads, too: nothing here imports Pilot.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.dense import LEFT, RIGHT
from bench.measure import Deadline
from bench.systems import BlockSystem

LIMIT_S = 240.0

#: Row and column → the future of a block.
Blocks = dict[tuple[int, int], Any]


def matmul(system: BlockSystem, count: int, size: int, expected: str) -> dict[str, float]:
    """Multiply two matrices of ``count * count`` blocks; return the figures of `_run`."""
    from bench import arrays

    def make() -> tuple[Blocks, Blocks]:
        left, right = (
            {
                (row, column): system.submit(arrays.random_block, seed, row, column, size)
                for row in range(count)
                for column in range(count)
            }
            for seed in (LEFT, RIGHT)
        )
        return left, right

    def work(made: tuple[Blocks, Blocks]) -> Blocks:
        left, right = made
        found: Blocks = {}
        for row in range(count):
            for column in range(count):
                block = system.submit(arrays.product, left[row, 0], right[0, column])
                for inner in range(1, count):
                    before = block
                    block = system.submit(
                        arrays.plus_product, before, left[row, inner], right[inner, column]
                    )
                    system.release([before])
                found[row, column] = block
        return found

    return _run(system, make, work, expected, size)


def cholesky(system: BlockSystem, count: int, size: int, expected: str) -> dict[str, float]:
    """Factor a matrix of ``count * count`` blocks, given its lower half; return the figures of
    `_run`."""
    from bench import arrays

    def make() -> tuple[Blocks]:
        return (
            {
                (row, column): system.submit(arrays.positive_block, LEFT, row, column, size, count)
                for row in range(count)
                for column in range(row + 1)
            },
        )

    def work(made: tuple[Blocks]) -> Blocks:
        left, lower = made[0], {}
        for inner in range(count):
            before = left.pop((inner, inner))
            lower[inner, inner] = system.submit(arrays.factor, before)
            system.release([before])
            for row in range(inner + 1, count):
                before = left.pop((row, inner))
                lower[row, inner] = system.submit(arrays.solved, lower[inner, inner], before)
                system.release([before])
            for (row, column), before in left.items():
                left[row, column] = system.submit(
                    arrays.minus_product, before, lower[row, inner], lower[column, inner]
                )
                system.release([before])
        return lower

    return _run(system, make, work, expected, size)


def _run(
    system: BlockSystem,
    make: Callable[[], tuple[Blocks, ...]],
    work: Callable[[Any], Blocks],
    expected: str,
    size: int,
) -> dict[str, float]:
    """Return the seconds from the first submission to the last block, and what `traffic` counted
    meanwhile. Raise an error if the result is not NumPy's, which is in the file `expected`."""
    import numpy as np

    deadline = Deadline(LIMIT_S)
    made = make()
    system.wait([future for blocks in made for future in blocks.values()], deadline.left_s())
    before = system.traffic()
    begin = time.perf_counter()
    found = work(made)
    system.wait(list(found.values()), deadline.left_s())
    elapsed_s = time.perf_counter() - begin
    after = system.traffic()
    whole = np.load(Path(expected), mmap_mode="r")
    # One by one: a client need not have room for all.
    while found:
        (row, column), future = found.popitem()
        (block,) = system.values([future], deadline.left_s())
        rows, columns = (slice(place * size, (place + 1) * size) for place in (row, column))
        if not np.allclose(block, whole[rows, columns], rtol=1e-8):
            raise RuntimeError(f"block {row}, {column} is not what NumPy computes")
    system.release([future for blocks in made for future in blocks.values()])
    return {"s": elapsed_s, **{name: after[name] - before[name] for name in after}}
