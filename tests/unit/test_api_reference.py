"""The reference of the API has all that there is, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pilot
from pilot.client.future import Future
from pilot.client.group import Group
from pilot.client.session import Session
from pilot.client.task import OPTIONS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "api.md").read_text()
#: Public for other modules of Pilot only.
INTERNAL = {"origin", "place", "ask", "query", "task", "key", "loaded_type"}


def public(kind: type) -> set[str]:
    """Return the names of a class that users may use."""
    own = {name for name in vars(kind) if not name.startswith("_")}
    return own - INTERNAL


def test_all_public_names_are_in_the_reference() -> None:
    named = set(re.findall(r"[A-Za-z_]\w*", TEXT))
    names = {name for name in pilot.__all__ if not name.startswith("__")}
    for kind in (Session, Group, Future):
        names |= public(kind)
    names |= {*OPTIONS}
    assert names <= named, f"not in docs/reference/api.md: {sorted(names - named)}"


def test_all_errors_of_the_reference_are_there() -> None:
    errors = set(re.findall(r"`(\w+Error)`", TEXT)) - {"TypeError", "ValueError", "TimeoutError"}
    assert errors and all(issubclass(getattr(pilot, name), pilot.PilotError) for name in errors)


def test_the_package_shows_its_api_and_nothing_else() -> None:
    shown = {name for name in dir(pilot) if not name.startswith("__")}
    assert shown == {name for name in pilot.__all__ if not name.startswith("__")}
