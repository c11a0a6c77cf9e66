"""The interface to a batch system: the requests to it, and its answers.

A pilot is one job. The head knows it by its `JobRequest.name`, which it makes unique and writes to
its database before it submits; so after a crash, or after a submission without an answer, it finds
the job again by name.

Invariants that every adapter keeps:

- *Unknown is never empty.* A query without an answer raises `BatchUnavailable`; an empty answer
  means that the batch system said so.
- One call of `BatchSystem.jobs` is one query, however many jobs there are.
- No call waits without end: each has a time limit.
- A job goes on when the adapter, or the process that has it, ends.
- The process that a job's script becomes gets SIGUSR1 before its walltime ends, and SIGTERM when
  the job is cancelled, preempted or over, some time before it is killed.

`pilot.scheduler.batch.kind` has the other half of the interface: facts known without asking.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

_JOB_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_JOB_ID = re.compile(r"[A-Za-z0-9._+-]{1,64}")
_VARIABLE_NAME = r"[A-Za-z_][A-Za-z0-9_]*"


class BatchError(Exception):
    """Base class of the errors of an adapter."""


class BatchUnavailable(BatchError):
    """The error that the batch system gave no answer: nothing is known, neither yes nor no.

    After `BatchSystem.submit` the job may exist or not: look for its name.
    """


class SubmitRefused(BatchError):
    """The error that the batch system refused a submission: the job does not exist."""


class ShrinkRefused(BatchError):
    """The error that the job keeps its nodes. Try later, or end it as a whole when it is idle."""


#: A prefix that no job's name has: so jobs are asked for by their ids alone.
NO_PREFIX = "\0"


class Phase(str, enum.Enum):
    """The phases in the life of a job."""

    #: The job waits for nodes; it may have run before (see `JobStatus.restart_count`).
    QUEUED = "queued"
    #: The job has its nodes.
    RUNNING = "running"
    #: The job has nodes, but its processes are suspended.
    SUSPENDED = "suspended"
    #: The job releases its nodes. It ends, or is queued again under the same id.
    ENDING = "ending"
    #: The job will not run again.
    ENDED = "ended"


class WhyEnded(str, enum.Enum):
    """The reasons why a job ended, the same for all batch systems."""

    #: The job's script ended with exit status 0.
    COMPLETED = "completed"
    #: The job's script ended with another exit status, or by a signal.
    FAILED = "failed"
    #: Somebody cancelled the job.
    CANCELLED = "cancelled"
    #: The job reached the end of its walltime, or its deadline.
    TIMEOUT = "timeout"
    #: The job was preempted: another one took its nodes.
    PREEMPTED = "preempted"
    #: One of the job's nodes failed, or did not boot.
    NODE_FAILURE = "node_failure"
    #: The job used more memory than it had.
    OUT_OF_MEMORY = "out_of_memory"
    #: The job ended, and nobody knows how.
    UNKNOWN = "unknown"


class Stuck(str, enum.Enum):
    """The obstacles that a queued job does not get over by waiting for nodes."""

    #: Its user holds the job, or the batch system does, after a start that failed.
    HELD = "held"
    #: An administrator holds the job, and alone can let it go.
    ADMIN = "admin"
    #: The job is beyond a limit, or asks for what there is not.
    NEVER = "never"
    #: The job's user or account has all that may run at once, or has used up what it may use.
    LIMIT = "limit"


class JobDirectives(Protocol):
    """The resources that a job asks for on each node. A pool of a site file is one.

    A pool also has the `BatchKind.pool_keys` of its batch system.
    """

    @property
    def cores_per_node(self) -> int:
        """The number of cores on each node."""
        ...

    @property
    def memory_per_node_mib(self) -> int:
        """The memory on each node, in MiB; 0: the batch system's default."""
        ...

    @property
    def gpus_per_node(self) -> int:
        """The number of GPUs on each node."""
        ...


class JobRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A job to submit.

    Raises
    ------
    ValueError
        The name, a variable's name, a number or the directory cannot be part of a job script.
    """

    #: The job's name: letters, digits, ``.``, ``_`` and ``-``. Unique, see the module's docstring.
    name: str
    #: The command that the job runs on its first node: the program and its arguments.
    command: Sequence[str]
    #: Number of nodes.
    nodes: int
    #: The walltime in seconds.
    walltime_s: float
    #: An existing directory that all nodes see: the script is kept there as ``<name>.sh``, and its
    #: output goes to ``<job id>.out``.
    directory: Path
    #: The resources that the job asks for on each node.
    directives: JobDirectives
    #: Shell lines that run before the command, as ``module load``.
    setup: str = ""
    #: Environment variables that the command sees.
    variables: Mapping[str, str] = {}
    #: The time before the end at which the script's process gets SIGUSR1, in seconds; 0: it gets
    #: none. (Slurm may send it a minute earlier: to a short job as soon as it starts.)
    warning_s: float = 60.0
    #: The id of a job after whose end, however it ends, this one starts; empty: it waits for none.
    #: Only where the batch system can (`BatchKind.has_successors`).
    after: str = ""
    #: The fewest nodes, and the shortest walltime in seconds, that will do where the job starts
    #: sooner so; 0: it gets all that it asks for. Only where the batch system can choose
    #: (`BatchKind.has_forecasts`).
    least_nodes: int = 0
    least_walltime_s: float = 0.0
    #: True if the batch system may start the job again, under its id, when it has taken its nodes
    #: away, or one of them has failed; then the command is run again.
    restarts: bool = True

    def __post_init__(self) -> None:
        if not re.fullmatch(_JOB_NAME, self.name):
            raise ValueError(
                f"{self.name!r} is not a valid job name; use letters, digits, '.', '_' and '-' "
                "(at most 128)"
            )
        if self.nodes < 1:
            raise ValueError(f"job {self.name} asks for {self.nodes} nodes; ask for at least 1")
        if not self.walltime_s > 0:
            raise ValueError(f"job {self.name} asks for a walltime of {self.walltime_s} s")
        if not self.command:
            raise ValueError(f"job {self.name} has no command")
        path = str(self.directory)
        if not self.directory.is_absolute() or not path.isprintable() or "\\" in path:
            # With a backslash in it, some take no pattern for the id in an output path.
            raise ValueError(
                f"{path!r} cannot be a job's directory: it must be an absolute path without "
                "backslashes and line breaks"
            )
        if self.after and not _JOB_ID.fullmatch(self.after):
            raise ValueError(f"{self.after!r} is not a valid job id")
        for variable in self.variables:
            if not re.fullmatch(_VARIABLE_NAME, variable):
                raise ValueError(f"{variable!r} is not a valid name of an environment variable")


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The batch system's record of a job. Times are seconds since 1970; None is unknown."""

    #: The batch system's id of the job.
    job_id: str
    #: The name that the job was submitted under.
    name: str
    #: The phase of the job's life.
    phase: Phase
    #: The state in the batch system's own word, such as ``CONFIGURING``.
    state: str
    #: The batch system's reason for the state, such as ``Priority``; empty if it gave none.
    reason: str = ""
    #: Host names of the job's nodes; the first runs the script. Empty if they are not known.
    nodes: tuple[str, ...] = ()
    #: The number of nodes that the job has, or asks for at most; 0: unknown.
    node_count: int = 0
    #: The time when the job was submitted, or queued again.
    submitted_at: float | None = None
    #: The time when the job started; None for a queued job.
    started_at: float | None = None
    #: The time when the batch system expects a queued job to start.
    expected_at: float | None = None
    #: The time when the walltime ends; for an ended job the time of the end.
    ends_at: float | None = None
    #: The number of restarts under the same id.
    restart_count: int = 0
    #: The exit status of the script as a shell counts it: 128 + N after signal N.
    exit_status: int | None = None
    #: The reason why the job ended; None while it has not.
    why_ended: WhyEnded | None = None
    #: The obstacle between a queued job and its start; None: it waits for nodes.
    stuck: Stuck | None = None
    #: True if a queued job may not start yet, whatever nodes are free: until `expected_at`, if that
    #: is known. One that was queued again may be held back so for a while.
    held_back: bool = False


class Allocation(NamedTuple):
    """A job that runs, and what it has."""

    #: The batch system's id of the job.
    job_id: str
    #: The job's nodes, as the batch system writes them: see `BatchKind.node_names`.
    nodelist: str
    #: The number of these nodes.
    node_count: int = 1
    #: The number of restarts under the same id.
    restart_count: int = 0
    #: The end of the walltime, in seconds since 1970; None: unknown.
    ends_at: float | None = None
    #: What the job has on each of its nodes; None: unknown.
    cores: int | None = None
    memory_mib: int | None = None
    gpus: int | None = None
    #: The parts of a heterogeneous job, each with nodes of another kind; of others there is one.
    parts: int = 1


class Prediction(NamedTuple):
    """The answer to a job that was not submitted."""

    #: The time at which it would start, in seconds since 1970 by the batch system's clock; None: it
    #: did not say.
    start: float | None = None
    #: The reason why it would be refused; empty: it would be taken.
    refused: str = ""


@runtime_checkable
class Predicts(Protocol):
    """A connection to a batch system that knows the starts of jobs, and takes jobs that leave it a
    choice (`BatchKind.has_forecasts`)."""

    def predict(self, request: JobRequest) -> Prediction:
        """Return when a job would start if it was submitted now. Nothing is submitted.

        Of a request that leaves a choice, the start is that of the least.

        Raises
        ------
        BatchUnavailable
            No answer within a few seconds.
        """
        ...

    def limit_nodes(self, job_id: str, nodes: int) -> None:
        """Have a job that waits again, after it has lost its nodes, ask for so many and no more.

        Raises
        ------
        BatchError
            It may get as many as it was submitted with.
        """
        ...


class BatchSystem(Protocol):
    """A connection to a batch system. Calls may be made from one thread at a time."""

    def check(self, pools: Mapping[str, JobDirectives]) -> str:
        """Return a problem that keeps pilots of these pools from coming, as far as one query shows.

        Parameters
        ----------
        pools
            The pools of a site, by name.

        Returns
        -------
        trouble
            A sentence without its full stop; empty where nothing is wrong.

        Raises
        ------
        BatchUnavailable
            No answer.
        """
        ...

    def submit(self, request: JobRequest) -> str:
        """Submit a job and return its id.

        Raises
        ------
        SubmitRefused
            The job does not exist; the message is the batch system's own.
        BatchUnavailable
            The job may exist or not: look for its name.
        """
        ...

    def jobs(self, name_prefix: str, job_ids: Collection[str] = ()) -> dict[str, JobStatus]:
        """Return all jobs of this user with this prefix of the name, or these ids, by id.

        The answer has every job that is queued, runs or is ending, and ended ones as long as the
        batch system remembers them (minutes, on most sites). Other jobs, however odd their
        records, remove none of these.

        Raises
        ------
        BatchUnavailable
            No answer. It says nothing about the jobs.
        """
        ...

    def account(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        """Return the accounting records of jobs, by id; unknown jobs are left out.

        Meant for jobs that `jobs` did not list although it answered: mostly they have ended, and
        accounting may say how. Never raises `BatchUnavailable`: accounting is optional.
        """
        ...

    def allocation(self, job_id: str) -> Allocation:
        """Return what a running job of this user has, to make it a pilot.

        Raises
        ------
        BatchError
            It cannot be made a pilot; the message says why.
        BatchUnavailable
            No answer.
        """
        ...

    def cancel(self, job_ids: Iterable[str]) -> None:
        """Ask for the end of jobs: SIGTERM, later SIGKILL. Return before they have ended.

        Ids of jobs that have ended, or never were, are no error.

        Raises
        ------
        BatchUnavailable
            No answer; ask again.
        """
        ...

    def release_nodes(self, job_id: str, keep: Sequence[str]) -> None:
        """Shrink a running job to the nodes `keep`, its first node among them.

        Raises
        ------
        ShrinkRefused
            The job keeps all its nodes.
        BatchUnavailable
            No answer, or not yet: ask again.
        """
        ...

    def close(self) -> None:
        """Release the adapter's resources. Jobs go on."""
        ...
