"""Elastic pilot jobs for Slurm: Python, MPI and shell tasks by the million, none of them lost.

This is the public API, and nothing else; see ``docs/`` for how to use it.
"""

from pilot.context import context
from pilot.errors import (
    AuthenticationError,
    BatchError,
    CommandFailed,
    HeadError,
    PilotError,
    RemoteTraceback,
    ResultError,
    SiteError,
    SubmissionError,
    TaskAborted,
    TaskCrashed,
    TaskError,
    TaskTimedOut,
    WorkflowError,
)
from pilot.event import Event
from pilot.future import Future, gather
from pilot.inquiry import sessions
from pilot.session import Session, current_session
from pilot.task import CommandResult, Task, mpi, shell, task
from pilot.version import __version__

__all__ = [
    "AuthenticationError",
    "BatchError",
    "CommandFailed",
    "CommandResult",
    "Event",
    "Future",
    "HeadError",
    "PilotError",
    "RemoteTraceback",
    "ResultError",
    "Session",
    "SiteError",
    "SubmissionError",
    "Task",
    "TaskAborted",
    "TaskCrashed",
    "TaskError",
    "TaskTimedOut",
    "WorkflowError",
    "__version__",
    "context",
    "current_session",
    "gather",
    "mpi",
    "sessions",
    "shell",
    "task",
]
