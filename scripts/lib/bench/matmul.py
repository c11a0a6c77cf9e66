"""MATMUL, the product of two matrices of 8 by 8 blocks of 8 MiB: 512 tasks (see `blocked`).

Each task has one thread. Beside it Dask distributed with as many workers of one thread, where it
is installed, and plain NumPy on the whole matrices with as many threads.
"""

from __future__ import annotations

from bench.algebra import measure_algebra
from bench.stage import Stage


def run(stage: Stage) -> None:
    """Measure."""
    measure_algebra(stage, "matmul", "product")
