"""The names in pickles: they are where they were, whatever has become of the code."""

from __future__ import annotations

import contextlib
import enum
import functools
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pilot
from pilot import pickled
from pilot.client.arguments import encode_arguments, spilled, spilled_function
from pilot.client.functions import encode_function
from pilot.client.job_script import JobScript
from pilot.client.rank_function import RankFunction
from pilot.client.task import Task, import_object
from pilot.data import exceptions
from pilot.data.imported import Imported
from pilot.data.parts import take_apart
from pilot.data.pickles import encode
from pilot.data.pickling_by_value import dumps
from pilot.model.values import Value
from pilot.workflow.run import CommandPart
from pilot.workflow.targets import ByName

#: All names that a released version has written. Lines are only ever added.
FROZEN = {
    *("ByName", "HttpRequest", "JobScript", "ShellCommand", "cached_property", "checked"),
    *("RankFunction", "class_of", "code_of"),
    *("command_part", "import_object", "in_fortran_order", "itself", "lru_cached", "of_type"),
    *("make_exception", "read_spilled", "read_stored", "resolve", "resolve_all"),
    *("resources_of_call", "set_attributes", "set_cached_property", "set_class", "set_wrapped"),
}


class _Names(pickle.Unpickler):
    """Notes which of Pilot's names a pickle refers to."""

    def __init__(self, payload: bytes) -> None:
        super().__init__(io.BytesIO(payload))
        self.found: set[tuple[str, str]] = set()

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "pilot":
            self.found.add((module, name))
        return super().find_class(module, name)


def names_in(payload: bytes) -> set[tuple[str, str]]:
    names = _Names(payload)
    # What is in no segment here, or goes beside the pickle, cannot be loaded to its end.
    with contextlib.suppress(AssertionError, AttributeError, pickle.UnpicklingError):
        names.load()
    return names.found


def test_no_name_is_missing() -> None:
    assert set(pickled.PLACES) == FROZEN


@pytest.mark.parametrize("name", sorted(FROZEN))
def test_each_name_leads_to_what_has_it(name: str) -> None:
    found = getattr(pickled, name)
    assert (found.__module__, found.__qualname__) == ("pilot.pickled", name)


@pytest.mark.parametrize("name", pilot.__all__)
def test_public_names_are_those_that_users_know(name: str) -> None:
    found = getattr(pilot, name)
    if name != "__version__":
        assert (found.__module__, found.__qualname__) == ("pilot", name)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'other'"):
        pickled.other  # noqa: B018


class _Stubborn(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} {second}")
        self.first = first


def _of_the_script() -> list[Any]:
    """Functions and classes that no worker can import."""

    class Colour(enum.Enum):
        RED = 1

        def __init__(self, number: int) -> None:
            self.twice = 2 * number

    class Slots:
        __slots__ = ("a",)

    class Property:
        @functools.cached_property
        def length(self) -> int:
            return 1

    return [Colour, Slots, Property, functools.lru_cache(lambda x: x), lambda x: x]


def test_pickles_refer_to_pilot_by_these_names_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    ones = np.ones((300, 300))
    value = Value(1, b"", "segment", "/1/t/1.1/0")

    def local() -> int:
        return 0

    needy = pilot.task(resources={"licence": 1})(local)
    payloads = {
        "arguments": encode_arguments((Imported(file), pilot.TaskError("no")), {})[0],
        "spilled": spilled(value),
        "function": spilled_function(value),
        "task": encode_function(Task(local, "python", {}), 1 << 20).payload,
        "resources": encode(needy.options(resources=dict).task_options.resources),
        "module": encode(ByName("math", "sqrt")),
        "request": encode(pilot.http("GET", "http://a.org").function),
        "command": encode(pilot.shell("echo {x}").function),
        "ranks": encode(RankFunction(local, ("x",), "list")),
        "script": encode(JobScript("#!/bin/sh", "slurm", {}, {})),
        "result": encode(pilot.CommandResult("true", 0)),
        "part": encode(CommandPart(None, "stdout")),  # type: ignore[arg-type]  # of no command
        "error": exceptions.pickled(_Stubborn(1, 2), 1 << 20),
        "array": take_apart({"a": ones}).skeleton or b"",
        "fortran": take_apart({"a": np.asfortranarray(ones)}).skeleton or b"",
        "type": take_apart(np.ones(3, np.dtype("f8", metadata={"u": 1}))).skeleton or b"",
        "object": encode(import_object),
        **{f"own {n}": dumps(thing) for n, thing in enumerate(_of_the_script())},
    }
    found = {name: names_in(payload) for name, payload in payloads.items()}
    allowed = {("pilot.pickled", name) for name in FROZEN}
    allowed |= {("pilot", name) for name in pilot.__all__}
    assert {name: names - allowed for name, names in found.items() if names - allowed} == {}
    seen = set().union(*found.values())
    missing = FROZEN - {name for module, name in seen if module == "pilot.pickled"}
    assert missing == {"resolve", "resolve_all"}  # of futures, which only a head can give
