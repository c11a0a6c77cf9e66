"""The states, outcomes and kinds, each listed once. Messages are checked against them."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

#: How a task ended; no task leaves such a state.
FinalState: TypeAlias = Literal["COMPLETED", "FAILED", "TIMED_OUT", "CANCELLED", "ABORTED"]
#: Where a task is. DELEGATED: it has run, and its results are to come from its children.
TaskState: TypeAlias = Literal["PENDING", "READY", "ASSIGNED", "RUNNING", "DELEGATED", FinalState]

PENDING: Final = "PENDING"
READY: Final = "READY"
ASSIGNED: Final = "ASSIGNED"
RUNNING: Final = "RUNNING"
DELEGATED: Final = "DELEGATED"
COMPLETED: Final = "COMPLETED"
FAILED: Final = "FAILED"
TIMED_OUT: Final = "TIMED_OUT"
CANCELLED: Final = "CANCELLED"
ABORTED: Final = "ABORTED"

TASK_STATES: tuple[TaskState, ...] = get_args(TaskState)
FINAL: frozenset[FinalState] = frozenset(get_args(FinalState))
#: Ends of tasks that have run, and not well.
FAILURES: tuple[FinalState, ...] = (FAILED, TIMED_OUT)
#: All ends but the good one.
UNSUCCESSFUL: tuple[FinalState, ...] = (FAILED, TIMED_OUT, ABORTED, CANCELLED)

#: What a client is told of a task: how it ended, that its results were deleted since, or that there
#: is no such task.
ToldState: TypeAlias = Literal[FinalState, "DELETED", "LOST"]
#: What the database knows of a task.
KnownState: TypeAlias = Literal[TaskState, "DELETED"]

#: How an attempt ended.
Outcome: TypeAlias = Literal["ok", "error", "crash", "timeout", "interrupted", "cancelled"]

#: What a task is: ``value`` is no work, but values that are there.
TaskKind: TypeAlias = Literal["python", "mpi", "command", "mpi-command", "value", "http"]

#: The consequence of a task's failure for others.
OnFailure: TypeAlias = Literal["fail", "ignore", "cancel_successors", "stop_session"]
ON_FAILURE: tuple[OnFailure, ...] = get_args(OnFailure)

#: How a session ended; its tasks have ended before.
ClosedState: TypeAlias = Literal["CLOSED", "PURGED"]
#: Where a session is in the database. It may be paused besides.
SessionState: TypeAlias = Literal["OPEN", "STOPPED", "CLOSING", ClosedState]
SESSION_STATES: tuple[SessionState, ...] = get_args(SessionState)
CLOSED_STATES: tuple[ClosedState, ...] = get_args(ClosedState)

#: Where a pilot is in the database.
PilotState: TypeAlias = Literal["INTENDED", "QUEUED", "RUNNING", "ENDED"]

#: What the log of events tells, by kind of thing.
SessionChange: TypeAlias = Literal[SessionState, "PAUSED", "RESUMED", "DELETED"]
PilotChange: TypeAlias = Literal["QUEUED", "JOINED", "SHRUNK", "DRAINING", "LEFT", "ENDED"]
HeadChange: TypeAlias = Literal["STARTED"]
EventKind: TypeAlias = Literal["task", "session", "pilot", "head"]
EVENT_STATES: dict[EventKind, tuple[str, ...]] = {
    "task": TASK_STATES,
    "session": get_args(SessionChange),
    "pilot": get_args(PilotChange),
    "head": get_args(HeadChange),
}
