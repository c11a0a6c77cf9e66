"""Compressed results: what comes back, what other programs read, and what a full disk does."""

from __future__ import annotations

import math
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.client.task import OptionError, task
from pilot.compression import compression_text, parse_compression
from pilot.data import chunks
from pilot.data.draft import Draft
from pilot.data.parts import take_apart
from pilot.data.segments import SegmentWriter, read
from pilot.data.stored_array import stored_array
from pilot.data.sweeping import sweep
from pilot.errors import ResultError, StorageError
from pilot.model.values import Value

SMOOTH = np.round(np.sin(np.arange(600 * 700) / 1000).reshape(600, 700), 3)
NOISE = np.random.default_rng(1).integers(0, 256, 3_000_001, "u1")

#: Of many chunks and one, with a rest and without, of bytes that shrink and that do not.
OBJECTS: dict[str, Any] = {
    "array": SMOOTH,
    "in Fortran's order": np.asfortranarray(SMOOTH),
    "pickle": b"pickled" * 20_000,
    "group": {"u": SMOOTH, "noise": NOISE, "few": np.arange(3), "text": "x" * 100_000, "n": 3},
    "structured": np.zeros(7_000, [("a", "<i4"), ("b", "S3")]),
    "three dimensions": np.arange(70 * 80 * 90, dtype=">i4").reshape(70, 80, 90),
    "without dimensions": np.array(b"s" * 100_000),
    "empty": np.zeros((0, 100_000)),
}


def stored(directory: Path, *objects: object, level: int = 4) -> list[Value]:
    directory.mkdir(exist_ok=True)
    with SegmentWriter(directory, "w") as writer:
        found = [writer.add("1", "f", f"1.{n}", 0, obj, level) for n, obj in enumerate(objects)]
    return [unsealed.value for unsealed in found]


@pytest.mark.parametrize("level", [1, 9])
def test_what_comes_back_is_what_it_was(tmp_path: Path, level: int) -> None:
    values = stored(tmp_path, *OBJECTS.values(), level=level)
    plain = stored(tmp_path / "plain", *OBJECTS.values(), level=0)
    for value, uncompressed, obj in zip(values, plain, OBJECTS.values(), strict=True):
        np.testing.assert_equal(read(tmp_path, value), obj)
        assert (value.size, value.checksum) == (uncompressed.size, uncompressed.checksum)
    size, before = (
        (base / value.path).stat().st_size
        for base, value in ((tmp_path, values[0]), (tmp_path / "plain", plain[0]))
    )
    assert size < NOISE.nbytes + (before - NOISE.nbytes) / 4


SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


@given(SHAPES, st.sampled_from(["u1", "<f8", ">i2", "S3"]), st.integers(40, 4000))
def test_chunks_cover_an_array_once(shape: Any, dtype: str, most: int) -> None:
    kind = np.dtype(dtype)
    array = np.arange(math.prod(shape) * kind.itemsize, dtype="u4").astype("u1")
    array = array.view(kind).reshape(shape)
    chunk = chunks.chunk_shape(shape, kind.itemsize, most)
    assert math.prod(chunk) * kind.itemsize <= max(most, kind.itemsize)
    found = np.zeros(shape, kind)
    packed = list(chunks.pack(array, chunk, 1))
    for one in packed:
        chunks.unpack(one, chunk, found)
    assert found.tobytes() == array.tobytes()
    # What lies together: whole dimensions behind the first that is cut, one of each before it.
    cut = next((n for n, size in enumerate(chunk) if size > 1), len(shape) - 1)
    assert chunk[:cut] == (1,) * cut and chunk[cut + 1 :] == shape[cut + 1 :]


def test_h5py_reads_it_with_its_own_filters(tmp_path: Path) -> None:
    value = stored(tmp_path, OBJECTS["group"])[0]
    with h5py.File(tmp_path / value.path) as file:
        group = file[value.name]
        assert (group["u"].compression, group["u"].shuffle) == ("gzip", True)
        assert np.array_equal(group["u"][()], SMOOTH)
        assert np.array_equal(group["noise"][()], NOISE)
        assert group["u"].id.get_storage_size() < SMOOTH.nbytes / 2
        # What does not shrink is stored as it is.
        chunk, count = group["noise"].chunks[0], group["noise"].id.get_num_chunks()
        assert group["noise"].id.get_storage_size() == chunk * count
        assert group["few"].chunks is None


@pytest.mark.skipif(not shutil.which("h5dump"), reason="h5dump is not installed")
def test_h5dump_reads_it(tmp_path: Path) -> None:
    value = stored(tmp_path, SMOOTH)[0]
    command = ["h5dump", "-p", "-d", value.name, "-s", "599,699", "-c", "1,1"]
    found = subprocess.run(
        [*command, str(tmp_path / value.path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    assert "COMPRESSION DEFLATE" in found
    assert f"{SMOOTH[-1, -1]:g}" in found


def test_a_part_is_read_without_the_other_chunks(tmp_path: Path) -> None:
    value = stored(tmp_path, np.repeat(SMOOTH, 3, axis=0))[0]
    path = tmp_path / value.path
    with h5py.File(path) as file:
        data = file[value.name].id
        assert data.get_num_chunks() == 10
        last = data.get_chunk_info(9)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(last.byte_offset + 10)
        file.write(b"\xff" * 100)
    array = stored_array(tmp_path, value)
    whole = np.repeat(SMOOTH, 3, axis=0)
    assert np.array_equal(array[100:200], whole[100:200])
    assert np.array_equal(array[5:1000:7, ::3], whole[5:1000:7, ::3])
    with pytest.raises(ResultError, match="cannot be read"):
        array[-1]
    with pytest.raises(ResultError, match=r"damaged"):
        read(tmp_path, value)


def test_no_damage_goes_unnoticed(tmp_path: Path) -> None:
    value = stored(tmp_path, {"u": SMOOTH})[0]
    path = tmp_path / value.path
    whole = path.read_bytes()
    path.chmod(0o644)
    random = np.random.default_rng(2)
    noticed = 0
    for place in random.integers(0, len(whole), 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        try:
            back = read(tmp_path, value)
        except ResultError:
            noticed += 1
        else:
            assert np.array_equal(back["u"], SMOOTH)
    assert noticed > 40


@pytest.fixture
def disk() -> Iterator[Any]:
    """Limits the size of files, which to a writer looks like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int | None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size is None else size, before[1]))

    yield limit
    limit(None)


def test_a_full_disk_leaves_what_was_written(tmp_path: Path, disk: Any) -> None:
    with SegmentWriter(tmp_path, "w") as writer:
        first = writer.add("1", "f", "1.1", 0, SMOOTH, 4)
        for size in (200_000, 1_500_000):
            disk(size)
            with pytest.raises(StorageError, match=r"File too large.*free space"):
                writer.add("1", "f", "1.2", 0, NOISE, 4)
        disk(None)
        later = [writer.add("1", "f", f"1.{n}", 0, SMOOTH + n, 4) for n in range(3, 6)]
        disk(1)
        with pytest.raises(StorageError, match="File too large"):
            writer.seal()
        disk(None)
    np.testing.assert_equal(read(tmp_path, first.value), SMOOTH)
    for n, unsealed in enumerate(later, 3):
        np.testing.assert_equal(read(tmp_path, unsealed.value), SMOOTH + n)


def test_data_are_not_kept_in_memory(tmp_path: Path) -> None:
    draft = Draft(tmp_path / "draft")
    draft.write("/v", take_apart(NOISE), 1)
    assert sum(draft._metadata._extents.values()) < 100_000
    draft.discard()


def test_results_are_swept_as_they_are(tmp_path: Path) -> None:
    values = stored(tmp_path, *OBJECTS.values())
    path = tmp_path / values[0].path
    before = path.stat().st_size
    dead = {values[0].name, values[2].name}
    assert sweep(path, dead.__contains__, always=True)
    assert path.stat().st_size < before
    for value, obj in zip(values, OBJECTS.values(), strict=True):
        if value.name not in dead:
            np.testing.assert_equal(read(tmp_path, value), obj)


# --- what users write


@pytest.mark.parametrize(
    ("text", "level"), [("none", 0), ("gzip", 4), ("gzip:1", 1), ("gzip:9", 9), ("gzip:4", 4)]
)
def test_compressions_have_names(text: str, level: int) -> None:
    assert parse_compression(text) == level
    assert parse_compression(compression_text(level)) == level


@pytest.mark.parametrize(
    "wrong", ["gzip:0", "gzip:10", "gzip:", "zstd", "", "lzf", 4, None, True, "x" * 1000]
)
def test_other_compressions_are_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"give none, gzip .* or gzip:1 \(fast\)"):
        parse_compression(wrong)
    if wrong is not None:
        with pytest.raises(OptionError, match=r"^compression="):
            task(compression=wrong)(print)
