"""Names of `pycompss.api.local`."""

from pilot.compat.compss.decoration import local

Local = local

__all__ = ["Local", "local"]
