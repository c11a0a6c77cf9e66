"""The structs that define and check a workflow file, and its JSON schema for editors.

Each struct is one mapping of the file and each attribute one key. A value that may be a reference
(``${…}``) is typed as text beside its own type; its value is checked when it is known.
The comment above an attribute is its documentation, also in the JSON schema.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, field

from pilot.errors import WorkflowError
from pilot.model.states import OnFailure
from pilot.site_configs import yamlfile
from pilot.site_configs.units import NodeHours
from pilot.site_configs.yaml_text import YamlError


class WorkflowFileError(WorkflowError, YamlError):
    """A workflow file is wrong; the message opens with ``file:line:``."""


class _Mapping(Struct, forbid_unknown_fields=True):
    """A mapping of a workflow file."""


class Range(_Mapping):
    """Numbers at equal distances: by to and step, by to and count, or by step and count."""

    #: The first number.
    from_: int | float | str = field(default=0, name="from")
    #: The last number; with a step, none goes beyond it.
    to: int | float | str | None = None
    #: From one number to the next; 1 if it is not given and cannot be derived.
    step: int | float | str | None = None
    #: Number of values.
    count: int | str | None = None


class CommonOptions(_Mapping):
    """Options of tasks, allowed in `defaults` and in each task."""

    #: Cores of each rank; 1 by default; 0: it needs none, since it only waits or moves data.
    cores: int | str | UnsetType = UNSET
    #: Nodes that the task has, with so many cores on each; it starts on the first of them.
    nodes: int | str | UnsetType = UNSET
    #: It has its nodes for itself, with all their cores; false by default.
    exclusive: bool | UnsetType = UNSET
    #: The features that its nodes must have, as Slurm's --constraint: a100&nvme.
    constraint: str | UnsetType | None = UNSET
    #: Memory of each rank: 4G, or a number of MiB; not counted by default.
    memory: int | float | str | UnsetType = UNSET
    #: GPUs of each rank; 0.5 is half of one, which others share.
    gpus: int | float | str | UnsetType = UNSET
    #: Other resources, by names that the site declares, as in {matlab: 1}.
    resources: dict[str, int | float | str] | UnsetType = UNSET
    #: Longest run: 10m, 1:30:00, or seconds; null: no limit.
    time_limit: int | float | str | UnsetType | None = UNSET
    #: Number of retries after the task's own error; 0 by default.
    retries: int | str | UnsetType = UNSET
    #: Names of the exception classes, and exit statuses of commands, that are retried; all by
    #: default.
    retry_on: str | int | list[str | int] | UnsetType | None = UNSET
    #: Names of the exception classes, and exit statuses of commands, that are never retried.
    no_retry_on: str | int | list[str | int] | UnsetType | None = UNSET
    #: Retry a try that ended by the time limit, as one that failed; false by default.
    retry_timeouts: bool | UnsetType = UNSET
    #: Number of retries after the task's process died; 3 by default.
    max_crashes: int | str | UnsetType = UNSET
    #: Higher goes first.
    priority: int | str | UnsetType = UNSET
    #: The pool to run in; any that fits by default.
    pool: str | UnsetType | None = UNSET
    #: Take the results of an earlier run where code, arguments and inputs are the same.
    cache: bool | UnsetType = UNSET
    #: Compression of large results in their files: gzip:1 (fast) to gzip:9 (small), or none; as the
    #: site file says by default.
    compression: str | UnsetType | None = UNSET
    #: Whether its process runs other tasks before and after it (shared, by default), or is a new
    #: one for it alone (fresh).
    isolation: Literal["shared", "fresh"] | UnsetType = UNSET
    #: The environment of its processes, as {venv: /path}, {pip: [numpy]}, {conda: name}, {modules:
    #: [gcc]} or {variables: {A: b}}.
    environment: dict[str, Any] | UnsetType | None = UNSET
    #: The container that it runs in: an image, or image, engine, binds, options and python.
    container: str | dict[str, Any] | UnsetType | None = UNSET
    #: What follows when the task has failed for good: its dependents are aborted (fail), run with
    #: its default (ignore), are cancelled (cancel_successors), or the session ends (stop_session).
    on_failure: OnFailure | UnsetType = UNSET


class ProgramEntry(_Mapping, kw_only=True):
    """One of several programs that are one MPI job."""

    #: A command for the shell, as `run` has it.
    run: str
    #: The ranks that run it, behind those of the programs before it.
    ranks: int


class TaskEntry(CommonOptions):
    """A task, or with `foreach` many: a Python function, an MPI function, a command, or an HTTP
    request."""

    #: A Python function, as module:function.
    python: str | None = None
    #: An MPI function, as module:function; its body runs on every rank.
    mpi: str | None = None
    #: A command for the shell; {name} is a parameter of with, inputs or outputs. With ranks it is
    #: started as an MPI program. A list of commands, each as run with its ranks, is one MPI job.
    run: str | list[ProgramEntry] | None = None
    #: An HTTP request: its method and URL, as GET https://…; {name} is a parameter of with.
    http: str | None = None
    #: Variables and their values: one task for each combination.
    foreach: dict[str, list[Any] | Range | str] | None = None
    #: Combination of several variables: every combination, or side by side.
    combine: Literal["product", "zip"] | None = None
    #: Arguments by position.
    args: list[Any] = []
    #: Arguments by name.
    with_: dict[str, Any] = field(default_factory=dict, name="with")
    #: Files that must be there before the command, by name.
    inputs: dict[str, str] = {}
    #: Files that the command makes, by name.
    outputs: dict[str, str] = {}
    #: Tasks that must have ended well before, though nothing of them is used here.
    needs: str | list[str] = []
    #: Tasks that must have ended before, well or not; nothing of them is used here.
    after: str | list[str] = []
    #: Working directory of the command.
    cwd: str | None = None
    #: File that the command reads as its standard input.
    stdin: str | None = None
    #: File for the command's standard output.
    stdout: str | None = None
    #: File for the command's standard error.
    stderr: str | None = None
    #: Additions to the command's environment.
    env: dict[str, str | int | float] = {}
    #: Each rank has a stdout and stderr of its own, its number behind a dot at the end of the name;
    #: false by default.
    output_per_rank: bool = False
    #: Exit statuses of the command that mean success, 0 by default; of a request statuses, 200 to
    #: 299 by default.
    success: list[int] | None = None
    #: Signal that the command gets when its pilot ends soon, as SIGTERM; no signal by default.
    stop_signal: str | None = None
    #: Run the command in an empty directory of its own on the node: its inputs are brought there
    #: (copy, or link), its outputs are taken from there when it has ended well; not by default.
    scratch: Literal["copy", "link"] | None = None
    #: Shell text that is run before the command in the same shell; if it fails, the command does.
    prolog: str = ""
    #: Shell text that is run after the command, however it has ended, with its exit status in
    #: $PILOT_STATUS.
    epilog: str = ""
    #: What is added to the query of the request's URL, by name.
    params: dict[str, Any] | UnsetType = UNSET
    #: Headers of the request, by name.
    headers: dict[str, Any] | UnsetType = UNSET
    #: Body of the request, as JSON.
    json: Any = UNSET
    #: Body of the request: a text, or a mapping for a form.
    data: Any = UNSET
    #: Who asks: [user, password], or where a token is found when the task runs, env:NAME or
    #: file:PATH.
    auth: str | list[str] | UnsetType = UNSET
    #: Time for one try of the request; 60s by default.
    timeout: int | float | str | UnsetType = UNSET
    #: How often the request is sent again after what may pass; 4 by default.
    resends: int | UnsetType = UNSET
    #: By which certificates a server is believed: those of the system (true, the default), of a
    #: file or directory, or any (false).
    verify: bool | str | UnsetType = UNSET
    #: How many redirects are followed; 10 by default.
    redirects: int | UnsetType = UNSET
    #: Send a key with POST and PATCH, by which a server knows a repetition; true by default.
    idempotency_key: bool | UnsetType = UNSET
    #: Name of the task in lists; its key by default.
    name: str | UnsetType = UNSET
    #: MPI ranks.
    ranks: int | str | UnsetType = UNSET
    #: Ranks on each node; as it fits by default.
    ranks_per_node: int | str | UnsetType | None = UNSET
    #: Number of results that the function returns, or their names.
    returns: int | list[str] | UnsetType = UNSET
    #: With on_failure ignore: what dependents get in place of the result; of several results in
    #: place of each, or one for each, as a list or by their names. By default null; of a command
    #: its own result.
    default: Any = UNSET


class WorkflowFile(_Mapping, kw_only=True):
    """A workflow: tasks, what they depend on, and what comes out."""

    #: Name of the session in lists; the file's name by default.
    name: str | None = None
    #: Values that the command line may change (pilot run FILE -p NAME=VALUE), with their defaults.
    parameters: dict[str, Any] = {}
    #: Lists that several tasks use, by name: values as in foreach, without results of tasks.
    lists: dict[str, list[Any] | Range | str] = {}
    #: Options of every task that does not say otherwise.
    defaults: CommonOptions = field(default_factory=CommonOptions)
    #: Node-hours that the tasks may use, as 50 or "50 node-hours"; then no more of them start.
    budget: NodeHours = None
    #: Cancel the tasks when pilot run has been gone for so long (1m; true is a minute): killed, or
    #: its machine lost. They go on by default, and always with --detach and --as-job.
    ends_with_client: bool | int | float | str = False
    #: Directories to search for modules, relative to this file; its own is always searched.
    path: list[str] = []
    #: Modules that each node imports once for all tasks, as [numpy, dislib].
    preload: list[str] = []
    #: The tasks, by name.
    tasks: dict[str, TaskEntry]
    #: Results to print at the end, by name.
    results: dict[str, Any] = {}


def workflow_schema() -> dict[str, Any]:
    """Return the JSON schema of workflow files, for editors."""
    schema = yamlfile.json_schema(WorkflowFile)
    task = schema["$defs"][TaskEntry.__name__]
    task["oneOf"] = [{"required": [kind]} for kind in ("python", "mpi", "run", "http")]
    return schema
