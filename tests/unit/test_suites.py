"""Reports of suites of other systems."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "lib"))

from suites.cli import main
from suites.reports import Report, read_report, table, worse

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
