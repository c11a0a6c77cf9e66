"""Names of `pycompss.api.epilog`."""

from pilot.compat.compss.surroundings import epilog

Epilog = epilog

__all__ = ["Epilog", "epilog"]
