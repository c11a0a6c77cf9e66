"""Names of `pycompss.api.constraint`."""

from pilot.compat.compss.decoration import constraint

Constraint = constraint

__all__ = ["Constraint", "constraint"]
