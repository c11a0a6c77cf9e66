"""The messages between clients and the head: submissions, questions, and their answers."""

# No annotations from the future: msgspec would compile each of them whenever a process starts.

from typing import Any, TypeAlias

from pilot.model.bounds import Number, Seconds, Signed, Weight
from pilot.model.installation import Installation
from pilot.model.objects import Naming
from pilot.model.tasks import Environment, Function, TaskOutcome, TaskSpec, Template
from pilot.wire.messages.common import Message, Welcome

# --- client → head -------------------------------------------------------------------------------


class ClientHello(Message):
    """The first message of a client."""

    protocol: Number
    version: str
    #: True if the client submits tasks; False if it only asks.
    submits: bool = True
    #: The numbers that it was given before, as first ids and lengths of rows: of these tasks it is
    #: to be told. Without any it has submitted nothing yet.
    blocks: list[tuple[Number, Number]] = []
    #: The Python that it runs in, as `pilot.data.pickling_by_value.INTERPRETER` has it.
    python: str = ""


class ClientBye(Message):
    """The last message of a client."""

    #: Ids that it was given and has not used, as first ones and lengths of rows.
    unused: list[tuple[Number, Number]] = []


class OpenSession(Message):
    """A request to create a session, or to attach to one where `session` is not 0.

    The reply is the session's id, its default options, as they were given when it was created, and
    a block of ids for tasks: the first, and how many.
    """

    request: Number
    name: str
    environment: Environment
    session: Number = 0
    #: The session's share of the cores beside sessions of the same priority.
    weight: Weight = 1.0
    priority: Signed = 0
    #: Default options of its tasks, encoded; only clients read them.
    options: bytes = b""
    #: The node-seconds that its tasks may use; 0: there is no such limit.
    budget: Seconds = 0.0
    #: It ends, and its tasks with it, when its clients have been gone for so long; 0: it does not.
    grace_s: Seconds = 0.0


class Reserve(Message):
    """A request for the ids of so many tasks of a session, in a row.

    The reply is the first, and how many there are.
    """

    request: Number
    session: Number
    count: Number


class Submit(Message):
    """A submission of tasks, with the functions and templates that are new to the head."""

    seq: Number
    session: Number
    functions: list[Function]
    templates: list[Template]
    tasks: list[TaskSpec]


class Detach(Message):
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


class Watch(Message):
    """A request to be told how these tasks end, or have ended."""

    tasks: list[Number]


class Cancel(Message):
    """A request to cancel these tasks, or those of a group; with neither named, the whole session.

    The reply is how many have ended by it; with `waiting_only`, which.
    """

    request: Number
    session: Number
    tasks: list[Number] = []
    group: str = ""
    #: True: tasks that a pilot has are left alone, for it may begin them at any moment.
    waiting_only: bool = False


class ControlSession(Message):
    """A request to ``pause``, ``resume``, ``stop``, ``close``, ``reopen``, ``purge`` or ``delete``
    a session; ``rejoin`` reopens it if it was closed because everybody had left. ``unbind`` lets it
    live without its clients, ``budget`` changes its budget, ``release`` releases the results of
    its ended tasks.
    """

    request: Number
    session: Number
    verb: str
    #: For ``budget``: node-seconds; 0: there is no such limit any more.
    budget: Seconds = 0.0


class ControlFleet(Message):
    """A request to ``scale``, ``hold`` or ``resume`` a pool, or ``scale auto``; or to ``drain`` or
    ``cancel`` a pilot, named or by its job; without a subject all are drained. ``adopt`` makes a
    job a pilot.

    The reply is what will happen, in words.
    """

    request: Number
    verb: str
    subject: str = ""
    nodes: Signed = 0
    #: The reason, which is kept and shown.
    reason: str = ""
    #: For ``adopt``: the pool that the pilot is to be of; empty: the first one.
    pool: str = ""
    #: For ``drain``: what runs is told to stop, and ended after so many seconds; 0: never.
    within_s: Seconds = 0.0


class DeleteResults(Message):
    """A request to delete the results of ended tasks of any session, and to keep their records.

    The reply is how many of them had results.
    """

    request: Number
    tasks: list[Number]


class Release(Message):
    """A notice that nobody will ask for these results any more, beyond the tasks submitted so far.

    It is answered, as a submission is, once it is in the database.
    """

    seq: Number
    #: Tasks of which all results are released.
    tasks: list[Number]
    #: Single results: task and place.
    parts: list[tuple[Number, Number]] = []


class NameResult(Message):
    """A request to make a result of a completed task the next version of a named object.

    The reply is the version; where the result is one of that name already, that one.
    """

    request: Number
    task: Number
    place: Number
    naming: Naming


class ControlObject(Message):
    """A request to ``remove`` versions of named objects, such as ``mesh@3``; or to have an
    ``alias`` of a name stand for a version, or for none any more (``unalias``).

    The reply is what was done, in words.
    """

    request: Number
    verb: str
    #: For ``alias``: one version; for ``unalias``: a name.
    objects: list[str]
    alias: str = ""


class Query(Message):
    """A request for rows: the query of this name in `pilot.head.queries`."""

    request: Number
    name: str
    arguments: dict[str, Any] = {}


class Command(Message):
    """A request to the head to ``stop`` or ``drain``."""

    request: Number
    name: str
    arguments: dict[str, Any] = {}


# --- head → client -------------------------------------------------------------------------------


class Accepted(Message):
    """The answer to a committed submission or release; `refused` gives the tasks that were not
    taken, and why."""

    seq: Number
    refused: list[tuple[Number, str]] = []


class Outcomes(Message):
    """A report of ended tasks, each committed before it is told."""

    outcomes: list[TaskOutcome]


class Started(Message):
    """A report of tasks that have run for a while now."""

    tasks: list[Number]


class Notice(Message):
    """A notice about a session, for its user."""

    session: Number
    text: str


class PilotsInstallation(Message):
    """A notice of what the pilots' tasks run in, to clients that run in something else."""

    installation: Installation


class Reply(Message):
    """The answer to a request; `error` is not empty if it failed."""

    request: Number
    result: Any = None
    error: str = ""


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
    | ControlFleet
    | DeleteResults
    | Release
    | NameResult
    | ControlObject
    | Query
    | Command
)
ToClient: TypeAlias = Welcome | Accepted | Outcomes | Started | Reply | Notice | PilotsInstallation
