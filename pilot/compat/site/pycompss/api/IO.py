"""Names of `pycompss.api.IO`."""

from pilot.compat.compss.decoration import io

IO = io

__all__ = ["IO", "io"]
