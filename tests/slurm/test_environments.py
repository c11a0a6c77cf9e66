"""What plain tasks find of the pilot's job in their environment, on every node of a pilot."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from support.waiting import wait_until

import pilot
from pilot.site import Site

DEADLINE_S = 90.0
#: The libraries of MPICH and Open MPI, where they are: beside this Python, or the system's.
LIBRARIES = [
    str(path)
    for name in ("libmpi.so.12", "libmpi.so.40")
    for path in (Path(sys.prefix, "lib", name), Path("/usr/lib/x86_64-linux-gnu", name))
    if path.exists()
]


@pilot.task(cores=4)
def alone(directory: str) -> tuple[str, int, list[str]]:
    """Import MPI as any program may, on each of two nodes, and list what a rank or a step would
    know itself by."""
    Path(directory, os.uname().nodename).touch()
    wait_until(lambda: len(list(Path(directory).iterdir())) >= 2, DEADLINE_S, "two nodes")
    from mpi4py import MPI

    known = ("PMI", "OMPI_COMM", "HYDI_", "SLURM_STEP", "SLURM_PROCID", "SLURM_LOCALID")
    found = [name for name in os.environ if name.startswith(known)]
    return os.uname().nodename, MPI.COMM_WORLD.size, found


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: Path(path).name)
def test_mpi4py_works_in_plain_tasks_on_every_node(
    shared_site: Site, shared_directory: Path, library: str
) -> None:
    pytest.importorskip("mpi4py")
    text = "from mpi4py import MPI; print(MPI.COMM_WORLD.size)"
    program = pilot.shell([sys.executable, "-c", text], cores=4)
    with pilot.Session(shared_site, variables={"MPI4PY_LIBMPI": library}) as session:
        told = pilot.gather(
            [alone.submit(str(shared_directory)) for _ in range(2)], timeout=DEADLINE_S
        )
        assert {(size, tuple(found)) for _, size, found in told} == {(1, ())}
        assert len({node for node, _, _ in told}) == 2
        sizes = pilot.gather([session.submit(program) for _ in range(4)], timeout=DEADLINE_S)
        assert {one.stdout for one in sizes} == {"1\n"}
