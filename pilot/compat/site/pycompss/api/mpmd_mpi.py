"""Names of `pycompss.api.mpmd_mpi`."""

from pilot.compat.compss.mpi_tasks import mpmd_mpi

MPMDMPI = mpmd_mpi
MpmdMpi = mpmd_mpi

__all__ = ["MPMDMPI", "MpmdMpi", "mpmd_mpi"]
