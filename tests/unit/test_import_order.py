"""The order between the packages: imports go down it, read from every module's source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

import pilot

ROOT = Path(__file__).resolve().parents[2]

#: The packages, and the modules beside them, from the bottom to the top: what is in one row imports
#: only from its own package and from the rows above it here.
ROWS = (
    (
        "pickled",
        "errors",
        "regular_files",
        "version",
        "limits",
        "compression",
        "clock",
        "texts",
        "formatting",
        "notes",
        "findings",
        "variables",
        "gpus",
    ),
    ("scheduler",),
    ("launchers", "site_configs"),
    ("inherited",),
    ("model",),
    ("data",),
    ("wire",),
    ("site", "process", "interpreter", "installed"),
    ("head",),
    ("client",),
    ("worker",),
    ("agent",),
    ("doctor",),
    ("workflow", "compat"),
    ("cli",),
    ("__init__", "__main__"),
)
#: Parts that know nothing of what is named here.
OUTSIDE = {"time", "socket", "zmq", "sqlite3", "os", "subprocess"}
BLIND = {
    "pilot/model": OUTSIDE,
    "pilot/head/core": OUTSIDE,
    "pilot/head/giving_up.py": OUTSIDE,
    "pilot/head/setbacks.py": OUTSIDE,
    "pilot/head/store/batch.py": OUTSIDE,
    "pilot/agent/rules": OUTSIDE,
    "pilot/doctor/facts.py": OUTSIDE,
    "pilot/doctor/judging.py": OUTSIDE,
    "pilot/agent": {"sqlite3", "pilot.head"},
    "pilot/worker": {"sqlite3", "pilot.head"},
    "pilot/data": {"zmq", "sqlite3"},
    "pilot/wire/messages": {"zmq"},
    "pilot/scheduler/amounts.py": OUTSIDE,
    "pilot/scheduler/assignment.py": OUTSIDE,
    "pilot/scheduler/budgets.py": OUTSIDE,
    "pilot/scheduler/elasticity.py": OUTSIDE,
    "pilot/scheduler/placement.py": OUTSIDE,
    "pilot/scheduler/resources.py": OUTSIDE,
    "pilot/scheduler/site_amounts.py": OUTSIDE,
}


def _modules() -> Iterator[tuple[str, Path]]:
    # Some packages are links to folders at the top, which `rglob` does not follow.
    for folder in (ROOT / "pilot", *(p for p in (ROOT / "pilot").iterdir() if p.is_symlink())):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(_modules())


@cache
def imports(module: str) -> frozenset[str]:
    """The full names of all modules that a module imports, late or for types only included."""
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *filter(None, [node.module])])
            found.update(
                f"{name}.{alias.name}" if f"{name}.{alias.name}" in MODULES else name
                for alias in node.names
            )
    return frozenset(found - {module})


def row_of(module: str) -> int:
    """The place of a module's package in the order."""
    part = [*module.split("."), "__init__"][1]
    return next(n for n, row in enumerate(ROWS) if part in row)


def is_part_of(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_there_are_modules_of_every_package() -> None:
    assert {row_of(module) for module in MODULES} == set(range(len(ROWS)))


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    package = module.split(".")[1:2]
    wrong = {
        name
        for name in imports(module)
        if name in MODULES
        and name.split(".")[1:2] != package
        and row_of(name) >= row_of(module)
        and row_of(name) > 0  # the modules of the lowest row may use each other
    }
    assert not wrong, f"{module} may import what is below its package, not {wrong}"


def circles(graph: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """The groups of modules that import each other, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node] & graph.keys():
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set[str]()}
    assert circles({k: frozenset(v) for k, v in graph.items()}) == [["b", "c"]]


def test_there_is_no_circle() -> None:
    # The package itself imports what it shows to users, and every module imports the package.
    assert circles({m: imports(m) for m in MODULES if m != "pilot"}) == []


@pytest.mark.parametrize("part", BLIND)
def test_parts_are_blind_to_others(part: str) -> None:
    within = part.removesuffix(".py").replace("/", ".")
    seen = {
        (module, name)
        for module in MODULES
        if is_part_of(module, within)
        for name in imports(module)
        if any(is_part_of(name, other) for other in BLIND[part])
    }
    assert not seen


def test_public_names_are_there() -> None:
    assert pilot.__all__ and all(hasattr(pilot, name) for name in pilot.__all__)


def test_importing_pilot_is_light() -> None:
    """A user's script and each executor pay for it: no HDF5, no MPI, no command line."""
    heavy = ("h5py", "mpi4py", "rich", "click", "sqlite3")
    code = f"import sys, pilot; print([name for name in {heavy!r} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ast.literal_eval(told.stdout) == []
