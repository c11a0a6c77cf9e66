"""Names of `pycompss.api.mpi`."""

from pilot.compat.compss.mpi_tasks import mpi

Mpi = mpi
MPI = mpi

__all__ = ["MPI", "Mpi", "mpi"]
