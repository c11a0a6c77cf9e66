"""The numerics of the example ``heat_rom``: physics, decomposition, reduced model."""

from __future__ import annotations

import functools
import importlib
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pilot.launchers import HostRanks, Placement, get_launcher

EXAMPLE = Path(__file__).parents[2] / "examples" / "heat_rom"
MODULES = ("heat", "rsvd", "rom")

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def example() -> Iterator[Any]:
    """The example's modules, which have short names that are nobody else's business."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def heat(example: Any) -> Any:
    return example.heat


@functools.cache
def run_alone(heat: Any, flux: float) -> Array:
    """The full model without MPI: what any number of ranks must give."""
    heated, temperature = heat.heating(flux), np.zeros((heat.N, heat.N))
    snapshots = []
    for _ in range(heat.SNAPSHOTS):
        for _ in range(heat.STEPS_PER_SNAPSHOT):
            temperature += heat.STEP_S * heat.rate(temperature, heated)
        snapshots.append(temperature.ravel().copy())
    made: Array = np.array(snapshots).T
    return made


# -- the full model --------------------------------------------------------------------------------


def test_heat_is_conserved(heat: Any) -> None:
    temperature = np.random.default_rng(1).uniform(0, 900, (heat.N, heat.N))
    heated = heat.heating(300.0)
    gained = heat.rate(temperature, heated).sum()
    assert gained == pytest.approx((heated - heat.cooling(temperature)).sum(), rel=1e-9)


def test_a_thick_wall_under_a_small_flux_warms_up_as_in_the_textbook(heat: Any) -> None:
    """Carslaw and Jaeger: the surface of a half-space is at 2 q / k sqrt(alpha t / pi)."""
    flux, time_s = 10.0, 60.0  # W/m^2; too small for the conductivity to change
    heated = np.zeros((4, heat.N))
    heated[:, 0] = flux / (heat.RHO_C * heat.CELL_M)
    temperature = np.zeros_like(heated)
    for _ in range(round(time_s / heat.STEP_S)):
        temperature += heat.STEP_S * heat.rate(temperature, heated)
    depth = heat.CELL_M / 2  # of the centre of the first cell
    length = 2 * math.sqrt(heat.K0 / heat.RHO_C * time_s)
    expected = (flux / heat.K0) * (
        length / math.sqrt(math.pi) * math.exp(-((depth / length) ** 2))
        - depth * math.erfc(depth / length)
    )
    assert temperature[:, 0] == pytest.approx(expected, rel=5e-3)


def test_the_solution_is_no_multiple_of_the_flux(heat: Any) -> None:
    """Otherwise the reduced model would be trivial."""
    low, high = run_alone(heat, 50.0), run_alone(heat, 600.0)
    assert np.linalg.norm(high - 12 * low) > 0.05 * np.linalg.norm(high)


RUN = """
import sys
import numpy as np
import heat

snapshots = heat.simulate(float(sys.argv[1]))
if snapshots is not None:
    np.save(sys.argv[2], snapshots)
"""


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_number_of_ranks_does_not_change_one_bit(heat: Any, ranks: int, tmp_path: Path) -> None:
    pytest.importorskip("mpi4py", reason="needs mpi4py: pip install 'pilot-hpc[mpi]'")
    try:
        launcher = get_launcher("auto")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    flux, file = 400.0, tmp_path / "snapshots.npy"
    launch = launcher.launch(
        (sys.executable, "-c", RUN, str(flux), str(file)),
        Placement((HostRanks("localhost", ranks),)),
        env={"PYTHONPATH": str(EXAMPLE)},
    )
    subprocess.run(launch.argv, env={**os.environ, **launch.env}, timeout=120, check=True)
    assert np.array_equal(np.load(file), run_alone(heat, flux))


# -- the decomposition -----------------------------------------------------------------------------


def decompose(rsvd: Any, blocks: list[Array], rank: int, powers: int) -> tuple[Array, Array]:
    basis = rsvd.orth([rsvd.sketch(block, j, rank) for j, block in enumerate(blocks)])
    for _ in range(powers):
        rows = rsvd.orth_rows([rsvd.project(block, basis) for block in blocks])
        basis = rsvd.orth([rsvd.expand(block, rows, j) for j, block in enumerate(blocks)])
    found: tuple[Array, Array] = rsvd.decompose(
        basis, [rsvd.project(block, basis) for block in blocks], rank
    )
    return found


def with_decay(seed: int, decay: float) -> tuple[Array, Array]:
    """A matrix of 120 x 60 and its singular values, which fall by `decay` each."""
    stream = np.random.default_rng(seed)
    left = np.linalg.qr(stream.standard_normal((120, 60)))[0]
    right = np.linalg.qr(stream.standard_normal((60, 60)))[0]
    values = decay ** np.arange(60.0)
    return (left * values) @ right.T, values


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), rank=st.integers(1, 12), blocks=st.sampled_from([1, 3, 6]))
def test_the_decomposition_is_near_the_best_one(
    example: Any, seed: int, rank: int, blocks: int
) -> None:
    """Halko, Martinsson, Tropp: with power iterations, nearly as good as the truncated SVD."""
    matrix, values = with_decay(seed, 0.7)
    modes, found = decompose(example.rsvd, np.split(matrix, blocks, axis=1), rank, powers=2)
    assert modes.T @ modes == pytest.approx(np.eye(rank), abs=1e-12)
    assert found[:rank] == pytest.approx(values[:rank], rel=1e-3)
    left_over = np.linalg.norm(matrix - modes @ (modes.T @ matrix), 2)
    assert left_over <= 1.01 * values[rank]


def test_power_iterations_help_where_values_decay_slowly(example: Any) -> None:
    matrix, values = with_decay(3, 0.97)
    blocks = np.split(matrix, 6, axis=1)
    errors = [
        np.abs(decompose(example.rsvd, blocks, 8, powers)[1][:8] - values[:8]).max()
        for powers in (0, 1, 2)
    ]
    assert errors[0] > 2 * errors[1] > 2 * errors[2]


def test_the_decomposition_is_the_same_each_time(example: Any) -> None:
    matrix, _ = with_decay(5, 0.8)
    blocks = np.split(matrix, 6, axis=1)
    first, again = (decompose(example.rsvd, blocks, 6, powers=2) for _ in range(2))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])


# -- the reduced model -----------------------------------------------------------------------------


def test_the_reduced_model_is_the_projected_full_one(example: Any) -> None:
    heat, rom = example.heat, example.rom
    stream = np.random.default_rng(7)
    modes = np.linalg.qr(stream.standard_normal((heat.N**2, 5)))[0]
    a, flux = 1e4 * stream.standard_normal(5), 200.0
    model = rom.reduce(modes)
    reduced = model.linear @ a + model.quadratic @ np.outer(a, a).ravel() + model.heating * flux
    full = heat.rate((modes @ a).reshape(heat.N, heat.N), heat.heating(flux))
    assert reduced == pytest.approx(modes.T @ full.ravel(), rel=1e-9)


def test_the_reduced_model_knows_a_flux_that_it_has_not_seen(example: Any) -> None:
    runs = [run_alone(example.heat, flux) for flux in range(50, 601, 183)]
    full = run_alone(example.heat, 325.0)
    errors = []
    for rank in (4, 12):
        modes, _ = decompose(example.rsvd, runs, rank, powers=2)
        reduced = example.rom.solve(modes, 325.0)
        errors.append(example.rom.relative_error(full, reduced))
    assert errors[1] < 1e-3
    assert errors[1] < errors[0] / 5
