"""MPI functions and programs on four nodes, by each way to start ranks that is there for tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bench.stage import Slurm
from mpi_table.trial import try_way
from mpi_table.ways import WAYS, Place, Way

from pilot.site_configs import template_text

if TYPE_CHECKING:
    from slurm.conftest import VirtualCluster

pytest.importorskip("mpi4py", reason="needs mpi4py: pip install 'pilot-hpc[mpi]'")

NODES = 4
#: Those of the distribution's Open MPI and of the MPICH beside this Python; what all other tests
#: here do, srun with PMIx, is left out.
CHEAP = ("openmpi-debian", "mpich-pypi", "auto-mpich-pypi")


@pytest.mark.parametrize(
    "way", [way for way in WAYS if way.name in CHEAP], ids=lambda way: way.name
)
def test_functions_and_programs_meet_on_four_nodes(
    virtual_cluster: VirtualCluster,
    shared_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: Way,
) -> None:
    virtual_cluster.enter(shared_directory, monkeypatch)
    environment = Path(sys.prefix)
    place = Place()
    if way.mpi.pypi:
        place = Place(libraries=(str(environment / "lib"),))
        if not (environment / "bin" / "mpiexec").exists():
            pytest.skip("there is no MPICH beside this Python: pip install 'pilot-hpc[mpi]'")
    slurm = Slurm("virtual cluster", template_text("virtual"), shared_directory)
    row = try_way(way, place, slurm, NODES)
    assert not row.failed, row.note
    if way.launcher == "auto":
        assert row.note == "found: srun --mpi=pmi2"
