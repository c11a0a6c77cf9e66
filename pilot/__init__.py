"""Elastic pilot jobs for Slurm: Python, MPI and shell tasks by the million, none of them lost.

This is the public API, and nothing else; see ``docs/`` for how to use it.

All but the errors is imported when it is first asked for: the command line and each process of a
pilot import this package too, and every command and first task waits for that.
"""

from typing import TYPE_CHECKING, Any

from pilot.errors import (
    AuthenticationError,
    BatchError,
    CommandError,
    CommandFailed,
    DiskFullError,
    EncodingError,
    HeadError,
    HttpFailed,
    PilotError,
    RemoteTraceback,
    ResultError,
    SiteError,
    Stopped,
    StorageError,
    SubmissionError,
    TaskAborted,
    TaskCrashed,
    TaskError,
    TaskOutOfMemory,
    TaskTimedOut,
    WorkflowError,
)
from pilot.version import __version__

if TYPE_CHECKING:
    from pilot.client.command import CommandResult, shell
    from pilot.client.context import context
    from pilot.client.events import Event
    from pilot.client.future import Future
    from pilot.client.gathering import gather
    from pilot.client.http_request import HttpResponse, http
    from pilot.client.mpmd import mpmd
    from pilot.client.objects import NamedObject, named, objects
    from pilot.client.query_client import sessions
    from pilot.client.session import Session, current_session
    from pilot.client.task import OptionError, Task, mpi, task
else:
    #: Where each of the names is that are imported late.
    _LATE = {
        "CommandResult": "pilot.client.command",
        "Event": "pilot.client.events",
        "Future": "pilot.client.future",
        "HttpResponse": "pilot.client.http_request",
        "NamedObject": "pilot.client.objects",
        "OptionError": "pilot.client.task",
        "Session": "pilot.client.session",
        "Task": "pilot.client.task",
        "context": "pilot.client.context",
        "current_session": "pilot.client.session",
        "gather": "pilot.client.gathering",
        "http": "pilot.client.http_request",
        "mpi": "pilot.client.task",
        "mpmd": "pilot.client.mpmd",
        "named": "pilot.client.objects",
        "objects": "pilot.client.objects",
        "sessions": "pilot.client.query_client",
        "shell": "pilot.client.command",
        "task": "pilot.client.task",
    }

    def __getattr__(name: str) -> Any:
        if name not in _LATE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return globals().setdefault(name, getattr(import_module(_LATE[name]), name))

    def __dir__() -> list[str]:
        return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


__all__ = [
    "AuthenticationError",
    "BatchError",
    "CommandError",
    "CommandFailed",
    "CommandResult",
    "DiskFullError",
    "EncodingError",
    "Event",
    "Future",
    "HeadError",
    "HttpFailed",
    "HttpResponse",
    "NamedObject",
    "OptionError",
    "PilotError",
    "RemoteTraceback",
    "ResultError",
    "Session",
    "SiteError",
    "Stopped",
    "StorageError",
    "SubmissionError",
    "Task",
    "TaskAborted",
    "TaskCrashed",
    "TaskError",
    "TaskOutOfMemory",
    "TaskTimedOut",
    "WorkflowError",
    "__version__",
    "context",
    "current_session",
    "gather",
    "http",
    "mpi",
    "mpmd",
    "named",
    "objects",
    "sessions",
    "shell",
    "task",
]
