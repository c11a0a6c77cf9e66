"""Names of `pycompss.api.epilog`."""

from pilot.compat.compss.decoration import unsupported

epilog = unsupported("epilog")
Epilog = epilog

__all__ = ["Epilog", "epilog"]
