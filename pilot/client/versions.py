"""The versions of a task: other functions with other options that make the same result.

A task has a version for each way to make its result, such as on a GPU. Where it is to start the
pilot chooses: of those that can start there at that moment the first, in the order of their making,
the task's own function before all.

Invariants
----------
- A version has the options of its task, but for those that it names itself.
- What a task is to others (its name and results, what its failure means, whether it is tried again,
  when its turn is) is of the task, and no version changes it.
- Each version of a task has a label of its own, by which records name it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from pilot.client.task import COMMAND, HTTP, MPI, MPI_COMMAND, PYTHON, OptionError, Task, merged
from pilot.texts import as_name

#: The most versions of a task: what is ready is looked at once for each.
MOST = 16
#: Options that are of the task, whichever version runs.
_OF_TASK = frozenset(
    {
        *("returns", "on_failure", "default", "cache", "compression", "priority"),
        *("retries", "retry_on", "no_retry_on", "retry_timeouts", "max_crashes"),
        *("after", "commutative"),
    }
)
#: Options of which a version of another kind than its task has nothing.
_OF_KIND = frozenset({"ranks", "ranks_per_node", "nodes"})
#: Options that say nothing of where and how a task runs.
_ONLY_OF_TASK = frozenset({"cache", "after", "commutative"})
#: ``inspect.CO_VARARGS | inspect.CO_VARKEYWORDS``, which is slow to import.
_CO_ANY_ARGUMENTS = 0x04 | 0x08


def add_version(
    task: Task[..., Any], function: Callable[..., Any], options: Mapping[str, Any]
) -> Task[..., Any]:
    """Add a version to a task; return it as a task of its own.

    Raises
    ------
    OptionError
        It cannot be one, or an option is not valid.
    """
    own = _own(task, function, options)
    label = _label(task, own)
    if len(task.versions) >= MOST:
        raise OptionError(f"{task.__name__} has {MOST} versions, which is the most")
    alone = _complete(task, own)
    task.versions[label] = own
    return alone


def versions_of(task: Task[..., Any]) -> Mapping[str, Task[..., Any]]:
    """Return the versions of a task by their labels, with all their options."""
    if len(task.complete) != len(task.versions):
        task.complete = {label: _complete(task, own) for label, own in task.versions.items()}
    return task.complete


def _own(
    task: Task[..., Any], function: Callable[..., Any], options: Mapping[str, Any]
) -> Task[..., Any]:
    """Return a version with the options that it names itself."""
    named = f"a version of {task.__name__}"
    if isinstance(function, Task):
        if function.versions:
            raise OptionError(f"{named}: {function.__name__} has versions itself; add these")
        given, kind, body = merged(function.given, options), function.kind, function.function
    else:
        given, kind, body = dict(options), MPI if task.kind == MPI else PYTHON, function
    if HTTP in (task.kind, kind):
        raise OptionError(f"{named}: requests by HTTP have none, and are none")
    if wrong := sorted(given.keys() & _OF_TASK):
        raise OptionError(
            f"{named}: {wrong[0]} is of the task, whichever version runs: give it to "
            f"{task.__name__} itself"
        )
    if kind == MPI and task.kind != MPI and "ranks" not in given:
        raise OptionError(f"{named}: give the number of its ranks")
    own: Task[..., Any] = Task(body, kind, given)
    if problem := _other_arguments(task.function, own.function):
        raise OptionError(f"{named} gets the same arguments as that, and {problem}")
    return own


def _complete(task: Task[..., Any], own: Task[..., Any]) -> Task[..., Any]:
    """Return a version with all its options."""
    return Task(own.function, own.kind, merged(_inherited(task, own), own.given))


def _inherited(task: Task[..., Any], own: Task[..., Any]) -> dict[str, Any]:
    """Return the options that a version has of its task."""
    out = _ONLY_OF_TASK if _family(own) == _family(task) else _ONLY_OF_TASK | _OF_KIND
    options = {name: value for name, value in task.given.items() if name not in out}
    return {**options, "name": task.__name__}


def _family(task: Task[..., Any]) -> str:
    return COMMAND if task.kind == MPI_COMMAND else task.kind


def _label(task: Task[..., Any], own: Task[..., Any]) -> str:
    """Take the name out of a version's options; return the label that it gives, or its place."""
    given = own.given.pop("name", None)
    label = as_name(given or own.__name__)
    if label in ("_", task.__name__):
        label = f"version {len(task.versions) + 1}"
    if label in task.versions:
        raise OptionError(
            f"{task.__name__} has a version {label!r} already; give this one another name, as "
            "name='…'"
        )
    return label


def _other_arguments(function: object, other: object) -> str:
    """Say in which arguments `other` differs from a function so that calls of it would fail."""
    if not isinstance(function, FunctionType) or not isinstance(other, FunctionType):
        return ""
    if (function.__code__.co_flags | other.__code__.co_flags) & _CO_ANY_ARGUMENTS:
        return ""
    there, needed, its = _arguments(function)[0], *reversed(_arguments(other))
    if lacks := [name for name in there if name not in its]:
        return f"{other.__name__} has no {lacks[0]!r}"
    if more := [name for name in needed if name not in there]:
        return f"{other.__name__} needs {more[0]!r} besides"
    shared = [name for name in its if name in there]
    return "" if shared == list(there) else f"{other.__name__} has them in another order"


def _arguments(function: FunctionType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of a function's arguments, and of those that a call must give."""
    code = function.__code__
    by_place = code.co_varnames[: code.co_argcount]
    by_name = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    defaults = len(function.__defaults__ or ())
    named = function.__kwdefaults__ or {}
    must = by_place[: len(by_place) - defaults] + tuple(n for n in by_name if n not in named)
    return by_place + by_name, must
