"""Names of `pycompss.api.container`."""

from pilot.compat.compss.containers import container

Container = container

__all__ = ["Container", "container"]
