"""Names of `pycompss.api.exceptions`."""

from pilot.compat.compss.errors import COMPSsException

__all__ = ["COMPSsException"]
