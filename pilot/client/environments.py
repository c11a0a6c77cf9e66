"""The options `environment` and `container` of tasks: what they may say, and what comes of it.

An environment is named by where it is. Requirements of pip become one, which is built once for all
that ask for the same (`pip_builds`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pilot.model.software import Container

#: The keys that say where an environment is; one of them may be given.
_PLACES = ("pip", "venv", "conda")
#: The keys of an environment, and of a container.
KEYS = ("pip", "pip_options", "venv", "conda", "modules", "variables")
CONTAINER_KEYS = ("image", "engine", "binds", "options", "python")


def check_environment(given: Any) -> dict[str, Any]:
    """Return an environment as it was given, checked.

    Raises
    ------
    ValueError
        A key is unknown, or its value has no meaning.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(f'environment={given!r:.100}: give a dict, as {{"venv": "/path"}}')
    for name in given:
        if name not in KEYS:
            raise ValueError(f"environment: there is no {name!r:.60}; there are {', '.join(KEYS)}")
    found: dict[str, Any] = {}
    for name in ("pip", "pip_options", "modules"):
        if given.get(name):
            found[name] = _texts(f"environment: {name}", given[name])
    for name in ("venv", "conda"):
        if (value := given.get(name)) is not None:
            if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
                raise ValueError(f"environment: {name} is {value!r:.100}; give a directory")
            found[name] = os.fspath(value)
    if given.get("variables"):
        found["variables"] = _variables(given["variables"])
    if "venv" in found and "pip" in found:
        raise ValueError("environment: give pip or venv, not both: pip makes one of its own")
    if "conda" in found and ("venv" in found or "pip" in found):
        raise ValueError("environment: give conda, or venv or pip, not both")
    if "pip_options" in found and "pip" not in found:
        raise ValueError("environment: pip_options go with pip")
    return found


def merged_environments(below: Any, above: Any) -> Any:
    """Return an environment with the keys of `above`, and of `below` what that does not name;
    variables too are merged by name. None above has none of `below`."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    found = {**below, **above}
    if any(key in above for key in _PLACES):
        # Where it is has changed: what goes with another place does not hold.
        for key in (*_PLACES, "pip_options"):
            if key not in above:
                found.pop(key, None)
    first, then = below.get("variables"), above.get("variables")
    if isinstance(first, Mapping) and isinstance(then, Mapping):
        found["variables"] = {**first, **then}
    return found


def check_together(environment: Mapping[str, Any] | None, container: Container | None) -> None:
    """Check that an environment and a container can go together.

    Raises
    ------
    ValueError
        They cannot.
    """
    if container is not None and environment:
        for key in _PLACES:
            if environment.get(key):
                raise ValueError(
                    f"environment: {key} and container: give one of them; a container has the "
                    "Python of its image (container: python)"
                )


def check_container(given: Any) -> Container | None:
    """Return a container as it was given, checked.

    Raises
    ------
    ValueError
        A key is unknown, or its value has no meaning.
    """
    if given is None:
        return None
    if isinstance(given, Container):
        return given
    if isinstance(given, (str, os.PathLike)):
        given = {"image": given}
    if not isinstance(given, Mapping):
        raise ValueError(f"container={given!r:.100}: give an image, or a dict with one")
    for name in given:
        if name not in CONTAINER_KEYS:
            raise ValueError(
                f"container: there is no {name!r:.60}; there are {', '.join(CONTAINER_KEYS)}"
            )
    image = given.get("image")
    if not isinstance(image, (str, os.PathLike)) or not os.fspath(image):
        raise ValueError(f"container: image is {image!r:.100}; give its path or name")
    image = os.fspath(image)
    if image.startswith((".", "~")) or Path(image).exists():
        image = str(Path(image).expanduser().absolute())
    from pilot.launchers.containers import ENGINES  # late: it loads all launchers

    engine = given.get("engine") or ""
    if engine and engine not in ENGINES:
        raise ValueError(f"container: engine is {engine!r:.60}; there are {', '.join(ENGINES)}")
    binds = _texts("container: binds", given.get("binds") or ())
    for bind in binds:
        parts = bind.split(":")
        if len(parts) > 3 or not all(part.startswith("/") for part in parts[:2]):
            raise ValueError(f"container: {bind!r:.100}: write /host, /host:/inside or /…:/…:ro")
    python = given.get("python", "python3")
    if not isinstance(python, str) or not python:
        raise ValueError(f"container: python is {python!r:.60}; give the name of a program")
    options = _texts("container: options", given.get("options") or ())
    return Container(image, engine, binds, options, python)


def _texts(what: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise ValueError(f"{what}: give a list of texts, not {given!r:.100}")
    texts = tuple(os.fspath(each) if isinstance(each, os.PathLike) else each for each in given)
    for text in texts:
        if not isinstance(text, str) or not text or not text.isprintable():
            raise ValueError(f"{what}: {text!r:.100} is no text that can stand in a command line")
    return texts


def _variables(given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise ValueError(f"environment: variables is {given!r:.100}; give a dict of texts")
    for name, value in given.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"environment: {name!r:.60} cannot be the name of a variable")
        if not isinstance(value, str) or "\0" in value:
            raise ValueError(f"environment: the variable {name} is no text")
    return dict(given)
