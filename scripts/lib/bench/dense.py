"""Plain NumPy beside MATMUL and CHOLESKY: whole matrices, in a process of its own.

``python -m bench.dense matmul|cholesky COUNT SIZE FILE`` saves the result in a file, prints the
seconds that the computation took, and nothing else. As many threads of the BLAS as its variables
say.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

#: The seeds of the matrices.
LEFT, RIGHT = 1, 2
_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


def seconds(what: str, count: int, size: int, threads: int, result: Path, limit_s: float) -> float:
    """Return the seconds that NumPy takes for matrices of ``count * count`` square blocks, and
    leave what it found in a file."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.dense", what, str(count), str(size), str(result)],
        env={
            **os.environ,
            **dict.fromkeys(_VARIABLES, str(threads)),
            "PYTHONPATH": str(Path(__file__).parents[1]),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=limit_s,
    )
    return float(done.stdout)


def main() -> None:
    """Compute."""
    import numpy as np

    from bench import arrays

    what, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if what == "matmul":
        left, right = (arrays.whole("random", seed, count, size) for seed in (LEFT, RIGHT))
        begin = time.perf_counter()
        found: arrays.Block = left @ right
    else:
        matrix = arrays.whole("positive", LEFT, count, size)
        begin = time.perf_counter()
        found = np.linalg.cholesky(matrix)
    elapsed_s = time.perf_counter() - begin
    np.save(sys.argv[4], found)
    print(elapsed_s)


if __name__ == "__main__":
    main()
