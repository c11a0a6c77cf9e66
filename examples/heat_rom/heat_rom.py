"""A reduced-order model of a heated plate, from an ensemble of MPI runs to a plot.

    python heat_rom.py --site local --output heat_rom_output

The whole graph is submitted at once, with futures as arguments: 12 runs of the full model on two
MPI ranks each, a randomised singular value decomposition of their snapshots in tasks on blocks, the
reduced model for a flux that none of the runs had, and its comparison with the full model.

``workflow.yaml`` is the same as a workflow file, with the same numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import heat
import report
import rom
import rsvd

import pilot

#: The burner's heat fluxes in the ensemble, in kW/m^2.
FLUXES = [50 * number for number in range(1, 13)]
#: Modes of the reduced model, and how many more columns the sketch has.
RANK = 12
OVERSAMPLING = 10
POWER_ITERATIONS = 2

simulate = pilot.mpi(ranks=2)(heat.simulate)
sketch = pilot.task(rsvd.sketch)
project = pilot.task(rsvd.project)
expand = pilot.task(rsvd.expand)
orth = pilot.task(rsvd.orth)
orth_rows = pilot.task(rsvd.orth_rows)
decompose = pilot.task(returns=["modes", "values"])(rsvd.decompose)
solve = pilot.task(rom.solve)
write_report = pilot.task(report.report)


def main() -> None:
    """Submit everything, wait for the results, and print the outcome."""
    arguments = parse_arguments()
    full_model = simulate.options(ranks=arguments.ranks, ranks_per_node=arguments.ranks_per_node)
    output = arguments.output.absolute()
    with pilot.Session(site=arguments.site, name="heat_rom"):
        runs = full_model.map(FLUXES)
        full = full_model.submit(arguments.flux)
        decomposition = randomised_svd(runs)
        modes, values = decomposition["modes"], decomposition["values"]
        reduced = solve.submit(modes, arguments.flux)
        error = write_report.submit(
            str(output), FLUXES, runs, modes, values, arguments.flux, full, reduced
        )
        pilot.gather(runs, progress=True)
        print(f"relative error: {error.result():.6e}")
        print(f"results: {output / 'results.h5'}")
        print(f"plot: {output / 'heat_rom.png'}")


def randomised_svd(blocks: Sequence[pilot.Future[Any]]) -> pilot.Future[Any]:
    """Submit the tasks of the decomposition of ``[block 0, block 1, ...]``; see `rsvd`.

    Returns
    -------
    The future of two results, ``modes`` and ``values``.
    """
    basis = orth.submit(
        [sketch.submit(block, j, RANK, OVERSAMPLING) for j, block in enumerate(blocks)]
    )
    for _ in range(POWER_ITERATIONS):
        rows = orth_rows.submit([project.submit(block, basis) for block in blocks])
        basis = orth.submit([expand.submit(block, rows, j) for j, block in enumerate(blocks)])
    return decompose.submit(basis, [project.submit(block, basis) for block in blocks], RANK)


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--site", help="name or path of a site (default: $PILOT_SITE, or local)")
    parser.add_argument(
        "--output", type=Path, default=Path("heat_rom_output"), help="directory of the results"
    )
    parser.add_argument("--ranks", type=int, default=2, help="MPI ranks of a run (default: 2)")
    parser.add_argument(
        "--ranks-per-node", type=int, help="ranks on each node; 1 spreads a run over nodes"
    )
    parser.add_argument(
        "--flux",
        type=float,
        default=325.0,
        help="flux in kW/m^2 to solve the reduced model for (default: 325)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
