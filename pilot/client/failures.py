"""The exception that a failed task raises in its user's program.

It is the task's own, with one exception: an exception that affects the caller's control flow
(`SystemExit` ends a program, `StopIteration` a loop, `CancelledError` a coroutine) is never raised
as itself. It is the cause of a `TaskError` then.
"""

from __future__ import annotations

import concurrent.futures

from pilot.data.pickles import decode
from pilot.errors import (
    PilotError,
    RemoteTraceback,
    ResultError,
    StorageError,
    TaskAborted,
    TaskCrashed,
    TaskError,
    TaskOutOfMemory,
    TaskTimedOut,
)
from pilot.model.ids import task_label
from pilot.model.tasks import TaskOutcome
from pilot.texts import said

#: Exceptions that say something to loops, coroutines and futures of the program that gets them.
_CONTROL = (StopIteration, StopAsyncIteration, concurrent.futures.CancelledError)


def means_control(error: BaseException) -> bool:
    """Tell whether raising an exception would end or redirect the caller's control flow."""
    return not isinstance(error, Exception) or isinstance(error, _CONTROL)


def exception_of(outcome: TaskOutcome) -> BaseException:
    """Return the exception that a failed task raises in its user's program."""
    label = task_label(outcome.task)
    failure = outcome.failure
    if outcome.state == "DELETED":
        return ResultError(f"the result of task {label} was deleted; run the task again")
    if outcome.state == "LOST":
        return PilotError(f"there is no task {label}; `pilot task list` shows them")
    if failure is None:
        return TaskError(f"task {label} is {outcome.state}")
    where = f" on {failure.node}" if failure.node else ""
    title = f"task {label}, attempt {failure.attempt}{where}"
    error: BaseException | None = None
    if failure.exception:
        try:
            error = decode(failure.exception)
        except KeyboardInterrupt:
            raise  # of whoever waits
        except BaseException as unreadable:
            title += f" (its exception cannot be read here: {_named(unreadable)})"
    if not isinstance(error, BaseException):
        kinds: dict[str, type[PilotError]] = {"TIMED_OUT": TaskTimedOut, "ABORTED": TaskAborted}
        other = TaskCrashed if failure.is_crash else TaskError
        kind = kinds.get(outcome.state, other)
        text = failure.message if not failure.bases else f"{failure.type}: {failure.message}"
        if failure.type == TaskOutOfMemory.__name__ and not failure.exception:
            kind, text = TaskOutOfMemory, failure.message
        elif failure.type == StorageError.__name__ and PilotError.__name__ in failure.bases:
            kind, text = StorageError, failure.message  # that of a result, after its task's end
        error = kind(f"task {label}{where}: {text}")
    if failure.detail:
        error.__cause__ = RemoteTraceback(f"{title}:\n{failure.detail}")
    if means_control(error):
        wrapped = TaskError(f"task {label}{where} ended by {_named(error)}")
        wrapped.__cause__ = error
        return wrapped
    return error


def _named(error: BaseException) -> str:
    """Return an exception's class and text; of `SystemExit` the exit status."""
    if isinstance(error, SystemExit):
        name, code = type(error).__name__, error.code
        if code is None or isinstance(code, int):
            return f"{name} (exit status {code or 0})"
        return f"{name} (exit status 1): {code}"
    return said(error)
