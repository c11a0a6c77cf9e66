"""The lowest versions that are tested are those of setup.cfg."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


def lowest(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = TOP / "scripts" / "lib" / "lowest.py"
    return subprocess.run(
        [sys.executable, str(program), *arguments], capture_output=True, text=True, check=False
    )


def test_every_requirement_has_its_lowest_version() -> None:
    printed = lowest(str(TOP / "setup.cfg"), "dev")
    assert printed.returncode == 0, printed.stderr
    versions = dict(line.split("==") for line in printed.stdout.split() if "==" in line)
    assert {"msgspec", "numpy", "h5py", "pytest", "filelock"} <= set(versions)


def test_an_extra_may_need_more(tmp_path: Path) -> None:
    file = tmp_path / "setup.cfg"
    file.write_text(
        "[options]\ninstall_requires =\n    a >= 1.9, != 1.9.1\n    b\n"
        "[options.extras_require]\ndev =\n    # why\n    a >= 1.10\n    c >= 2\n"
    )
    assert lowest(str(file), "dev").stdout.split() == ["a==1.10", "b", "c==2"]
    assert lowest("--newest", str(file)).stdout.split() == ["a>=1.9", "b"]


@pytest.mark.parametrize("line", ["a ~= 1.0", "a > 1", "a >= 1; python_version < '3.11'"])
def test_what_is_no_lower_bound_is_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "setup.cfg"
    file.write_text(f"[options]\ninstall_requires =\n    {line}\n")
    assert "expected NAME >= VERSION" in lowest(str(file)).stderr
