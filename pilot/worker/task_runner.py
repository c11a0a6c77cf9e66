"""The steps of one task: take its inputs, run its function or command, return its values.

Used by executors and by the ranks of MPI worlds. Whatever the user's code does short of ending the
process becomes a `Completion`; nothing in here raises because of it.

Invariants
----------
- A completion is given out only when the segments that its values are in are sealed.
- A process that a task has forked ends where it leaves the user's code: it never gives out a
  completion, and touches nothing of the one that it is a copy of.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

# Ahead of the forks: else each executor would import it with its first command.
import pilot.client.command_text  # noqa: F401
from pilot import clock
from pilot.client.arguments import decode_arguments, decode_function
from pilot.client.caching.keys import stamps, with_digests
from pilot.client.child_tasks import TaskSession, delegations
from pilot.client.command import (
    OUTPUT_BYTES,
    CommandResult,
    ShellCommand,
)
from pilot.client.context import Context, set_context
from pilot.client.group import NO_GROUP, GroupKey
from pilot.client.stopping import LISTENS, Stopping, never
from pilot.client.submission import Submission
from pilot.client.submitter import Submitter
from pilot.client.task import COMMAND, MPI_COMMAND, Task
from pilot.compression import parse_compression
from pilot.data.patience import patiently, set_patience
from pilot.data.pickles import encode
from pilot.data.pickling_by_value import ClassState, class_states, give_again, times_given
from pilot.data.storing import store
from pilot.errors import (
    ResultError,
)
from pilot.launchers import leave_identity
from pilot.limits import ERROR_TEXT_BYTES
from pilot.model.ids import task_label
from pilot.model.software import Software
from pilot.model.states import Outcome
from pilot.model.tasks import (
    Children,
    Completion,
    Environment,
    FileStamp,
    Function,
    LogSpan,
    TaskFailure,
    Template,
)
from pilot.model.values import Value
from pilot.process import enter_environment
from pilot.site import Site
from pilot.texts import shortened
from pilot.wire.messages.client import Detach
from pilot.wire.messages.pilot import AttemptSpec
from pilot.wire.messages.worker import LaunchPlan
from pilot.worker.command_run import CommandRun, Here
from pilot.worker.descriptors import Descriptors, is_of_earlier, is_of_want
from pilot.worker.failures import bases_of, failure_of
from pilot.worker.node_cache import NodeCache
from pilot.worker.node_store import NodeStore, StoreLostError, StoreWriter
from pilot.worker.own_results import is_own
from pilot.worker.recent import RecentResults, not_here
from pilot.worker.surroundings import Surroundings
from pilot.worker.task_ends import (
    RESULT,
    command_failed,
    end_copy,
    ignored,
    of_what,
    outcome_of,
    sequence_of_results,
)
from pilot.worker.usage import Usage

if TYPE_CHECKING:
    from pilot.client.connection import Connection
    from pilot.data.segments import Unsealed

#: The variable that tells a task the names of its nodes, with commas between them.
NODES = "PILOT_NODES"
#: So much data of functions is kept in a process; the last one's whatever it has.
LARGE_FUNCTIONS_BYTES = 128 << 20
#: Stands for a result that comes from a child.
NO_VALUE = Value(0)


class TaskRunner:
    """A runner of tasks in this process, one after the other.

    Parameters
    ----------
    site
        The site.
    owner
        A name that no other process has or had on this site, for segments.
    node
        The name of the node.
    log
        The file that this process's output goes to.
    cache
        Reads inputs, and keeps those that are shared on this node.
    indices
        By name, those of its things that are told apart, such as GPUs.
    rank, ranks
        For MPI.
    stopping
        The words by which tasks here are told to stop.
    store
        The node's store, for large results; None: they are written to the site directory.
    usage
        Measures what tasks take.
    """

    def __init__(
        self,
        site: Site,
        owner: str,
        node: str,
        log: Path,
        cache: NodeCache,
        indices: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
        rank: int = 0,
        ranks: int = 1,
        stopping: Stopping | None = None,
        store: NodeStore | None = None,
        usage: Usage | None = None,
    ) -> None:
        self._site = site
        self._cache = cache
        self._store = store
        #: True if large results are written into the node's store first.
        self.keeps = True
        #: The result of the last task, where nobody else has it, and what it is stored as.
        self._last: tuple[Unsealed, Any] | None = None
        self._stopping = stopping or never()
        self._usage = usage or Usage()
        #: The peak of the memory of the last command's program, in KiB.
        self._program_kib = 0
        #: The memory that tasks ask for, in MiB, by template.
        self._memory_mib: dict[int, int] = {}
        #: The functions of tasks that have looked here whether they are to stop, by digest.
        self._looking: set[bytes] = set()
        self._owner = owner
        self._node = node
        #: The nodes of the tasks that run here.
        self._nodes: tuple[str, ...] = (node,)
        #: Their cores on each, by their places among those of the node; empty where it is one.
        self._cores: tuple[tuple[int, ...], ...] = ()
        self._log = log
        self._log_name = log.relative_to(site.directory).as_posix()
        self._indices = indices
        self._rank = rank
        self._ranks = ranks
        set_patience(site.config.data.patience_s)
        self._inline_limit = site.config.data.inline_limit_bytes
        self._level = site.config.data.compression
        self._payloads: dict[bytes, bytes] = {}
        self._functions: dict[bytes, Callable[..., Any]] = {}
        #: The states of the script's classes when each function was sent, by its digest.
        self._classes: dict[bytes, list[ClassState]] = {}
        #: The function for which they are that now, and the count of changes by then.
        self._in_force = (b"", 0)
        #: Functions with large data, the oldest first, and their bytes.
        self._large: dict[bytes, int] = {}
        self._templates: dict[int, Template] = {}
        self._checkpoints = site.checkpoints
        #: By session and depth.
        self._submitters: dict[tuple[int, int], tuple[Submitter, Submitter]] = {}
        self._connection: Connection | None = None
        self._writer: Any = None
        self._unsealed: list[tuple[Completion, list[Any]]] = []
        self._sealing = threading.Lock()
        #: Held from when results of a task are written until its end is among the unsealed.
        self._storing = threading.Lock()
        #: True while `run` holds that.
        self._stores = False
        #: The environment of commands; set where tasks in this process shall not change it.
        self.environ: Mapping[str, str] = os.environ
        #: The session's variables.
        self._variables: Mapping[str, str] = {}
        self._pid = os.getpid()
        #: The session's working directory.
        self._working_dir = ""
        #: Why nothing can run here, such as a working directory that is not there.
        self._broken: Exception | None = None
        #: The surroundings as they are when `enter` has been called.
        self._surroundings: Surroundings
        self._descriptors = Descriptors()
        #: True once tasks have used these up.
        self._has_few = False
        #: True if a task that failed for want of them may be given back.
        self.gives_back = False
        #: When the last task ended.
        self._last_ended = 0.0
        self._recent = RecentResults()

    def learn(self, functions: Iterable[Function], templates: Iterable[Template]) -> None:
        """Store functions and templates that later tasks refer to."""
        for function in functions:
            self._payloads[function.digest] = function.payload
        for template in templates:
            self._templates[template.id] = template
            self._memory_mib[template.id] = template.resources.memory_mib

    def memory_mib(self, template: int) -> int:
        """Return the memory that tasks of a template have asked for, in MiB; 0: not counted."""
        return self._memory_mib[template]

    def enter(self, environment: Environment) -> None:
        """Take on the session's directory, module search path and variables, as each task will find
        them."""
        self._variables = environment.variables
        self._working_dir = environment.working_dir
        self._broken = enter_environment(
            environment.working_dir,
            environment.sys_path,
            environment.variables,
            environment.named,
            environment.inherited,
        )
        self._surroundings = Surroundings()

    def have_nodes(self, nodes: tuple[str, ...], cores: tuple[tuple[int, ...], ...]) -> None:
        """Have all further tasks know that they have these nodes, and these cores on each."""
        self._nodes, self._cores = nodes, cores
        if len(nodes) > 1:
            leave_identity(os.environ)  # an mpirun is to find them all
        os.environ[NODES] = ",".join(nodes)
        self.environ = {**self.environ, NODES: os.environ[NODES]}

    @property
    def spent(self) -> str:
        """The reason why no other task may run in this process; empty if there is none."""
        if self._has_few:
            return "descriptors: tasks that ran here have left too many files open"
        return self._surroundings.left

    def log_position(self) -> int:
        """Return the position up to which this process has written its output, in bytes."""
        return self._surroundings.output_position()

    def run(
        self, work: AttemptSpec, begin: int, plan: LaunchPlan | None = None
    ) -> list[Completion]:
        """Run one task; return its completion, or an empty list if `seal` will return it.

        Parameters
        ----------
        work
            The task.
        begin
            The `log_position` at which the task's output begins.
        plan
            How an MPI program is started; None for all else.
        """
        try:
            filled = self._recent.fill(work) if work.inputs else work
            if filled is None:
                return [not_here(work, self._node)]
            return self._run(filled, begin, plan)
        except BaseException as error:
            # The user's code is in more than the function: in the text of an error, for one.
            self._surroundings.put_back()
            return [self._untold(work, error)]
        finally:
            if self._stores:
                self._stores = False
                self._storing.release()

    def _untold(self, work: AttemptSpec, error: BaseException) -> Completion:
        """Return the completion of a task whose end could not be reported."""
        now = clock.now()
        failure = TaskFailure(
            type=type(error).__name__,
            message=f"its end could not be told, for an error came up on the way: {error!a:.1000}",
            bases=bases_of(error),
            node=self._node,
            attempt=work.attempt,
        )
        return Completion(
            task=work.task,
            attempt=work.attempt,
            outcome="error",
            failure=failure,
            node=self._node,
            ended=now,
            reported=now,
        )

    def _run(self, work: AttemptSpec, begin: int, plan: LaunchPlan | None) -> list[Completion]:
        template = self._templates[work.template]
        label = task_label(work.task)
        received = clock.now()
        fetched = started = received
        stored: list[Any] = []
        result: Any = None
        outcome: Outcome = "ok"
        failure, children, session = None, None, None
        failed: CommandResult | None = None
        want = False
        context: Context | None = None
        self._program_kib = 0
        #: The thing that is read or stored while the task itself does not run; an input's task.
        at: str | int = ""
        last, self._last = self._last, None
        try:
            if self._broken is not None:
                raise self._broken
            at = "the function"
            function = self._function(template)
            inputs = []
            for item in work.inputs:
                at = item.task
                if item.value is not None:  # all are there by now
                    value, last = self._take_over(item.value, last)
                    inputs.append(self._load(item.value) if value is None else value)
            last = value = None
            at = "the arguments"
            load = self._load if self._ranks > 1 else None
            args, kwargs = decode_arguments(work.payload, inputs, self._site.directory, load)
            inputs.clear()
            self._put_classes_back(template.function)
            at = ""
            fetched = started = clock.now()
            session = self._session(template, work.task, label)
            context = self._context(work, template, label, started, session)
            set_context(context)
            if template.function in self._looking:
                self._stopping.listen(work.task)  # it will look, and may be ended before that
            if isinstance(function, ShellCommand):
                result = self._run_command(
                    function,
                    args,
                    kwargs,
                    begin=begin,
                    plan=plan,
                    context=context,
                    software=template.software,
                )
                if result.returncode not in function.success:
                    failed = ignored(template, result)
                    raise command_failed(result)
                if result.outputs:
                    result = with_digests(result, of_contents=bool(template.cache))
            else:
                if template.kind in (COMMAND, MPI_COMMAND):
                    context.commands = partial(
                        self._run_command,
                        begin=begin,
                        plan=plan,
                        context=context,
                        software=template.software,
                    )
                result = function(*args, **kwargs)
            if os.getpid() != self._pid:
                end_copy(None)
            ended = clock.now()
            args, kwargs = (), {}
            at = RESULT
            if self._rank == 0:
                self._storing.acquire()
                self._stores = True
                stored, children = self._take_results(label, template, result, session)
                if len(stored) == 1 and type(stored[0]) is not Value and is_own(result):
                    self._last = (stored[0], result)
        except BaseException as raised:
            if os.getpid() != self._pid:
                end_copy(raised)
            ended = clock.now()
            error = of_what(at, raised, result) if at else raised
            outcome = outcome_of(error)
            failure = failure_of(error, self._node, work.attempt, self._inline_limit, __file__)
            want = failed is None and is_of_want(error)
            if failed is not None:
                failure = msgspec.structs.replace(failure, result=encode(failed))
            if session is not None:
                session.drop()
        finally:
            if context is not None:
                context.close()
            set_context(None)
            if self._stopping.words[LISTENS] == work.task:
                self._looking.add(template.function)
            self._surroundings.put_back()
        files: tuple[FileStamp, ...] = ()
        if template.cache and outcome == "ok":
            files = stamps(result)
        was_seen, before = self._usage.looked_at == self._last_ended, self._usage.lowest_free
        cpu_s, peak_mib = self._usage.take(work.task, started, ended, self._program_kib)
        self._last_ended = ended
        if self._usage.looked_at == ended and self._descriptors.are_few(self._usage.lowest_free):
            self._has_few = True
        if want:
            # With what it has open in its frames: that is given back with it.
            args, kwargs, result = (), {}, None
            del error
            was_known = was_seen and not self._descriptors.is_worn(before)
            if self._is_given_back(work.attempt, was_known):
                outcome, failure = "interrupted", self._given_back(work.attempt)
        end = self.log_position()
        logs = (LogSpan(self._log_name, begin, end),) if end > begin else ()
        sealed = all(type(value) is Value for value in stored)
        completion = Completion(
            task=work.task,
            attempt=work.attempt,
            outcome=outcome,
            values=tuple(stored) if sealed else (),
            failure=failure,
            node=self._node,
            fetched=fetched,
            started=started,
            ended=ended,
            reported=clock.now(),
            logs=logs,
            children=children,
            files=files,
            cpu_s=cpu_s,
            peak_mib=peak_mib,
        )
        if sealed:
            self._recent.note(completion)
            return [completion]
        self._recent.forget(work.task)
        with self._sealing:
            self._unsealed.append((completion, stored))
        return []

    def seal(self) -> tuple[list[Completion], list[str]]:
        """Finish the segments with written results, and return the completions that waited for
        that, and the paths of the segments of theirs that are in the node's store.

        May be called from another thread than `run`.
        """
        # What is sealed is of tasks that are told with it: nothing comes later of these segments.
        with self._storing, self._sealing:
            waiting, self._unsealed = self._unsealed, []
            if waiting:
                self._writer.detach()
        return self._seal(waiting) if waiting else ([], [])

    def _seal(
        self, waiting: list[tuple[Completion, list[Any]]]
    ) -> tuple[list[Completion], list[str]]:
        try:
            self._writer.seal()
        except Exception as error:
            # The task that runs now may have written some of what is dropped: it is told, too.
            self._writer.discard(error)
        completions = []
        for completion, stored in waiting:
            try:
                values = tuple(v if type(v) is Value else v.value for v in stored)
                completions.append(msgspec.structs.replace(completion, values=values))
            except Exception as error:
                completions.append(self._not_stored(completion, error))
        kept = {v.path for end in completions for v in end.values if self._writer.is_kept(v)}
        return completions, sorted(kept)

    def _not_stored(self, completion: Completion, error: Exception) -> Completion:
        """Return the completion of a task that ran well but whose result could not be stored."""
        is_lost = isinstance(error, StoreLostError)
        failure = TaskFailure(
            type="interrupted" if is_lost else type(error).__name__,
            message=shortened(f"its result could not be stored: {error}", ERROR_TEXT_BYTES),
            bases=() if is_lost else bases_of(error),
            node=self._node,
            attempt=completion.attempt,
        )
        outcome: Outcome = "interrupted" if is_lost else outcome_of(error)
        if is_of_want(error) and self._is_given_back(completion.attempt, False):
            outcome, failure = "interrupted", self._given_back(completion.attempt)
        return msgspec.structs.replace(
            completion, outcome=outcome, failure=failure, children=None, files=()
        )

    def _is_given_back(self, attempt: int, was_known: bool) -> bool:
        """Tell whether a task that has failed for want of descriptors is not at fault; see that no
        other one runs here where too many files are left open."""
        if not self._has_few:
            self._has_few = self._descriptors.is_worn_now()
        return self._has_few and self.gives_back and is_of_earlier(attempt, was_known)

    def _given_back(self, attempt: int) -> TaskFailure:
        text = "no file could be opened in its process: an earlier task had left too many open"
        return TaskFailure("interrupted", text, node=self._node, attempt=attempt)

    # --- the parts of one task

    @property
    def has_last(self) -> bool:
        """True if the last result is still in memory, for a task that follows at once."""
        return self._last is not None

    def forget_last(self) -> None:
        """Drop the last result from memory. May be called from another thread than `run`."""
        self._last = None

    def _take_over(
        self, value: Value, last: tuple[Unsealed, Any] | None
    ) -> tuple[Any, tuple[Unsealed, Any] | None]:
        """Return the last result if this input is that, and what is left to take over.

        What is stored is a copy, so the task may do with it what it likes.
        """
        if last is not None:
            stored, result = last
            if stored.is_sealed and stored.value == value:
                return result, None
        return None, last

    def _load(self, value: Value) -> Any:
        """Return the object behind an input, from the nearest place that has it."""
        if value.path and self._store is not None and self._store.holds(value):
            try:
                return self._store.load(value)
            except ResultError:
                pass  # it has just gone: it is in the site directory, too
        return self._cache.load(value)

    def _function(self, template: Template) -> Callable[..., Any]:
        digest = template.function
        function = self._functions.get(digest)
        if function is None:
            payload = self._payloads[digest]
            with class_states() as self._classes[digest]:
                loaded, size = decode_function(payload, self._site.directory)
            function = loaded.function if isinstance(loaded, Task) else loaded
            self._functions[digest] = function
            if size:
                self._keep_in_bounds(digest, size)
            self._in_force = (digest, times_given())
        return function

    def _put_classes_back(self, digest: bytes) -> None:
        """Restore the classes that a function uses to their state when the function was sent.

        Another function, or an input, may have come with what they were at another time.
        """
        states = self._classes[digest]
        if states and self._in_force != (digest, times_given()):
            give_again(states)
            self._in_force = (digest, times_given())

    def _keep_in_bounds(self, digest: bytes, size: int) -> None:
        """Drop functions with large data that were read long ago; they can be read again."""
        self._large[digest] = size
        for old in list(self._large)[:-1]:
            if sum(self._large.values()) <= LARGE_FUNCTIONS_BYTES:
                break
            del self._large[old], self._functions[old], self._classes[old]

    def _session(self, template: Template, task: int, label: str) -> TaskSession:
        """Return a new session object for a task to submit with: a failed task leaves no
        children."""
        session, depth = template.session, template.depth
        submitters = self._submitters.get((session, depth))
        if submitters is None:
            # What is detached is sent at once: it has to bring its own functions and templates.
            submitters = (
                Submitter(session, self._site, depth=depth),
                Submitter(session, self._site, depth=depth + 1),
            )
            self._submitters[session, depth] = submitters
        group = NO_GROUP
        if template.group:
            group = GroupKey(template.group, template.group_fails_together)
        detached = submitters[1] if self._rank == 0 else None
        return TaskSession(
            submitters[0],
            session,
            label,
            group,
            detached,
            lambda submission: self._detach(session, task, submission),
            self._connect,
        )

    def _detach(self, session: int, parent: int, submission: Submission) -> list[int]:
        """Send detached children to the head, and wait for a head as long as that takes."""
        given: list[int] = self._connect().request(
            lambda n: Detach(
                n, session, parent, submission.functions, submission.templates, submission.tasks
            ),
            timeout=None,
        )
        return given

    def _connect(self) -> Connection:
        """Return this process's connection to the head."""
        if self._connection is None:
            from pilot.client.connection import Connection  # few tasks need it

            self._connection = Connection(self._site, start=None, submits=False)
        return self._connection

    def moved(self, cores: set[int]) -> None:
        """Note that this process has other cores from now on."""
        self._surroundings.moved(cores)

    def _context(
        self,
        work: AttemptSpec,
        template: Template,
        label: str,
        started: float,
        session: TaskSession,
    ) -> Context:
        return Context(
            task_id=label,
            name=template.name,
            session_id=template.session,
            attempt=work.attempt,
            resources=template.resources,
            indices=self._indices,
            deadline=started + template.time_limit_s if template.time_limit_s else None,
            rank=self._rank,
            ranks=self._ranks,
            checkpoints=self._checkpoints,
            session=session,
            number=work.task,
            stopping=self._stopping,
            nodes=self._nodes,
        )

    def _take_results(
        self, label: str, template: Template, result: Any, session: TaskSession
    ) -> tuple[list[Any], Children | None]:
        """Return the values of a task, inline or written to the open segment, and its children."""
        results = sequence_of_results(template, result)
        if self._writer is None:
            self._writer = StoreWriter(self._site.directory, self._owner, self._store)
        self._writer.keeps = self.keeps
        delegated = delegations(results)
        said = template.compression
        level = parse_compression(said) if said else self._level
        values = [
            NO_VALUE
            if index in delegated
            else store(
                value,
                writer=self._writer,
                session=str(template.session),
                task_name=template.name,
                task_id=label,
                index=index,
                inline_limit=self._inline_limit,
                level=level,
            )
            for index, value in enumerate(results)
        ]
        return values, session.take(delegated)

    # --- commands

    def _run_command(
        self,
        command: ShellCommand,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = MappingProxyType({}),
        *,
        begin: int,
        plan: LaunchPlan | None,
        context: Context,
        software: Software | None,
    ) -> CommandResult:
        """Run a command; return how it ended, with the end of its output."""
        here = Here(
            self._site,
            self._cache,
            self._stopping,
            self.environ,
            self._variables,
            self._working_dir,
            self._nodes,
            self._cores,
        )
        run = CommandRun(command, args, dict(kwargs), plan, context, software, here)
        try:
            result = run.run()
        finally:
            self._program_kib = run.peak_kib
        return msgspec.structs.replace(result, stdout=self._output_since(begin))

    def _output_since(self, begin: int) -> str:
        end = self.log_position()
        if end <= begin:
            return ""
        return patiently(lambda: self._output(max(begin, end - OUTPUT_BYTES), end))

    def _output(self, begin: int, end: int) -> str:
        with self._log.open("rb") as log:
            log.seek(begin)
            return log.read(end - begin).decode(errors="replace")
