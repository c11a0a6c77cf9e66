"""Names of `pycompss.api.implement`."""

from pilot.compat.compss.implementing import implement

Implement = implement

__all__ = ["Implement", "implement"]
