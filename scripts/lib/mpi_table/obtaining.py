"""MPIs into directories of their own: packages that are fetched and unpacked, not installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from mpi_table.ways import Mpi, Place

_FETCH_S = 600.0


class MissingError(Exception):
    """An MPI cannot be had here; the text says why."""


def obtain(mpi: Mpi, directory: Path) -> Place:
    """Return where an MPI is, below `directory` if it had to be fetched.

    Raises
    ------
    MissingError
        It cannot be had.
    """
    prefix = directory / mpi.name.replace(" ", "-")
    if mpi.pypi:
        return _from_pypi(mpi.pypi, prefix)
    if mpi.debian:
        return _from_debian(mpi.debian, prefix)
    if shutil.which("mpirun.openmpi") is None:
        raise MissingError("there is no mpirun.openmpi; install the package openmpi-bin")
    return Place()


def _from_pypi(package: str, prefix: Path) -> Place:
    if not (prefix / "bin").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "--ignore-installed", "--prefix", str(prefix), package], prefix)
    libraries = sorted({str(path.parent) for path in prefix.rglob("libmpi.so*")})
    # Intel's finds the network library that it brings in there.
    libraries += sorted({str(path.parent) for path in prefix.rglob("libfabric.so*")})
    return Place(str(prefix / "bin"), tuple(dict.fromkeys(libraries)))


def _from_debian(packages: tuple[str, ...], prefix: Path) -> Place:
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise MissingError(f"there is no {program}, which fetches {', '.join(packages)}")
    if not (prefix / "usr").is_dir():
        prefix.mkdir(parents=True, exist_ok=True)
        _run(["apt-get", "download", "--quiet", *packages], prefix, cwd=prefix)
        for package in sorted(prefix.glob("*.deb")):
            _run(["dpkg", "-x", str(package), str(prefix)], prefix)
    libraries = sorted({str(path.parent) for path in (prefix / "usr" / "lib").rglob("*.so*")})
    for library in (prefix / "usr" / "lib").rglob("libmpich.so.12"):
        link = library.with_name("libmpi.so.12")  # by which mpi4py's wheels know it
        if not link.is_symlink():
            link.symlink_to(library.name)
    return Place(str(prefix / "usr" / "bin"), tuple(libraries))


def _run(command: list[str], prefix: Path, cwd: Path | None = None) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_FETCH_S,
        cwd=cwd,
        text=True,
        check=False,
    )
    if done.returncode:
        shutil.rmtree(prefix, ignore_errors=True)  # half of it would be taken for the whole
        told = [line for line in done.stdout.splitlines() if line.strip()]
        raise MissingError(told[-1] if told else f"{command[0]} ended with {done.returncode}")
