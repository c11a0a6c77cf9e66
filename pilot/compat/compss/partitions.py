"""Partitions of data sets: what is to be read by the task that needs it, and how they are written.

Invariant: a worker imports this module, and it imports nothing of the application.
"""

from __future__ import annotations

import hashlib
import numbers
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

_HASH_BYTES = 8


def elements(partition: Any) -> Iterable[Any]:
    """Return the elements of a partition, which is itself some, or tells how to read them."""
    read = getattr(partition, "read_elements", None)
    return partition if read is None else read()  # type: ignore[no-any-return]  # as below


class Slice:
    """Elements that the program has loaded."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def read_elements(self) -> list[Any]:
        """Return the elements."""
        return list(self.data)


class FilePart(NamedTuple):
    """So many bytes of a text file, with the rest of the character that they end in."""

    path: str
    begin: int
    size: int

    def read_elements(self) -> list[str]:
        """Return the text."""
        with open(self.path, "rb") as file:
            file.seek(self.begin)
            data = file.read(self.size + 3)
        begin = 0 if self.begin == 0 else _first_start(data, 0)
        end = _first_start(data, self.size) if len(data) > self.size else len(data)
        return [data[begin:end].decode(errors="replace")]


def _first_start(data: bytes, at: int) -> int:
    """Return where the next character of UTF-8 begins."""
    while at < len(data) and data[at] & 0xC0 == 0x80:
        at += 1
    return at


class Files(NamedTuple):
    """Whole files."""

    paths: tuple[str, ...]

    def read_elements(self) -> list[tuple[str, str]]:
        """Return pairs of path and content."""
        return [(path, Path(path).read_text()) for path in self.paths]


class Pickled(NamedTuple):
    """A partition that `save_pickle` has written."""

    path: str

    def read_elements(self) -> list[Any]:
        """Return the elements."""
        with open(self.path, "rb") as file:
            return list(pickle.load(file))


def text_blocks(path: str, size: int) -> Iterator[str]:
    """Yield a text file in blocks of so many characters."""
    with open(path) as file:
        while block := file.read(size):
            yield block


def line_blocks(path: str, size: int, in_bytes: bool, strip: bool) -> Iterator[list[str]]:
    """Yield the lines of a file in blocks of about so many bytes, or of so many lines."""
    block: list[str] = []
    taken = 0
    with open(path) as file:
        for line in file:
            block.append(line.rstrip("\n") if strip else line)
            taken += len(line.encode()) if in_bytes else 1
            if taken >= size:
                yield block
                block, taken = [], 0
    if block:
        yield block


def save_text(path: Path, data: Iterable[Any]) -> None:
    """Write elements to a file, a line for each; it takes its place when it is whole."""
    _replace(path, "".join(f"{each}\n" for each in data).encode())


def save_pickle(path: Path, data: Iterable[Any]) -> None:
    """Write elements to a file as a pickle; it takes its place when it is whole."""
    _replace(path, pickle.dumps(list(data), protocol=pickle.HIGHEST_PROTOCOL))


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(content)
    draft.replace(path)


def portable_hash(key: Any) -> int:
    """Return a number for a key, the same in each process; equal keys have equal ones.

    Of numbers, texts, None, and tuples and frozen sets of these; of others their pickle counts.
    """
    if isinstance(key, numbers.Number):
        return hash(key)
    if key is None:
        return 0
    if isinstance(key, tuple):
        return _digest(repr([portable_hash(each) for each in key]).encode())
    if isinstance(key, frozenset):
        return _digest(repr(sorted(portable_hash(each) for each in key)).encode())
    if isinstance(key, str):
        return _digest(key.encode(errors="surrogatepass"))
    return _digest(key if isinstance(key, bytes) else pickle.dumps(key, protocol=4))


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=_HASH_BYTES).digest(), "big")
