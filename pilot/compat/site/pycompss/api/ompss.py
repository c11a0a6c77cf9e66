"""Names of `pycompss.api.ompss`."""

from pilot.compat.compss.binaries import ompss

OmpSs = ompss
Ompss = ompss

__all__ = ["OmpSs", "Ompss", "ompss"]
