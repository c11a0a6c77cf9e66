"""The report of an exception that a task raised.

Whatever the exception is, it can be told: its texts are cut where they are too long for a row of
the database, and can be encoded, since a text that was made of a file's name may hold what is no
UTF-8. An exception that is larger than a value that goes in messages is left behind: its class and
its text are told.

Invariant: nothing in here raises because of the exception.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable

from pilot.data.exceptions import pickled
from pilot.data.pickles import TooLargeError
from pilot.errors import CommandFailed
from pilot.limits import ERROR_TEXT_BYTES, NAME_BYTES
from pilot.model.tasks import TaskFailure, exit_name, exit_statuses
from pilot.texts import said, shortened, size_text

#: How many base classes of an exception are told.
_BASES = 100
#: The largest exit status that there is.
_MOST_STATUS = 255


def failure_of(
    error: BaseException, node: str, attempt: int, limit: int, own_file: str = ""
) -> TaskFailure:
    """Return the report of an exception.

    Parameters
    ----------
    error
        The exception.
    node, attempt
        The node and the attempt in which the exception was raised.
    limit
        The bytes that the exception itself may have, pickled.
    own_file
        The file whose frames the traceback does not begin with: they are none of the user's.
    """
    detail = _text(lambda: _traceback(error, own_file))
    try:
        exception = pickled(error, limit)
    except TooLargeError:
        exception = b""
        detail += (
            f"(The exception itself is larger than {size_text(limit)}, and was not sent: "
            "keep large data out of exceptions.)\n"
        )
    return TaskFailure(
        type=shortened(type(error).__name__, NAME_BYTES),
        message=_text(lambda: str(error)),
        detail=detail,
        exception=exception,
        bases=bases_of(error),
        node=node,
        attempt=attempt,
    )


def bases_of(error: BaseException) -> tuple[str, ...]:
    """Return the names of the class of an exception and of its bases, and the exit status of a
    command, as options name them.
    """
    bases = [base for base in type(error).__mro__ if base is not object]
    names = [shortened(base.__name__, NAME_BYTES) for base in bases[:_BASES]]
    # Of this class alone: a user's subclass may do whatever it likes when it is asked.
    if type(error) is CommandFailed:
        status = vars(error).get("returncode")
        if isinstance(status, int) and abs(status) <= _MOST_STATUS:
            names += map(exit_name, exit_statuses(status))
    return tuple(names)


def _text(make: Callable[[], str]) -> str:
    try:
        text = make()
    except BaseException as unprintable:
        text = f"(its text cannot be had: {said(unprintable)})"
    return shortened(text, ERROR_TEXT_BYTES)


def _traceback(error: BaseException, own_file: str) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == own_file:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))
