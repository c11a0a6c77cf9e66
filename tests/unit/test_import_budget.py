"""What processes load at their start: the first result of a pilot waits for it, and all nodes read
it from the shared file system. No times: modules are named that none of them needs then."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilot.head.lease_files import Holder
from pilot.site_configs import SiteConfig
from pilot.wire.discovery import HeadAddress
from pilot.wire.messages.client import ToClient
from pilot.wire.messages.head import ToHead
from pilot.wire.messages.pilot import ToPilot
from pilot.wire.messages.worker import ToAgent, ToExecutor, ToNode

#: Large, and needed by a few tasks or commands only, or never.
HEAVY = {
    "asyncio",
    "click",
    "cloudpickle",
    "filelock",
    "h5py",
    "importlib.resources",
    "matplotlib",
    "mpi4py",
    "multiprocessing",
    "numpy",
    "psutil",
    "rich",
    "ssl",
    "xxhash",
    "yaml",
}
#: Loaded by `platform`, which `uuid` needs, up to Python 3.10.
OF_PYTHON = {"subprocess"} if sys.version_info < (3, 11) else set[str]()
#: What the process must have, so that the test sees the whole of it; and what more it has not.
BUDGET = {
    "pilot": ("pilot.errors", {"msgspec", "logging", "pilot.client", "pilot.model", "pilot.site"}),
    "pilot.head.run": ("sqlite3", {"pilot.agent", "pilot.cli", "pilot.client.session", "zmq"}),
    "pilot.agent.agent": (
        "pilot.worker.executor",
        {"dataclasses", "inspect", "pilot.head", "pilot.client.session", "sqlite3", "zmq"},
    ),
    "pilot.worker.node": (
        "pilot.client.shell_text",
        {"dataclasses", "inspect", "pilot.head", "pilot.client.session", "sqlite3", "zmq"},
    ),
    "pilot.worker.mpi_rank": (
        "pilot.worker.task_runner",
        {"dataclasses", "inspect", "pilot.head", "pilot.client.session", "sqlite3", "zmq"},
    ),
    "pilot.client.session": (
        "pilot.client.connection",
        {"pilot.cli", "pilot.client.shell_text", "pilot.head.lease", "sqlite3", "zmq"}
        | {"dataclasses", "fractions", "inspect", "subprocess", "tempfile", "unicodedata"},
    ),
    # What asks a head, as most commands do.
    "pilot.client.query_client": (
        "pilot.client.connection",
        {"pilot.client.future", "pilot.client.session", "pilot.head.offline", "sqlite3", "zmq"}
        | {"dataclasses", "subprocess", "tempfile"},
    ),
    "pilot.cli.commands.status": (
        "pilot.cli.output",
        {"msgspec", "pilot.cli.commands.session", "pilot.client.connection", "pilot.head"}
        | {"pilot.site", "shutil"},
    ),
}


@functools.cache
def loaded_by(statement: str) -> frozenset[str]:
    """The modules that a new Python has loaded after a statement."""
    code = f"import sys; {statement}; print(sorted(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return frozenset(ast.literal_eval(told.stdout))


def library_of(module: str) -> str:
    """The library without which a module is not to be had, and which loads what it likes."""
    if module == "pilot":
        return "sys"
    return "click" if module.startswith("pilot.cli") else "msgspec"


@pytest.mark.parametrize("module", BUDGET)
def test_no_process_loads_what_it_does_not_need(module: str) -> None:
    needed, foreign = BUDGET[module]
    loaded = loaded_by(f"import {module}") - loaded_by(f"import {library_of(module)}")
    assert needed in loaded
    assert not sorted((loaded & (HEAVY | foreign)) - OF_PYTHON)


def test_a_site_whose_data_are_kept_is_opened_without_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILOT_HOME", str(tmp_path))
    opened = "from pilot import Session; import pilot.site; pilot.site.find_site('local')"
    assert "yaml" in loaded_by(opened)
    loaded_by.cache_clear()
    loaded = loaded_by(opened)
    assert "pilot.site_configs.schema" in loaded
    assert not loaded & {"yaml", "pilot.site_configs.yamlfile"}


def test_help_and_completion_load_click_and_nothing_larger() -> None:
    loaded = loaded_by("import click; from pilot.cli import cli; cli.get_help(click.Context(cli))")
    loaded -= loaded_by("import click")
    assert "pilot.cli.common" in loaded
    assert not loaded & (HEAVY | {"msgspec", "logging", "yaml", "zmq", "sqlite3"})
    assert not [name for name in loaded if name.startswith(("pilot.client", "pilot.site"))]


@pytest.mark.parametrize(
    "before",
    [
        "pilot.client.session",
        "pilot.client.task, pilot.client.context, pilot.client.events",
        "pilot.cli",
    ],
)
def test_public_names_are_no_modules_whatever_was_imported_before(before: str) -> None:
    code = f"import {before}; import pilot; print([type(getattr(pilot, n)) for n in pilot.__all__])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "module" not in told.stdout


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    import pilot

    with pytest.raises(AttributeError, match=r"'pilot' has no attribute 'sesion'"):
        _ = pilot.sesion  # type: ignore[attr-defined]  # misspelled
    assert set(pilot.__all__) <= set(dir(pilot))


def _structs(kind: object) -> Iterator[type[msgspec.Struct]]:
    """All structs in a type as msgspec describes it."""
    if isinstance(kind, msgspec.inspect.StructType):
        yield kind.cls
    if isinstance(kind, msgspec.Struct):
        for name in kind.__struct_fields__:
            yield from _structs(getattr(kind, name))
    elif isinstance(kind, tuple):
        for part in kind:
            yield from _structs(part)


@pytest.mark.parametrize(
    "decoded",
    [ToHead, ToClient, ToPilot, ToAgent, ToNode, ToExecutor, SiteConfig, HeadAddress, Holder],
    ids=str,
)
def test_no_annotation_of_what_is_decoded_is_compiled_at_each_start(decoded: Any) -> None:
    for struct in _structs(msgspec.inspect.type_info(decoded)):
        texts = [name for name, kind in struct.__annotations__.items() if isinstance(kind, str)]
        assert not texts, f"{struct.__module__} has annotations from the future: {texts}"
