"""The messages between an agent and its node workers, executors and MPI ranks."""

# No annotations from the future: msgspec would compile each of them whenever a process starts.

from typing import TypeAlias

import msgspec

from pilot.model.bounds import Number, Seconds, SegmentPath, Signed
from pilot.model.software import Software
from pilot.model.tasks import Completion, Function, LogSpan, SessionInfo, Template
from pilot.scheduler.resources import NodeShape
from pilot.wire.endpoints import Endpoints
from pilot.wire.messages.common import Message
from pilot.wire.messages.pilot import AttemptSpec, RunningTask


class NodeHello(Message):
    """The first message of a node worker."""

    node: str
    shape: NodeShape
    pid: Number


class StartExecutor(Message):
    """A request to start an executor on these cores."""

    executor: Number
    session: SessionInfo
    cores: tuple[Number, ...]
    #: By name, those of its things that are told apart, such as GPUs.
    indices: dict[str, tuple[str, ...]] = {}
    #: What it is started in; None: what the pilot has.
    software: Software | None = None


class StopExecutor(Message):
    """A request to end an executor: SIGTERM, and SIGKILL after `grace_s`, to its process group."""

    executor: Number
    grace_s: Seconds


class EndTemplates(Message):
    """A request to end the templates of a session: none of its executors is there any more."""

    session: Number


class NotPreloaded(Message):
    """A notice that a module of a session is not in its executors from their start."""

    node: str
    session: Number
    module: str
    reason: str


class Unsend(Message):
    """A request to have an executor, or the world whose rank 0 is on your node, skip the work that
    it was sent and has not begun, up to the `upto`-th."""

    #: The number of the executor or world: no two of them have the same.
    number: Number
    upto: Number


class TellStop(Message):
    """A request to tell the task that an executor, or a world with ranks on your node, is in to
    save its state and stop."""

    #: The number of the executor or world.
    number: Number
    task: Number
    attempt: Number
    #: When it is ended at the latest, in seconds since the epoch.
    until: Seconds
    reason: str


class WatchRank(Message):
    """A request to report when this process, a rank of an MPI world on your node, has ended."""

    world: Number
    rank: Number
    pid: Number
    #: The shared memory, as in `RankHello`.
    memory: str


class KillRank(Message):
    """A request to end this process, a rank of an MPI world on your node."""

    pid: Number
    #: True if it is to write down first where in its task it is.
    tells: bool = False


class RankExited(Message):
    """A notice that a rank has exited, sent at once, since launchers take their time."""

    world: Number
    rank: Number
    #: The task that it was in, 0 for none.
    task: Number
    started: Seconds
    #: The output of the rank in that task.
    log: LogSpan | None = None
    #: Why it was ended, where it had more memory than the task has asked for.
    over: str = ""
    #: The last lines of that output.
    tail: str = ""


class Unsent(Message):
    """A notice that an executor or world skips the work after the `begun`-th, up to the
    `upto`-th."""

    number: Number
    begun: Number
    upto: Number


class ExecutorExited(Message):
    """A notice that an executor has exited."""

    executor: Number
    #: The exit status, as `multiprocessing.Process.exitcode`: negative for a signal.
    status: Signed
    #: The task that it was in, 0 for none.
    task: Number
    started: Seconds
    logs: tuple[LogSpan, ...]
    #: The last lines of the task's output.
    tail: str
    #: Why it was ended, where the task had more memory than it has asked for.
    over: str = ""
    #: The most memory that the task was seen to have, in MiB; 0: it was not looked at.
    peak_mib: Number = 0


class NodeStatus(Message):
    """A sign of life of a node worker, with the tasks that its executors have run for a while."""

    node: str
    running: list[RunningTask]
    #: The tasks, on executors and ranks, that look whether they are to stop.
    listening: list[Number] = []


class AgentStatus(Message):
    """A sign of life of the agent, for node workers."""

    #: Its endpoint on its own machine, which may have changed.
    local: str = ""


class ExecutorHello(Message):
    """The first message of an executor: it is ready."""

    executor: Number
    pid: Number


class RankHello(Message):
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


#: Stands for a program and its arguments among the words of a launcher.
PROGRAM = "{program}"


class LaunchPlan(msgspec.Struct, array_like=True, frozen=True):
    """A plan for an executor to start an MPI program: the launcher's words, and variables."""

    #: With `PROGRAM` in the place, or places, of the program.
    argv: tuple[str, ...]
    env: dict[str, str]


class Run(Message):
    """Work for an executor or a rank, in this order, with the functions that are new to it."""

    functions: list[Function]
    templates: list[Template]
    work: list[AttemptSpec]
    plan: LaunchPlan | None = None
    #: The nodes of the work, where these are several; the first is the executor's own.
    nodes: tuple[str, ...] = ()
    #: True if large results are to be in the node's store first.
    keeps: bool = True
    #: The cores on each of these nodes.
    cores: tuple[tuple[Number, ...], ...] = ()


class Done(Message):
    """A report of attempts that ended in an executor."""

    executor: Number
    completions: list[Completion]


class Ran(Message):
    """A report of attempts that have run; their completions follow when results are on the disk."""

    executor: Number
    tasks: list[Number]


class Waits(Message):
    """A notice that the task of an executor waits for other tasks, and needs no cores meanwhile."""

    executor: Number
    task: Number


class GoesOn(Message):
    """A request for cores, for a task that has waited for others."""

    executor: Number
    task: Number


class GoOn(Message):
    """The answer to a task that wants to go on: it has cores; without any, those that it had."""

    task: Number
    cores: tuple[Number, ...] = ()


class Spent(Message):
    """A notice that an executor takes no more work: a task has changed its process for good."""

    executor: Number
    reason: str


class WorldDone(Message):
    """A report, from rank 0, of attempts that all ranks of a world have left without a failure."""

    world: Number
    completions: list[Completion]


class RankDone(Message):
    """A report of a rank that has left an attempt which failed on it or on another rank."""

    world: Number
    rank: Number
    completion: Completion


class Kept(Message):
    """A report of attempts that ended in an executor, with results that are on the node alone."""

    executor: Number
    completions: list[Completion]
    #: The segments that are in the node's store, and not in the site directory yet.
    paths: list[SegmentPath]


class Persist(Message):
    """A request to copy these segments of the node's store to the site directory."""

    paths: list[SegmentPath]


class Persisted(Message):
    """A report of segments that are in the site directory now, or cannot be written there."""

    node: str
    paths: list[SegmentPath]
    #: Path → why it cannot be written.
    failed: dict[SegmentPath, str] = {}
    #: Those that are not in the node's store any more.
    lost: list[SegmentPath] = []
    #: The bytes of those that are there now, and how long these have taken, added up, since they
    #: were asked for.
    size: Number = 0
    seconds: Seconds = 0.0
    #: Those of the failed ones that would fail again: the disk is full.
    in_vain: list[SegmentPath] = []


class OpenStore(Message):
    """A request to give away segments of the node's store to other nodes that ask for them."""

    #: The address that others reach the node by, as the site file has it; None: all are here.
    address: str | None


class StoreOpened(Message):
    """A notice where segments of a node's store are given away."""

    node: str
    #: None: they are not.
    endpoints: Endpoints | None
    problem: str = ""


class Fetch(Message):
    """A request to copy a segment to the node's store."""

    path: SegmentPath
    #: The size of the results in it, in bytes.
    size: Number
    #: The worker of the node that has it; None: the site directory.
    source: Endpoints | None = None


class Fetched(Message):
    """A report of a segment that was fetched, or why it was not."""

    node: str
    path: SegmentPath
    size: Number = 0
    seconds: Seconds = 0.0
    problem: str = ""


class DropKept(Message):
    """A request to remove segments from the node's store and its cache, and all those of
    sessions."""

    paths: list[SegmentPath] = []
    sessions: list[Number] = []


class Exit(Message):
    """A request to end, for node workers, executors and ranks."""


ToAgent: TypeAlias = (
    NodeHello
    | ExecutorExited
    | Unsent
    | NodeStatus
    | ExecutorHello
    | RankHello
    | RankExited
    | Ran
    | Waits
    | GoesOn
    | Spent
    | Done
    | Kept
    | Persisted
    | StoreOpened
    | Fetched
    | WorldDone
    | RankDone
    | NotPreloaded
)
ToNode: TypeAlias = (
    StartExecutor
    | StopExecutor
    | Unsend
    | TellStop
    | WatchRank
    | KillRank
    | Persist
    | OpenStore
    | Fetch
    | DropKept
    | AgentStatus
    | Exit
    | EndTemplates
)
ToExecutor: TypeAlias = Run | GoOn | Exit
