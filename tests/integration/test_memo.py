"""Runs that are repeated: what has not changed is not run again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support.sites import SiteUnderTest

DEADLINE_S = 60.0

PROGRAM = """
import sys

import numpy as np
import pilot

FACTOR = 2


@pilot.task(cache=True)
def prepare(directory, n):
    return note(directory, "prepare") or n * FACTOR


def note(directory, name):
    with open(f"{directory}/runs", "a") as file:
        file.write(name + "\\n")


@pilot.task(cache=True)
def field(directory, n):
    note(directory, "field")
    return np.full(50_000, float(n))


@pilot.task(cache=True)
def total(directory, fields):
    note(directory, "total")
    return float(sum(field.sum() for field in fields))


@pilot.task
def never_kept(directory, x):
    note(directory, "never_kept")
    return x


with pilot.Session() as session:
    here = sys.argv[1]
    fields = [field.submit(here, prepare.submit(here, n)) for n in range(4)]
    print(never_kept.submit(here, total.submit(here, fields)).result())
"""

WORKFLOW = """
defaults: {cache: true}
tasks:
  split:
    run: "echo split >> runs; tr ' ' '\\\\n' < {text} > {words}"
    inputs: {text: text}
    outputs: {words: words}
  count:
    run: "echo count >> runs; sort {words} | uniq -c > {counts}"
    inputs: {words: "${tasks.split.words}"}
    outputs: {counts: counts}
  check:
    run: "echo check >> runs; grep -q good {counts}"
    inputs: {counts: "${tasks.count.counts}"}
"""


MIXED = """
tasks:
  make:
    run: "echo make >> runs; cp {text} {copy}"
    inputs: {text: text}
    outputs: {copy: copy}
  read:
    python: "steps:read"
    with: {copy: "${tasks.make.copy}"}
    cache: true
"""
STEPS = """
from pathlib import Path

def read(copy):
    with Path(copy).with_name("runs").open("a") as file:
        file.write("read\\n")
    return changed(Path(copy).read_text())

def changed(text):
    return text.upper()
"""


def new_runs(directory: Path) -> Counter[str]:
    """What has run since the last look."""
    path = directory / "runs"
    found = Counter(path.read_text().split()) if path.exists() else Counter()
    path.unlink(missing_ok=True)
    return found


@pytest.fixture
def directory(local_site: SiteUnderTest) -> Path:
    return local_site.scratch


def run(site: SiteUnderTest, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=site.scratch,
        env={**os.environ, "PILOT_SITE": str(site.directory)},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )


def test_program_that_is_run_again_runs_what_has_changed(
    local_site: SiteUnderTest, directory: Path
) -> None:
    program = directory / "program.py"

    def result(source: str) -> float:
        program.write_text(source)
        done = run(local_site, str(program), str(directory))
        assert done.returncode == 0, done.stderr
        return float(done.stdout)

    assert result(PROGRAM) == 50_000 * 2 * (0 + 1 + 2 + 3)
    assert new_runs(directory) == {"prepare": 4, "field": 4, "total": 1, "never_kept": 1}
    # Nothing has changed, but what is not to be kept runs again.
    assert result(PROGRAM) == 600_000
    assert new_runs(directory) == {"never_kept": 1}
    # The fields of 0 and 2 · 3 are those of the first run.
    assert result(PROGRAM.replace("FACTOR = 2", "FACTOR = 3")) == 900_000
    assert new_runs(directory) == {"prepare": 4, "field": 2, "total": 1, "never_kept": 1}
    # Another head, and another edit.
    local_site.stop()
    last = PROGRAM.replace("float(sum(", "-float(sum(")
    assert result(last) == -600_000
    assert new_runs(directory) == {"total": 1, "never_kept": 1}
    with local_site.session() as session:
        found = session.query("tasks", name="field", state="COMPLETED")
    assert Counter(row["attempts"] for row in found) == {1: 6, 0: 10}


def test_workflow_goes_on_after_a_failure_and_an_edit(
    local_site: SiteUnderTest, directory: Path
) -> None:
    (directory / "text").write_text("one two two")
    file = directory / "workflow.yaml"
    file.write_text(WORKFLOW)

    def go() -> tuple[int, str]:
        done = run(local_site, "-m", "pilot", "run", str(file))
        return done.returncode, done.stdout

    assert go()[0] == 8  # there is nothing good in it
    assert new_runs(directory) == {"split": 1, "count": 1, "check": 1}
    assert go()[0] == 8  # what has failed is tried again, and nothing else is
    assert new_runs(directory) == {"check": 1}
    (directory / "text").write_text("one good two")
    status, told = go()
    assert status == 0, told
    assert new_runs(directory) == {"split": 1, "count": 1, "check": 1}
    status, told = go()
    assert status == 0 and "3 COMPLETED" in told and "3 found" in told
    assert new_runs(directory) == {}
    # A file that it has made is gone: it is made again, and being what it was changes nothing more.
    (directory / "words").unlink()
    assert go()[0] == 0
    assert new_runs(directory) == {"split": 1}
    file.write_text(WORKFLOW.replace("uniq -c", "uniq -c | tac"))
    assert go()[0] == 0
    assert new_runs(directory) == {"count": 1, "check": 1}


def test_functions_of_a_workflow_and_files_of_tasks_without_a_cache(
    local_site: SiteUnderTest, directory: Path
) -> None:
    (directory / "text").write_text("one")
    (directory / "steps.py").write_text(STEPS)
    file = directory / "workflow.yaml"
    file.write_text(MIXED)

    def go() -> Counter[str]:
        done = run(local_site, "-m", "pilot", "run", str(file))
        assert done.returncode == 0, done.stdout + done.stderr
        return new_runs(directory)

    assert go() == {"make": 1, "read": 1}
    # The file is another one each time.
    assert go() == {"make": 1, "read": 1}
    file.write_text(file.read_text().replace("copy: copy}", "copy: copy}\n    cache: true"))
    assert go() == {"make": 1, "read": 1}
    assert go() == {}
    (directory / "steps.py").write_text(STEPS.replace("upper()", "lower()"))
    assert go() == {"read": 1}
