"""The messages between pilots (their agents) and the head: work, and how it goes."""

# No annotations from the future: msgspec would compile each of them whenever a process starts.

from typing import TypeAlias

import msgspec

from pilot.model.bounds import Number, Seconds, SignedSeconds
from pilot.model.installation import Installation
from pilot.model.tasks import Completion, Function, LogSpan, SessionInfo, Template
from pilot.model.values import Value
from pilot.scheduler.amounts import Amounts
from pilot.scheduler.resources import NodeShape
from pilot.wire.messages.common import Message, Welcome

# --- agent → head --------------------------------------------------------------------------------


class NodeInfo(msgspec.Struct, array_like=True, frozen=True):
    """A node of a pilot."""

    name: str
    shape: NodeShape


class PilotHello(Message):
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
    #: The amounts of the site that the pilot's unfinished tasks hold, by task.
    site: list[tuple[Number, Amounts]] = []
    #: What runs it, and its tasks.
    installation: Installation = Installation()


class Completions(Message):
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


class BookingInfo(msgspec.Struct, array_like=True, frozen=True):
    """The nodes that a pilot keeps for a task that waits for several cores, or for a whole one."""

    task: Number
    nodes: tuple[str, ...]
    #: The seconds until the task is thought to begin; less than 0: nobody knows.
    in_s: SignedSeconds
    #: The seconds for which it has waited for a place.
    waited_s: SignedSeconds


class InputFetch(msgspec.Struct, array_like=True, frozen=True):
    """A large input, in the memory of one node, for which an attempt waits before it can start."""

    task: Number
    attempt: Number
    #: The size of its segment in bytes.
    size: Number
    #: Where it comes from; empty: it is being written to the site directory.
    source: str
    #: Where it goes, and the attempt is to start; empty: on any node.
    node: str


class PilotStatus(Message):
    """A sign of life of a pilot, with the attempts that have run for a while."""

    pilot: str
    running: list[RunningTask]
    #: The nodes that it has now.
    nodes: list[NodeInfo]
    #: Seconds since anything ran here.
    idle_s: SignedSeconds
    draining: bool = False
    #: True if the pilot wants a sign of life, by which it knows that there still is a head.
    answer: bool = False
    #: The nodes that it could do without, and the seconds for which each has been idle.
    idle_nodes: list[tuple[str, SignedSeconds]] = []
    #: The nodes that it has left, and that may go back to the batch system.
    returned: list[str] = []
    #: The walltime that is left, in seconds; 0: it has no end.
    left_s: SignedSeconds = 0.0
    booking: BookingInfo | None = None
    #: What attempts wait for before they can start: some of it, where it is much.
    fetches: list[InputFetch] = []


class PilotNotice(Message):
    """A notice for the clients of a session, which is told once for each subject."""

    pilot: str
    session: Number
    subject: str
    text: str


class HeldBack(Message):
    """A notice of attempts that have ended, and are reported once what they rest on is on the disk:
    their cores are free."""

    pilot: str
    #: Task, attempt, and when it began, in seconds since the epoch.
    attempts: list[tuple[Number, Number, Seconds]]


class Waiting(Message):
    """A report of attempts that wait for other tasks, and hold no cores, and of those that have
    waited and go on: (task, attempt)."""

    pilot: str
    waiting: list[tuple[Number, Number]]
    going_on: list[tuple[Number, Number]] = []


class PilotBye(Message):
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


class Assign(Message):
    """An assignment of work to a pilot, with the templates and functions that are new to it."""

    sessions: list[SessionInfo]
    functions: list[Function]
    templates: list[Template]
    work: list[AttemptSpec]


class Committed(Message):
    """An acknowledgement: completions up to this sequence number are in the database."""

    seq: Number


class ForgetSession(Message):
    """A notice that a session has ended and that no more of its work comes."""

    session: Number


class CancelWork(Message):
    """A request to end these tasks, whether they run or wait."""

    tasks: list[Number]


class Reclaim(Message):
    """A request to return those of these tasks that wait for cores: another pilot has room for
    them."""

    tasks: list[Number]


class ReleasedResult(msgspec.Struct, array_like=True, frozen=True):
    """A result that was released, and the tasks of the pilot that still need it."""

    task: Number
    index: Number
    #: Unfinished tasks that this pilot was given. Nobody else needs the result, or ever will.
    needed_by: tuple[Number, ...] = ()


class Released(Message):
    """A notice that results were released, also some that the pilot has not reported yet.

    What the pilot holds of such a result may go, unwritten, once the tasks that need it have ended
    well there. If one of them leaves the pilot otherwise, the result is kept and written as any
    other: that task needs it again.
    """

    results: list[ReleasedResult]


class EndPilot(Message):
    """A request to start nothing new, and to end when running work has ended, or now."""

    reason: str
    now: bool = False
    #: What runs is told to stop, and ended after so many seconds; 0: it may go on to its end.
    within_s: Seconds = 0.0


class ReturnNodes(Message):
    """A request to leave those of these nodes on which nothing runs."""

    nodes: list[str]
    reason: str


class NodesReturned(Message):
    """A notice that the batch system has these nodes back."""

    nodes: list[str]


class KeepNodes(Message):
    """A request to use these nodes again: the batch system does not take them back."""

    nodes: list[str]


class Walltime(Message):
    """A notice that the walltime of the pilot's job was changed."""

    #: The walltime that is left, in seconds.
    left_s: Seconds


class HeadStatus(Message):
    """A sign of life of the head, for a pilot that has asked for one."""


FromPilot: TypeAlias = (
    PilotHello | Completions | PilotStatus | HeldBack | Waiting | PilotBye | PilotNotice
)
ToPilot: TypeAlias = (
    Welcome
    | Assign
    | Committed
    | ForgetSession
    | CancelWork
    | Reclaim
    | Released
    | EndPilot
    | ReturnNodes
    | NodesReturned
    | KeepNodes
    | Walltime
    | HeadStatus
)
