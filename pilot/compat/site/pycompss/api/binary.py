"""Names of `pycompss.api.binary`."""

from pilot.compat.compss.decoration import unsupported

binary = unsupported("binary")
Binary = binary

__all__ = ["Binary", "binary"]
