"""The driver of PyCOMPSs' test programs, with programs and scripts of our own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.sites import SiteUnderTest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "lib"))

from suites import pycompss
from suites.cli import main

EXECUTION = """
name=$4/src/program.py
logs=$5/one
"$1" --debug --lang=python --python_interpreter=$8 --specific_log_dir=$logs $name > $6/out.log
python3 -m pycompss --specific_log_dir=$logs-again $name > /dev/null
"$4/result" $6/out.log $logs
"""
PROGRAM = """
from pycompss.api.api import compss_wait_on
from pycompss.api.task import task

@task(returns=1)
def add(number):
    print("adds to", number)
    return number + 1

if __name__ == "__main__":
    print(compss_wait_on(add(add(1))))
"""
RESULT = """
[ "$(head -1 $1)" = %s ] || { echo "ERROR: no number"; exit 1; }
[ "$(tail -1 $1 | head -c 4)" = "----" ] || { echo "ERROR: no end"; exit 1; }
grep -q "adds to 2" $2/jobs/job2_NEW.out && [ ! -e $2/jobs/job3_NEW.out ] || exit 2
[ "$(grep -c FINISHED $2/runtime.log)" = 2 ] || exit 3
[ -e $2-again/runtime.log ] || exit 4
"""


def test_programs_run_and_are_judged_by_their_scripts(
    shared_site: SiteUnderTest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pycompss, "_SHARED", (tmp_path / "shared",))
    monkeypatch.setattr(pycompss, "_WORKERS", ())
    for name, number in (("good", 3), ("bad", 4)):
        directory = tmp_path / "python" / name
        (directory / "src").mkdir(parents=True)
        (directory / "src" / "program.py").write_text(PROGRAM)
        (directory / "execution").write_text("#!/bin/bash\n" + EXECUTION)
        (directory / "result").write_text("#!/bin/bash\n" + RESULT % number)
    site = str(shared_site.directory)
    assert main(["pycompss", str(tmp_path), "--site", site]) == 1
    told = capsys.readouterr().out
    assert "| bad | fail |" in told and "ERROR: no number" in told
    assert "| good | pass |" in told and "1 pass, 1 fail" in told
    assert not (tmp_path / "shared").exists()
