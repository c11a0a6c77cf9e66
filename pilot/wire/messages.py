"""What is said on the wire: typed structs, and nothing else.

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
    """First words of a client."""

    protocol: Number
    version: str
    #: Whether it submits tasks, or only asks.
    submits: bool = True
    #: The numbers that it was given before, as first ids and lengths of rows: of these tasks it is
    #: to be told. Without any it has submitted nothing yet.
    blocks: list[tuple[Number, Number]] = []


class ClientBye(_Message):
    """Last words of a client."""

    #: Ids that it was given and has not used, as first ones and lengths of rows.
    unused: list[tuple[Number, Number]] = []


class OpenSession(_Message):
    """Create a session, or attach to one where `session` is not 0.

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
    """Ask for the ids of so many tasks of a session, in a row.

    The reply is the first, and how many there are.
    """

    request: Number
    session: Number
    count: Number


class Submit(_Message):
    """Tasks, with the functions and templates that the head has not seen in this session."""

    seq: Number
    session: Number
    functions: list[Function]
    templates: list[Template]
    tasks: list[TaskSpec]


class Detach(_Message):
    """Detached children of a task that runs: they start before it ends.

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
    """Tell me how these tasks end (or ended)."""

    tasks: list[Number]


class Cancel(_Message):
    """End these tasks, or those of a group; with neither named, all of the session.

    The reply is how many have ended by it; with `waiting_only`, which.
    """

    request: Number
    session: Number
    tasks: list[Number] = []
    group: str = ""
    #: What a pilot has for running it is left alone.
    waiting_only: bool = False


class ControlSession(_Message):
    """Tell a session to ``pause``, ``resume``, ``stop``, ``close``, ``reopen``, ``purge`` or
    ``delete``; ``rejoin`` opens it again if it was closed since everybody had left it.
    """

    request: Number
    session: Number
    verb: str


class DeleteResults(_Message):
    """Delete the results of tasks that have ended, of whatever session, and keep their records.

    The reply is how many of them had results.
    """

    request: Number
    tasks: list[Number]


class Query(_Message):
    """Ask for rows: what `pilot.head.queries` knows by this name."""

    request: Number
    name: str
    arguments: dict[str, Any] = {}


class Command(_Message):
    """Tell the head to do something to itself: ``stop`` or ``drain``."""

    request: Number
    name: str
    arguments: dict[str, Any] = {}


# --- head → client -------------------------------------------------------------------------------


class Welcome(_Message):
    """Answer to either greeting. `refused` says why not, where it is not empty."""

    epoch: Number
    version: str
    refused: str = ""
    #: To clients: the Python of the pilots, as `pilot.data.pickling.INTERPRETER` has it; empty: the
    #: head does not know.
    python: str = ""
    #: The identity of the head's database: in another one no task that is known is known.
    database: str = ""


class Accepted(_Message):
    """A submission was committed. `refused` names tasks that were not taken, and why."""

    seq: Number
    refused: list[tuple[Number, str]] = []


class Outcomes(_Message):
    """Tasks that ended; each was committed before it is told."""

    outcomes: list[TaskOutcome]


class Started(_Message):
    """Tasks that have run for a while now."""

    tasks: list[Number]


class Reply(_Message):
    """Answer to a request; `error` is not empty where it failed."""

    request: Number
    result: Any = None
    error: str = ""


# --- agent → head --------------------------------------------------------------------------------


class NodeInfo(msgspec.Struct, array_like=True, frozen=True):
    """A node of a pilot."""

    name: str
    shape: NodeShape


class PilotHello(_Message):
    """First words of an agent, and again to each new head."""

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
    """Attempts that ended; repeated to a new head until acknowledged."""

    pilot: str
    seq: Number
    completions: list[Completion]


class RunningTask(msgspec.Struct, array_like=True, frozen=True):
    """An attempt that runs for a while now."""

    task: Number
    attempt: Number
    node: str
    started: Seconds
    logs: tuple[LogSpan, ...] = ()


class PilotStatus(_Message):
    """A sign of life, with what has run for a while."""

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
    """The agent ends; what it still held goes back."""

    pilot: str
    reason: str
    held: list[tuple[Number, Number]] = []


# --- head → agent --------------------------------------------------------------------------------


class InputValue(msgspec.Struct, array_like=True, frozen=True):
    """A result that a task needs; without a value where it is made in the same pilot."""

    task: Number
    index: Number
    value: Value | None


class AttemptSpec(msgspec.Struct, array_like=True, frozen=True):
    """One attempt to be made."""

    task: Number
    attempt: Number
    template: Number
    payload: bytes
    inputs: tuple[InputValue, ...] = ()


class Assign(_Message):
    """Work for a pilot, with what it has not seen yet."""

    sessions: list[SessionInfo]
    functions: list[Function]
    templates: list[Template]
    work: list[AttemptSpec]


class Committed(_Message):
    """Completions up to this sequence number are in the database: forget them."""

    seq: Number


class ForgetSession(_Message):
    """A session has ended: no more work of it comes."""

    session: Number


class CancelWork(_Message):
    """End these tasks, whether they run or wait."""

    tasks: list[Number]


class Reclaim(_Message):
    """Another pilot has room for these tasks: give back those that wait for cores."""

    tasks: list[Number]


class EndPilot(_Message):
    """Start nothing new; end when what runs has ended, or now."""

    reason: str
    now: bool = False


class HeadStatus(_Message):
    """A sign of life, for a pilot that has asked for one."""


# --- agent ↔ node worker, executors and ranks ----------------------------------------------------


class NodeHello(_Message):
    """A node worker is up."""

    node: str
    shape: NodeShape
    pid: Number


class StartExecutor(_Message):
    """Start an executor on these cores."""

    executor: Number
    session: SessionInfo
    cores: tuple[Number, ...]
    #: By name, those of its things that are told apart, such as GPUs.
    indices: dict[str, tuple[str, ...]] = {}


class StopExecutor(_Message):
    """End an executor: SIGTERM, and after `grace_s` SIGKILL, to its whole process group."""

    executor: Number
    grace_s: Seconds


class Unsend(_Message):
    """Have an executor, or the world whose rank 0 is on your node, skip what it has been sent, up
    to the `upto`-th work, and not begun."""

    #: Of the executor or world: no two of them have the same.
    number: Number
    upto: Number


class WatchRank(_Message):
    """Tell when this process, a rank of an MPI world on your node, has ended."""

    world: Number
    rank: Number
    pid: Number
    #: As in `RankHello`.
    memory: str


class KillRank(_Message):
    """End this process, a rank of an MPI world on your node."""

    pid: Number


class RankExited(_Message):
    """A rank is gone: known at once, where launchers take their time."""

    world: Number
    rank: Number
    #: The task that it was in, 0 for none.
    task: Number
    started: Seconds
    #: What it had written in that.
    log: LogSpan | None = None


class Unsent(_Message):
    """An executor or world had begun so many works, and skips those after it up to the
    `upto`-th."""

    number: Number
    begun: Number
    upto: Number


class ExecutorExited(_Message):
    """An executor is gone."""

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
    """A sign of life of a node worker, with what its executors have run for a while."""

    node: str
    running: list[RunningTask]


class AgentStatus(_Message):
    """A sign of life of the agent, to node workers."""

    #: Its endpoint on its own machine, which may have changed.
    local: str = ""


class ExecutorHello(_Message):
    """An executor is ready."""

    executor: Number
    pid: Number


class RankHello(_Message):
    """A rank of an MPI world is ready."""

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
    """How an executor starts an MPI program: what comes before the command, and variables."""

    argv: tuple[str, ...]
    env: dict[str, str]


class Run(_Message):
    """Work for an executor or a rank, in this order, with the functions that it has not seen."""

    functions: list[Function]
    templates: list[Template]
    work: list[AttemptSpec]
    plan: LaunchPlan | None = None


class Done(_Message):
    """Attempts that ended in an executor."""

    executor: Number
    completions: list[Completion]


class Ran(_Message):
    """Attempts that have run; their completions follow when their results are on the disk."""

    executor: Number
    tasks: list[Number]


class Spent(_Message):
    """An executor takes no more work: a task has changed its process for good."""

    executor: Number
    reason: str


class WorldDone(_Message):
    """Attempts that all ranks of a world have left, and none has failed in; from rank 0."""

    world: Number
    completions: list[Completion]


class RankDone(_Message):
    """A rank has left an attempt that it or another one has failed in."""

    world: Number
    rank: Number
    completion: Completion


class Exit(_Message):
    """End: to node workers, executors and ranks."""


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
