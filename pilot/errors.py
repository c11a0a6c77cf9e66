"""Everything that Pilot raises of itself.

Each message says what was wrong, where, and what to do. Errors of a user's own task are not in
here: they arrive as what they were, with `RemoteTraceback` as their cause.
"""

from __future__ import annotations

from pilot.pickled import public


@public
class PilotError(Exception):
    """Base of all errors of Pilot. `exit_code` is what the command line ends with."""

    exit_code = 1


@public
class SiteError(PilotError):
    """A site is unknown, its file is wrong, or its directory cannot be used."""

    exit_code = 3


@public
class WorkflowError(PilotError):
    """A workflow file is wrong; the message opens with ``file:line:``."""

    exit_code = 4


@public
class CommandError(PilotError, ValueError):
    """A command's text means nothing, or a value is missing or cannot stand in it.

    Attributes
    ----------
    told
        The message without the command.
    """

    def __init__(self, told: str, command: str = "") -> None:
        super().__init__(told, command)
        self.told = told

    def __str__(self) -> str:
        return f"the command {self.args[1]!r}: {self.told}" if self.args[1] else self.told


@public
class HeadError(PilotError):
    """No head can be reached, started, or it does not answer."""

    exit_code = 5


@public
class DiskFullError(HeadError):
    """No head can start, since the disk of its site directory is full."""

    exit_code = 9


@public
class AuthenticationError(HeadError):
    """The head or the client holds another key."""


@public
class BatchError(PilotError):
    """The batch system refused a request or does not answer."""

    exit_code = 6


@public
class SubmissionError(PilotError):
    """A task cannot be accepted: no pool can run it, or it cannot be sent."""

    exit_code = 7


@public
class ResultError(PilotError):
    """A value cannot be read: its file is missing, torn, or was deleted."""


@public
class TaskError(PilotError):
    """A task did not end well, and not by an exception of its own."""

    exit_code = 8


@public
class TaskCrashed(TaskError):
    """The process of a task died: signal, out of memory, or an exit behind Python's back."""


@public
class TaskTimedOut(TaskError):
    """A task ran longer than its time limit."""


@public
class TaskAborted(TaskError):
    """A task could not run since one of its inputs will never come."""


@public
class CommandFailed(TaskError):
    """A command ended with another exit status than zero, or could not be started.

    Attributes
    ----------
    returncode
        Its exit status; -N where signal N ended it. As shells have it, 127 where there is no such
        command, and 126 where it cannot be started.
    """

    def __init__(self, message: str, returncode: int = 1) -> None:
        super().__init__(message, returncode)
        self.returncode = returncode

    def __str__(self) -> str:
        return str(self.args[0])


@public
class RemoteTraceback(Exception):
    """The traceback of a task, as text, from where it was raised.

    It is the ``__cause__`` of the exception that a future raises, so that Python prints it.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text.rstrip()}"


@public
class EncodingError(PilotError):
    """An object cannot be pickled, or its pickle needs something that is not here."""

    exit_code = 7


@public
class StorageError(PilotError):
    """A value cannot be written: the disk is full, read-only, or not permitted."""
