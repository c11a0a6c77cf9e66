"""The end of a task: its values as the task's results, and its errors as they are told."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import msgspec

from pilot.client.command import CommandResult, failure_text
from pilot.data.patience import is_passing
from pilot.data.unpicklable import decoding_error, unpicklable_error
from pilot.errors import CommandFailed, EncodingError, Stopped, StorageError
from pilot.model.ids import task_label
from pilot.model.states import Outcome
from pilot.model.tasks import Template
from pilot.texts import shortened

#: What is stored, where that is what has failed.
RESULT = "the result"
#: The length of the output, and of the line, that dependents get of a command that has failed: they
#: are part of its failure, in messages and in the database.
_IGNORED_LENGTH = 16 * 1024


def command_failed(result: CommandResult) -> CommandFailed:
    status = result.returncode
    return CommandFailed(failure_text(result.command, status, result.stdout), status)


def ignored(template: Template, result: CommandResult) -> CommandResult | None:
    """Return a failed command's result as its dependents get it; None: they do not."""
    if template.on_failure != "ignore" or template.default:
        return None
    return msgspec.structs.replace(
        result,
        command=shortened(result.command, _IGNORED_LENGTH),
        stdout=result.stdout[-_IGNORED_LENGTH:],
    )


def of_what(what: str | int, error: BaseException, result: object) -> BaseException:
    """Return the error to report for an error that the task did not raise itself.

    Parameters
    ----------
    what
        The thing that was read or stored: the task's function, arguments or result, or the result
        of the task of this number.
    error
        The exception that was raised meanwhile, maybe by code of the user's.
    result
        The result, where it was to be stored.
    """
    if isinstance(what, int):
        what = f"the result of task {task_label(what)}, an input"
    if isinstance(error, EncodingError):
        told = EncodingError(f"{what}: {error}")
        told.__cause__ = error.__cause__
    elif isinstance(error, Exception):
        return error
    elif what == RESULT:
        told = unpicklable_error(what, result, error)
        told.__cause__ = error
    else:
        told = EncodingError(f"{what}: {decoding_error(error)}")
        told.__cause__ = error
    return told.with_traceback(error.__traceback__)


def outcome_of(error: BaseException) -> Outcome:
    """Return the outcome of an attempt that has raised this error.

    That the file system has failed for a moment is no error of the task's, and worth another try.
    """
    if isinstance(error, Stopped):
        return "interrupted"  # as far as it was told to stop, which the agent knows
    is_stored_in_vain = isinstance(error, StorageError) and is_passing(error)
    return "crash" if is_stored_in_vain else "error"


def end_copy(error: BaseException | None) -> NoReturn:
    """End a forked copy of this process as Python would: the copy is no executor."""
    status = 0
    try:
        if isinstance(error, SystemExit):
            if isinstance(error.code, int):
                status = error.code
            elif error.code is not None:
                status = 1
                sys.stderr.write(f"{error.code}\n")
        elif error is not None:
            status = 1
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status & 0xFF)


def sequence_of_results(template: Template, result: Any) -> Sequence[Any]:
    """Return the value of a function as a sequence with one object for each of the task's results.

    Raises
    ------
    TypeError
        The function returned something else.
    """
    if template.returns == 1 and not template.return_names:
        return (result,)
    names = template.return_names
    if isinstance(result, dict) and names:
        if set(result) == set(names):
            return [result[name] for name in names]
        gave = f"a dict of {', '.join(map(repr, result))}"
    elif isinstance(result, (tuple, list)):
        if len(result) == template.returns:
            return result
        gave = f"{len(result)} values"
    else:
        gave = f"a {type(result).__name__}"
    wanted = ", ".join(map(repr, names)) if names else str(template.returns)
    raise TypeError(f"{template.name} is to return {wanted} (returns=…), but gave {gave}")
