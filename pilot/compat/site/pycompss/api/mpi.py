"""Names of `pycompss.api.mpi`."""

from pilot.compat.compss.decoration import unsupported

mpi = unsupported("mpi")
Mpi = mpi

__all__ = ["Mpi", "mpi"]
