"""Names of `pycompss.api.ompss`."""

from pilot.compat.compss.decoration import unsupported

ompss = unsupported("ompss")
Ompss = ompss

__all__ = ["Ompss", "ompss"]
