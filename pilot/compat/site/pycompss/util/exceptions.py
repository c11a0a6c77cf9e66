"""Names of `pycompss.util.exceptions`."""

from pilot.compat.compss.errors import NotSupportedError, PyCOMPSsException

__all__ = ["NotSupportedError", "PyCOMPSsException"]
