"""Names of `pycompss.api.julia`."""

from pilot.compat.compss.binaries import julia

Julia = julia

__all__ = ["Julia", "julia"]
