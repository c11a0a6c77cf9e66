"""Names of `pycompss.api.prolog`."""

from pilot.compat.compss.surroundings import prolog

Prolog = prolog

__all__ = ["Prolog", "prolog"]
