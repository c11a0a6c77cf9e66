"""Names of `pycompss.functions.data`."""

from pilot.compat.compss.functions import chunks, generator

__all__ = ["chunks", "generator"]
