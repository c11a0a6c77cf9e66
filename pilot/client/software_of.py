"""The software environment of a task, from its options: found, built, and of the right Python."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pilot.client.pip_builds import built
from pilot.errors import SubmissionError
from pilot.model.software import Container, Software
from pilot.site import Site


def software_of(
    environment: Mapping[str, Any] | None,
    container: Container | None,
    site: Site,
    python: tuple[int, int],
    is_of_commands: bool,
) -> Software | None:
    """Return what a task's processes are started in; None: what the pilots have.

    Requirements of pip are built here, if nobody has done so yet, which may take minutes.

    Parameters
    ----------
    environment, container
        The options.
    site
        The site.
    python
        The minor version of Python that functions need.
    is_of_commands
        True of tasks that are commands, which need no Python.

    Raises
    ------
    SubmissionError
        The environment is not there, cannot be built, or has another Python.
    """
    given = environment or {}
    venv = conda = ""
    if pip := given.get("pip"):
        venv = str(built(site.environments, site.directory, pip, given.get("pip_options", ())))
    elif given.get("venv"):
        venv = str(Path(given["venv"]).expanduser().absolute())
        if not is_of_commands:
            _check("virtual environment", venv, _python_of_venv(Path(venv)), python)
    elif given.get("conda"):
        conda = _conda_prefix(given["conda"])
        if not is_of_commands:
            _check("conda environment", conda, _python_of_conda(Path(conda)), python)
    found = Software(
        venv,
        conda,
        tuple(given.get("modules", ())),
        tuple(sorted(given.get("variables", {}).items())),
        container,
        is_of_commands,
    )
    return found if found.needs_start or container is not None else None


def _check(what: str, place: str, has: tuple[int, int] | None, python: tuple[int, int]) -> None:
    """Refuse an environment whose Python cannot run what the pilots' can; one that cannot be seen
    from here is looked at where tasks start."""
    if has is None and Path(place).is_dir():
        raise SubmissionError(f"{place} is no {what} with a Python of its own")
    if has is not None and has != python:
        raise SubmissionError(
            f"the {what} {place} has Python {has[0]}.{has[1]}, and the pilots have Python "
            f"{python[0]}.{python[1]}: functions run in the same minor version only; make one with "
            "that"
        )


def _python_of_venv(place: Path) -> tuple[int, int] | None:
    try:
        text = (place / "pyvenv.cfg").read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r"(?m)^version(?:_info)?\s*=\s*(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _python_of_conda(place: Path) -> tuple[int, int] | None:
    for path in (place / "conda-meta").glob("python-[0-9]*.json"):
        if found := re.match(r"python-(\d+)\.(\d+)", path.name):
            return int(found[1]), int(found[2])
    return None


def _conda_prefix(given: str) -> str:
    """Return the directory of a conda environment, by its path or name.

    Raises
    ------
    SubmissionError
        There is none of this name.
    """
    if "/" in given or given.startswith(("~", ".")):
        return str(Path(given).expanduser().absolute())
    above: list[Path] = []
    if program := os.environ.get("CONDA_EXE"):
        above.append(Path(program).parents[1] / "envs")
    above += [Path(p) for p in os.environ.get("CONDA_ENVS_PATH", "").split(os.pathsep) if p]
    if prefix := os.environ.get("MAMBA_ROOT_PREFIX"):
        above.append(Path(prefix) / "envs")
    above.append(Path.home() / ".conda" / "envs")
    for directory in above:
        if (directory / given).is_dir():
            return str(directory / given)
    places = ", ".join(map(str, above))
    raise SubmissionError(
        f"there is no conda environment {given!r} in {places}; give its directory"
    )
