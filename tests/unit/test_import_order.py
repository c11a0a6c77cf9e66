"""The order between the packages: who may import whom, read from every module's source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pilot

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pilot", "scheduler", "launchers", "site_configs")

#: What each package may import of the others: a package, or one module of it.
ALLOWED = {
    "pilot": {"scheduler", "launchers", "site_configs"},
    "launchers": {"scheduler.resources"},
    "scheduler": set(),
    "site_configs": {"scheduler.resources", "scheduler.batch"},
}
#: Parts of `pilot` that know nothing of the others named here.
BLIND = {
    **{
        f"pilot/head/{part}.py": {"time", "socket", "zmq", "sqlite3", "os"}
        for part in (
            *("attempts", "core", "delegation", "events", "graph", "handout", "holding", "life"),
            *("policy", "sessions", "state"),
        )
    },
    **{
        f"pilot/agent/{name}.py": {"time", "socket", "zmq", "sqlite3", "os", "subprocess"}
        for name in (
            "actions",
            "attempts",
            "cores",
            "ends",
            "executor_rules",
            "inputs",
            "queues",
            "rules",
            "warm",
            "world_rules",
        )
    },
    "pilot/agent": {"sqlite3", "pilot.head"},
    "pilot/wire/messages.py": {"zmq", "pilot.head", "pilot.agent"},
    "pilot/data": {"pilot.head", "pilot.agent", "pilot.wire", "zmq", "sqlite3"},
    "scheduler/assignment.py": {"time", "os", "subprocess"},
    "scheduler/elasticity.py": {"time", "os", "subprocess"},
    "scheduler/placement.py": {"time", "os", "subprocess"},
}
MODULES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """The full names of all modules that a module imports, wherever in it that is."""
    package = path.parent.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                name = f"{module}.{alias.name}"
                yield name if _is_module(name) else module


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def is_part_of(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_there_are_modules() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(PACKAGES)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_keep_the_order(path: Path) -> None:
    mine = path.relative_to(ROOT).parts[0]
    wrong = {
        name
        for name in imports(path)
        if name.split(".")[0] in PACKAGES
        and name.split(".")[0] != mine
        and not any(is_part_of(name, allowed) for allowed in ALLOWED[mine])
    }
    assert not wrong, f"{mine} may import {ALLOWED[mine] or 'none of the others'}, not {wrong}"


@pytest.mark.parametrize("part", BLIND)
def test_parts_are_blind_to_others(part: str) -> None:
    target = ROOT / part
    for path in [target] if target.is_file() else target.rglob("*.py"):
        seen = {name for name in imports(path) for other in BLIND[part] if is_part_of(name, other)}
        assert not seen, f"{path.relative_to(ROOT)} imports {seen}"


def test_public_names_are_there() -> None:
    assert pilot.__all__ and all(hasattr(pilot, name) for name in pilot.__all__)


def test_importing_pilot_is_light() -> None:
    """A user's script and each executor pay for it: no HDF5, no MPI, no command line."""
    heavy = ("h5py", "mpi4py", "rich", "click", "sqlite3")
    code = f"import sys, pilot; print([name for name in {heavy!r} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ast.literal_eval(told.stdout) == []
