"""Sweeping: dead values leave their files, all others stay as they are, whoever is killed when."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support.killed import killed_at

from pilot.data import durable, sweeping
from pilot.data.sealed_file import SealedFile
from pilot.data.segments import SegmentWriter
from pilot.data.storing import load
from pilot.data.sweeping import is_worth_it, sweep
from pilot.errors import ResultError, StorageError
from pilot.model.values import Value

#: Of every kind: a lone array, an empty one, a scalar, a pickle, arrays in containers with notes.
OBJECTS: list[object] = [
    np.arange(30_000.0).reshape(3, 10_000),
    np.zeros((0, 3), ">i2"),
    np.array(2.5),
    b"pickled" * 20_000,
    {"u": [np.ones(9_000, "f4"), np.arange(5)], "error": 0.5, "name": "heat", "n": 3, "ok": True},
    np.zeros(7_000, [("a", "<i4"), ("b", "S3")]),
]


@pytest.fixture
def values(tmp_path: Path) -> list[Value]:
    """All of them in one segment."""
    with SegmentWriter(tmp_path, "e1") as writer:
        written = [
            writer.add("1", "f", f"3.{number}", 0, obj) for number, obj in enumerate(OBJECTS)
        ]
    return [unsealed.value for unsealed in written]


def assert_same(found: object, wanted: object) -> None:
    if isinstance(wanted, dict):
        assert isinstance(found, dict) and found.keys() == wanted.keys()
        np.testing.assert_equal(found, wanted)
    elif isinstance(wanted, np.ndarray):
        assert isinstance(found, np.ndarray)
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        assert found.tobytes() == wanted.tobytes()
    else:
        assert found == wanted


@pytest.mark.parametrize("kept", [[0], [4], [1, 2, 3], [5, 0, 4], range(1, 6)])
def test_what_stays_is_what_it_was(tmp_path: Path, values: list[Value], kept: list[int]) -> None:
    path = tmp_path / values[0].path
    dead = {value.name for number, value in enumerate(values) if number not in kept}
    before = path.stat().st_size
    assert sweep(path, dead.__contains__, always=True)
    assert path.stat().st_size <= before - sum(v.size for v in values if v.name in dead)
    for number in kept:
        assert_same(load(values[number], tmp_path), OBJECTS[number])
    for number in set(range(len(values))).difference(kept):
        with pytest.raises(ResultError, match=f"3.{number}"):
            load(values[number], tmp_path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    # People find in it what was there before, and so do other tools.
    if shutil.which("h5dump"):
        subprocess.run(["h5dump", "-n", path], check=True, capture_output=True)
    if 4 in kept:
        with h5py.File(path) as file:
            attributes = dict(file[values[4].name].attrs)
        assert (attributes["error"], attributes["name"]) == (0.5, "heat")
        assert (attributes["n"], attributes["ok"]) == (3, True)


def test_a_file_goes_with_its_last_value(tmp_path: Path, values: list[Value]) -> None:
    path = tmp_path / values[0].path
    assert sweep(path, lambda _name: True)
    assert not path.exists()
    assert sweep(path, lambda _name: True)  # as after a crash: it is gone already


def test_it_has_to_be_worth_it() -> None:
    sizes = {"a": 50, "b": 49, "c": 1}
    assert is_worth_it(sizes, {"a": 50})
    assert not is_worth_it(sizes, {"b": 49})
    large = {"a": 100 * sweeping.WORTH_BYTES, "b": sweeping.WORTH_BYTES}
    assert is_worth_it(large, {"b": sweeping.WORTH_BYTES})
    assert not is_worth_it(large, {"b": sweeping.WORTH_BYTES - 1})


def test_nothing_is_written_for_little(tmp_path: Path, values: list[Value]) -> None:
    path = tmp_path / values[0].path
    before = path.stat()
    assert not sweep(path, {values[5].name}.__contains__)
    assert (path.stat().st_ino, path.stat().st_size) == (before.st_ino, before.st_size)
    # What is there of it counts, not what is said to be dead.
    assert sweep(path, {"/1/f/9.9/0"}.__contains__)
    assert path.stat().st_ino == before.st_ino


def test_readers_who_have_it_open_are_not_disturbed(tmp_path: Path, values: list[Value]) -> None:
    path = tmp_path / values[0].path
    file = SealedFile(path)
    assert sweep(path, {values[0].name}.__contains__)
    assert file.read(values[0].name, values[0].checksum).arrays[0].shape == (3, 10_000)
    assert_same(load(values[3], tmp_path), OBJECTS[3])


def test_damage_stays_visible(tmp_path: Path, values: list[Value]) -> None:
    path = tmp_path / values[0].path
    data = bytearray(path.read_bytes())
    data[data.index(b"pickled") + 1000] ^= 1
    path.write_bytes(data)
    assert sweep(path, {values[0].name}.__contains__, always=True)
    with pytest.raises(ResultError, match="checksum"):
        load(values[3], tmp_path)
    assert_same(load(values[4], tmp_path), OBJECTS[4])


def test_a_file_that_is_no_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(b"no HDF5")
    with pytest.raises(ResultError):
        sweep(path, lambda _name: True)
    assert path.read_bytes() == b"no HDF5"


@pytest.mark.parametrize("call", ["fsync", "pwrite"])
def test_a_full_disk_loses_nothing(
    tmp_path: Path, values: list[Value], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / values[0].path

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(StorageError, match="No space left"):
            sweep(path, {values[0].name}.__contains__)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    for value, obj in zip(values, OBJECTS, strict=True):
        assert_same(load(value, tmp_path), obj)


def test_a_directory_that_cannot_be_synced_keeps_the_new_file(
    tmp_path: Path, values: list[Value], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new segment's name is taken back then; here that would take the data away."""
    path = tmp_path / values[0].path

    def fails(_directory: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "sync_directory", fails)
        with pytest.raises(StorageError, match="Input/output"):
            sweep(path, {values[0].name}.__contains__)
    for value, obj in zip(values[1:], OBJECTS[1:], strict=True):
        assert_same(load(value, tmp_path), obj)


#: The calls that touch the file system.
TOUCHES: list[tuple[Any, str]] = [
    *((os, name) for name in ("open", "fsync", "pwrite", "unlink")),
    (Path, "rename"),
]


def test_killed_at_any_instant(tmp_path: Path) -> None:
    """Before each touch of the file system the sweeper is killed; another one finishes."""
    call = 0
    killed = True
    while killed:
        call += 1
        site = tmp_path / str(call)
        site.mkdir()
        with SegmentWriter(site, "e1") as writer:
            small = [np.full(100, number) for number in range(3)]
            written = [writer.add("1", "f", f"3.{n}", 0, obj) for n, obj in enumerate(small)]
        values = [unsealed.value for unsealed in written]
        path = site / values[0].path
        dead = {values[0].name, values[1].name}
        killed = killed_at(call, partial(sweep, path, dead.__contains__), TOUCHES)
        assert_same(load(values[2], site), small[2])
        assert sweep(path, dead.__contains__)
        assert_same(load(values[2], site), small[2])
        with contextlib.closing(SealedFile(path)) as file:
            assert list(file.sizes()) == [values[2].name]
        assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert call > 5
