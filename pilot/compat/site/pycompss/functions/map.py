"""Names of `pycompss.functions.map`."""

from pilot.compat.compss.functions import map_wait

map = map_wait  # noqa: A001 - as programs import it

__all__ = ["map"]
