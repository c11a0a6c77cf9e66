"""What a task is told about its call, beside function and arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pilot.compat.compss.shapes import Shape


class FileUse(NamedTuple):
    """A file that a task has."""

    #: The place, or name, of the argument, and the places in collections below it.
    at: tuple[Any, ...]
    path: str
    direction: str
    #: The name of the parameter.
    name: str


class Work(NamedTuple):
    """What a call is beside its function and arguments."""

    #: The number of results that the function returns.
    returns: int
    #: Where the written arguments are, each with its shape.
    written: tuple[tuple[int | str, Shape], ...] = ()
    files: tuple[FileUse, ...] = ()
    #: True if there is a result that files wait for.
    has_token: bool = False
    #: What is done about an exception: ``retry``, ``fail``, ``ignore``, ``cancel``.
    policy: str = "retry"
    #: With ``ignore``: the results then, and what written parameters and files are.
    defaults: Mapping[str, Any] | None = None
    #: The results of others that it waits for, each with the file that it comes with.
    tokens: tuple[tuple[str, Any], ...] = ()
    #: The names of the parameters, by place.
    names: tuple[str, ...] = ()
    #: Where the arguments are that it takes by turns with other tasks.
    turned: tuple[int | str, ...] = ()
    #: True if later runs find it; then also what is in those files of the program that it reads.
    is_kept: bool = False
    contents: tuple[str, ...] = ()
