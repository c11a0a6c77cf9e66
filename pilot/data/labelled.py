"""Labelled arrays: what xarray's objects say of their dimensions, for who reads the file.

Responsible for what netCDF needs besides the arrays: names and sizes of dimensions, the variables
along them, and plain attributes. Pure, no files; xarray is not imported, only looked for.

Invariants
----------
- An object comes back from its pickle, and nothing here is needed for that: what netCDF cannot
  have is left out.
- A variable whose array HDF5 keeps as it is has no copy here; dates and texts have one, encoded as
  in netCDF files.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: The name of the group of a result that is such an object itself.
TOP = "dataset"
#: The name of the variable of a `DataArray` that has none.
_UNNAMED = "data"

#: Larger copies, of dates and texts, are left out.
_COPY_BYTES = 16 * 1024 * 1024
_ATTRIBUTE_BYTES = 16 * 1024
_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
#: What HDF5's dimension scales and netCDF say in attributes of these names.
_RESERVED = {"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "coordinates", "pilot"}


class Variable(NamedTuple):
    """A variable: its dimensions, attributes, and the copy of its array that is written."""

    dims: tuple[str, ...]
    attributes: dict[str, Any]
    #: None: the array has a data set of its own.
    copy: NDArray[Any] | None


class Labels(NamedTuple):
    """The description of a group of a value."""

    #: The name of the group in the value.
    path: str
    sizes: dict[str, int]
    variables: dict[str, Variable]
    attributes: dict[str, Any]


def is_labelled(obj: object) -> bool:
    """Tell whether an object is a `Dataset` or `DataArray` of xarray."""
    xarray = sys.modules.get("xarray")  # Where it is not loaded, there are none.
    return xarray is not None and type(obj) in (xarray.Dataset, xarray.DataArray)


def arrays_of(obj: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the names and arrays of a labelled object's variables, where these are NumPy's."""
    for name, variable in _variables(obj).items():
        array = _array(variable)
        if type(array) is np.ndarray:
            yield name, array


def labels_of(path: str, obj: Any, stored: set[str]) -> Labels | None:
    """Return what is said of an object at a path, whose arrays of these names are stored; None
    where netCDF has no words for it.
    """
    variables = _variables(obj)
    names = [*variables, *obj.sizes]
    if not all(isinstance(name, str) and name and "/" not in name for name in names):
        return None
    sizes = {str(name): int(size) for name, size in obj.sizes.items()}
    found: dict[str, Variable] = {}
    for name, variable in variables.items():
        if name in sizes and variable.dims != (name,):
            return None
        attributes = _plain(variable.attrs)
        copy = None
        if f"{path}/{name}" not in stored:
            encoded = _encoded(np.asarray(variable.values))
            if encoded is None:
                continue
            copy, more = encoded
            attributes |= more
        found[name] = Variable(tuple(variable.dims), attributes, copy)
    attributes = _plain(obj.attrs) if hasattr(obj, "data_vars") else {}
    aside = [str(name) for name in obj.coords if name not in sizes and name in found]
    if aside:
        attributes["coordinates"] = " ".join(aside)
    return Labels(path, sizes, found, attributes)


def _variables(obj: Any) -> dict[str, Any]:
    if hasattr(obj, "data_vars"):
        return dict(obj.variables)
    name = obj.name if isinstance(obj.name, str) and obj.name not in obj.coords else _UNNAMED
    return {**{key: coord.variable for key, coord in obj.coords.items()}, name: obj.variable}


def _array(variable: Any) -> Any:
    """Return the array that is pickled with a variable, without a copy."""
    if type(variable).__name__ == "IndexVariable":
        return variable.to_index().values
    # Not `data`, which would load what is in a file.
    return getattr(variable, "_data", None)


def _encoded(array: NDArray[Any]) -> tuple[NDArray[Any], dict[str, Any]] | None:
    """Return an array as netCDF files have it, and the attributes that say so."""
    if array.nbytes > _COPY_BYTES:
        return None
    kind = array.dtype.kind
    if kind in "mM":
        unit = _UNITS.get(np.datetime_data(array.dtype)[0])
        if unit is None or np.datetime_data(array.dtype)[1] != 1:
            return None
        attributes: dict[str, Any] = {"units": unit, "_FillValue": np.int64(-(2**63))}
        if kind == "M":
            attributes |= {"units": f"{unit} since 1970-01-01", "calendar": "proleptic_gregorian"}
        return np.ascontiguousarray(array).astype("<i8"), attributes
    if kind == "U" or (kind == "O" and all(type(item) is str for item in array.flat)):
        if "\0" in "".join(map(str, array.flat)):
            return None
        texts = np.char.encode(array.astype(str), "utf-8", "replace")
        return texts.astype(f"S{max(1, texts.itemsize)}"), {"_Encoding": "utf-8"}
    if kind in "iufS":
        return np.ascontiguousarray(array), {}
    return None


def _plain(attributes: Any) -> dict[str, Any]:
    """Return the attributes that HDF5 can have: numbers, texts, and lists of them."""
    found: dict[str, Any] = {}
    for name, value in attributes.items():
        if not isinstance(name, str) or not name or name in _RESERVED:
            continue
        if isinstance(value, bool):
            value = np.int8(value)  # netCDF has no other
        array = np.asarray(value) if not isinstance(value, dict) else np.asarray(None)
        if array.nbytes > _ATTRIBUTE_BYTES:
            continue
        if isinstance(value, str) or (array.dtype.kind in "iuf" and array.ndim <= 1):
            found[name] = value
        elif array.dtype.kind == "U" and array.ndim == 1:
            found[name] = [str(text) for text in array]
    return found
