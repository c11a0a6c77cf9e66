"""The messages on the wire: typed structs, and nothing else.

Every message is a tagged, array-like struct, so that a frame of a thousand tasks costs a few
microseconds to read. Fields are only ever added at the end, with defaults; a change of meaning
raises `PROTOCOL`, and the greeting of either side is refused where it differs. Numbers have bounds
(`pilot.model.bounds`): what is decoded can be computed with, and stored.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from pilot.model.bounds import Number, Seconds, Signed, SignedSeconds, Weight
from pilot.model.tasks import (
    Completion,
    Environment,
    Function,
    LogSpan,
    SessionInfo,
    TaskOutcome,
    TaskSpec,
    Template,
)
from pilot.model.values import Value
from pilot.scheduler.amounts import Amounts
from pilot.scheduler.resources import NodeShape

#: Raised whenever the meaning of a message changes.
PROTOCOL = 3

#: What a head says to a pilot that it does not know (any more): greet again.
WHO_ARE_YOU = "who are you?"


class _Message(msgspec.Struct, array_like=True, tag=True):
    pass


# --- client → head -------------------------------------------------------------------------------


class ClientHello(_Message):
    """The first message of a client."""

    protocol: Number
    version: str
    #: Whether it submits tasks, or only asks.
    submits: bool = True
    #: The numbers that it was given before, as first ids and lengths of rows: of these tasks it is
    #: to be told. Without any it has submitted nothing yet.
    blocks: list[tuple[Number, Number]] = []


class ClientBye(_Message):
    """The last message of a client."""

    #: Ids that it was given and has not used, as first ones and lengths of rows.
    unused: list[tuple[Number, Number]] = []


class OpenSession(_Message):
    """A request to create a session, or to attach to one where `session` is not 0.

    The reply is the session's id, its default options, as they were given when it was created, and
    a block of ids for tasks: the first, and how many.
    """

    request: Number
    name: str
    environment: Environment
    session: Number = 0
    #: Its share of the cores beside sessions of the same priority.
    weight: Weight = 1.0
    priority: Signed = 0
    #: Default options of its tasks, encoded; only clients read them.
    options: bytes = b""


class Reserve(_Message):
    """A request for the ids of so many tasks of a session, in a row.

    The reply is the first, and how many there are.
    """

    request: Number
    session: Number
    count: Number


class Submit(_Message):
    """A submission of tasks, with the functions and templates that are new to the head."""

    seq: Number
    session: Number
    functions: list[Function]
    templates: list[Template]
    tasks: list[TaskSpec]


class Detach(_Message):
    """A submission of detached children of a running task: they start before it ends.

    The reply is their ids: those that they were given when an earlier attempt of the parent has
    submitted the children of the same ordinals.
    """

    request: Number
    session: Number
    parent: Number
    functions: list[Function]
    templates: list[Template]
    tasks: list[TaskSpec]


class Watch(_Message):
    """A request to be told how these tasks end, or have ended."""

    tasks: list[Number]


class Cancel(_Message):
    """A request to cancel these tasks, or those of a group; with neither named, the whole session.

    The reply is how many have ended by it; with `waiting_only`, which.
    """

    request: Number
    session: Number
    tasks: list[Number] = []
    group: str = ""
    #: What a pilot has for running it is left alone.
    waiting_only: bool = False


class ControlSession(_Message):
    """A request to ``pause``, ``resume``, ``stop``, ``close``, ``reopen``, ``purge`` or ``delete``
    a session; ``rejoin`` reopens it if it was closed because everybody had left.
    """

    request: Number
    session: Number
    verb: str


class DeleteResults(_Message):
    """A request to delete the results of ended tasks of any session, and to keep their records.

    The reply is how many of them had results.
    """

    request: Number
    tasks: list[Number]


class Query(_Message):
    """A request for rows: the query of this name in `pilot.head.queries`."""

    request: Number
    name: str
    arguments: dict[str, Any] = {}


class Command(_Message):
    """A request to the head to ``stop`` or ``drain``."""

    request: Number
    name: str
    arguments: dict[str, Any] = {}


# --- head → client -------------------------------------------------------------------------------


class Welcome(_Message):
    """The answer to either greeting; `refused` gives the reason where it is not empty."""

    epoch: Number
    version: str
    refused: str = ""
    #: To clients: the Python of the pilots, as `pilot.data.pickling.INTERPRETER` has it; empty: the
    #: head does not know.
    python: str = ""
    #: The identity of the head's database: in another one no task that is known is known.
    database: str = ""


class Accepted(_Message):
    """The answer to a committed submission; `refused` gives the tasks that were not taken, and
    why."""

    seq: Number
    refused: list[tuple[Number, str]] = []


class Outcomes(_Message):
    """A report of ended tasks, each committed before it is told."""

    outcomes: list[TaskOutcome]


class Started(_Message):
    """A report of tasks that have run for a while now."""

    tasks: list[Number]


class Reply(_Message):
    """The answer to a request; `error` is not empty if it failed."""

    request: Number
    result: Any = None
    error: str = ""


# --- agent → head --------------------------------------------------------------------------------


class NodeInfo(msgspec.Struct, array_like=True, frozen=True):
    """A node of a pilot."""

    name: str
    shape: NodeShape


class PilotHello(_Message):
    """The first message of an agent, sent again to each new head."""

    protocol: Number
    version: str
    #: Name of the pilot: that of its job.
    pilot: str
    job: str
    #: Which life of the job: it may be requeued under the same id.
    life: Number
    pool: str
    nodes: list[NodeInfo]
    #: When the walltime is over, seconds since the epoch; 0: never.
    ends_at: Seconds
    #: Attempts that it holds and has not ended: (task, attempt).
    held: list[tuple[Number, Number]] = []
    #: Sessions that it knows: those that have ended meanwhile it is told to forget.
    sessions: list[Number] = []
    #: Seconds of walltime that are left, which hold whatever the clocks say; 0: see `ends_at`.
    left_s: SignedSeconds = 0.0
    #: The identity of the database of the heads that it has joined; empty: none yet.
    database: str = ""
    #: What those have of the site that it has not ended, of these that need any: by task.
    site: list[tuple[Number, Amounts]] = []


class Completions(_Message):
    """A report of ended attempts, repeated to a new head until acknowledged."""

    pilot: str
    seq: Number
    completions: list[Completion]


class RunningTask(msgspec.Struct, array_like=True, frozen=True):
    """An attempt that has been running for a while."""

    task: Number
    attempt: Number
    node: str
    started: Seconds
    logs: tuple[LogSpan, ...] = ()


class PilotStatus(_Message):
    """A sign of life of a pilot, with the attempts that have run for a while."""

    pilot: str
    running: list[RunningTask]
    #: The nodes that it has now.
    nodes: list[NodeInfo]
    #: Seconds since anything ran here.
    idle_s: SignedSeconds
    draining: bool = False
    #: Whether it wants a sign of life, by which it knows that there still is a head.
    answer: bool = False


class PilotBye(_Message):
    """The last message of an agent; what it still held goes back to the head."""

    pilot: str
    reason: str
    held: list[tuple[Number, Number]] = []


# --- head → agent --------------------------------------------------------------------------------


class InputValue(msgspec.Struct, array_like=True, frozen=True):
    """A result that a task needs; without a value if it is made in the same pilot."""

    task: Number
    index: Number
    value: Value | None


class AttemptSpec(msgspec.Struct, array_like=True, frozen=True):
    """An attempt that a pilot is to make: the task, its payload and its inputs."""

    task: Number
    attempt: Number
    template: Number
    payload: bytes
    inputs: tuple[InputValue, ...] = ()


class Assign(_Message):
    """An assignment of work to a pilot, with the templates and functions that are new to it."""

    sessions: list[SessionInfo]
    functions: list[Function]
    templates: list[Template]
    work: list[AttemptSpec]


class Committed(_Message):
    """An acknowledgement: completions up to this sequence number are in the database."""

    seq: Number


class ForgetSession(_Message):
    """A notice that a session has ended and that no more of its work comes."""

    session: Number


class CancelWork(_Message):
    """A request to end these tasks, whether they run or wait."""

    tasks: list[Number]


class Reclaim(_Message):
    """A request to return those of these tasks that wait for cores: another pilot has room for
    them."""

    tasks: list[Number]


class EndPilot(_Message):
    """A request to start nothing new, and to end when running work has ended, or now."""

    reason: str
    now: bool = False


class HeadStatus(_Message):
    """A sign of life of the head, for a pilot that has asked for one."""


# --- agent ↔ node worker, executors and ranks ----------------------------------------------------


class NodeHello(_Message):
    """The first message of a node worker."""

    node: str
    shape: NodeShape
    pid: Number


class StartExecutor(_Message):
    """A request to start an executor on these cores."""

    executor: Number
    session: SessionInfo
    cores: tuple[Number, ...]
    #: By name, those of its things that are told apart, such as GPUs.
    indices: dict[str, tuple[str, ...]] = {}


class StopExecutor(_Message):
    """A request to end an executor: SIGTERM, and SIGKILL after `grace_s`, to its process group."""

    executor: Number
    grace_s: Seconds


class Unsend(_Message):
    """A request to have an executor, or the world whose rank 0 is on your node, skip the work that
    it was sent and has not begun, up to the `upto`-th."""

    #: Of the executor or world: no two of them have the same.
    number: Number
    upto: Number


class WatchRank(_Message):
    """A request to report when this process, a rank of an MPI world on your node, has ended."""

    world: Number
    rank: Number
    pid: Number
    #: As in `RankHello`.
    memory: str


class KillRank(_Message):
    """A request to end this process, a rank of an MPI world on your node."""

    pid: Number


class RankExited(_Message):
    """A notice that a rank has exited, sent at once, since launchers take their time."""

    world: Number
    rank: Number
    #: The task that it was in, 0 for none.
    task: Number
    started: Seconds
    #: What it had written in that.
    log: LogSpan | None = None


class Unsent(_Message):
    """A notice that an executor or world skips the work after the `begun`-th, up to the
    `upto`-th."""

    number: Number
    begun: Number
    upto: Number


class ExecutorExited(_Message):
    """A notice that an executor has exited."""

    executor: Number
    #: As `multiprocessing.Process.exitcode`: negative for a signal.
    status: Signed
    #: The task that it was in, 0 for none.
    task: Number
    started: Seconds
    logs: tuple[LogSpan, ...]
    #: The last lines of the task's output.
    tail: str


class NodeStatus(_Message):
    """A sign of life of a node worker, with the tasks that its executors have run for a while."""

    node: str
    running: list[RunningTask]


class AgentStatus(_Message):
    """A sign of life of the agent, for node workers."""

    #: Its endpoint on its own machine, which may have changed.
    local: str = ""


class ExecutorHello(_Message):
    """The first message of an executor: it is ready."""

    executor: Number
    pid: Number


class RankHello(_Message):
    """The first message of a rank of an MPI world: it is ready."""

    world: Number
    rank: Number
    size: Number
    pid: Number
    node: str
    #: Path, on its node, of the memory that tells which task it is in.
    memory: str
    #: The MPI library in its own words.
    library: str = ""


class LaunchPlan(msgspec.Struct, array_like=True, frozen=True):
    """A plan for an executor to start an MPI program: the words before the command, and
    variables."""

    argv: tuple[str, ...]
    env: dict[str, str]


class Run(_Message):
    """Work for an executor or a rank, in this order, with the functions that are new to it."""

    functions: list[Function]
    templates: list[Template]
    work: list[AttemptSpec]
    plan: LaunchPlan | None = None


class Done(_Message):
    """A report of attempts that ended in an executor."""

    executor: Number
    completions: list[Completion]


class Ran(_Message):
    """A report of attempts that have run; their completions follow when results are on the disk."""

    executor: Number
    tasks: list[Number]


class Spent(_Message):
    """A notice that an executor takes no more work: a task has changed its process for good."""

    executor: Number
    reason: str


class WorldDone(_Message):
    """A report, from rank 0, of attempts that all ranks of a world have left without a failure."""

    world: Number
    completions: list[Completion]


class RankDone(_Message):
    """A report of a rank that has left an attempt which failed on it or on another rank."""

    world: Number
    rank: Number
    completion: Completion


class Exit(_Message):
    """A request to end, for node workers, executors and ranks."""


FromClient: TypeAlias = (
    ClientHello
    | ClientBye
    | OpenSession
    | Reserve
    | Submit
    | Detach
    | Watch
    | Cancel
    | ControlSession
    | DeleteResults
    | Query
    | Command
)
FromPilot: TypeAlias = PilotHello | Completions | PilotStatus | PilotBye
ToHead: TypeAlias = FromClient | FromPilot
ToClient: TypeAlias = Welcome | Accepted | Outcomes | Started | Reply
ToPilot: TypeAlias = (
    Welcome | Assign | Committed | ForgetSession | CancelWork | Reclaim | EndPilot | HeadStatus
)
ToAgent: TypeAlias = (
    NodeHello
    | ExecutorExited
    | Unsent
    | NodeStatus
    | ExecutorHello
    | RankHello
    | RankExited
    | Ran
    | Spent
    | Done
    | WorldDone
    | RankDone
)
ToNode: TypeAlias = (
    StartExecutor | StopExecutor | Unsend | WatchRank | KillRank | AgentStatus | Exit
)
ToExecutor: TypeAlias = Run | Exit

Message: TypeAlias = _Message
