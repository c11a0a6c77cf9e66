"""The driver of mpi4py's own tests, without MPI: what it keeps, merges and compares."""

from __future__ import annotations

import sys
import unittest
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "lib"))

from suites import cli, mpi4py_suite
from suites.mpi4py_ranks import Outcomes, Recorder, merged


class Sample(unittest.TestCase):
    __test__ = False  # it is no test of ours

    def runTest(self) -> None:  # noqa: N802 # unittest's name
        for number in range(3):
            with self.subTest(number=number):
                self.assertLess(number, 2)

    def passes(self) -> None:
        pass

    def is_skipped(self) -> None:
        self.skipTest("as told")

    @unittest.expectedFailure
    def fails_as_it_should(self) -> None:
        self.fail()

    def raises(self) -> None:
        raise ValueError("as told")


def test_the_end_of_each_test_is_kept() -> None:
    recorder = Recorder()
    names = ("runTest", "passes", "is_skipped", "fails_as_it_should", "raises")
    unittest.TestSuite(map(Sample, names)).run(recorder)
    found = {name.rpartition(".")[2]: told for name, told in recorder.found.items()}
    assert found == {
        "runTest": ("failed", "AssertionError: 2 not less than 2"),
        "passes": ("passed", ""),
        "is_skipped": ("skipped", "as told"),
        "fails_as_it_should": ("passed", ""),
        "raises": ("failed", "ValueError: as told"),
    }
    assert not recorder.wasSuccessful()


def test_what_fails_on_one_rank_has_failed() -> None:
    first: Outcomes = {"a": ("passed", ""), "b": ("failed", "first"), "c": ("skipped", "why")}
    second: Outcomes = {"a": ("failed", "second"), "b": ("failed", "other"), "d": ("passed", "")}
    assert merged([first, second]) == {
        "a": ("failed", "second"),
        "b": ("failed", "first"),
        "c": ("skipped", "why"),
        "d": ("passed", ""),
    }


def test_each_run_is_compared_with_what_the_processes_had_run_before() -> None:
    good: Outcomes = {"a": ("passed", ""), "b": ("passed", "")}
    worn: Outcomes = {"a": ("failed", "no handler left"), "b": ("passed", "")}
    runs = {
        "bare mpiexec": (good, 1.0),
        "again, in the same processes": (worn, 1.0),
        "fresh world": (worn, 1.0),
        "again, on the same ranks": (worn, 1.0),
    }
    assert mpi4py_suite.failures(runs, "fresh world") == {"a": "no handler left"}
    assert mpi4py_suite.failures(runs, "again, on the same ranks") == {}
    rows = mpi4py_suite.table(runs).splitlines()[2:]
    assert rows == [
        "| bare mpiexec | 2 | 0 | 0 | 1 |  |",
        "| again, in the same processes | 1 | 1 | 0 | 1 |  |",
        "| fresh world | 1 | 1 | 0 | 1 | 1 |",
        "| warm world | - | - | - | - | - |",
        "| again, on the same ranks | 1 | 1 | 0 | 1 | 0 |",
    ]


def test_a_directory_without_the_tests_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["mpi4py", str(tmp_path)])
    assert "there are no tests of mpi4py in" in capsys.readouterr().err
