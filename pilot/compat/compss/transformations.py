"""``@data_transformation``: arguments that go through a function before a task gets them.

The function runs in a task of its own, so its results are futures; with ``is_workflow`` it runs in
the program, and may call tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from pilot.compat.compss.decoration import TaskFunction, as_task_function, task
from pilot.compat.compss.errors import PyCOMPSsException
from pilot.compat.compss.parameters import COLLECTION, DIRECTORY, FILE, IN, OUT, Parameter

OBJECT_TO_FILE: Final = 0
FILE_TO_OBJECT: Final = 1
FILE_TO_COLLECTION: Final = 2
COLLECTION_TO_OBJECT: Final = 3
COLLECTION_TO_FILE: Final = 4
OBJECT_TO_DIRECTORY: Final = 5
DIRECTORY_TO_OBJECT: Final = 6
COLLECTION_TO_DIRECTORY: Final = 7

_FILE_IN, _FILE_OUT = Parameter(FILE, IN), Parameter(FILE, OUT)
_DIRECTORY_IN, _DIRECTORY_OUT = Parameter(DIRECTORY, IN), Parameter(DIRECTORY, OUT)
_COLLECTION_IN = Parameter(COLLECTION, IN)


@task(returns=1)
def transform(target: Any, function: Any, named: Mapping[str, Any]) -> Any:
    """Return what a function makes of an object."""
    return function(target, **named)


@task(returns=1, target=_COLLECTION_IN)
def transform_collection(target: Any, function: Any, named: Mapping[str, Any]) -> Any:
    """Return what a function makes of a collection."""
    return function(target, **named)


@task(returns=1, target=_FILE_IN)
def transform_file(target: Any, function: Any, named: Mapping[str, Any]) -> Any:
    """Return what a function makes of a file."""
    return function(target, **named)


@task(returns=1, target=_DIRECTORY_IN)
def transform_directory(target: Any, function: Any, named: Mapping[str, Any]) -> Any:
    """Return what a function makes of a directory."""
    return function(target, **named)


@task(destination=_FILE_OUT)
def write_file(target: Any, destination: str, function: Any, named: Mapping[str, Any]) -> None:
    """Have a function write an object to a file."""
    function(target, destination, **named)


@task(destination=_DIRECTORY_OUT)
def write_directory(target: Any, destination: str, function: Any, named: Mapping[str, Any]) -> None:
    """Have a function write an object to a directory."""
    function(target, destination, **named)


@task(target=_COLLECTION_IN, destination=_FILE_OUT)
def write_collection(
    target: Any, destination: str, function: Any, named: Mapping[str, Any]
) -> None:
    """Have a function write a collection to a file."""
    function(target, destination, **named)


@task(target=_COLLECTION_IN, destination=_DIRECTORY_OUT)
def write_collection_directory(
    target: Any, destination: str, function: Any, named: Mapping[str, Any]
) -> None:
    """Have a function write a collection to a directory."""
    function(target, destination, **named)


#: The tasks that return, and those that write, by kind.
_RETURNING: Final = {
    FILE_TO_OBJECT: transform_file,
    FILE_TO_COLLECTION: transform_file,
    DIRECTORY_TO_OBJECT: transform_directory,
    COLLECTION_TO_OBJECT: transform_collection,
}
_WRITING: Final = {
    OBJECT_TO_FILE: write_file,
    OBJECT_TO_DIRECTORY: write_directory,
    COLLECTION_TO_FILE: write_collection,
    COLLECTION_TO_DIRECTORY: write_collection_directory,
}


class Transformation(NamedTuple):
    """A function that an argument goes through."""

    #: The parameter.
    target: str
    function: Any
    #: Its other arguments; ``{{name}}`` is the task's.
    named: Mapping[str, Any]
    #: One of the constants above; None: from object to object.
    kind: int | None = None
    destination: str = "dt_file_out"
    #: The number of items that it makes of a file.
    size: Any = 1
    is_workflow: bool = False

    def apply(self, value: Any, named: Mapping[str, Any]) -> Any:
        """Return what the task gets in place of a value."""
        if self.is_workflow:
            return self.function(value, **named)
        if self.kind in _WRITING:
            _WRITING[self.kind](value, self.destination, self.function, dict(named))
            return self.destination
        if self.kind == FILE_TO_COLLECTION:
            return transform_file(value, self.function, dict(named), returns=int(self.size))
        made = transform if self.kind is None else _RETURNING[self.kind]
        return made(value, self.function, dict(named))


class dto:  # noqa: N801 - as programs write it
    """A transformation that a call gives, as ``dt=dto("x", function)``, or a list of them.

    Parameters
    ----------
    target
        The parameter.
    function
        The function.
    **named
        Its other arguments.
    """

    def __init__(self, target: str, function: Any, **named: Any) -> None:
        self.transformation = _read((target, function), named)


def data_transformation(*args: Any, **given: Any) -> Callable[[Any], TaskFunction]:
    """Have an argument of a task go through a function first: ``@dt("x", scale, factor=2)``.

    Parameters
    ----------
    *args
        The parameter and the function; without them each call gives ``dt=dto(…)``.
    **given
        Other arguments of the function; or `target`, `function`, `type`, such as
        ``FILE_TO_OBJECT``, `destination`, `size`; `is_workflow`, True where it calls tasks itself.

    Raises
    ------
    PyCOMPSsException
        Something of that means nothing.
    """
    read = _read(args, given) if args or given else None

    def decorate(decorated: Any) -> TaskFunction:
        made = as_task_function(decorated, "data_transformation")
        above = [] if read is None else [read]
        # The uppermost is the first.
        _, below = made.said.get("transformations", (None, ()))
        made.say(transformations=(transform_arguments, [*above, *below]))
        return made

    return decorate


def _read(args: tuple[Any, ...], given: Mapping[str, Any]) -> Transformation:
    named = dict(given)
    kind = named.pop("type", None)
    workflow = named.pop("is_workflow", False) in (True, "True", "true", 1, "1")
    if len(args) == 2:
        target, function = args
    else:
        target, function = named.pop("target", None), named.pop("function", None)
    told = "@data_transformation"
    if len(args) not in (0, 2) or not isinstance(target, str):
        raise PyCOMPSsException(f"{told}: give a parameter's name, and a function")
    if not callable(function):
        raise PyCOMPSsException(f"{told} of {target}: {function!r:.60} is no function")
    if kind is not None and kind not in _RETURNING.keys() | _WRITING.keys():
        raise PyCOMPSsException(
            f"{told} of {target}: type={kind!r:.60}: give a constant such as FILE_TO_OBJECT"
        )
    destination = str(named.pop("destination", "dt_file_out")) if kind in _WRITING else ""
    if kind == FILE_TO_COLLECTION and "size" not in named:
        raise PyCOMPSsException(f"{told} of {target}: size=…, the number of items, is missing")
    size = named.pop("size") if kind == FILE_TO_COLLECTION else 1
    return Transformation(target, function, named, kind, destination, size, workflow)


def transform_arguments(
    made: TaskFunction,
    transformations: Iterable[Transformation],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call after all transformations of the task, and of the call.

    Raises
    ------
    PyCOMPSsException
        There is no such parameter.
    """
    signature = made.plan.signature
    values, named = list(args), dict(kwargs)
    given = named.pop("dt", ())
    several: list[dto] = [given] if isinstance(given, dto) else list(given)
    asked = [each.transformation for each in several]

    def value_of(name: str) -> Any:
        if name in named:
            return named[name]
        if name in signature.names[: len(values)]:
            return values[signature.names.index(name)]
        if name in signature.defaults:
            return signature.defaults[name]
        raise PyCOMPSsException(
            f"@data_transformation: {made.__qualname__} has no argument {name!r}"
        )

    for each in (*asked, *transformations):
        own = {name: _argument(value, value_of) for name, value in each.named.items()}
        each = each._replace(size=_argument(each.size, value_of))
        result = each.apply(value_of(each.target), own)
        if each.target not in named and each.target in signature.names[: len(values)]:
            values[signature.names.index(each.target)] = result
        else:
            named[each.target] = result
    return tuple(values), named


def _argument(value: Any, value_of: Callable[[str], Any]) -> Any:
    """Return an argument of a function; of the task's where it is a name in double braces."""
    if isinstance(value, str) and value.startswith("{{") and value.endswith("}}"):
        return value_of(value[2:-2].strip())
    return value
