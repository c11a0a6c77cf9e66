"""What NumPy says of an array's type beyond what HDF5 keeps: pure functions.

NumPy takes types for equal that differ in their metadata, in whether a structure is aligned as C
does it, and in whether its elements are records (`numpy.record`). HDF5 keeps none of the three;
h5py adds metadata of its own, for byte strings.

Invariants
----------
- A *plain* type has none of the three.
- The plain type of a type is equal to it, and its elements have the same bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_plain(dtype: np.dtype[Any]) -> bool:
    """Tell whether a type says nothing that HDF5 does not keep."""
    if dtype.metadata is not None or dtype.isalignedstruct:
        return False
    if dtype.subdtype is not None:
        return is_plain(dtype.base)
    if dtype.names is None:
        return True
    return dtype.type is np.void and all(is_plain(dtype[name]) for name in dtype.names)


def plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a type without what HDF5 does not keep."""
    if is_plain(dtype):
        return dtype
    found: np.dtype[Any]
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        found = np.dtype((plain(base), shape))
        return found
    if dtype.names is None:
        found = np.dtype(dtype.str)
        return found
    assert dtype.fields is not None
    fields = {
        "names": list(dtype.names),
        "formats": [plain(dtype[name]) for name in dtype.names],
        "offsets": [dtype.fields[name][1] for name in dtype.names],
        "itemsize": dtype.itemsize,
    }
    found = np.dtype(fields)  # type: ignore[call-overload]  # as NumPy takes it
    return found


def with_plain_type(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array, or a view of it whose type is plain."""
    return array if is_plain(array.dtype) else array.view(plain(array.dtype))
