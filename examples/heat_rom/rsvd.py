"""A randomised singular value decomposition, cut into tasks on blocks of columns.

The matrix A is never put together: it stays in blocks ``A = [A_0 A_1 ...]`` of equally many
columns, each where the run that made it has left it. The algorithms are those of

    N. Halko, P. G. Martinsson, J. A. Tropp: Finding structure with randomness: probabilistic
    algorithms for constructing approximate matrix decompositions. SIAM Review 53(2), 2011.

Stage A finds an orthonormal basis Q of A's range: Algorithm 4.4 (randomised subspace iteration),
which is Algorithm 4.1 followed by power iterations that are made orthonormal half-way too::

    Q = orth(sum_j sketch(A_j, j))
    repeated:  W = orth_rows([project(A_j, Q) for all j])
               Q = orth(sum_j expand(A_j, W, j))

Stage B, Algorithm 5.1 (direct SVD), decomposes the small matrix ``B = Q^T A``::

    modes, values = decompose(Q, [project(A_j, Q) for all j], rank)

Each call in these lines is a task of its own. The number of columns of the sketch is the rank
wanted plus an oversampling of 5 to 10 (section 4.2). Everything is deterministic: block j draws its
part of the test matrix from a stream of its own, and sums are taken in the order of blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def sketch(block: Array, index: int, rank: int, oversampling: int = 10, seed: int = 0) -> Array:
    """Return ``A_j Omega_j``, with a Gaussian ``Omega_j``: steps 1 and 2 of Algorithm 4.4.

    Parameters
    ----------
    block
        ``A_j``, of shape ``(rows, columns)``.
    index
        The number j of the block, which selects the random stream.
    rank, oversampling
        The two terms of the number of columns of the sketch.
    seed
        The seed of the test matrix.

    Returns
    -------
    The block's part of ``A Omega``, of shape ``(rows, rank + oversampling)``.
    """
    stream = np.random.default_rng([seed, index])
    part: Array = block @ stream.standard_normal((block.shape[1], rank + oversampling))
    return part


def project(block: Array, basis: Array) -> Array:
    """Return ``A_j^T Q``: the rows of ``A^T Q`` that belong to block j."""
    rows: Array = block.T @ basis
    return rows


def expand(block: Array, rows: Array, index: int) -> Array:
    """Return ``A_j W_j``: the block's part of ``A W``, where ``W_j`` are the rows of block j."""
    columns = block.shape[1]
    part: Array = block @ rows[index * columns : (index + 1) * columns]
    return part


def orth(parts: Sequence[Array]) -> Array:
    """Return an orthonormal basis of the range of the sum of `parts`, by QR."""
    total = np.zeros_like(parts[0])
    for part in parts:
        total += part
    q: Array = np.linalg.qr(total)[0]
    return q


def orth_rows(parts: Sequence[Array]) -> Array:
    """Return an orthonormal basis of the range of `parts`, stacked vertically, by QR."""
    q: Array = np.linalg.qr(np.concatenate(parts))[0]
    return q


def decompose(basis: Array, parts: Sequence[Array], rank: int) -> tuple[Array, Array]:
    """Return the leading left singular vectors and the singular values of A (Algorithm 5.1).

    Parameters
    ----------
    basis
        Q, of shape ``(rows, rank + oversampling)``.
    parts
        ``A_j^T Q`` for every block.
    rank
        The number of singular vectors.

    Returns
    -------
    modes
        Of shape ``(rows, rank)``; the sign of each is such that its largest entry is positive.
    values
        All singular values of ``Q^T A``, in descending order; those behind `rank` are rough.
    """
    small, values, _ = np.linalg.svd(np.concatenate(parts).T, full_matrices=False)
    modes = basis @ small[:, :rank]
    largest = np.abs(modes).argmax(axis=0)
    modes *= np.sign(modes[largest, np.arange(rank)])
    return modes, values
