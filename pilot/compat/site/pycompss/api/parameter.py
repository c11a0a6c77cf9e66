"""Names of `pycompss.api.parameter`."""

import sys
from typing import Any

from pilot.compat.compss.parameters import NAMED

# Programs that import all of it count on `sys`, which comes with that of COMPSs.
__all__ = [*sorted(NAMED), "sys"]


def __getattr__(name: str) -> Any:
    try:
        return NAMED[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
