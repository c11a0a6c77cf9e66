"""Names of `pycompss.api.julia`."""

from pilot.compat.compss.decoration import unsupported

julia = unsupported("julia")
Julia = julia

__all__ = ["Julia", "julia"]
