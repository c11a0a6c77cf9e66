"""Names of `pycompss.api.compss`."""

from pilot.compat.compss.decoration import unsupported

compss = unsupported("compss")
Compss = compss

__all__ = ["Compss", "compss"]
