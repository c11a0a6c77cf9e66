"""Tasks: their parts, their shared templates, and their ends.

These structs are parts of messages and rows: fields are only ever added at the end, with defaults.
Numbers have bounds (`pilot.model.bounds`): what is decoded can be computed with, and stored.
"""

# No annotations from the future: msgspec would compile each of them whenever a process starts.

import msgspec

from pilot.model.bounds import Few, Number, Seconds, Signed
from pilot.model.ids import Ref
from pilot.model.software import Software
from pilot.model.states import OnFailure, Outcome, TaskKind, ToldState
from pilot.model.values import Value
from pilot.scheduler.resources import Resources

#: Deeper detached children are not told apart: each depth of a function is a class of its own.
DEPTH_MOST = 32


class Function(msgspec.Struct, array_like=True, frozen=True):
    """A user's function, sent once per session."""

    #: Hash of the payload.
    digest: bytes
    #: The pickled function.
    payload: bytes


class Template(msgspec.Struct, array_like=True, frozen=True):
    """The common part of many tasks: the function and how to run it. Sent once, named by `id`."""

    #: A digest of all the rest: a template that is made again has the same id.
    id: Number
    session: Number
    #: The name in lists.
    name: str
    #: ``python``, ``mpi``, ``command``, ``mpi-command``, ``http``, or ``value``: no work, but
    #: values.
    kind: TaskKind
    #: Digest of the function; empty for commands.
    function: bytes
    resources: Resources
    #: Seconds; 0: none.
    time_limit_s: Seconds = 0.0
    retries: Number = 0
    #: Names of exception classes (also of base classes), and exit statuses of commands as
    #: ``exit 3``, that are retried; empty: all.
    retry_on: tuple[str, ...] = ()
    max_crashes: Number = 3
    priority: Signed = 0
    #: Empty: any pool that fits.
    pool: str = ""
    returns: Few = 1
    #: ``fail``, ``ignore``, ``cancel_successors`` or ``stop_session``.
    on_failure: OnFailure = "fail"
    #: Names of the results; empty where they have none.
    return_names: tuple[str, ...] = ()
    #: With ``ignore``: what dependents get, encoded.
    default: bytes = b""
    #: Tasks that are cancelled together.
    group: str = ""
    #: True if the failure of one task ends the others of its group.
    group_fails_together: bool = False
    #: Digest of the source that it comes of, where its results may be those of an earlier run.
    cache: bytes = b""
    #: With ``ignore``: what dependents get of each result, encoded; empty: `default`, of all. Of a
    #: command without a default of its own: what they get where its failure tells no result.
    defaults: tuple[bytes, ...] = ()
    #: Such names that are never retried.
    no_retry_on: tuple[str, ...] = ()
    #: True if an attempt that ended by its time limit is retried as one that raised.
    retry_timeouts: bool = False
    #: Compression of the results: ``none``, ``gzip:4``…; empty: as the site file says.
    compression: str = ""
    #: How many tasks, each a detached child of the next, may wait for this one; at most
    #: `DEPTH_MOST`, which stands for all that are more.
    depth: Few = 0
    #: True if each task has a process of its own, or ranks, which run nothing before and after it.
    fresh: bool = False
    #: What its processes find around them; None: what the pilots have.
    software: Software | None = None
    #: The templates of other versions of the task: its pilot chooses.
    versions: tuple[Number, ...] = ()
    #: Of a version: what records call it, and a digest of what the task and all its versions are.
    version: str = ""
    version_of: Number = 0


class TaskSpec(msgspec.Struct, array_like=True, frozen=True):
    """A task: its arguments, and what it waits for."""

    #: The task's id; for a child, and what it and its parent refer to, see `pilot.model.ids`.
    id: Number
    template: Number
    #: Arguments, encoded; futures in them are references. Of a value that is put: the object of
    #: which it is to be the next version, as `objects.encode_naming` has it; empty: none.
    payload: bytes
    #: The results that the arguments refer to, each once.
    inputs: tuple[Ref, ...] = ()
    #: The values of a task that is no work: it is complete once it is accepted.
    values: tuple[Value, ...] = ()
    #: The place of a detached child among those of its parent, from 1; 0: it is none.
    ordinal: Number = 0
    #: The digest of arguments whose payload does not tell them, where results may be found again.
    digest: bytes = b""
    #: The task whose place it takes, which had failed.
    retry_of: int = 0
    #: The tasks that have ended, however, before it starts. Nothing of them is sent.
    after: tuple[Number, ...] = ()
    #: The values that it takes by turns with other tasks: which of its inputs, of which it gets the
    #: latest version, and which of its results is the next one.
    commutative: tuple[tuple[Number, Number], ...] = ()


class Environment(msgspec.Struct, array_like=True, frozen=True):
    """The environment of a session's code: directory, module search path, variables."""

    working_dir: str
    sys_path: tuple[str, ...] = ()
    variables: dict[str, str] = {}
    #: The number of the first of these directories that the user has named: they are in front of
    #: all others, also where a worker has them by itself, further behind.
    named: Number = 0
    #: Modules that its executors have from their start.
    preload: tuple[str, ...] = ()
    #: The variables that the session's program has, for what else tasks see (`pilot.inherited`).
    inherited: dict[str, str] = {}


class SessionInfo(msgspec.Struct, array_like=True, frozen=True):
    """A session as agents need to know it."""

    id: Number
    name: str
    environment: Environment


class LogSpan(msgspec.Struct, array_like=True, frozen=True):
    """The part of a file that holds the output of an attempt; relative to the site directory."""

    path: str
    start: Number
    #: -1: to the end, the task still runs.
    end: Signed


#: The type of the failure of an attempt that was sent to a process ahead of an input, which did not
#: come there. No agent reports it.
NOT_HERE = "its input is not here"


class TaskFailure(msgspec.Struct, array_like=True, frozen=True):
    """The reason why an attempt did not end well."""

    #: Class name of the exception, or what happened (``SIGKILL``, ``exit 3``).
    type: str
    message: str
    #: The remote traceback, or the last lines of output.
    detail: str = ""
    #: The exception itself, encoded; empty where it could not be.
    exception: bytes = b""
    #: Class names of the exception and of its bases, and the exit status of a command, for
    #: `Template.retry_on`.
    bases: tuple[str, ...] = ()
    node: str = ""
    attempt: Number = 0
    #: The first task that did not end well, of a task that was ended for that; 0: it is its own.
    cause: Number = 0
    #: The result of a command whose failure is ignored, encoded: what its dependents get.
    result: bytes = b""

    @property
    def is_crash(self) -> bool:
        """True if the task's process died instead of raising an exception."""
        return not self.bases


def exit_name(status: int) -> str:
    """Return the name of an exit status among the names of exception classes."""
    return f"exit {status}"


def exit_statuses(returncode: int) -> tuple[int, ...]:
    """Return the exit status of a command; where a signal ended it, also that of a shell."""
    return (returncode,) if returncode >= 0 else (returncode, 128 - returncode)


class FileStamp(msgspec.Struct, array_like=True, frozen=True):
    """The stamp of a file: its absolute path, size in bytes, and time of modification in ns."""

    path: str
    size: Number
    mtime_ns: Signed


class Children(msgspec.Struct, array_like=True, frozen=True):
    """The tasks that a task has submitted; they are created when it ends well, or not at all."""

    functions: tuple[Function, ...]
    templates: tuple[Template, ...]
    tasks: tuple[TaskSpec, ...]
    #: Which of the task's results are those of children: index of the result → (child, index).
    delegated: dict[Number, Ref]
    #: The results that the task has released: they are needed by what is submitted by now alone.
    released: tuple[Ref, ...] = ()


class Completion(msgspec.Struct, array_like=True, frozen=True):
    """The end of an attempt, as the pilot reports it until the head has committed it.

    Times are seconds since the epoch, by the clock of the host where they were taken.
    """

    task: Number
    attempt: Number
    #: ``ok``, ``error``, ``crash``, ``timeout``, ``interrupted`` or ``cancelled``.
    outcome: Outcome
    values: tuple[Value, ...] = ()
    failure: TaskFailure | None = None
    node: str = ""
    received: Seconds = 0.0
    fetched: Seconds = 0.0
    started: Seconds = 0.0
    ended: Seconds = 0.0
    reported: Seconds = 0.0
    logs: tuple[LogSpan, ...] = ()
    #: With ``ok``: the tasks that it has submitted. Results that are delegated have an empty value.
    children: Children | None = None
    #: Files that it has made, which must be there as they are if its results are to be found again.
    files: tuple[FileStamp, ...] = ()
    #: The time of processors that it took.
    cpu_s: Seconds = 0.0
    #: The most memory that it had, in MiB; 0: nobody knows.
    peak_mib: Number = 0
    #: The nodes, cores and things with an index that it had: `pilot.scheduler.placement_text`.
    placement: str = ""
    #: The version of the task that ran, as `Template.version`; empty: the task itself.
    version: str = ""

    @property
    def is_unstarted(self) -> bool:
        """True if the task was returned unstarted, so that there was no attempt and its number is
        free."""
        return self.outcome == "interrupted" and not self.started


class TaskOutcome(msgspec.Struct, array_like=True, frozen=True):
    """The end of a task, as clients are told."""

    task: Number
    #: LOST: there is no such task.
    state: ToldState
    values: tuple[Value, ...] = ()
    failure: TaskFailure | None = None
