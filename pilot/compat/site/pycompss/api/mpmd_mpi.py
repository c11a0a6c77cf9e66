"""Names of `pycompss.api.mpmd_mpi`."""

from pilot.compat.compss.decoration import unsupported

mpmd_mpi = unsupported("mpmd_mpi")
MpmdMpi = mpmd_mpi

__all__ = ["MpmdMpi", "mpmd_mpi"]
