"""Names of `pycompss.api.software`."""

from pilot.compat.compss.decoration import unsupported

software = unsupported("software")
Software = software

__all__ = ["Software", "software"]
