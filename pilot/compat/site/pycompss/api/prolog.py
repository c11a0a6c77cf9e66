"""Names of `pycompss.api.prolog`."""

from pilot.compat.compss.decoration import unsupported

prolog = unsupported("prolog")
Prolog = prolog

__all__ = ["Prolog", "prolog"]
