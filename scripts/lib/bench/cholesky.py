"""CHOLESKY, the factor of a matrix of 8 by 8 blocks of 8 MiB: 120 tasks (see `blocked`).

Beside it what is beside MATMUL.
"""

from __future__ import annotations

from bench.algebra import measure_algebra
from bench.stage import Stage


def run(stage: Stage) -> None:
    """Measure."""
    measure_algebra(stage, "cholesky", "factor")
