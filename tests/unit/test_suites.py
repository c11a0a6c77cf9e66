"""Reports of suites of other systems."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "lib"))

from suites import pycompss
from suites.cli import main
from suites.reports import Report, read_report, table, worse
from suites.verdicts import judge

XML = """<testsuites><testsuite>
<testcase classname="a.A" name="one" time="1.5" />
<testcase classname="a.A" name="two" time="0.5"><failure message="no">text</failure></testcase>
<testcase classname="a.A" name="three" time="0"><skipped message="why" /></testcase>
<testcase classname="a.A" name="one" time="0"><error message="at its end">text</error></testcase>
</testsuite></testsuites>"""


def test_a_report_is_read() -> None:
    report = read_report(XML)
    assert report.outcomes == {"a.A.one": "failed", "a.A.two": "failed", "a.A.three": "skipped"}
    assert report.seconds == 2.0 and report.count("failed") == 2


def test_what_passes_only_as_plain_python_is_worse() -> None:
    control = Report({"a": "passed", "b": "failed", "c": "passed", "d": "passed"}, 1.0)
    assert worse(Report({"a": "passed", "b": "failed", "c": "failed"}, 2.0), control) == ["c", "d"]


def test_the_table_has_a_row_for_each_file() -> None:
    rows = table([("test_a", read_report(XML), None)]).splitlines()
    assert rows[-1] == "| test_a | 0 | 2 | 1 | 2 | - | - | - |"


def test_a_file_that_is_not_there_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["dislib", str(tmp_path), "test_no"])
    assert "there is no test_no" in capsys.readouterr().err


# --- PyCOMPSs' test programs


@pytest.mark.parametrize(
    ("name", "status", "text", "kind", "why"),
    [
        ("0_files", 0, "ValueError: as wanted", "pass", ""),
        ("0_files", None, "", "fail", "no end"),
        ("0_files", 1, "x\nValueError: no\nERROR: bad", "fail", "ValueError: no; ERROR: bad"),
        ("0_files", 3, "", "fail", "its scripts end with 3"),
        ("a", 1, "E: @mpi is not supported on Pilot\nERROR: x", "waits", "E: @mpi is not supp"),
        ("2_dds", 1, "ModuleNotFoundError: No module named 'pycompss.dds'", "waits", "Module"),
        (
            "2_time_out",
            1,
            "ERROR: ErrorManager raised and ERROR as",
            "beyond",
            "only COMPSs has it",
        ),
        ("2_time_out", 1, "ERROR: another one", "fail", "ERROR: another one"),
    ],
)
def test_a_program_is_judged_by_its_own_script(
    name: str, status: int | None, text: str, kind: str, why: str
) -> None:
    verdict = judge(name, status, [0], text, 1.0)
    assert verdict.kind == kind and verdict.why.startswith(why) and bool(verdict.why) == bool(why)


def test_the_exit_status_of_a_program_that_has_failed_is_told() -> None:
    assert judge("a", 1, [0, 3], "ERROR: x", 1.0).why == "exit status 3; ERROR: x"


def test_programs_are_found(tmp_path: Path) -> None:
    for name in ("python/0_one", "python/3_module_ompss", "fault_tolerance/a", "other/b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "execution").touch()
    (tmp_path / "fault_tolerance" / "2_retry_python").mkdir()
    (tmp_path / "fault_tolerance" / "2_retry_python" / "execution").touch()
    assert pycompss.find(tmp_path, []) == ["0_one", "2_retry_python"]
    # What needs another runtime runs where it is named.
    assert pycompss.find(tmp_path, ["3_module_ompss"]) == ["3_module_ompss"]
