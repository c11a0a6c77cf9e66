"""The functions of CHAIN, FANOUT, ALLTOALL, MATMUL and CHOLESKY that run as tasks: arrays in and
out.

Each is written as a user would write it, and knows nothing of what runs it. Workers import the
module, and with it NumPy.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Block = NDArray[np.floating[Any]]

#: How long a reader waits for the others, in seconds.
MEET_S = 120.0


def made(number: int, floats: int) -> Block:
    """Return a block of so many 64-bit floats, each its place plus `number`."""
    return np.arange(floats, dtype=np.float64) + number


def one_up(block: Block) -> Block:
    """Add 1 to a block, in place: a step of a chain."""
    block += 1
    return block


def is_made(block: Block, number: int) -> bool:
    """Tell whether a block is what `made` gives for this number."""
    return bool(np.array_equal(block, np.arange(len(block)) + number))


# --- chains by hand ------------------------------------------------------------------------------


def save_pickle(block: Block, path: str) -> None:
    """Write a block as a pickle."""
    with open(path, "wb") as file:
        pickle.dump(block, file, protocol=5)


def load_pickle(path: str) -> Block:
    """Read a block that is a pickle."""
    with open(path, "rb") as file:
        block: Block = pickle.load(file)
    return block


def save_plain(block: Block, path: str) -> None:
    """Write the bytes of a block."""
    with open(path, "wb") as file:
        file.write(block.data)


def load_plain(path: str) -> Block:
    """Read a block that is plain bytes."""
    return np.fromfile(path, dtype=np.float64)


def pickled_step(before: str, after: str) -> None:
    """Make a step from one pickle to another, and remove the first one."""
    save_pickle(one_up(load_pickle(before)), after)
    Path(before).unlink()


def plain_step(before: str, after: str) -> None:
    """Make a step from one file of plain bytes to another, and remove the first one."""
    save_plain(one_up(load_plain(before)), after)
    Path(before).unlink()


def shared_step(before: str, after: str) -> None:
    """Make a step on a file that is mapped by whose turn it is, and give it its next name."""
    one_up(np.memmap(before, dtype=np.float64, mode="r+"))
    Path(before).rename(after)


# --- many readers of one value -------------------------------------------------------------------


def met(block: Block, index: int, directory: str, count: int) -> float:
    """Return the sum of a block, once `count` readers have theirs and all hold it at a time."""
    total = float(block.sum())
    Path(directory, str(index)).touch()
    end = time.monotonic() + MEET_S
    while len(list(Path(directory).iterdir())) < count:
        if time.monotonic() > end:
            raise TimeoutError(f"not all of {count} readers were there after {MEET_S:.0f} s")
        time.sleep(0.005)
    return total


def met_over_file(path: str, mapped: bool, index: int, directory: str, count: int) -> float:
    """Do the same with a block that is in a file, read or mapped."""
    return met(np.load(path, mmap_mode="r" if mapped else None), index, directory, count)


# --- all to all ----------------------------------------------------------------------------------


def made_parts(number: int, parts: int, floats: int) -> tuple[Block, ...]:
    """Return the blocks that one task has for the others: `made` of ``number * parts + part``."""
    return tuple(made(number * parts + part, floats) for part in range(parts))


def gathered(*blocks: Block) -> float:
    """Return the sum of all blocks."""
    return float(sum(block.sum() for block in blocks))


def saved_parts(number: int, parts: int, floats: int, directory: str, durable: bool) -> list[str]:
    """Save the blocks of `made_parts`, on the disk if `durable`; return the names of their
    files."""
    paths = [f"{directory}/{number}-{part}.npy" for part in range(parts)]
    for path, block in zip(paths, made_parts(number, parts, floats), strict=True):
        with open(path, "wb") as file:
            np.save(file, block)
            if durable:
                file.flush()
                os.fsync(file.fileno())
    return paths


def gathered_from_files(part: int, makers: Sequence[Sequence[str]]) -> float:
    """Return the sum of all blocks of one part, given the files of each maker."""
    return gathered(*(np.load(paths[part]) for paths in makers))


# --- linear algebra in blocks --------------------------------------------------------------------


def random_block(seed: int, row: int, column: int, size: int) -> Block:
    """Return a square block of a matrix of random numbers from 0 to 1."""
    block: Block = np.random.default_rng((seed, row, column)).random((size, size))
    return block


def positive_block(seed: int, row: int, column: int, size: int, count: int) -> Block:
    """Return a block of a symmetric positive definite matrix of ``count * count`` blocks."""
    block: Block = random_block(seed, row, column, size) + random_block(seed, column, row, size).T
    if row == column:
        block += 2 * count * size * np.eye(size)
    return block


def product(left: Block, right: Block) -> Block:
    """Return the product of two blocks."""
    found: Block = left @ right
    return found


def plus_product(block: Block, left: Block, right: Block) -> Block:
    """Return a block with the product of two others added."""
    found: Block = block + left @ right
    return found


def minus_product(block: Block, left: Block, right: Block) -> Block:
    """Return a block less the product of a second and a transposed third one."""
    found: Block = block - left @ right.T
    return found


def factor(block: Block) -> Block:
    """Return the Cholesky factor of a block."""
    found: Block = np.linalg.cholesky(block)
    return found


def solved(lower: Block, block: Block) -> Block:
    """Return the block X for which ``X @ lower.T`` is `block`."""
    found: Any = np.linalg.solve(lower, block.T)
    return np.ascontiguousarray(found.T)


def whole(kind: str, seed: int, count: int, size: int) -> Block:
    """Return all of a matrix: ``random`` or ``positive``."""
    return np.block(
        [
            [
                random_block(seed, row, column, size)
                if kind == "random"
                else positive_block(seed, row, column, size, count)
                for column in range(count)
            ]
            for row in range(count)
        ]
    )
