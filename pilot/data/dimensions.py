"""HDF5's dimension scales, by which netCDF tools know the dimensions of labelled arrays.

Responsible for writing what `pilot.data.labelled` says of a group, and for saying it again of a
copy of that group.

Invariants
----------
- Nothing here changes a value: what cannot be written, such as an attribute that is too large, is
  left out.
- A dimension without a variable has a data set without data, as in netCDF files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import h5py
from h5py import h5d, h5ds, h5i, h5p, h5s, h5t

from pilot.data.labelled import Labels

_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError)

#: NetCDF's own words for a dimension that has no variable.
_BARE = b"This is a netCDF dimension but not a netCDF variable.%10d"

#: What the library of dimension scales writes itself, and what Pilot does.
_NOT_OURS = {"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "pilot", "pilot.order"}

_WITHOUT_DATA = h5p.create(h5p.DATASET_CREATE)
_WITHOUT_DATA.set_layout(h5d.CONTIGUOUS)
_WITHOUT_DATA.set_alloc_time(h5d.ALLOC_TIME_LATE)
_WITHOUT_DATA.set_fill_time(h5d.FILL_TIME_NEVER)
_WITHOUT_DATA.set_obj_track_times(False)


def describe(group: Any, labels: Labels) -> None:
    """Write what is said of a group, whose variables are there."""
    scales = {}
    for name, size in labels.sizes.items():
        if name in labels.variables:
            scale, told = h5d.open(group, name.encode()), name.encode()
        else:
            space = h5s.create_simple((size,))
            scale = h5d.create(group, name.encode(), h5t.IEEE_F32BE, space, _WITHOUT_DATA)
            told = _BARE % size
        h5ds.set_scale(scale, told)
        scales[name] = scale
    for name, variable in labels.variables.items():
        dataset = h5d.open(group, name.encode())
        if name not in scales:
            for axis, dim in enumerate(variable.dims):
                h5ds.attach_scale(dataset, scales[dim], axis)
        _set(dataset, variable.attributes)
    _set(group, labels.attributes)


def copy(source: Any, target: Any) -> None:
    """Say of a group and its data sets what is said of those that they are copies of."""
    datasets = [name for name in source if h5i.get_type(_open(source, name)) == h5i.DATASET]
    for name in datasets:
        dataset = h5d.open(source, name)
        if h5ds.is_scale(dataset):
            h5ds.set_scale(h5d.open(target, name), h5ds.get_scale_name(dataset))
    for name in datasets:
        dataset, copied = h5d.open(source, name), h5d.open(target, name)
        _set(copied, dict(h5py.Dataset(dataset).attrs.items()))
        if h5ds.is_scale(dataset):
            continue
        for axis in range(dataset.rank):
            for scale in _scales(dataset, axis):
                h5ds.attach_scale(copied, h5d.open(target, scale), axis)
    _set(target, dict(h5py.Group(source).attrs.items()))


def _scales(dataset: Any, axis: int) -> list[bytes]:
    """Return the names of the scales of a dimension, in the group of the data set."""
    found: list[bytes] = []
    if h5ds.get_num_scales(dataset, axis):
        h5ds.iterate(dataset, axis, lambda scale: found.append(h5i.get_name(scale)), 0)
    return [name.rpartition(b"/")[2] for name in found]


def _open(group: Any, name: bytes) -> Any:
    return h5py.h5o.open(group, name)


def _set(target: Any, attributes: Mapping[str, Any]) -> None:
    held = h5py.AttributeManager(h5py.Group(target) if _is_group(target) else h5py.Dataset(target))
    for name, value in attributes.items():
        if name not in _NOT_OURS:
            with contextlib.suppress(*_ERRORS):
                held[name] = value


def _is_group(target: Any) -> bool:
    return bool(h5i.get_type(target) == h5i.GROUP)
