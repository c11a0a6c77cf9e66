"""That a checksum sees the damage that disks and file systems do, in arrays as science makes them.
A sum that is blind to some of it would still pass with random bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pilot.data.checksum import Checksum
from pilot.data.parts import raw

#: What a disk or a file system reads and writes at a time.
BLOCK_BYTES = 4096

Array = NDArray[Any]


def of(*arrays: Array) -> int:
    """The checksum of whole arrays."""
    return Checksum(map(raw, arrays)).value


#: A row of 64-bit words is a block.
ROWS, COLUMNS = 32, BLOCK_BYTES // 8
RANDOM = np.random.default_rng(0)

#: Arrays in which many rows, columns or blocks have the same sum, or are the same.
STRUCTURED: dict[str, Array] = {
    "identity": np.eye(ROWS, COLUMNS),
    "identity of bytes": np.eye(256, dtype=np.uint8),
    "permutation": np.eye(COLUMNS)[RANDOM.permutation(COLUMNS)[:ROWS]],
    "one-hot rows": np.eye(COLUMNS)[np.arange(ROWS) % 7],
    "constant rows": np.repeat(np.arange(ROWS), COLUMNS).reshape(ROWS, COLUMNS),
    "constant columns": np.tile(np.arange(COLUMNS), ROWS).reshape(ROWS, COLUMNS),
    "zeros": np.zeros((ROWS, COLUMNS)),
    "ones": np.ones((ROWS, COLUMNS)),
    "sparse": np.where(RANDOM.random((ROWS, COLUMNS)) < 1e-3, 1.0, 0.0),
    "ramp": np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS),
    "checkerboard": np.indices((ROWS, COLUMNS)).sum(axis=0) % 2,
    "random": RANDOM.random((ROWS, COLUMNS)),
}
SUMS = {name: of(array) for name, array in STRUCTURED.items()}
by_name = st.sampled_from(sorted(STRUCTURED))
places = st.integers(0, 2**32)


@given(by_name, places, places)
def test_blocks_that_changed_places_are_seen(name: str, a: int, b: int) -> None:
    blocks = raw(STRUCTURED[name]).reshape(-1, BLOCK_BYTES).copy()
    a, b = a % len(blocks), b % len(blocks)
    assume(not np.array_equal(blocks[a], blocks[b]))
    blocks[[a, b]] = blocks[[b, a]]
    assert of(blocks) != SUMS[name]


@given(by_name, places, st.sampled_from([0, 1]))
def test_rows_and_columns_in_another_order_are_seen(name: str, seed: int, axis: int) -> None:
    array = STRUCTURED[name]
    shuffled = np.random.default_rng(seed).permutation(array, axis)
    assume(not np.array_equal(array, shuffled))
    assert of(shuffled) != SUMS[name]


@given(by_name, places, places, places, places, st.integers(1, 2**63 - 1))
def test_words_changed_by_as_much_up_as_down_are_seen(
    name: str, top: int, bottom: int, left: int, right: int, d: int
) -> None:
    """The sums of all rows and of all columns stay what they were."""
    words = raw(STRUCTURED[name]).view("<u8").reshape(-1, COLUMNS).copy()
    top, bottom, left, right = (
        top % len(words),
        bottom % len(words),
        left % COLUMNS,
        right % COLUMNS,
    )
    assume(top != bottom and left != right)
    change = np.array([[d, -d], [-d, d]], np.int64).view(np.uint64)
    words[np.ix_([top, bottom], [left, right])] += change
    assert of(words) != SUMS[name]


@given(by_name, places, st.sampled_from(["zeroed", "stale", "repeated", "missing"]))
def test_blocks_that_were_not_written_are_seen(name: str, place: int, damage: str) -> None:
    blocks = raw(STRUCTURED[name]).reshape(-1, BLOCK_BYTES).copy()
    place = 1 + place % (len(blocks) - 1)
    damaged = blocks.copy()
    if damage == "missing":
        damaged = np.delete(blocks, place, axis=0)
    else:
        before = np.full(BLOCK_BYTES, 0xA5, np.uint8)
        damaged[place] = {"zeroed": 0, "stale": before, "repeated": blocks[place - 1]}[damage]
    assume(not np.array_equal(damaged, blocks))
    assert of(damaged) != SUMS[name]


@given(by_name, places, st.integers(1, 255))
def test_flipped_bits_are_seen(name: str, place: int, bits: int) -> None:
    array = STRUCTURED[name].copy()
    flat = raw(array)
    flat[place % flat.size] ^= bits
    assert of(array) != SUMS[name]


@given(by_name, st.lists(places, max_size=5), st.integers(1, 9))
def test_neither_the_pieces_nor_their_alignment_count(
    name: str, cuts: list[int], offset: int
) -> None:
    flat = raw(STRUCTURED[name])
    places = sorted(cut % (flat.size + 1) for cut in cuts)
    assert Checksum(np.split(flat, places)).value == SUMS[name]
    elsewhere = np.empty(flat.size + offset, np.uint8)
    elsewhere[offset:] = flat
    assert Checksum([elsewhere[offset:]]).value == SUMS[name]


def test_zeros_of_different_length_differ() -> None:
    assert len({of(np.zeros(BLOCK_BYTES * n, np.uint8)) for n in range(600)}) == 600


def test_what_is_read_only_or_empty_has_a_checksum() -> None:
    array = STRUCTURED["ramp"].copy()
    array.setflags(write=False)
    assert of(array) == SUMS["ramp"]
    assert of() == of(np.empty(0)) == Checksum([]).value


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", 0x2D06800538D394C2),
        (b"a", 0xE6C632B61E964E1F),
        (b"abc", 0x78AF5F94892F3950),
    ],
)
def test_it_is_xxh3_as_others_compute_it(content: bytes, expected: int) -> None:
    """Files of today are read by later releases, and may be checked with ``xxhsum -H3``."""
    assert Checksum([np.frombuffer(content, np.uint8)]).value == expected
