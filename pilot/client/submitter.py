"""The way from a call to a task on the wire: its template, its function, its arguments.

Used by a `Session`, which sends tasks from a user's program, and by a running task, whose children
go with its own end. Functions and templates that were sent once are not made again.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import sys
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import msgspec

from pilot.client.arguments import Origin, encode_arguments, spilled, spilled_function
from pilot.client.caching.keys import call_digest, source_digest
from pilot.client.command import NO_STATUS, CommandResult, ShellCommand
from pilot.client.commutative import Turns, parts_of, ref_of
from pilot.client.comparison import Comparison
from pilot.client.function_watch import Watch, watch
from pilot.client.functions import EncodedFunction, encode_function, largest
from pilot.client.group import NO_GROUP, GroupKey
from pilot.client.ordering import After, as_tuple, numbers
from pilot.client.outgoing import plain
from pilot.client.submission import Submission
from pilot.client.task import (
    COMMAND,
    HTTP,
    MPI,
    MPI_COMMAND,
    NO_CORES_FOR_RANKS,
    PYTHON,
    OptionError,
    ResolvedOptions,
    Task,
    as_task,
)
from pilot.client.versions import versions_of
from pilot.compression import parse_compression
from pilot.data.pickles import TooLargeError, encode_within
from pilot.data.pickling_by_value import INTERPRETER, minor_version, wrong_python
from pilot.data.storing import LazyWriter, announceable, store
from pilot.errors import EncodingError, PilotError, SubmissionError
from pilot.limits import OPTIONS_BYTES
from pilot.model.ids import Ref, session_of, task_label
from pilot.model.objects import Naming, encode_naming
from pilot.model.software import Software
from pilot.model.tasks import DEPTH_MOST, Function, TaskSpec, Template
from pilot.model.values import Value
from pilot.scheduler.amounts import make_amounts
from pilot.scheduler.assignment import why_infeasible
from pilot.scheduler.resources import Resources
from pilot.site import Site
from pilot.texts import as_name, size_text
from pilot.wire.messages.client import Submit

if TYPE_CHECKING:
    from pilot.client.http_request import HttpRequest
    from pilot.data.segments import Unsealed

K = TypeVar("K")
V = TypeVar("V")

#: The number of functions known by identity: limited, so that a lambda in a loop fills no memory.
_KNOWN = 1000
#: To look through so much data costs a tenth of a second or so.
_SLOW_BYTES = 16 << 20
#: And at which submission of the same function that is told.
_SLOW_TIMES = 5
#: Files of this package: warnings are about lines of the user's.
_HERE = str(Path(__file__).parent)


#: The arguments of one call.
Call: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


def as_calls(rows: Iterable[tuple[Any, ...] | Mapping[str, Any]]) -> list[Call]:
    """Return rows of arguments, each a tuple or a mapping of names, as calls."""
    return [((), dict(row)) if isinstance(row, Mapping) else (tuple(row), {}) for row in rows]


class _Known:
    """A task whose function was pickled, and the templates of calls of it."""

    __slots__ = ("digest", "task", "template", "templates", "versions", "watch")

    def __init__(self, task: Task[..., Any], digest: bytes, watched: Watch) -> None:
        self.task = task
        self.digest = digest
        #: Says whether the pickle is still what a new one would be.
        self.watch = watched
        #: By the options of the task and of each of its versions, which were so many.
        self.templates: dict[tuple[tuple[ResolvedOptions, ...], GroupKey], int] = {}
        self.versions = len(task.versions)
        #: The template of all calls in no group, where it is the same for all; 0: not known.
        self.template = 0


class Submitter:
    """A maker of tasks from calls, for one session.

    A submission has the globals, closures and objects that its function refers to as they are at
    that moment. Nothing of a user's data is kept: a function is remembered only where all that it
    refers to is constant.

    Parameters
    ----------
    session
        The session's id.
    site
        The site: what its pools can hold, and where large arguments go.
    defaults
        Default options of tasks.
    database
        The identity of the site's database; empty: unknown.
    comparison
        Knows what the pilots' tasks run in; default: nobody does.
    depth
        How many tasks, each a detached child of the next, may wait for those that it makes.
    """

    def __init__(
        self,
        session: int,
        site: Site,
        defaults: Mapping[str, Any] | None = None,
        database: str = "",
        comparison: Comparison | None = None,
        depth: int = 0,
    ) -> None:
        #: The site and database to which the ids of its tasks belong.
        self.origin = Origin(site.name, str(site.directory), database)
        self._comparison = comparison or Comparison()
        self._defaults = dict(defaults or {})
        self._session = session
        #: The site.
        self.site = site
        self._depth = min(depth, DEPTH_MOST)
        self._writer: LazyWriter | None = None
        self._tasks: dict[int, tuple[Any, Task[..., Any]]] = {}
        self._known: dict[int, _Known] = {}
        self._sent: set[bytes] = set()
        #: The warnings given about functions that reach a random generator.
        self._warned: set[tuple[str, ...]] = set()
        #: The number of submissions of functions with large data, by name.
        self._large: dict[str, int] = {}
        #: Templates that were sent, with no id → their ids.
        self._templates: dict[Template, int] = {}

    def task(self, function: Any) -> Task[..., Any]:
        """Return the task for a callable; the same task for the same function."""
        if isinstance(function, Task) and not self._defaults:
            return function
        known = self._tasks.get(id(function))
        if known is not None and known[0] is function:
            return known[1]
        task = as_task(function)
        if self._defaults:
            task = task.with_defaults(self._defaults)
        if watch(function) is not None or _is_bare(function):
            _remember(self._tasks, id(function), (function, task))
        return task

    def add(
        self,
        submission: Submission,
        task: Task[..., Any],
        calls: list[Call],
        ids: Sequence[int],
        group: GroupKey = NO_GROUP,
        after: After = (),
        turns: Turns | None = None,
    ) -> None:
        """Put one task for each call, with the id in the same place, into the submission.

        They start after the ends of those in `after` and in the task's own option.

        Raises
        ------
        SubmissionError
            No pool can ever run a task, or it cannot be pickled. Then no task was added.
        CommandError
            A parameter of a command is missing.
        OptionError
            `after` has something else than tasks.
        """
        before = self._before(task, after) if after != () or task.task_options.after else ()
        taken = self._taken(task, turns) if task.task_options.commutative else ()
        functions, templates = len(submission.functions), len(submission.templates)
        try:
            self._add(submission, task, calls, ids, group, before, taken)
            if taken and turns is not None:
                turns.add(taken, ids)
        except BaseException:
            # Its functions and templates have not gone: the next submission brings them.
            refused = Submission()
            refused.functions = submission.functions[functions:]
            refused.templates = submission.templates[templates:]
            self.forget(refused)
            del submission.functions[functions:], submission.templates[templates:]
            raise

    def _add(
        self,
        submission: Submission,
        task: Task[..., Any],
        calls: list[Call],
        ids: Sequence[int],
        group: GroupKey,
        before: tuple[int, ...],
        taken: tuple[Ref, ...],
    ) -> None:
        request = cast("HttpRequest", task.function) if task.kind == HTTP else None
        versions = versions_of(task).values() if task.versions else ()
        dynamic = request is not None or any(one.resolved is None for one in (task, *versions))
        is_usual = not dynamic and group is NO_GROUP
        limit = self.site.config.data.inline_limit_bytes
        template = 0
        known: _Known | None = None
        specs: list[TaskSpec] = []
        large = []
        functions = [one.function for one in (task, *versions)]
        commands = [one for one in functions if isinstance(one, ShellCommand)]
        for number, (args, kwargs) in zip(ids, calls, strict=True):
            if task.preset:
                kwargs = {**task.preset, **kwargs}
            for command in commands:
                command.check_call(args, kwargs)
            if request is not None:
                request.check_call(args, kwargs)
            if known is None:
                known = self._function(task, submission)
                template = known.template if is_usual else 0
            if dynamic or not template:
                template = self._template(known, args, kwargs, submission, group)
                if is_usual:
                    known.template = template
            sent = kwargs if request is None else request.keyed(kwargs)
            payload, inputs = encode_arguments(args, sent, self.origin)
            spec = TaskSpec(number, template, payload, inputs)
            if before:
                spec = msgspec.structs.replace(spec, after=before)
            if taken:
                parts = parts_of(taken, inputs, task.task_options.return_count)
                spec = msgspec.structs.replace(spec, commutative=parts)
            if len(payload) > limit:
                large.append(len(specs))
            if task.task_options.cache:
                # The key is another one each time.
                same = payload if sent is kwargs else encode_arguments(args, kwargs, self.origin)[0]
                digest = call_digest(task, args, kwargs, same)
                spec = msgspec.structs.replace(spec, digest=digest)
            specs.append(spec)
        if large:
            self._spill(task, specs, large)
        submission.tasks += specs

    def _taken(self, task: Task[..., Any], turns: Turns | None) -> tuple[Ref, ...]:
        """Return the values that the calls of a task take by turns."""
        if turns is None:
            raise OptionError("commutative: tasks that tasks submit take nothing by turns")
        given = task.task_options.commutative
        return tuple(ref_of(future, self.origin, self._session) for future in given)

    def add_latest(
        self, submission: Submission, anchor: Ref, number: int, group: GroupKey, turns: Turns
    ) -> None:
        """Put a task of this id into the submission that takes over the latest version of a value,
        after all tasks that take it by turns.

        Raises
        ------
        PilotError
            There are none.
        """
        known = self._known_template(self._value_template("latest", group), submission)
        spec = TaskSpec(
            number, known, b"", (anchor,), after=turns.close(anchor), commutative=((0, 0),)
        )
        submission.tasks.append(spec)

    def _value_template(self, name: str, group: GroupKey) -> Template:
        """Return the template of tasks that are no work, but values."""
        return Template(
            id=0,
            session=self._session,
            name=as_name(name),
            kind="value",
            function=b"",
            resources=Resources(),
            group=group.name,
            group_fails_together=group.fails_together,
        )

    def _before(self, task: Task[..., Any], after: After) -> tuple[int, ...]:
        """Return the tasks after whose ends the calls of a task start."""
        try:
            return numbers((*task.task_options.after, *as_tuple(after)), self.origin)
        except ValueError as error:
            raise OptionError(f"after: {error}") from None

    def put(
        self,
        submission: Submission,
        obj: object,
        name: str,
        number: int,
        group: GroupKey = NO_GROUP,
        naming: Naming | None = None,
        compression: str | None = None,
    ) -> None:
        """Put a value into the submission, as the task of this id, complete from the start.

        With a `naming` it is to be the next version of an object. Without a `compression` it is
        written as the site file says.

        Raises
        ------
        EncodingError
            The value cannot be pickled.
        StorageError
            The value cannot be written.
        OptionError
            There is no such compression.
        """
        level = self._level(compression)
        with self._open_segment() as writer:
            stored = self._store(writer, obj, name, number, level)
        # It is alone in its segment, so nodes may keep a copy.
        value = msgspec.structs.replace(announceable(stored), shared=True)
        self._add_values(submission, [value], name, [number], group, naming)

    def put_many(
        self,
        submission: Submission,
        objs: Sequence[object],
        name: str,
        numbers: Sequence[int],
        group: GroupKey = NO_GROUP,
        compression: str | None = None,
    ) -> None:
        """Put values into the submission as `put` does; the large ones have one segment.

        Raises
        ------
        EncodingError
            A value cannot be pickled; the message says which one. None was put.
        StorageError
            The values cannot be written.
        OptionError
            There is no such compression.
        """
        level = self._level(compression)
        stored = []
        with self._open_segment() as writer:
            for place, (obj, number) in enumerate(zip(objs, numbers, strict=True)):
                try:
                    stored.append(self._store(writer, obj, name, number, level))
                except EncodingError as error:
                    raise EncodingError(f"value {place}: {error}") from error
        values = [announceable(each) for each in stored]
        self._add_values(submission, values, name, numbers, group)

    def _level(self, compression: str | None) -> int:
        """Return the level of a compression, or else that of the site file."""
        if compression is None:
            return self.site.config.data.compression
        try:
            return parse_compression(compression)
        except ValueError as error:
            raise OptionError(f"compression={error}") from None

    def _store(
        self, writer: LazyWriter, obj: object, name: str, number: int, level: int
    ) -> Value | Unsealed:
        """Store a value for the task of this id, compressed by so much."""
        return store(
            obj,
            writer=writer,
            session=str(self._session),
            task_name=as_name(name),
            task_id=_label(number),
            inline_limit=self.site.config.data.inline_limit_bytes,
            level=level,
        )

    def _add_values(
        self,
        submission: Submission,
        values: list[Value],
        name: str,
        numbers: Sequence[int],
        group: GroupKey,
        naming: Naming | None = None,
    ) -> None:
        """Add a task for each value, complete from the start."""
        known = self._known_template(self._value_template(name, group), submission)
        payload = b"" if naming is None else encode_naming(naming)
        submission.tasks += (
            TaskSpec(number, known, payload, values=(value,))
            for number, value in zip(numbers, values, strict=True)
        )

    def forget(self, submission: Submission | Submit) -> None:
        """Forget a submission that was not sent, or refused: what it had with it must go again."""
        for template in submission.templates:
            self._templates.pop(msgspec.structs.replace(template, id=0), None)
        self._sent.difference_update(function.digest for function in submission.functions)
        self._known.clear()

    def _spill(self, task: Task[..., Any], specs: list[TaskSpec], large: list[int]) -> None:
        """Write large arguments to a segment: large data never pass through the head."""
        with self._open_segment() as writer:
            written = [
                writer.add(str(self._session), task.__name__, _label(spec.id), 0, spec.payload)
                for spec in (specs[number] for number in large)
            ]
        for number, unsealed in zip(large, written, strict=True):
            specs[number] = msgspec.structs.replace(specs[number], payload=spilled(unsealed.value))

    @contextmanager
    def _open_segment(self) -> Iterator[LazyWriter]:
        """Open a segment for the present data: sealed at the end, discarded after an error."""
        if self._writer is None:
            owner = f"arguments-{uuid.uuid4().hex}"
            self._writer = LazyWriter(self.site.directory, owner)
        try:
            yield self._writer
            self._writer.seal()
        except BaseException:
            self._writer.discard()
            raise

    def _template(
        self,
        known: _Known,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        submission: Submission,
        group: GroupKey,
    ) -> int:
        """Return the id of the template for a call; a new one is put into the submission."""
        task = known.task
        tasks = (task, *(versions_of(task).values() if task.versions else ()))
        resolved = tuple(self._resolved(one, args, kwargs) for one in tasks)
        number = known.templates.get((resolved, group))
        if number is not None:
            return number
        template = self._made(task, known.digest, resolved[0], group)
        if task.task_options.cache:
            sources = [
                source_digest(one, its.resources.ranks)
                for one, its in zip(tasks, resolved, strict=True)
            ]
            template = msgspec.structs.replace(template, cache=_joined(sources))
        if task.versions:
            template = self._with_versions(task, template, resolved, group, submission)
        number = self._templates.get(template)
        if number is None:
            if not template.versions and (reason := self._why_not(task, resolved[0])):
                raise SubmissionError(f"task {task.__name__!r} was not submitted: {reason}")
            number = self._known_template(template, submission)
        _remember(known.templates, (resolved, group), number)
        return number

    def _resolved(
        self, task: Task[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> ResolvedOptions:
        """Return what a call needs, and of it what is counted once on the site."""
        resolved = task.resolved or task.task_options.resolve(args, kwargs)
        if task.kind == HTTP:
            host = cast("HttpRequest", task.function).host(kwargs)
            amounts = self.site.config.http.amounts_of(host)
            named = make_amounts([*resolved.resources.named, *amounts])
            need = msgspec.structs.replace(resolved.resources, named=named)
            resolved = msgspec.structs.replace(resolved, resources=need)
        if resolved.resources.named:
            need = resolved.resources.with_site(self.site.config.once)
            resolved = msgspec.structs.replace(resolved, resources=need)
        return resolved

    def _made(
        self, task: Task[..., Any], digest: bytes, resolved: ResolvedOptions, group: GroupKey
    ) -> Template:
        """Return the template of a call, or of a version of it, without its id."""
        template = _template(self._session, task, digest, resolved, group, self._depth)
        if task.task_options.environment or task.task_options.container:
            template = msgspec.structs.replace(template, software=self._software(task))
        return template

    def _with_versions(
        self,
        task: Task[..., Any],
        template: Template,
        resolved: tuple[ResolvedOptions, ...],
        group: GroupKey,
        submission: Submission,
    ) -> Template:
        """Return the template of a task with those of its versions that a pool can run."""
        others: list[Template] = []
        reasons: list[str] = []
        for (label, version), its in zip(versions_of(task).items(), resolved[1:], strict=True):
            if reason := self._why_not(version, its):
                reasons.append(f"its version {label!r}: {reason}")
                continue
            digest = self._function(version, submission).digest
            made = self._made(version, digest, its, group)
            others.append(msgspec.structs.replace(made, version=label))
        if not others:
            if reason := self._why_not(task, resolved[0]):
                told = "; ".join([reason, *reasons])
                raise SubmissionError(f"task {task.__name__!r} was not submitted: {told}")
            return template
        mark = _digest([template, *others])
        marked = [msgspec.structs.replace(one, version_of=mark) for one in others]
        numbers = tuple(self._known_template(one, submission) for one in marked)
        return msgspec.structs.replace(template, versions=numbers)

    def _software(self, task: Task[..., Any]) -> Software | None:
        """Return what the processes of a task are started in; pip's part of it is built."""
        from pilot.client.software_of import software_of  # few tasks need it

        there = minor_version(self._comparison.python)
        options = task.task_options
        environment, container = options.environment, options.container
        if container is not None and getattr(task.function, "script", None) is not None:
            raise SubmissionError(
                f"{task.__name__} was not submitted: a job script does not run in a container, but "
                "what it starts may: call the engine in the script (container=None for it)"
            )
        if task.kind == HTTP:
            # Pilot itself sends it: it needs nothing, but maybe a token that a variable has.
            variables = (environment or {}).get("variables")
            environment, container = {"variables": variables} if variables else None, None
        return software_of(
            environment,
            container,
            self.site,
            sys.version_info[:2] if there == (0, 0) else there,
            task.kind in (COMMAND, MPI_COMMAND),
        )

    def _known_template(self, template: Template, submission: Submission) -> int:
        """Return the id of a template; a new one is put into the submission."""
        number = self._templates.get(template)
        if number is None:
            number = _digest(template)
            try:
                checked = plain(msgspec.structs.replace(template, id=number))
            except PilotError as error:
                raise SubmissionError(
                    f"task {template.name!r} was not submitted: {error}"
                ) from None
            _check_size(checked)
            submission.templates.append(checked)
            self._templates[template] = number
        return number

    def _why_not(self, task: Task[..., Any], resolved: ResolvedOptions) -> str:
        """Return why no pool can ever run a call; empty if one can."""
        config = self.site.config
        pools = [
            (name, pool.shape, pool.nodes_per_pilot, pool.walltime_s)
            for name, pool in config.pools.items()
        ]
        need = resolved.resources
        if task.kind == MPI and not need.cores:
            raise OptionError(NO_CORES_FOR_RANKS)
        pool = task.task_options.pool or ""
        return why_infeasible(need, pool, pools, resolved.time_limit_s, config.amounts)

    def _function(self, task: Task[..., Any], submission: Submission) -> _Known:
        """Return a task's function as known so far; a new one is put into the submission."""
        known = self._known.get(id(task))
        if known is not None and (known.task is not task or known.versions != len(task.versions)):
            known = None
        if known is not None and known.watch.is_same():
            return known
        # Looked at before it is pickled: what changes meanwhile is seen the next time.
        watched = watch(task)
        encoded = encode_function(task, self.site.config.data.inline_limit_bytes)
        if encoded.has_code:
            self._check_python(task)
        options = task.task_options
        if task.kind in (PYTHON, MPI) and not (options.environment or options.container):
            self._comparison.tell(self._session)
        if encoded.generators:
            self._warn(task, encoded.generators)
        if encoded.parts is not None and encoded.parts.size >= _SLOW_BYTES:
            self._warn_of_size(task, encoded)
        if encoded.digest not in self._sent:
            payload = encoded.payload
            if encoded.parts is not None:
                payload = self._spill_function(task, encoded)
            submission.functions.append(Function(encoded.digest, payload))
            self._sent.add(encoded.digest)
        if known is None or known.digest != encoded.digest:
            known = _Known(task, encoded.digest, watched or Watch())
        elif watched is not None:
            known.watch = watched
        if watched is not None:
            _remember(self._known, id(task), known)
        return known

    def _check_python(self, task: Task[..., Any]) -> None:
        """Refuse code that the pilots cannot run, before it is sent."""
        there = self._comparison.python
        if minor_version(there) in (sys.version_info[:2], (0, 0)):
            return
        raise SubmissionError(
            f"the function {task.__qualname__} was not submitted: this program runs in "
            f"{INTERPRETER}, and the pilots of site {self.site.name} in {there}: "
            f"{wrong_python(sys.version_info[:2])}"
        )

    def _spill_function(self, task: Task[..., Any], encoded: EncodedFunction) -> bytes:
        """Write the large data of a function to a segment."""
        assert encoded.parts is not None
        with self._open_segment() as writer:
            unsealed = writer.add_parts(
                str(self._session), task.__name__, "function", 0, encoded.parts
            )
        return spilled_function(unsealed.value)

    def _warn_of_size(self, task: Task[..., Any], encoded: EncodedFunction) -> None:
        """Warn of slow submissions, where the same large data are checked again and again."""
        times = self._large[task.__qualname__] = self._large.get(task.__qualname__, 0) + 1
        if times == _SLOW_TIMES and encoded.digest in self._sent:
            warnings.warn(
                f"the function {task.__qualname__} uses {largest(task)}, which is looked through "
                "at each submission, to see whether it has changed. Put it once, by "
                "session.put(value), and give the future as an argument; or submit all calls at "
                "once, by map",
                stacklevel=_stack_level(),
            )

    def _warn(self, task: Task[..., Any], generators: tuple[str, ...]) -> None:
        said = (task.__qualname__, *generators)
        if said in self._warned:
            return
        self._warned.add(said)
        warnings.warn(
            f"the function {task.__qualname__} reaches a random generator: "
            f"{', '.join(generators)}. It is pickled with its state, so that each executor draws "
            "the same numbers from its copy. Make a generator in the task, of a seed that is an "
            "argument: numpy.random.default_rng([seed, number of the task])",
            stacklevel=_stack_level(),
        )


def _label(task: int) -> str:
    """Return the name of a task in segments; for a child without an id its number."""
    return task_label(task) if session_of(task) else f"child-{task}"


def _joined(digests: Sequence[bytes]) -> bytes:
    """Return one digest for several."""
    if len(digests) == 1:
        return digests[0]
    return hashlib.blake2b(b"".join(digests), digest_size=len(digests[0])).digest()


def _digest(made: Template | Sequence[Template]) -> int:
    """Return the id of a template, or of several: 63 bits, as SQLite takes them, and never 0."""
    packed = msgspec.msgpack.encode(made)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "big") >> 1 or 1


def _template(
    session: int,
    task: Task[..., Any],
    function: bytes,
    resolved: ResolvedOptions,
    group: GroupKey,
    depth: int,
) -> Template:
    """Return the template of a call, without its id."""
    options = task.task_options
    default, defaults = b"", options.defaults or ()
    if options.on_failure == "ignore" and not defaults:
        if options.default is None and isinstance(task.function, ShellCommand):
            defaults = (CommandResult(str(task.function.command), NO_STATUS),)
        else:
            default = _default(task, options.default)
    return Template(
        id=0,
        session=session,
        name=task.__name__,
        kind=task.kind,
        function=function,
        resources=resolved.resources,
        time_limit_s=resolved.time_limit_s,
        retries=options.retries,
        retry_on=options.retry_names(),
        max_crashes=options.max_crashes,
        priority=options.priority,
        pool=options.pool or "",
        returns=options.return_count,
        return_names=options.return_names,
        on_failure=options.on_failure,
        default=default,
        group=group.name,
        group_fails_together=group.fails_together,
        defaults=tuple(_default(task, each) for each in defaults),
        no_retry_on=options.no_retry_names(),
        retry_timeouts=options.retry_timeouts,
        compression=options.compression or "",
        fresh=options.isolation == "fresh",
        depth=depth,
    )


def _default(task: Task[..., Any], default: object) -> bytes:
    """Return, encoded, the value that dependents get in place of a failed task's result."""
    try:
        return encode_within(default, OPTIONS_BYTES)
    except TooLargeError:
        raise SubmissionError(
            f"task {task.__name__!r} was not submitted: its option default, of type "
            f"{type(default).__name__}, is larger than {size_text(OPTIONS_BYTES)}; give a small "
            "one, such as None or a path, and let the tasks that get it know what it means"
        ) from None
    except EncodingError as error:
        if _holds_future(default):
            raise SubmissionError(
                f"task {task.__name__!r} was not submitted: its option default has a future, and a "
                "default is a value that is there already; give that, or None, and let the tasks "
                "that get it have the other future as an argument, too"
            ) from None
        raise SubmissionError(
            f"task {task.__name__!r} was not submitted: its option default: {error}"
        ) from error


def _holds_future(default: object) -> bool:
    """Tell whether a default is a future, or a list or mapping with one."""
    parts: Iterable[object] = (default,)
    if isinstance(default, Mapping):
        parts = default.values()
    elif isinstance(default, (list, tuple, set)):
        parts = default
    return any(isinstance(each, concurrent.futures.Future) for each in parts)


def _check_size(template: Template) -> None:
    """Refuse options that are too large for a row; one default is checked where it is encoded."""
    parts: dict[str, tuple[str | bytes, ...]] = {
        "returns": template.return_names,
        "retry_on": template.retry_on,
        "no_retry_on": template.no_retry_on,
        "pool": (template.pool,),
        "default": template.defaults,
    }
    for option, texts in parts.items():
        size = sum(len(text.encode() if isinstance(text, str) else text) for text in texts)
        if size > OPTIONS_BYTES:
            raise SubmissionError(
                f"task {template.name!r} was not submitted: its option {option} has "
                f"{size_text(size)}, and may have at most {size_text(OPTIONS_BYTES)}"
            )


def _is_bare(function: object) -> bool:
    """Tell whether a function holds no objects except those that its module holds."""
    return isinstance(function, FunctionType) and not (
        function.__closure__ or function.__defaults__ or function.__kwdefaults__
    )


def _stack_level() -> int:
    """Return the number of frames from the caller up to the user's code."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        level, frame = level + 1, frame.f_back
    return level


def _remember(known: dict[K, V], key: K, value: V) -> None:
    """Keep a value, but no more than `_KNOWN` of them."""
    if len(known) >= _KNOWN:
        known.clear()
    known[key] = value
