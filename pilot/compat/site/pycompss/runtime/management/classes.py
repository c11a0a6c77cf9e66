"""Names of `pycompss.runtime.management.classes`."""

from pilot.compat.compss.values import EmptyReturn, Future

__all__ = ["EmptyReturn", "Future"]
