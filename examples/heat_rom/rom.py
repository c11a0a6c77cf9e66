"""The reduced model: the plate's equation, projected on the leading modes of the ensemble.

The right-hand side of the full model is a quadratic polynomial in the temperature, so with
``T = V a`` its Galerkin projection ``V^T rate(V a)`` is one in the few coefficients `a`::

    da/dt = A a + H (a x a) + b flux

A, H and b are made once, from the full model's own operators, and no step of the reduced model ever
looks at the 4096 cells again.
"""

from __future__ import annotations

from typing import NamedTuple

import heat
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class ReducedModel(NamedTuple):
    """The projected operators, for r modes."""

    #: A, in 1/s, of shape (r, r).
    linear: Array
    #: H, in 1/(K s), of shape (r, r * r).
    quadratic: Array
    #: b, in K/s per kW/m^2, of shape (r,).
    heating: Array


def reduce(modes: Array) -> ReducedModel:
    """Project the full model on orthonormal `modes`, of shape ``(cells, r)``."""
    r = modes.shape[1]
    fields = modes.T.reshape(r, heat.N, heat.N)
    linear = np.array([heat.conduction(heat.K0 * v) - heat.cooling(v) for v in fields])
    quadratic = np.array(
        [heat.conduction(0.5 * heat.K0 * heat.BETA * v * w) for v in fields for w in fields]
    )
    return ReducedModel(
        linear=modes.T @ linear.reshape(r, -1).T,
        quadratic=modes.T @ quadratic.reshape(r * r, -1).T,
        heating=modes.T @ heat.heating(1.0).ravel(),
    )


def solve(modes: Array, flux: float) -> Array:
    """Run the reduced model with the full model's time steps.

    Parameters
    ----------
    modes
        The orthonormal modes, of shape ``(cells, r)``.
    flux
        Height of the burner's heat flux, in kW/m^2.

    Returns
    -------
    The temperature in K at the times of the full model's snapshots, ``(cells, SNAPSHOTS)``.
    """
    model = reduce(modes)
    a = np.zeros(modes.shape[1])
    snapshots = np.empty((heat.SNAPSHOTS, len(a)))
    for snapshot in snapshots:
        for _ in range(heat.STEPS_PER_SNAPSHOT):
            slope = model.linear @ a + model.quadratic @ np.outer(a, a).ravel()
            a += heat.STEP_S * (slope + model.heating * flux)
        snapshot[:] = a
    result: Array = modes @ snapshots.T
    return result


def relative_error(full: Array, reduced: Array) -> float:
    """Return the Frobenius norm of the snapshots' difference, relative to that of `full`."""
    return float(np.linalg.norm(full - reduced) / np.linalg.norm(full))
