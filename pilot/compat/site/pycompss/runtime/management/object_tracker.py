"""Names of `pycompss.runtime.management.object_tracker`."""

from pilot.compat.compss.tracked import OT

__all__ = ["OT"]
