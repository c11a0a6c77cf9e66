"""Reading the output of tasks: parts of files in the site directory, also while they grow.

Invariant: of a file that many tasks write to, one after the other, only the task's own part is
shown. While it runs that part has no end yet; then it is read as far as the file went before the
head was asked, since what is written after the answer may be the next task's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: The interval at which a running task's output is read, in seconds.
POLL_S = 0.5
_CHUNK = 1 << 20

#: A part of a file as the query ``logs`` gives it: path, start, end, attempt.
Span = dict[str, Any]


def last_attempt(spans: list[Span]) -> list[Span]:
    """Return the spans of the last attempt that wrote anything."""
    newest = max((span["attempt"] for span in spans), default=0)
    return [span for span in spans if span["attempt"] == newest]


class Output:
    """A printer of spans that shows each byte once.

    Parameters
    ----------
    directory
        The site directory.
    write
        The function that takes the bytes.
    """

    def __init__(self, directory: Path, write: Callable[[bytes], object] | None = None) -> None:
        self._directory = directory
        self._write = write or write_stdout
        self._shown: dict[tuple[str, int], int] = {}
        self._last = ""

    def sizes(self) -> dict[str, int]:
        """Return the present sizes of the files of which a span was shown."""
        return {path: _size(self._directory / path) for path, _ in self._shown}

    def show(self, spans: list[Span], known: dict[str, int] | None = None) -> None:
        """Show the new parts of the spans; `known` has the sizes before the head was asked."""
        for span in spans:
            path: str = span["path"]
            start: int = span["start"]
            end: int = span["end"]
            if end < 0:
                size = _size(self._directory / path)
                end = size if known is None else min(size, known.get(path, size))
            begin = self._shown.get((path, start), start)
            if end > begin and self._last != path and len({s["path"] for s in spans}) > 1:
                self._write(f"==> {path} <==\n".encode())
                self._last = path
            for chunk in _read(self._directory / path, begin, end):
                self._write(chunk)
                begin += len(chunk)
            self._shown[path, start] = begin


def follow(output: Output, ask: Callable[[], tuple[bool, list[Span]]]) -> None:
    """Show a task's output until the task has ended.

    Parameters
    ----------
    ask
        A function that tells whether the task has ended, and returns its spans.
    """
    while True:
        known = output.sizes()
        ended, spans = ask()
        output.show(last_attempt(spans), known)
        if ended:
            return
        time.sleep(POLL_S)


def write_stdout(data: bytes) -> None:
    """Write bytes to stdout unchanged, at once."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path, begin: int, end: int) -> Iterator[bytes]:
    if end <= begin:
        return
    try:
        with path.open("rb") as file:
            file.seek(begin)
            while begin < end and (chunk := file.read(min(_CHUNK, end - begin))):
                begin += len(chunk)
                yield chunk
    except FileNotFoundError:
        yield f"pilot: {path} is gone\n".encode()
