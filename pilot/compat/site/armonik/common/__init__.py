"""What programs for PymoniK import of ``armonik.common``."""

from pilot.compat.pymonik.options import TaskOptions

__all__ = ["TaskOptions"]
