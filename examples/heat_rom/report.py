"""The output of a run: ``results.h5`` with all numbers, and ``heat_rom.png``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import heat
import numpy as np
import rom
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Array = NDArray[np.float64]


def report(
    directory: str,
    fluxes: Sequence[float],
    ensemble: Sequence[Array],
    modes: Array,
    values: Array,
    flux: float,
    full: Array,
    reduced: Array,
) -> float:
    """Write the results and the plot into `directory`, which is made if it does not exist.

    Parameters
    ----------
    directory
        The directory to write into.
    fluxes, ensemble
        The fluxes of the ensemble in kW/m^2, and the snapshots of each run in K.
    modes, values
        The modes and singular values of all these snapshots.
    flux, full, reduced
        The flux that was not in the ensemble, in kW/m^2, and the snapshots that the full and the
        reduced model gave for it, in K.

    Returns
    -------
    The relative error of the reduced model in the Frobenius norm.
    """
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    error = rom.relative_error(full, reduced)
    with h5py.File(path / "results.h5", "w") as file:
        file.attrs["flux_kw_m2"] = flux
        file.attrs["relative_error"] = error
        file["times_s"] = heat.snapshot_times_s()
        file["ensemble/fluxes_kw_m2"] = np.asarray(fluxes, dtype=float)
        file["ensemble/snapshots_k"] = np.stack(ensemble)
        file["svd/modes"] = modes
        file["svd/singular_values"] = values
        file["full_k"] = full
        file["reduced_k"] = reduced
    _plot(flux, full, reduced, values, modes.shape[1], error).savefig(path / "heat_rom.png")
    return error


def _plot(
    flux: float, full: Array, reduced: Array, values: Array, rank: int, error: float
) -> Figure:
    """Draw the last snapshot of both models, their difference, and the singular values."""
    figure = Figure(figsize=(11, 9), dpi=110, layout="constrained")
    figure.suptitle(
        f"Heated plate at {flux:g} kW/m², a flux that was not in the ensemble\n"
        f"{rank} modes instead of {len(full)} cells, relative error {error:.1e}"
    )
    (left, right), (below, values_axes) = figure.subplots(2, 2)
    last = f"after {heat.snapshot_times_s()[-1]:g} s"
    limits = {"vmin": 0.0, "vmax": float(full[:, -1].max())}
    difference = reduced[:, -1] - full[:, -1]
    largest = float(np.abs(difference).max())
    _draw_plate(left, full[:, -1], f"Full model {last}", "inferno", limits)
    _draw_plate(right, reduced[:, -1], f"Reduced model {last}", "inferno", limits)
    _draw_plate(
        below, difference, "Reduced minus full", "RdBu_r", {"vmin": -largest, "vmax": largest}
    )

    numbers = np.arange(1, len(values) + 1)
    values_axes.semilogy(numbers, values / values[0], "o", color="0.7", label="oversampling")
    values_axes.semilogy(numbers[:rank], values[:rank] / values[0], "o", label="modes kept")
    values_axes.set(
        title="Singular values of the ensemble", xlabel="number", ylabel="relative to the first"
    )
    values_axes.grid(alpha=0.3)
    values_axes.legend()
    return figure


def _draw_plate(
    axes: Axes, temperature: Array, title: str, colours: str, limits: dict[str, float]
) -> None:
    """Draw one temperature field with its scale."""
    size_cm = 100 * heat.EDGE_M
    image = axes.imshow(
        temperature.reshape(heat.N, heat.N),
        origin="lower",
        extent=(0, size_cm, 0, size_cm),
        cmap=colours,
        vmin=limits["vmin"],
        vmax=limits["vmax"],
    )
    axes.set(title=title, xlabel="x in cm", ylabel="y in cm")
    axes.figure.colorbar(image, ax=axes, label="K")
