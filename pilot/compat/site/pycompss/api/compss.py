"""Names of `pycompss.api.compss`."""

from pilot.compat.compss.nested_programs import compss

COMPSs = compss
Compss = compss

__all__ = ["COMPSs", "Compss", "compss"]
