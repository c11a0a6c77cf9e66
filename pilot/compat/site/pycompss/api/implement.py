"""Names of `pycompss.api.implement`."""

from pilot.compat.compss.decoration import unsupported

implement = unsupported("implement")
Implement = implement

__all__ = ["Implement", "implement"]
