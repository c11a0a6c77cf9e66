"""The full model: heat conduction in a square steel plate, on any number of MPI ranks.

A burner heats the left edge with a flux of a given height and a fixed profile, a coolant takes heat
at the right edge, the other two are insulated. The conductivity grows with temperature, so the
solution is not a multiple of the flux::

    rho c dT/dt = div(k(T) grad T),     k(T) = k0 (1 + beta T)

With the Kirchhoff transform ``phi = k0 (T + beta T^2 / 2)`` the conducted flux is ``-grad phi``,
and the right-hand side a quadratic polynomial in T, which the reduced model makes use of.

Finite volumes on 64 x 64 cells, explicit Euler steps. Rows of cells are divided among the ranks in
blocks. A rank also keeps `HALO` rows of each neighbour, and so needs data from it only every
`HALO` steps: in each step, the error at the edge of a block moves inwards by one row.

Invariant: a cell is computed by the same operations in the same order wherever it lies in a block.
So results do not depend on the number of ranks, not even in the last bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

Array = NDArray[np.float64]

#: Cells along each edge of the plate.
N = 64
#: Snapshots of one run.
SNAPSHOTS = 20
#: Time between two snapshots, in seconds.
SNAPSHOT_INTERVAL_S = 6.0
#: Time steps between two snapshots.
STEPS_PER_SNAPSHOT = 100
#: The time step, in seconds; stable up to about 1600 K.
STEP_S = SNAPSHOT_INTERVAL_S / STEPS_PER_SNAPSHOT
#: Rows kept of each neighbour.
HALO = 20

#: Edge of the plate, and of a cell, in m.
EDGE_M = 0.1
CELL_M = EDGE_M / N
#: Stainless steel: conductivity at T = 0 in W/(m K), its growth in 1/K, heat capacity in J/(m^3 K).
K0 = 15.0
BETA = 1.0e-3
RHO_C = 7900.0 * 500.0
#: Heat transfer to the coolant in W/(m^2 K).
COOLING = 500.0


def simulate(flux: float, comm: Intracomm | None = None) -> Array | None:
    """Heat the plate for two minutes.

    Parameters
    ----------
    flux
        Height of the burner's heat flux, in kW/m^2.
    comm
        The ranks that work together, at most `N`; ``MPI.COMM_WORLD`` if not given.

    Returns
    -------
    On rank 0, the temperature above that of the surroundings in K, of shape ``(N * N, SNAPSHOTS)``:
    a column is a snapshot, cells row by row. None on other ranks.
    """
    if comm is None:
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
    if comm.size > N:
        raise ValueError(f"a plate of {N} rows cannot be divided among {comm.size} ranks")

    bounds = [rank * N // comm.size for rank in range(comm.size + 1)]
    begin, end = bounds[comm.rank], bounds[comm.rank + 1]
    # No deeper than the thinnest block: a halo is the neighbour's own rows, not its neighbour's.
    halo = min(HALO, N // comm.size)
    above, below = min(halo, begin), min(halo, N - end)

    heated = heating(flux)[begin - above : end + below]
    temperature = np.zeros((end - begin + above + below, N))
    own = slice(above, above + end - begin)
    snapshots = np.empty((SNAPSHOTS, end - begin, N))
    for snapshot in snapshots:
        left = STEPS_PER_SNAPSHOT
        while left:
            _exchange_halos(temperature, above, below, comm)
            steps = min(left, halo)
            for _ in range(steps):
                temperature += STEP_S * rate(temperature, heated)
            left -= steps
        snapshot[:] = temperature[own]

    blocks = comm.gather(snapshots, root=0)
    if blocks is None:
        return None
    matrix: Array = np.concatenate(blocks, axis=1).reshape(SNAPSHOTS, N * N).T.copy()
    return matrix


def snapshot_times_s() -> Array:
    """Return the times of the snapshots, in seconds."""
    return SNAPSHOT_INTERVAL_S * np.arange(1.0, SNAPSHOTS + 1)


def rate(temperature: Array, heated: Array) -> Array:
    """Return each cell's rate of warming, in K/s, in rows that are insulated above and below."""
    phi = K0 * (temperature + 0.5 * BETA * temperature * temperature)
    return conduction(phi) - cooling(temperature) + heated


def conduction(phi: Array) -> Array:
    """Return the Laplacian of `phi`, without flux through edges, over the heat capacity, in K/s."""
    result = np.zeros_like(phi)
    across = phi[:, 1:] - phi[:, :-1]
    result[:, :-1] += across
    result[:, 1:] -= across
    along = phi[1:] - phi[:-1]
    result[:-1] += along
    result[1:] -= along
    result *= 1.0 / (RHO_C * CELL_M**2)
    return result


def cooling(temperature: Array) -> Array:
    """Return the rate at which the coolant cools each cell, in K/s."""
    result = np.zeros_like(temperature)
    result[:, -1] = COOLING / (RHO_C * CELL_M) * temperature[:, -1]
    return result


def heating(flux: float) -> Array:
    """Return the rate at which a burner of `flux` kW/m^2 heats each cell of the plate, in K/s."""
    y = (np.arange(N) + 0.5) / N
    result: Array = np.zeros((N, N))
    result[:, 0] = 1e3 * flux * np.exp(-(((y - 0.35) / 0.2) ** 2)) / (RHO_C * CELL_M)
    return result


def _exchange_halos(temperature: Array, above: int, below: int, comm: Intracomm) -> None:
    """Fill the first `above` and the last `below` rows with the neighbours' own rows."""
    from mpi4py import MPI

    up = comm.rank - 1 if above else MPI.PROC_NULL
    down = comm.rank + 1 if below else MPI.PROC_NULL
    rows = len(temperature)
    comm.Sendrecv(
        temperature[rows - 2 * below : rows - below],
        dest=down,
        recvbuf=temperature[:above],
        source=up,
    )
    comm.Sendrecv(
        temperature[above : 2 * above],
        dest=up,
        recvbuf=temperature[rows - below :],
        source=down,
    )
