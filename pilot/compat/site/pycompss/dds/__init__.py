"""Names of `pycompss.dds`."""

from pilot.compat.compss.dds import DDS

__all__ = ["DDS"]
