"""Names of `pycompss.api.on_failure`."""

from pilot.compat.compss.decoration import on_failure

OnFailure = on_failure

__all__ = ["OnFailure", "on_failure"]
