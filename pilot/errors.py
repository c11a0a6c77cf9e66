"""The errors that Pilot itself raises.

Each message says what was wrong, where, and what to do. Errors of a user's own task are not in
here: they arrive as what they were, with `RemoteTraceback` as their cause.
"""

from __future__ import annotations

from pilot.pickled import public


@public
class PilotError(Exception):
    """The base of all errors of Pilot. `exit_code` is the exit status of the command line."""

    exit_code = 1


@public
class SiteError(PilotError):
    """An error of a site: unknown, with a wrong file, or with an unusable directory."""

    exit_code = 3


@public
class WorkflowError(PilotError):
    """An error in a workflow file; the message opens with ``file:line:``."""

    exit_code = 4


@public
class CommandError(PilotError, ValueError):
    """An error in a command's text: invalid syntax, or a missing or unsuitable value.

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
    """An error of the head: unreachable, unable to start, or silent."""

    exit_code = 5


@public
class DiskFullError(HeadError):
    """An error of a head that cannot start because the disk of its site directory is full."""

    exit_code = 9


@public
class AuthenticationError(HeadError):
    """An error of authentication: the head and the client hold different keys."""


@public
class BatchError(PilotError):
    """An error of the batch system: a refused request, or no answer."""

    exit_code = 6


@public
class SubmissionError(PilotError):
    """An error of a task that cannot be accepted: no pool can run it, or it cannot be sent."""

    exit_code = 7


@public
class ResultError(PilotError):
    """An error of a value that cannot be read: its file is missing, torn, or was deleted."""


@public
class TaskError(PilotError):
    """An error of a task that failed otherwise than by its own exception."""

    exit_code = 8


@public
class TaskCrashed(TaskError):
    """An error of a task whose process died: a signal, out of memory, or an exit behind Python's
    back."""


@public
class TaskTimedOut(TaskError):
    """An error of a task that ran longer than its time limit."""


@public
class TaskOutOfMemory(TaskError):
    """An error of a task that was ended because it used more memory than it had asked for."""


@public
class TaskAborted(TaskError):
    """An error of a task that could not run because one of its inputs will never come."""


@public
class CommandFailed(TaskError):
    """An error of a command: a nonzero exit status, or a failed start.

    Attributes
    ----------
    returncode
        The command's exit status; -N where signal N ended it. As shells have it, 127 where there is
        no such command, and 126 where it cannot be started.
    """

    def __init__(self, message: str, returncode: int = 1) -> None:
        super().__init__(message, returncode)
        self.returncode = returncode

    def __str__(self) -> str:
        return str(self.args[0])


@public
class HttpFailed(TaskError):
    """An error of an HTTP request: an answer that means failure, or none.

    Attributes
    ----------
    status
        The status of the answer; 0: there was none.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message, status)
        self.status = status

    def __str__(self) -> str:
        return str(self.args[0])


@public
class Stopped(BaseException):
    """The word of a task that stops when told to, unfinished: it is run again, elsewhere.

    A task raises it when `Context.should_stop` is true and its state is saved. It costs neither a
    retry nor a crash, and the next attempt goes on from the checkpoint. In a task that was not told
    to stop it is an error. It is no `Exception`, so that nothing on its way takes it for a failure.
    """


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
    """An error of encoding: an object cannot be pickled, or its pickle needs something that is
    missing here."""

    exit_code = 7


@public
class StorageError(PilotError):
    """An error of a value that cannot be written: the disk is full, read-only, or not permitted."""
