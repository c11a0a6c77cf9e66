"""Names of `pycompss.api.parameter`."""

from typing import Any

from pilot.compat.compss.parameters import NAMED

__all__ = sorted(NAMED)


def __getattr__(name: str) -> Any:
    try:
        return NAMED[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
