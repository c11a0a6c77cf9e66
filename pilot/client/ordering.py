"""Order without values: the tasks after whose ends another one starts, as users give them.

`after=` takes futures of tasks, and ids: one, or several. Nothing of these tasks is sent, and it
does not matter how they end. `commutative=` takes futures alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from pilot.client.arguments import Origin
from pilot.errors import SubmissionError
from pilot.model.ids import parse_task_label, task_label

#: What `after` takes: futures or ids of tasks; one, or several.
After: TypeAlias = Any


def as_tuple(given: After) -> tuple[Any, ...]:
    """Return what is given as `after` as a tuple of futures and ids.

    Raises
    ------
    ValueError
        Something else is given.
    """
    if given is None:
        return ()
    if isinstance(given, str) or _is_future(given):
        given = (given,)
    elif isinstance(given, bytes) or not isinstance(given, Iterable):
        raise ValueError(_wrong(given))
    found = tuple(given)
    for each in found:
        if isinstance(each, str):
            parse_task_label(each)
        elif not _is_future(each):
            raise ValueError(_wrong(each))
    return found


def as_futures(given: Any) -> tuple[Any, ...]:
    """Return what is given as `commutative`, a future or several, as a tuple of futures.

    Raises
    ------
    ValueError
        Something else is given.
    """
    if given is None:
        return ()
    found = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    for each in found:
        if not _is_future(each):
            raise ValueError(f"{each!r:.100} is not the future of a value")
    return found


def numbers(given: Iterable[Any], here: Origin) -> tuple[int, ...]:
    """Return the numbers of these tasks, each once.

    Parameters
    ----------
    given
        Futures and ids, as `as_tuple` returns them.
    here
        The place where the task is submitted; the futures must be from there.

    Raises
    ------
    SubmissionError
        A future is of another site.
    """
    return tuple(dict.fromkeys(_number(each, here) for each in given))


def has_parameter(function: Callable[..., Any], name: str) -> bool:
    """Tell whether a function, or the one of a task, has a parameter of this name."""
    function = getattr(function, "__wrapped__", function)
    if isinstance(parameters := getattr(function, "parameters", None), frozenset):
        return name in parameters  # of a command
    import inspect  # no process is to load it at its start

    try:
        found = inspect.signature(function).parameters.get(name)
    except (TypeError, ValueError):
        return False
    return found is not None and found.kind in (found.POSITIONAL_OR_KEYWORD, found.KEYWORD_ONLY)


def _number(each: Any, here: Origin) -> int:
    if isinstance(each, str):
        return parse_task_label(each)
    number, origin = each.place
    if not (origin is here or origin.is_that_of(here)):
        raise SubmissionError(
            f"the future of task {task_label(number)} is of {origin.other_than(here)}, and means "
            f"nothing at site {here.site}; a task cannot start after that one"
        )
    return int(number)


def _is_future(given: object) -> bool:
    return hasattr(type(given), "place")


def _wrong(given: object) -> str:
    return f"{given!r:.100} is neither the future nor the id of a task"
