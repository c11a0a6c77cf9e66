"""Results that may be handed to the next task as they are: nothing else refers to them."""

from __future__ import annotations

import mmap
import sys
from typing import Any


def is_own(result: Any) -> bool:
    """Tell whether a result is an array that nothing refers to but the caller's variable, and that
    is as its readers elsewhere get it: writable, in C's order or Fortran's."""
    numpy = sys.modules.get("numpy")
    if numpy is None or type(result) is not numpy.ndarray or result.dtype.hasobject:
        return False
    # Data of its own, or a mapping that was made for it: see `pilot.data.hdf5_files`.
    if result.base is not None and type(result.base) is not mmap.mmap:
        return False
    if not (result.flags.writeable and result.flags.forc):
        return False
    return sys.getrefcount(result) <= _OWN_REFERENCES


def _references(fresh: Any) -> int:
    """Return the references that `is_own` counts where there are no others: Pythons differ."""
    return sys.getrefcount(fresh)


def _own_references() -> int:
    fresh = object()
    return _references(fresh)


_OWN_REFERENCES = _own_references()
