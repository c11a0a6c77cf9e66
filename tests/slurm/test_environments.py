"""What plain tasks find of the pilot's job in their environment, on every node of a pilot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import wait_until

import pilot
from pilot.launchers import ON_ONE_NODE
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


LAUNCHERS = [
    program
    for program in (f"{sys.prefix}/bin/mpiexec.hydra", "/usr/bin/mpirun.openmpi")
    if Path(program).exists()
]


@pytest.mark.parametrize("program", LAUNCHERS, ids=lambda path: Path(path).name)
def test_an_mpirun_in_a_command_stays_on_the_cores_of_its_task(
    shared_site: Site, program: str
) -> None:
    own = "echo $(hostname) $(taskset -cp $$ | sed s/.*:.//)"
    more = " --oversubscribe" if "openmpi" in program else ""
    text = f"{own}; {program}{more} -n 6 sh -c '{own}'"
    with pilot.Session(shared_site) as session:
        future = session.submit(pilot.shell(["sh", "-c", text], cores=2))
        first, *others = future.result(DEADLINE_S).stdout.splitlines()
        assert others == [first] * 6
        own_choice = pilot.shell("echo $HYDRA_LAUNCHER", env={"HYDRA_LAUNCHER": "ssh"})
        assert session.submit(own_choice).result(DEADLINE_S).stdout == "ssh\n"


def run_there(words: list[str]) -> tuple[str, list[str]]:
    """Start an mpirun from a function, beside what it would stay on one node by."""
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return told, [name for name in ON_ONE_NODE if name in os.environ]


@pytest.mark.parametrize("program", LAUNCHERS, ids=lambda path: Path(path).name)
def test_an_mpirun_in_a_function_stays_on_the_cores_of_its_task(
    shared_site: Site, program: str
) -> None:
    own = "echo $(hostname) $(taskset -cp $$ | sed s/.*:.//)"
    more = " --oversubscribe" if "openmpi" in program else ""
    words = ["sh", "-c", f"{own}; {program}{more} -n 6 sh -c '{own}'"]
    with pilot.Session(shared_site) as session:
        future = session.submit(pilot.task(cores=2)(run_there), words)
        told, _ = future.result(DEADLINE_S)
        first, *others = told.splitlines()
        assert others == [first] * 6


def test_a_function_on_several_nodes_has_them_all_for_an_mpirun(shared_site: Site) -> None:
    with pilot.Session(shared_site) as session:
        several = session.submit(pilot.task(nodes=2, cores=2)(run_there), ["true"])
        assert several.result(DEADLINE_S) == ("", [])
