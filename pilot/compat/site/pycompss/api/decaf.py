"""Names of `pycompss.api.decaf`."""

from pilot.compat.compss.decoration import unsupported

decaf = unsupported("decaf")
Decaf = decaf

__all__ = ["Decaf", "decaf"]
