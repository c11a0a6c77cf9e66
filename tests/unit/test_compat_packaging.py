"""Modules of other systems: there where a launcher puts them, and nowhere else."""

from __future__ import annotations

import configparser
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pilot.cli import cli
from pilot.compat import SYSTEMS, search_directory

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "pilot" / "compat" / "site"


def python(code: str, **variables: str) -> str:
    """What a new Python prints, somewhere else."""
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"} | variables
    told = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        env=environment,
        timeout=60,
    )
    return told.stdout.strip()


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_module_is_there_without_a_launcher(system: str) -> None:
    code = f"import importlib.util; print(importlib.util.find_spec({system!r}))"
    assert python(code) == "None"
    assert "compat/site" in python(code, PYTHONPATH=search_directory())


@pytest.mark.parametrize("path", sorted(SITE.rglob("*.py")), ids=lambda p: str(p.relative_to(SITE)))
def test_modules_have_names_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if path.name == "__main__.py":
        pytest.skip("it is a program")
    assert len(path.read_text().splitlines()) <= 70
    parts = path.relative_to(SITE).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    before = set(sys.modules)
    monkeypatch.syspath_prepend(search_directory())
    try:
        module = importlib.import_module(name)
        assert all(hasattr(module, shown) for shown in getattr(module, "__all__", ()))
    finally:
        for added in set(sys.modules) - before:
            if added.split(".")[0] in (*SYSTEMS, "armonik"):
                del sys.modules[added]


def test_pilot_compat_path_prints_the_directory() -> None:
    printed = CliRunner().invoke(cli, ["compat", "path"], catch_exceptions=False)
    assert printed.output.strip() == search_directory() == str(SITE)


def test_the_wheel_has_the_modules_as_data() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["pilot.compat"].split()
    found = {path for pattern in patterns for path in (ROOT / "pilot/compat").glob(pattern)}
    assert found >= set(SITE.rglob("*.py"))


def test_commands_are_functions_that_are_there() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options.entry_points"]["console_scripts"].split("\n")
    scripts = dict(line.split(" = ") for line in lines if line)
    assert {"enqueue_compss", "pilot", "pycompss", "runcompss"} <= scripts.keys()
    for target in scripts.values():
        module, name = target.split(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_a_real_armonik_goes_before_ours(tmp_path: Path) -> None:
    (tmp_path / "armonik" / "common").mkdir(parents=True)
    (tmp_path / "armonik" / "__init__.py").touch()
    (tmp_path / "armonik" / "common" / "__init__.py").write_text("TaskOptions = 'the real one'")
    code = "import armonik.common; print(armonik.common.TaskOptions)"
    path = f"{search_directory()}:{tmp_path}"
    assert python(code, PYTHONPATH=path) == "the real one"
    assert "pilot.compat" in python(code, PYTHONPATH=search_directory())
