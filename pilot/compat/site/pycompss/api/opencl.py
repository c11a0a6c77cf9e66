"""Names of `pycompss.api.opencl`."""

from pilot.compat.compss.decoration import unsupported

opencl = unsupported("opencl")
Opencl = opencl

__all__ = ["Opencl", "opencl"]
