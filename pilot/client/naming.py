"""The name, tags and retention of a new version of a named object, checked as given."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pilot.errors import PilotError
from pilot.model.objects import Naming, check
from pilot.scheduler.resources import parse_duration_s

if TYPE_CHECKING:
    from datetime import timedelta


def naming_of(
    name: str,
    tags: Mapping[str, Any] | None = None,
    keep: float | str | timedelta | None = None,
    kind: type | None = None,
) -> Naming:
    """Return what is to be said of a new version.

    Parameters
    ----------
    name
        The name of the object.
    tags
        Texts, numbers and the like, by name.
    keep
        How long it is kept, as ``"30d"`` or seconds; None: until it is removed.
    kind
        The class of the value; None: unknown.

    Raises
    ------
    PilotError
        The name can be none, the tags are no JSON, or `keep` is no length of time.
    """
    name = str(name) if isinstance(name, str) else name  # of a class of its own, such as NumPy's
    naming = Naming(name, _class_name(kind), _user(), _as_json(tags), _keep_s(keep))
    check(naming)
    return naming


def _class_name(kind: type | None) -> str:
    if kind is None:
        return ""
    text = (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    return text.encode("utf-8", "backslashreplace").decode()[:500]


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())  # as in a container


def _as_json(tags: Mapping[str, Any] | None) -> str:
    if tags is None:
        return "{}"
    if not isinstance(tags, Mapping) or not all(isinstance(key, str) for key in tags):
        raise PilotError(f'tags={tags!r:.100}: give names with values, such as {{"run": 7}}')
    try:
        return json.dumps(dict(tags), allow_nan=False, default=_item)
    except (TypeError, ValueError, RecursionError) as error:
        raise PilotError(
            f"tags={tags!r:.100}: give texts, numbers, or lists and dicts of these ({error})"
        ) from None


def _item(value: Any) -> Any:
    """Return the number that a number of NumPy's stands for."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a {type(value).__name__} is none of them")


def _keep_s(keep: float | str | timedelta | None) -> float:
    if keep is None:
        return 0.0
    try:
        seconds = parse_duration_s(keep)
    except (TypeError, ValueError) as error:
        raise PilotError(f"keep={keep!r:.100}: {error}") from None
    if seconds <= 0:
        raise PilotError(f"keep={keep!r:.100}: give a length of time above 0, such as 30d")
    return seconds


def no_name(tags: object, keep: object) -> None:
    """Refuse tags and a time for a value without a name.

    Raises
    ------
    PilotError
        One of them is given.
    """
    if tags is not None or keep is not None:
        raise PilotError("tags= and keep= are those of a named object: give it a name=, too")
