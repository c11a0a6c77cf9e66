"""Names of `pycompss.api.container`."""

from pilot.compat.compss.decoration import unsupported

container = unsupported("container")
Container = container

__all__ = ["Container", "container"]
