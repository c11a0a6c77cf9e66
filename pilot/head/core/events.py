"""The events that the core is told, and the effects that it asks for in return.

Plain records: the head's shell makes the events of frames, timers and answers, and carries the
effects out; the simulation does the same without any of these.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

import msgspec

from pilot.head.core.state import Task
from pilot.model.ids import Ref
from pilot.model.states import EventKind, FinalState
from pilot.model.tasks import (
    Completion,
    FileStamp,
    Function,
    TaskFailure,
    TaskOutcome,
    TaskSpec,
    Template,
)
from pilot.model.values import Value
from pilot.scheduler.amounts import Amounts
from pilot.scheduler.resources import NodeShape
from pilot.wire.messages.pilot import ReleasedResult, RunningTask

# --- events --------------------------------------------------------------------------------------


class TasksSubmitted(msgspec.Struct, frozen=True):
    """Tasks to take on.

    `ended` has the states of tasks that they need or come after and that are not unfinished, `lost`
    the ends of inputs that have no results.
    """

    session: int
    templates: list[Template]
    tasks: list[TaskSpec]
    ended: Mapping[int, str]
    #: The running task whose detached children these are; 0: none.
    parent: int = 0
    lost: Mapping[int, Ended] = {}
    #: Results among the inputs that were released, and are gone.
    gone: Collection[Ref] = ()


class Restored(msgspec.Struct, frozen=True):
    """An unfinished task from the database."""

    spec: TaskSpec
    attempts: int
    errors: int
    crashes: int
    created: float
    #: The values that are there, and the children that make the others; None if not DELEGATED.
    delegated: tuple[tuple[Value, ...], dict[int, Ref]] | None = None


class SessionOpened(msgspec.Struct, frozen=True):
    """The record of a session, new or changed."""

    session: int
    weight: float = 1.0
    priority: int = 0
    closed: bool = False
    stopped: bool = False
    paused: bool = False
    #: True if nothing has changed: an earlier head recorded the same.
    restored: bool = False
    #: Why it has changed, where nobody has asked for that.
    reason: str = ""


class BudgetChanged(msgspec.Struct, frozen=True):
    """The news that a session's budget is used up (`up`), or is not any more."""

    session: int
    up: bool


class TasksRestored(msgspec.Struct, frozen=True):
    """The unfinished tasks in the database; the sessions follow. Or what is known of a session that
    had ended, and is open again.

    `outcomes` has the outcomes of ended tasks that had results delegated to them.
    """

    templates: list[Template]
    tasks: list[Restored]
    outcomes: Mapping[int, TaskOutcome] = {}
    #: Pilots that may have some of these tasks.
    pilots: Collection[str] = ()
    #: Results that were released, and were still needed.
    released: Collection[Ref] = ()
    #: The latest versions that tasks have made in their turns, by the anchors of these.
    versions: Mapping[Ref, Ref] = {}


class TasksCancelled(msgspec.Struct, frozen=True):
    """The tasks to end: these, or with None all of the session, or of one of its groups."""

    session: int
    tasks: list[int] | None
    group: str = ""
    #: True: leave tasks that pilots hold alone.
    waiting_only: bool = False
    #: Why, where nobody has asked for it.
    reason: str = ""


class ResultsReleased(msgspec.Struct, frozen=True):
    """Results that nobody will ask for any more: of unfinished tasks, or there."""

    results: Collection[Ref]


class TasksUnfit(msgspec.Struct, frozen=True):
    """Tasks and templates that cannot be stored, and the reason."""

    templates: Mapping[int, str]
    tasks: Mapping[int, str] = {}


class PilotJoined(msgspec.Struct, frozen=True):
    """The report of a pilot that introduces itself, with the attempts that it holds."""

    name: str
    pool: str
    shape: NodeShape
    nodes: int
    ends_at: float
    held: list[tuple[int, int]]
    #: The amounts of the site that the pilot's unfinished tasks hold, by task.
    site: Collection[tuple[int, Amounts]] = ()


class PilotChanged(msgspec.Struct, frozen=True):
    """A change of a pilot: another number of nodes, draining, or another end of its walltime."""

    name: str
    nodes: int
    draining: bool
    #: The end of its walltime, in seconds since the epoch; 0: it has none; None: as it was.
    ends_at: float | None = None


class PilotLost(msgspec.Struct, frozen=True):
    """The loss of a pilot; the tasks that it held run again."""

    name: str
    reason: str
    #: True if its job may go on: its tasks' amounts of the site stay in use until it has ended.
    may_live: bool = False
    #: True if its job ran out of memory, which counts as a crash of what ran there.
    out_of_memory: bool = False


class AttemptsEnded(msgspec.Struct, frozen=True):
    """A pilot's report of attempts that have ended there.

    `ended` has the states of tasks that children need or come after and that are not unfinished,
    `lost` the ends of inputs that have no results, `outcomes` the outcomes of ended tasks that had
    results delegated to them.
    """

    pilot: str
    completions: list[Completion]
    ended: Mapping[int, str] = {}
    outcomes: Mapping[int, TaskOutcome] = {}
    lost: Mapping[int, Ended] = {}
    #: Results among the inputs of children that were released, and are gone.
    gone: Collection[Ref] = ()


class TasksLookedUp(msgspec.Struct, frozen=True):
    """The outcome of memo lookups: the keys of tasks, and the results of some."""

    keys: Mapping[int, bytes]
    found: Mapping[int, tuple[Value, ...]]


class AttemptsHeldBack(msgspec.Struct, frozen=True):
    """Attempts have ended, and their pilot reports that later: their cores are free."""

    pilot: str
    #: Task, attempt, and when it began, in seconds since the epoch.
    attempts: Sequence[tuple[int, int, float]]


class VersionsCommitted(msgspec.Struct, frozen=True):
    """The news that versions, which tasks have made in their turns, are in the database."""

    #: The anchor of each turn, and who has had it.
    turns: Collection[tuple[Ref, int]]


class VersionsLookedUp(msgspec.Struct, frozen=True):
    """The values of versions, by the tasks that take them over; and why some cannot be read."""

    values: Mapping[int, Value]
    unread: Mapping[int, str] = {}


class AttemptsRunning(msgspec.Struct, frozen=True):
    """A pilot's report of attempts that have run for a while."""

    pilot: str
    running: list[RunningTask]


class AttemptsWaiting(msgspec.Struct, frozen=True):
    """A pilot's report of attempts, by task, that wait for other tasks and hold no cores, and of
    those that have waited and go on."""

    pilot: str
    waiting: list[tuple[int, int]]
    going_on: list[tuple[int, int]] = []


Event: TypeAlias = (
    SessionOpened
    | BudgetChanged
    | TasksSubmitted
    | TasksRestored
    | TasksCancelled
    | ResultsReleased
    | TasksUnfit
    | PilotJoined
    | PilotChanged
    | PilotLost
    | AttemptsEnded
    | AttemptsHeldBack
    | AttemptsRunning
    | AttemptsWaiting
    | TasksLookedUp
    | VersionsCommitted
    | VersionsLookedUp
)


# --- what becomes of all things, in order --------------------------------------------------------


class Change(msgspec.Struct, array_like=True):
    """Like changes of state at one time: consecutive events of the log."""

    #: A kind in `pilot.model.states.EVENT_STATES`, and a state of that kind.
    kind: EventKind
    state: str
    #: The session; 0: none.
    session: int
    #: Seconds since the epoch.
    at: float
    #: The reason or place; the name of a pilot.
    detail: str
    #: For tasks: their ids in order, as alternating first ids and lengths of runs.
    spans: list[int]

    @property
    def count(self) -> int:
        """The number of events."""
        return sum(self.spans[1::2]) if self.spans else 1


class Log:
    """Changes in the order in which they were made; consecutive ones that are alike are merged."""

    __slots__ = ("changes",)

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def task(self, task: int, state: str, session: int, at: float, detail: str = "") -> None:
        """Add a task's change of state."""
        if self.changes:
            last = self.changes[-1]
            if (
                last.state == state
                and last.session == session
                and last.at == at
                and last.detail == detail
                and last.kind == "task"
            ):
                spans = last.spans
                if spans[-2] + spans[-1] == task:
                    spans[-1] += 1
                else:
                    spans += (task, 1)
                return
        self.changes.append(Change("task", state, session, at, detail, [task, 1]))

    def other(self, kind: EventKind, state: str, session: int, at: float, detail: str = "") -> None:
        """Add a change of state of a session or a pilot."""
        self.changes.append(Change(kind, state, session, at, detail, []))

    def take(self) -> list[Change]:
        """Remove and return the changes since the last call."""
        taken, self.changes = self.changes, []
        return taken


# --- effects -------------------------------------------------------------------------------------


class Ended(msgspec.Struct, frozen=True):
    """The end of a task, with its final state."""

    task: int
    session: int
    state: FinalState
    at: float
    values: tuple[Value, ...]
    failure: TaskFailure | None
    #: The pool of the last attempt, and its duration in seconds.
    pool: str = ""
    ran_s: float | None = None
    #: The key under which its results are found again (empty: none), with these files.
    memo: bytes = b""
    files: tuple[FileStamp, ...] = ()
    #: The values that dependents get in place of an ignored failure.
    ignored: tuple[Value, ...] | None = None
    #: The template of a task that is lost to its dependents: they get nothing of it.
    lost: Template | None = None


class Delegated(msgspec.Struct, frozen=True):
    """The end of a task whose results are still to come from children."""

    task: int
    values: tuple[Value, ...]
    refs: dict[int, Ref]


class Learned(msgspec.Struct, frozen=True):
    """Functions and templates that came with children."""

    session: int
    functions: tuple[Function, ...]
    templates: tuple[Template, ...]


class Attempt(msgspec.Struct, frozen=True):
    """The end of an attempt, whether or not it ended the task."""

    completion: Completion
    pilot: str
    created: float
    ready: float
    assigned: float
    errors: int
    crashes: int


class Effects:
    """The effects that the shell carries out, in this order: write, commit, tell."""

    __slots__ = (
        "accepted",
        "attempts",
        "cancel",
        "claimed",
        "delegated",
        "ended",
        "late",
        "learned",
        "lookups",
        "named",
        "refused",
        "released",
        "sessions_ended",
        "settling",
        "started",
        "unwanted",
        "versions",
    )

    def __init__(self) -> None:
        #: Tasks to insert, with their parent's id (0: none).
        self.accepted: list[tuple[TaskSpec, Task, int]] = []
        #: Those among them whose values are to be versions of named objects, as their payloads say.
        self.named: list[tuple[TaskSpec, int]] = []
        #: Tasks that were refused, and why.
        self.refused: list[tuple[int, str]] = []
        self.attempts: list[Attempt] = []
        self.learned: list[Learned] = []
        self.delegated: list[Delegated] = []
        #: Attempts of tasks that had ended already: (pilot, how they were stopped).
        self.late: list[tuple[str, Completion]] = []
        self.ended: list[Ended] = []
        #: Tasks that could start, but may have run before: look them up, and tell `TasksLookedUp`.
        self.lookups: list[Task] = []
        #: Versions that tasks have made in their turns: the anchor, the result, and the task. Once
        #: they are committed, tell `VersionsCommitted`.
        self.versions: list[tuple[Ref, Ref, int]] = []
        #: Tasks that take over a version, and that one: look its value up, and tell
        #: `VersionsLookedUp`.
        self.settling: list[tuple[int, Ref]] = []
        #: Pilot → tasks that it must end.
        self.cancel: dict[str, list[int]] = {}
        #: Tasks now known to run.
        self.started: list[int] = []
        #: Sessions that were closed and have no unfinished task any more.
        self.sessions_ended: list[int] = []
        #: Results that were released, and are needed until some tasks have ended.
        self.claimed: list[Ref] = []
        #: Results that were released, and that no unfinished task needs: they are to go.
        self.released: list[Ref] = []
        #: Pilot → released results that it makes, and that its own tasks alone need.
        self.unwanted: dict[str, list[ReleasedResult]] = {}
