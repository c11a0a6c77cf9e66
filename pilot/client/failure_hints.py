"""Warnings of names of failures that may not mean what a user thinks: they are no errors, as the
exceptions that a task raises are not known before.

Invariant: each warning is given once in a process, however often a task is made with an option.
"""

from __future__ import annotations

import builtins
import logging
from collections.abc import Iterable

from pilot import errors

#: So alike is a name to the one that was meant, where a letter or two are wrong.
_NEAR = 0.9
_EXIT = "exit "

log = logging.getLogger("pilot")
_told: set[str] = set()


def warn_of_statuses(task: str, option: str, names: Iterable[str]) -> None:
    """Warn where exit statuses are named for a function, which ends by none.

    Parameters
    ----------
    task
        The name of the task.
    option, names
        The option, and the names of failures that it has.
    """
    if statuses := [name.removeprefix(_EXIT) for name in names if name.startswith(_EXIT)]:
        _warn(
            f"{task}: {option}={', '.join(statuses)}: exit statuses are those of commands; of a "
            "Python function they count only where it raises the CommandFailed of a command. Name "
            "the exceptions that it raises"
        )


def warn_of_typing_error(option: str, name: str) -> None:
    """Warn where the name of a failure is nearly that of an exception of Python."""
    if name in vars(builtins) or name in vars(errors):
        return
    import difflib  # few programs name failures

    kinds = (kind for kind in vars(builtins).values() if isinstance(kind, type))
    known = {kind.__name__.lower(): kind.__name__ for kind in kinds if _is_exception(kind)}
    near = difflib.get_close_matches(name.lower(), known, 1, _NEAR)
    if near and abs(len(near[0]) - len(name)) <= 1:
        _warn(f"{option}={name!r}: is {known[near[0]]!r} meant, which is an exception of Python?")


def _is_exception(kind: type) -> bool:
    return issubclass(kind, BaseException)


def _warn(text: str) -> None:
    if text not in _told:
        _told.add(text)
        log.warning("pilot: %s", text)
