"""The known batch systems, by the name that a site file gives them.

A new batch system takes a package, and a line here. One that is kept elsewhere is named in the site
file as ``module:Class``, and needs nothing here: the file is trusted, since it also says which
Python runs.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from pilot.scheduler.batch.base import BatchSystem
from pilot.scheduler.batch.kind import BatchKind

#: The module, relative to this package, and class of each batch system, by its name in a site file.
_KINDS = {"local": (".local", "Local"), "slurm": (".slurm", "Slurm")}


class BatchChoice(Protocol):
    """The part of a site's configuration that says which batch system it has."""

    @property
    def batch(self) -> str:
        """The name of the batch system, as in the site file."""

    @property
    def manners(self) -> Any:
        """The settings of the batch system."""


@cache
def find_kind(name: str) -> BatchKind:
    """Find a batch system by its name in a site file.

    Parameters
    ----------
    name
        One of `_KINDS`, or ``module:Class``, a subclass of `BatchKind` that Python can import.

    Raises
    ------
    ValueError
        There is none of this name; the message says why, and what to do.
    """
    if name in _KINDS:
        module, kind_name = _KINDS[name]
        found = getattr(import_module(module, __package__), kind_name)
    elif ":" not in name:
        from difflib import get_close_matches

        close = get_close_matches(name, _KINDS, 1)
        raise ValueError(
            f"{name!r} is not a batch system; "
            + (f"did you mean {close[0]!r}? " if close else "")
            + f"Known: {', '.join(_KINDS)}, and those of other modules, written as 'module:Class'"
        )
    else:
        from pkgutil import resolve_name  # late: few processes need it

        try:
            found = resolve_name(name)
        except Exception as error:
            raise ValueError(
                f"{name!r} cannot be imported: {error}; install it where Pilot is, in the Python "
                "of the head and of the pilots, or add its directory to PYTHONPATH"
            ) from error
    if not (isinstance(found, type) and issubclass(found, BatchKind)):
        raise ValueError(f"{name!r} is not a batch system: it is not a subclass of BatchKind")
    try:
        kind = found()
    except Exception as error:
        raise ValueError(f"{name!r} is not a batch system: it cannot be made: {error}") from error
    if not str(getattr(kind, "name", "")).isidentifier():
        raise ValueError(f"{name!r} is not a batch system: its attribute 'name' is not a word")
    return kind


def open_batch(config: BatchChoice, directory: Path) -> BatchSystem:
    """Open the batch system that a site's configuration names.

    Parameters
    ----------
    config
        A site's configuration.
    directory
        Where the batch system may keep records of jobs; made if it is not there.

    Raises
    ------
    ValueError
        There is none of this name.
    """
    return find_kind(config.batch).open(config.manners, directory)
