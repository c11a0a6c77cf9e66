"""Labelled arrays: objects of xarray come back as they were, and others read their labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pilot.data.segments import SegmentWriter, read
from pilot.data.sweeping import sweep
from pilot.model.values import Value

xr = pytest.importorskip("xarray", reason="xarray is not installed")
pytest.importorskip("h5netcdf", reason="h5netcdf is not installed")

DAYS = np.arange("2026-01-01", "2026-02-20", dtype="datetime64[D]").astype("datetime64[ns]")


def dataset() -> Any:
    return xr.Dataset(
        {
            "t": (("time", "x"), np.arange(10_000.0).reshape(50, 200), {"units": "K", "n": 3}),
            "fortran": (("time", "x"), np.asfortranarray(np.ones((50, 200), "f4"))),
            "members": ("member", np.arange(3)),
            "scalar": ((), 2.5),
        },
        coords={
            "time": DAYS,
            "x": np.linspace(0, 1, 200),
            "station": ("x", ["Zürich", "b"] * 100),
            "level": 7,
        },
        attrs={"title": "heat", "levels": [1.0, 2.0]},
    )


def stored(directory: Path, *objects: object, level: int = 0) -> list[Value]:
    with SegmentWriter(directory, "w") as writer:
        found = [writer.add("1", "f", f"1.{n}", 0, obj, level) for n, obj in enumerate(objects)]
    return [unsealed.value for unsealed in found]


def opened(directory: Path, value: Value, place: str) -> Any:
    path, group = directory / value.path, f"{value.name}/{place}"
    with xr.open_dataset(path, group=group, engine="h5netcdf", phony_dims="sort") as found:
        return found.load()


@pytest.mark.parametrize("level", [0, 4])
def test_others_see_variables_dimensions_and_attributes(tmp_path: Path, level: int) -> None:
    whole = dataset()
    objects = [whole, whole["t"], {"a": whole, "more": [whole["t"].rename(None)]}]
    values = stored(tmp_path, *objects, level=level)
    assert read(tmp_path, values[0]).identical(whole)
    assert read(tmp_path, values[1]).identical(whole["t"])
    assert read(tmp_path, values[2])["more"][0].identical(objects[2]["more"][0])
    xr.testing.assert_identical(opened(tmp_path, values[0], "dataset"), whole)
    xr.testing.assert_identical(opened(tmp_path, values[1], "dataset")["t"], whole["t"])
    xr.testing.assert_identical(opened(tmp_path, values[2], "a"), whole)
    assert np.array_equal(opened(tmp_path, values[2], "more/0")["data"], whole["t"])
    with h5py.File(tmp_path / values[0].path) as file:
        t = file[values[0].name]["dataset/t"]
        assert [dim[0].name.rpartition("/")[2] for dim in t.dims] == ["time", "x"]
        assert (t.attrs["units"], t.compression) == ("K", "gzip" if level else None)


def test_labels_are_there_after_others_were_swept(tmp_path: Path) -> None:
    values = stored(tmp_path, dataset(), np.zeros(20_000), {"a": dataset(), "n": 3})
    assert sweep(tmp_path / values[0].path, {values[1].name}.__contains__, always=True)
    assert read(tmp_path, values[0]).identical(dataset())
    xr.testing.assert_identical(opened(tmp_path, values[0], "dataset"), dataset())
    xr.testing.assert_identical(opened(tmp_path, values[2], "a"), dataset())
    with h5py.File(tmp_path / values[2].path) as file:
        assert file[values[2].name].attrs["n"] == 3


@pytest.mark.parametrize(
    "odd",
    [
        {"attrs": {"object": object, "large": np.zeros(100_000), 3: 4, "none": None, "a/b": 1}},
        {"data_vars": {3: ("x", np.arange(5000.0))}},
        {"data_vars": {"a/b": ("x", np.arange(5000.0))}},
        {"data_vars": {"o": ("x", np.array([object] * 3)), "x": ("x", np.arange(3))}},
        {"data_vars": {"z": ("x", np.arange(5000) * 1j), "b": ("x", np.ones(5000, bool))}},
        {"data_vars": {"nothing": (("x", "y"), np.zeros((0, 5))), "u": ("y", np.ones(5))}},
        {"data_vars": {"same": ("x", np.arange(5.0)), "too": ("x", np.arange(5.0))}},
        {},
    ],
    ids=str,
)
def test_what_netcdf_cannot_have_comes_back_too(tmp_path: Path, odd: Any) -> None:
    whole = xr.Dataset(**odd)
    value = stored(tmp_path, {"d": whole, "u": np.zeros(9000)})[0]
    back = read(tmp_path, value)["d"]
    if "attrs" in odd:
        np.testing.assert_equal(back.attrs, whole.attrs)
    else:
        assert back.identical(whole)


def test_an_array_in_two_variables_is_there_twice_for_others(tmp_path: Path) -> None:
    array = np.arange(5000.0)
    whole = xr.Dataset({"a": ("x", array), "b": ("x", array)})
    value = stored(tmp_path, whole)[0]
    assert read(tmp_path, value).identical(whole)
    xr.testing.assert_identical(opened(tmp_path, value, "dataset"), whole)
