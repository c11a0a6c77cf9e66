"""The command lines of Pilot's own processes: nothing of the current directory is run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pilot.client.starter import head_command
from pilot.interpreter import pilot_command
from pilot.site import create_site
from pilot.version import __version__

NAMES = ("pilot", "zmq", "msgspec", "setproctitle", "logging", "click", "site_configs", "scheduler")


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """A directory where somebody has put modules of names that are looked for."""
    directory = tmp_path / "public"
    directory.mkdir()
    for name in NAMES:
        (directory / f"{name}.py").write_text("raise SystemExit('the code of somebody else ran')\n")
    return directory


def test_modules_of_the_current_directory_are_not_run(public: Path) -> None:
    run = subprocess.run(pilot_command("--version"), cwd=public, capture_output=True, text=True)
    assert run.returncode == 0 and __version__ in run.stdout, run.stderr


def test_modules_that_the_user_names_are_found(public: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(public)}
    run = subprocess.run(pilot_command("--version"), env=env, capture_output=True, text=True)
    assert "the code of somebody else ran" in run.stderr


def test_heads_are_started_so(tmp_path: Path, public: Path) -> None:
    site = create_site(tmp_path / "site", "local")
    command = head_command(site)
    (site.directory / "site.yaml").write_text("batch: no such thing\n")
    run = subprocess.run(command, cwd=public, capture_output=True, text=True)
    said = run.stdout + run.stderr
    assert "somebody else" not in said and "no such thing" in said
