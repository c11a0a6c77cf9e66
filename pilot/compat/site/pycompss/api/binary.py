"""Names of `pycompss.api.binary`."""

from pilot.compat.compss.binaries import binary

Binary = binary

__all__ = ["Binary", "binary"]
