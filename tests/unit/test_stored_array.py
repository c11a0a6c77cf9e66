"""Arrays in results, of which parts are read."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pilot.data import hdf5_files
from pilot.data import stored_array as stored_arrays
from pilot.data.segments import SegmentWriter, read
from pilot.data.stored_array import StoredArray, array_in, stored_array
from pilot.data.storing import store
from pilot.errors import ResultError
from pilot.model.values import Value

GRID = np.arange(120_000, dtype=np.float64).reshape(300, 400)


def stored(directory: Path, obj: object, owner: str = "w") -> Value:
    with SegmentWriter(directory, owner) as writer:
        found = store(obj, writer=writer, session="1", task_name="f", task_id="1.1")
    return found if isinstance(found, Value) else found.value


KEYS: dict[str, Any] = {
    "row": 7,
    "rows": slice(10, 20),
    "last": -1,
    "every third": (slice(None, None, 3), slice(5, 50)),
    "point": (3, 4),
    "chosen": [1, 5, 9],
    "all": ...,
    "columns": (slice(None), slice(None, None, 4)),
    "a grid": (slice(3, 200, 7), slice(10, 333, 5)),
    "steps beside a number": (5, slice(1, None, 2)),
    "rows in steps": slice(1, None, 2),
    "none": slice(5, 5, 2),
    "no rows": (slice(5, 5), slice(None, None, 2)),
    "no columns": (slice(None, None, 200), slice(5, 5)),
    "nothing": (slice(None, None, 2), slice(5, 5)),
    "beyond the end": (slice(290, 1000, 3), slice(-10, None, 2)),
}


@pytest.mark.parametrize("block_bytes", [1, 10_000, stored_arrays.BLOCK_BYTES])
@pytest.mark.parametrize("array", [GRID, np.asfortranarray(GRID)], ids=["C", "Fortran"])
@pytest.mark.parametrize("key", list(KEYS))
def test_a_part_is_what_numpy_has_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, array: Any, block_bytes: int
) -> None:
    monkeypatch.setattr(stored_arrays, "BLOCK_BYTES", block_bytes)
    found = stored_array(tmp_path, stored(tmp_path, array))
    assert isinstance(found, StoredArray)
    assert np.array_equal(found[KEYS[key]], array[KEYS[key]])


def test_steps_are_not_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would be a call of its own: minutes for some megabytes."""
    found = stored_array(tmp_path, stored(tmp_path, GRID))
    calls = []
    read_into = hdf5_files.FileBytes.readinto

    def counted(source: hdf5_files.FileBytes, buffer: memoryview) -> int:
        calls.append(len(buffer))
        return read_into(source, buffer)

    monkeypatch.setattr(hdf5_files.FileBytes, "readinto", counted)
    assert np.array_equal(found[:, ::4], GRID[:, ::4])
    assert len(calls) < 20
    calls.clear()
    assert np.array_equal(found[::100], GRID[::100])
    assert sum(calls) < GRID.nbytes / 10, "whole rows are left out"


def test_it_has_what_an_array_tells_of_itself(tmp_path: Path) -> None:
    found = stored_array(tmp_path, stored(tmp_path, GRID))
    assert (found.shape, found.dtype, found.ndim, found.size, found.nbytes, len(found)) == (
        GRID.shape,
        GRID.dtype,
        GRID.ndim,
        GRID.size,
        GRID.nbytes,
        len(GRID),
    )
    assert np.array_equal(np.asarray(found), GRID)
    assert np.asarray(found, np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="without a copy"):
        found.__array__(copy=False)
    assert "(300, 400) float64" in repr(found)


def test_what_was_released_is_told_as_such_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[BaseException] = []
    found = stored_array(tmp_path, stored(tmp_path, GRID), gone=lambda: told[0] if told else None)
    assert isinstance(found, StoredArray)
    told.append(ResultError("the result of task 1.1 was released"))
    assert np.array_equal(found[7], GRID[7]), "it is there, and nobody is asked"
    found.file.unlink()
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    with pytest.raises(ResultError, match="was released"):
        _ = found[7]
    assert not slept
    told.clear()
    with pytest.raises(ResultError, match="no such file"):
        _ = found[7]


def test_what_was_released_of_a_file_that_others_share_is_told_as_such(tmp_path: Path) -> None:
    other = stored(tmp_path, GRID, "v")
    found = stored_array(
        tmp_path, stored(tmp_path, GRID), gone=lambda: ResultError("it was released")
    )
    assert isinstance(found, StoredArray)
    os.replace(tmp_path / other.path, found.file)
    found._value = "/1/f/1.2/0"
    with pytest.raises(ResultError, match="it was released"):
        _ = found[7]


def test_it_can_be_sent(tmp_path: Path) -> None:
    found = stored_array(tmp_path, stored(tmp_path, GRID), gone=lambda: None)
    assert np.array_equal(pickle.loads(pickle.dumps(found))[7], GRID[7])


SPECIAL = {
    "metadata": np.ones((3, 40_000), np.dtype("f8", metadata={"unit": "m"})),
    "aligned": np.zeros(20_000, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "byte strings": np.full((3, 20_000), b"abc", "S5"),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_an_array_whose_type_says_more_than_hdf5_keeps_is_found(tmp_path: Path, kind: str) -> None:
    array = SPECIAL[kind]
    found = stored_array(tmp_path, stored(tmp_path, array))
    for each in (found.dtype, found[1:].dtype, found[()].dtype):
        assert each == array.dtype
        assert (each.metadata, each.isalignedstruct) == (None, False)
    assert np.array_equal(found[1:], array[1:])
    assert array_in(array, "") is array
    with pytest.raises(KeyError, match="is an array itself"):
        stored_array(tmp_path, stored(tmp_path, array), "u")


def test_it_tells_where_it_is(tmp_path: Path) -> None:
    found = stored_array(tmp_path, stored(tmp_path, {"u": [GRID]}), "u/0")
    assert isinstance(found, StoredArray)
    with h5py.File(found.file) as file:
        assert np.array_equal(file[found.dataset], GRID)


def test_nothing_else_is_read(tmp_path: Path) -> None:
    """What is damaged elsewhere in the file is not met."""
    value = stored(tmp_path, GRID)
    path = tmp_path / value.path
    at = path.read_bytes().index(GRID[200].tobytes())
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(os.urandom(100))
    assert np.array_equal(stored_array(tmp_path, value)[10:20], GRID[10:20])
    with pytest.raises(ResultError, match="checksum"):
        read(tmp_path, value)


def test_arrays_in_other_values_have_names(tmp_path: Path) -> None:
    value = stored(tmp_path, {"fields": [GRID, GRID + 1], "step": 3})
    assert np.array_equal(stored_array(tmp_path, value, "fields/1")[:, 3], (GRID + 1)[:, 3])
    with pytest.raises(KeyError, match=r"not stored as one array; it has fields/0, fields/1"):
        stored_array(tmp_path, value)
    with pytest.raises(KeyError, match=r"no array 'u'; it has fields/0"):
        stored_array(tmp_path, value, "u")
    with pytest.raises(KeyError, match=r"no array '.pickle'"):
        stored_array(tmp_path, value, ".pickle")


def test_values_without_arrays_say_so(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="it has none"):
        stored_array(tmp_path, stored(tmp_path, "x" * 100_000))
    with pytest.raises(KeyError, match="is an array itself"):
        stored_array(tmp_path, stored(tmp_path, GRID), "fields/1")


def test_small_ones_come_from_memory(tmp_path: Path) -> None:
    value = stored(tmp_path, {"u": np.arange(5)})
    assert value.is_inline
    assert np.array_equal(stored_array(tmp_path, value, "u")[1:3], [1, 2])


def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    value = stored(tmp_path, GRID)
    found = stored_array(tmp_path, value)
    (tmp_path / value.path).unlink()
    with pytest.raises(ResultError):
        found[0]
