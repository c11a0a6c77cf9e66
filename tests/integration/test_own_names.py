"""Modules of a user's that have the names of Pilot's packages, or of the standard library's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.sites import SiteUnderTest, local_template, site_under_test

DEADLINE_S = 60.0
NAMES = (
    *("scheduler", "launchers", "site_configs"),
    *("model", "client", "worker", "agent", "head", "wire", "data", "store", "core", "rules"),
    *("profile", "calendar"),
)
SCRIPT = f"""
import sys
import pilot
from helper import MODULES, told

@pilot.task
def plain():
    return told()

@pilot.task(cache=True)
def cached():
    return told()

@pilot.mpi(ranks=2)
def mpi():
    return told()

def main():
    expected = sys.argv[2]
    assert told() == expected, told()
    with pilot.Session(sys.argv[1]) as session:
        futures = [session.submit(task) for task in (plain, cached, mpi)[: int(sys.argv[3])]]
        for future in futures:
            found = future.result({DEADLINE_S})
            assert found == expected, (future, found, expected)

if __name__ == "__main__":
    main()
"""


def write(directory: Path, word: str) -> str:
    """Write the user's modules, and return what they all say."""
    for name in NAMES:
        (directory / f"{name}.py").write_text(f"WORD = {name + word!r}\n")
    (directory / "helper.py").write_text(
        "".join(f"import {name}\n" for name in NAMES)
        + f"MODULES = [{', '.join(NAMES)}]\n"
        + "def told():\n    return ' '.join(module.WORD for module in MODULES)\n"
    )
    return " ".join(name + word for name in NAMES)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    script = tmp_path / "program.py"
    script.write_text(SCRIPT)
    return script


def run(script: Path, site: SiteUnderTest, expected: str) -> None:
    tasks = "3" if _has_mpi() else "2"
    command = [sys.executable, str(script), str(site.directory), expected, tasks]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _has_mpi() -> bool:
    try:
        import mpi4py  # noqa: F401
    except ImportError:
        return False
    return True


def test_users_modules_are_theirs_and_their_edits_are_seen(program: Path) -> None:
    with site_under_test(local_template(cores=2)) as site:
        run(program, site, write(program.parent, "-1"))
        run(program, site, write(program.parent, "-2"))
