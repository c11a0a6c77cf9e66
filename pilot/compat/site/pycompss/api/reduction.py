"""Names of `pycompss.api.reduction`."""

from pilot.compat.compss.decoration import reduction

Reduction = reduction

__all__ = ["Reduction", "reduction"]
