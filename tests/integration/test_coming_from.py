"""Programs of other systems beside their twins here: both print the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.sites import SiteUnderTest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "lib"))

from bench import peers

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "coming-from.md"
DEADLINE_S = 120.0
_PROGRAM = re.compile(r"^`(\w+)_(there|here)\.py`:\n\n```python\n(.*?)^```$", re.M | re.S)

#: What the programs of each system print.
PRINTED = {
    "hyperqueue": "5 4 3 2 1",
    "parsl": "the total is 285",
    "dask": "285 1000",
    "executorlib": "6 3",
}


def program(system: str, side: str) -> str:
    """The text of a program in the guide."""
    found = _PROGRAM.findall(GUIDE.read_text())
    (text,) = (text for name, where, text in found if (name, where) == (system, side))
    return str(text)


def printed(python: Path, text: str, directory: Path, environment: dict[str, str]) -> str:
    path = directory / "program.py"
    path.write_text(text)
    done = subprocess.run(
        [str(python), path.name],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_each_system_has_two_programs() -> None:
    pairs = [(name, side) for name, side, _ in _PROGRAM.findall(GUIDE.read_text())]
    assert sorted(pairs) == sorted((name, side) for name in PRINTED for side in ("there", "here"))


@pytest.mark.parametrize("system", PRINTED)
def test_the_program_here_prints_the_same(
    shared_site: SiteUnderTest, tmp_path: Path, system: str
) -> None:
    environment = {**os.environ, "PILOT_SITE": str(shared_site.directory)}
    text = program(system, "here")
    assert printed(Path(sys.executable), text, tmp_path, environment) == PRINTED[system]


@pytest.mark.parametrize("system", PRINTED)
def test_the_program_there_prints_the_same(tmp_path: Path, system: str) -> None:
    if why := peers.why_not(system):
        pytest.skip(f"{system}: {why}")
    text = program(system, "there")
    environment = peers.environment(system, tmp_path)
    told = printed(peers.interpreter(system), text, tmp_path, environment)
    assert told.splitlines()[-1] == PRINTED[system]  # HyperQueue's server prints its address first
