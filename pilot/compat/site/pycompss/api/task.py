"""Names of `pycompss.api.task`."""

from pilot.compat.compss.decoration import task

Task = task

__all__ = ["Task", "task"]
