"""A peer as seen from here: a process that is asked for figures, and whose remains are ended.

Invariants: every answer has a deadline, that of all answers together; when `opened` is left no
process of the peer runs, whatever it has detached itself from, and its directory is gone. Its home
and its temporary files are in that directory, too.
"""

from __future__ import annotations

import contextlib
import json
import select
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import measure, peers
from bench.measure import Deadline

#: How long a peer may take for its start and all that a workload asks of it, in seconds.
LIMIT_S = 240.0
#: How long it has to end itself, in seconds.
END_S = 20.0


class PeerError(Exception):
    """An error of a peer: it did not do what it was asked for."""


class Peer:
    """A contender in a process of its own."""

    #: What tables call it, with its release.
    name: str
    #: It is in another process.
    system = None

    def __init__(self, process: subprocess.Popen[bytes], errors: Path) -> None:
        self._process = process
        self._errors = errors
        self._deadline = Deadline(LIMIT_S)
        self._unread = b""
        self.name = self._answer()["name"]

    def do(self, load: str, **arguments: Any) -> Any:
        """Run a load and return its figures, or None if the peer has no such load.

        Raises
        ------
        PeerError
            It failed, or its process ended.
        DeadlineError
            It took too long.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"load": load, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerError(self._last_words()) from None
        answer = self._answer()
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer["found"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\n" not in self._unread:
            # Its processes may have inherited the pipe: that it is open does not say that it lives.
            ready, _, _ = select.select([self._process.stdout], [], [], min(1.0, self._left_s()))
            if ready:
                new = self._process.stdout.read1(1 << 16)  # type: ignore[attr-defined]  # it is buffered
                self._unread += new
            if (ready and not new) or (not ready and self._process.poll() is not None):
                raise PeerError(self._last_words())
        line, self._unread = self._unread.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _left_s(self) -> float:
        return self._deadline.left_s()

    def _last_words(self) -> str:
        lines = self._errors.read_text(errors="replace").strip().splitlines()
        return f"its process ended: {lines[-1] if lines else 'without a word'}"


@contextlib.contextmanager
def opened(name: str, workers: int, workload: str, parent: Path) -> Iterator[Peer]:
    """Open a peer with so many workers. Its first load starts the peer and warms it up."""
    directory = parent / f"peer-{name}"
    errors = directory / "errors"
    directory.mkdir()
    with errors.open("wb") as file:
        process = subprocess.Popen(
            peers.command(name, str(workers), workload),
            cwd=directory,
            env=peers.environment(name, directory),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield Peer(process, errors)
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
    finally:
        measure.end_processes(directory)
        with process:  # closes its pipes and takes its status
            pass
        shutil.rmtree(directory, ignore_errors=True)
