"""Names of `pycompss.api.software`."""

from pilot.compat.compss.configured import software

Software = software

__all__ = ["Software", "software"]
