"""The names by which pickles, in files and messages, refer to Pilot's own functions and classes.

A pickle says a module and a name in it. Here the module is always this one, which never moves, or
`pilot`, for what is public; where the code is today is in the table below. So code can be moved,
and what was written before can still be read.

Invariant: a name that was released is not taken out, nor given to something else.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeVar

T = TypeVar("T")

#: The module that has each name today.
PLACES = {
    "ByName": "pilot.workflow.targets",
    "HttpRequest": "pilot.client.http_request",
    "JobScript": "pilot.client.job_script",
    "RankFunction": "pilot.client.rank_function",
    "ShellCommand": "pilot.client.command",
    "cached_property": "pilot.data.pickling_by_value",
    "checked": "pilot.data.imported",
    "class_of": "pilot.data.pickling_by_value",
    "code_of": "pilot.data.pickling_by_value",
    "command_part": "pilot.workflow.run",
    "import_object": "pilot.client.task",
    "in_fortran_order": "pilot.data.parts",
    "itself": "pilot.data.parts",
    "lru_cached": "pilot.data.pickling_by_value",
    "make_exception": "pilot.data.exceptions",
    "of_type": "pilot.data.parts",
    "read_spilled": "pilot.client.arguments",
    "read_stored": "pilot.client.arguments",
    "resolve": "pilot.client.arguments",
    "resolve_all": "pilot.client.arguments",
    "resources_of_call": "pilot.client.task",
    "set_attributes": "pilot.data.exceptions",
    "set_cached_property": "pilot.data.pickling_by_value",
    "set_class": "pilot.data.pickling_by_value",
    "set_wrapped": "pilot.data.pickling_by_value",
}


def pickled_name(thing: T) -> T:
    """Have pickles refer to a function or class by its name in this module."""
    thing.__module__ = __name__
    return thing


def public(thing: T) -> T:
    """Have pickles, tracebacks and `repr` name a function or class as users know it."""
    thing.__module__ = "pilot"
    return thing


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(PLACES[name]), name))
