"""A run of mpi4py's own tests on the ranks that are there; the same on Pilot and without it."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
import traceback
import unittest
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

#: The outcomes of tests by name; with a failed one, the end of its traceback.
Outcomes: TypeAlias = "dict[str, tuple[str, str]]"
_Raised: TypeAlias = (
    "tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]"
)


class Recorder(unittest.TestResult):
    """The result of a run, which keeps how each test has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Outcomes = {}

    def addSuccess(self, test: unittest.TestCase) -> None:
        """Keep that a test has passed."""
        self.found.setdefault(test.id(), ("passed", ""))

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        """Keep that a test was skipped."""
        self.found.setdefault(test.id(), ("skipped", reason))

    def addExpectedFailure(self, test: unittest.TestCase, err: _Raised) -> None:
        """Keep that a test has failed as it should."""
        self.addSuccess(test)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        """Keep that a test has passed, and should not."""
        self.found[test.id()] = ("failed", "passed unexpectedly")

    def addError(self, test: unittest.TestCase, err: _Raised) -> None:
        """Keep that a test has raised."""
        self.found[test.id()] = ("failed", _told(err))

    def addFailure(self, test: unittest.TestCase, err: _Raised) -> None:
        """Keep that a test has failed."""
        self.addError(test, err)

    def addSubTest(
        self, test: unittest.TestCase, subtest: unittest.TestCase, err: _Raised | None
    ) -> None:
        """Keep that a part of a test has failed."""
        if err is not None:
            self.addError(test, err)

    def wasSuccessful(self) -> bool:
        """Tell whether no test has failed."""
        return all(outcome != "failed" for outcome, _ in self.found.values())


class _Runner:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def run(self, test: unittest.TestSuite) -> Recorder:
        test.run(self._recorder)
        return self._recorder


def _told(raised: _Raised) -> str:
    return traceback.format_exception(*raised)[-1].strip()[-300:]


def run_tests(directory: str, names: Sequence[str]) -> tuple[Outcomes, float] | None:
    """Run the tests of a directory on all ranks; return, on rank 0, what failed on any of them.

    Parameters
    ----------
    directory
        The tests of mpi4py.
    names
        Names of its modules; none: all.
    """
    from mpi4py import MPI

    world = MPI.COMM_WORLD.Dup()
    if directory not in sys.path:
        sys.path.insert(0, directory)
    program = importlib.import_module("main").TestProgram
    recorder = Recorder()
    chosen = [word for name in names for word in ("-i", f"{name}.py$")]
    argv = ["main", "discover", "-q", "--no-builddir", *chosen]
    world.Barrier()
    begin = time.monotonic()
    with contextlib.suppress(SystemExit):
        program(module=None, argv=argv, testRunner=_Runner(recorder))
    seconds = time.monotonic() - begin
    told = world.gather(recorder.found)
    world.Free()
    return None if told is None else (merged(told), seconds)


def merged(told: Sequence[Outcomes]) -> Outcomes:
    """Return the outcomes of all ranks as those of one: what failed on one has failed."""
    found: Outcomes = {}
    for outcomes in told:
        for name, (outcome, why) in outcomes.items():
            before, _ = found.setdefault(name, (outcome, why))
            if outcome == "failed" != before:
                found[name] = outcome, why
    return found


def main(words: Sequence[str]) -> None:
    """Run the tests several times in these processes, and write the outcomes as JSON."""
    directory, rounds, out, *names = words
    found = [run_tests(directory, names) for _ in range(int(rounds))]
    if found[0] is not None:
        Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
