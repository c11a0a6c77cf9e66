"""Calls of tasks: what each of them needs, reads and writes, as a task of Pilot.

Invariant: whoever calls has the application's lock from the look at versions to the note of the new
ones, so calls of several threads come one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from pilot.client.task import PYTHON, Task
from pilot.compat.compss.checkpoints import content_of
from pilot.compat.compss.errors import PyCOMPSsException
from pilot.compat.compss.files import Files, path_of
from pilot.compat.compss.needs import DIFFERENT, needs_of_version, options_of_call
from pilot.compat.compss.parameters import (
    COLLECTION_FILE,
    COMMUTATIVE,
    CONCURRENT,
    DIRECTORY,
    IN,
    IN_DELETE,
    OUT,
    PLAIN,
    STREAM,
    WRITES,
    Parameter,
)
from pilot.compat.compss.policies import IGNORE
from pilot.compat.compss.runner import full_body, plain_body, writing_body
from pilot.compat.compss.shapes import Shape, take_apart
from pilot.compat.compss.signatures import evaluate, read_returns
from pilot.compat.compss.stand_ins import for_program, fresh, nowhere
from pilot.compat.compss.tracker import PRIMITIVES, Entry, Tracker
from pilot.compat.compss.turns import ObjectTurns
from pilot.compat.compss.values import Future
from pilot.compat.compss.work import FileUse, Work

if TYPE_CHECKING:
    from pilot.client.session import Session
    from pilot.compat.compss.decoration import Plan, TaskFunction
from pilot.compat.compss.streams import DistroStream


class Host(Protocol):
    """The application, as far as calls need it."""

    tracker: Tracker
    files: Files

    @property
    def has_turns(self) -> bool: ...
    @property
    def session(self) -> Session: ...
    @property
    def keeps_any(self) -> bool: ...
    def keeps(self, function: TaskFunction) -> bool: ...
    def put(self, value: Any) -> Any: ...
    def let_go(self, version: Any) -> None: ...
    def wake(self) -> None: ...
    def submit(
        self, task: Task[..., Any], args: tuple[Any, ...], after: Iterable[str], policy: str
    ) -> Any: ...


#: Arrays beyond that are put once, and not sent with each call.
_PUT_BYTES = 1 << 16


def call_plain(app: Host, function: TaskFunction, args: tuple[Any, ...]) -> Any:
    """Submit a call that only reads; return what the program gets for its results."""
    plan = function.plan
    count = plan.returns.number
    values = []
    after: list[str] = []
    for value in args:
        if type(value) in PRIMITIVES:
            values.append(value)
        else:
            values.append(read(app, value, after))
    made = function.made.get(None)
    if made is None:
        options = options_of_call(app.session.site.config, function, {}, count, count)
        body = plain_body(plan.module, plan.name, _by_value(function), count)
        if count and app.keeps(function):
            body, options["cache"] = _known_by(function, body), True
        made = function.made[None] = Task(body, PYTHON, options)
    future = app.submit(made, tuple(values), after, plan.policy)
    parts = [future] if count < 2 else list(future)
    return for_program(app.tracker, plan.returns.kinds, parts, count)


def _known_by(function: TaskFunction, body: Any) -> Any:
    """Return a body whose results are found again as long as the function is the same."""
    body.__wrapped__ = function
    return body


def read(app: Host, value: Any, after: list[str]) -> Any:
    """Return what a task gets for something that it reads."""
    if type(value) is Future:
        entry: Entry | None = value.entry
    else:
        entry = app.tracker.find(value)
    if entry is None:
        if not _is_large(value):
            return value
        entry = app.tracker.track(value)
    after += entry.concurrents
    return _present(app, entry, value)


def _is_large(value: Any) -> bool:
    """Tell whether an object is an array that is put once, and not sent with each call."""
    # Of a class that is an argument it is no number.
    size = getattr(value, "nbytes", 0)
    return isinstance(size, int) and size > _PUT_BYTES


def _present(app: Host, entry: Entry, value: Any) -> Any:
    """Return the last version of an object.

    The first one of a large array is put: so it can be let go, as what goes with a call cannot.
    """
    if not entry.versions and entry.turns is None and _is_large(value):
        entry.versions.append(app.put(value))
    now = entry.current()
    # A future without any version: what it was to be never came.
    return now.default if type(now) is Future else now


def _by_value(function: TaskFunction) -> Any:
    plan = function.plan
    is_sent = not plan.module and not (plan.layers is not None and plan.layers.replaces)
    return function.function if is_sent else None


class Call:
    """A call that writes, has files or collections, or differs from others.

    Parameters
    ----------
    app
        The application.
    function
        The function that is called.
    args, kwargs
        Its arguments.
    """

    def __init__(
        self,
        app: Host,
        function: TaskFunction,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._app = app
        self._function = function
        self._plan: Plan = function.plan
        self._args: list[Any] = list(args)
        self._kwargs = kwargs
        self._after: list[str] = []
        self._tokens: list[tuple[str, Any]] = []
        #: What is in files that no task has written, where the task is found by that.
        self._contents: list[str] = []
        self._keeps = app.keeps(function)
        #: The written arguments, and the objects that get the results for them.
        self._written: list[tuple[int | str, Shape]] = []
        self._sinks: list[Entry] = []
        self._concurrents: list[Entry] = []
        self._deleted: list[Any] = []
        self._files: list[FileUse] = []
        #: The objects that it takes by turns, and where they are.
        self._turns: dict[Entry, ObjectTurns] = {}
        self._turned: list[int | str] = []
        #: The streams that the task has as a producer.
        self._produced: list[DistroStream] = []

    def submit(self) -> Any:
        """Submit the call; return what the program gets for its results."""
        app, plan, signature = self._app, self._plan, self._plan.signature
        given_returns = self._kwargs.get("returns", False)
        if given_returns is not False and not signature.has("returns"):
            del self._kwargs["returns"]
            returns = read_returns(self._function.function, given_returns)
        else:
            returns = plan.returns
        # Before futures take the places of arguments; most calls need no names.
        named = (
            self._named() if returns.expression or returns.parameter or not plan.is_fixed else {}
        )
        count = returns.number
        if returns.expression:
            count = int(evaluate(returns.expression, self._function.function, named))
        given = len(self._args)
        for place, value in enumerate(self._args):
            name = signature.name_at(place)
            is_rest = place >= len(signature.names)
            parameter = plan.rest if is_rest else plan.parameters.get(name, PLAIN)
            self._args[place] = self._argument(place, name, parameter, value)
        for name in plan.with_defaults:
            if name not in self._kwargs and name not in signature.names[:given]:
                # A default is an argument that was given.
                self._kwargs[name] = signature.defaults[name]
        for name, value in self._kwargs.items():
            parameter = plan.parameters.get(name, PLAIN)
            self._kwargs[name] = self._argument(name, name, parameter, value)
        has_token = any(use.direction not in (IN, IN_DELETE) for use in self._files)
        # Of a program nobody knows whether it is the same.
        is_known = plan.layers is None and not self._function.others
        is_kept = self._keeps and is_known and self._has_results(count)
        first = len(self._turned)
        total = first + count + len(self._sinks) + has_token
        written, names, turned = tuple(self._written), signature.names, tuple(self._turned)
        if plan.is_fixed and self._is_usual():
            # The work is the same in other calls, and goes with the function.
            constant = (count, written, (), False, plan.policy, None, (), names, turned)
            made = self._task(named, count, total, is_kept, constant)
            args = tuple(self._args)
        else:
            defaults = dict(plan.defaults) if plan.policy == IGNORE else None
            files, tokens = tuple(self._files), tuple(self._tokens)
            # A token of files tells their contents to whoever may be found by them.
            tells, contents = self._app.keeps_any, tuple(self._contents)
            work = Work(
                *(count, written, files, has_token, plan.policy, defaults, tokens, names, turned),
                tells,
                contents,
            )
            made = self._task(named, count, total, is_kept)
            args = (work, tuple(self._args), self._kwargs)
        if self._turns:
            several = list(self._turns.values())
            made = several[0].task(made, tuple(turns.anchor for turns in several))
        future = app.submit(made, args, self._after, plan.policy)
        parts = [future] if total < 2 else list(future)
        for (entry, turns), part in zip(self._turns.items(), parts, strict=False):
            turns.join(part)
            entry.turns = turns
        parts = parts[first:]
        self._note(future, parts, count, has_token)
        if returns.parameter and count == 1:
            app.tracker.track(named[returns.parameter]).write(parts[0], app.let_go)
            return named[returns.parameter]
        return for_program(app.tracker, returns.kinds, parts, count, plan.defaults.get("returns"))

    def _has_results(self, count: int) -> bool:
        """Tell whether the task does nothing but make results, from what it is given."""
        kinds = {parameter.kind for parameter in self._plan.parameters.values()}
        if kinds & {STREAM, DIRECTORY} or self._concurrents:
            return False
        directions = {use.direction for use in self._files}
        if CONCURRENT in directions:
            return False
        return bool(count or self._sinks or directions & WRITES)

    def _named(self) -> dict[str, Any]:
        """Return the arguments by name."""
        signature = self._plan.signature
        named = dict(zip(signature.names, self._args, strict=False))
        return {**signature.defaults, **named, **self._kwargs}

    def _is_usual(self) -> bool:
        """Tell whether the call has objects alone, given by place."""
        return not (
            self._kwargs
            or self._files
            or self._plan.policy == IGNORE
            or self._plan.layers is not None
            or self._function.others
            or any(shape != 0 for _, shape in self._written)
        )

    def _task(
        self,
        named: Mapping[str, Any],
        count: int,
        total: int,
        is_kept: bool,
        constant: tuple[Any, ...] | None = None,
    ) -> Task[..., Any]:
        """Return the task of Pilot; the same one for calls that differ in arguments alone.

        Parameters
        ----------
        named
            The arguments by name.
        count, total
            The number of results of the function, and of the task.
        is_kept
            True if later runs find its results.
        constant
            What is not sent with each call; None: the work is.
        """
        function, plan = self._function, self._plan
        if plan.is_fixed:
            key: Any = (total, is_kept, constant or (count, len(self._turned)))
            made = function.made.get(key)
            if made is not None:
                return made  # type: ignore[no-any-return]  # of a mapping of tasks
        config, first = self._app.session.site.config, len(self._turned)
        options = options_of_call(config, function, named, count, total, first)
        versions = [needs_of_version(config, other, named) for other in function.others]
        if not plan.is_fixed:
            needs = (each.get(n) for each in (options, *versions) for n in DIFFERENT)
            key = (count, total, is_kept, first, *needs)
        if key not in function.made:
            body: Any = None
            if constant is not None:
                body = writing_body(plan.module, plan.name, _by_value(function), constant)
            else:
                body = function.made.get("body")
            if body is None:
                body = full_body(plan.module, plan.name, _by_value(function), plan.layers)
                function.made["body"] = body
            if is_kept:
                body, options["cache"] = _known_by(function, body), True
            made = function.made[key] = Task(body, plan.kind, options)
            for other, its_needs in zip(function.others, versions, strict=True):
                its = other.plan
                own = full_body(its.module, its.name, _by_value(other), its.layers)
                made.version(Task(own, its.kind, its_needs))
        return function.made[key]  # type: ignore[no-any-return]  # of a mapping of tasks

    # --- arguments

    def _argument(self, at: int | str, name: str, parameter: Parameter, value: Any) -> Any:
        """Return what the task gets in place of an argument."""
        if parameter is PLAIN or (parameter.kind == "object" and parameter.direction == IN):
            return value if type(value) in PRIMITIVES else read(self._app, value, self._after)
        if parameter.kind == "object":
            return self._object(at, parameter.direction, value)
        if parameter.is_file:
            return self._file((at,), name, parameter.direction, value)
        if parameter.kind == STREAM:
            return self._stream(name, parameter.direction, value)
        if parameter.kind == COLLECTION_FILE:
            return self._files_in((at,), name, parameter, value)
        if parameter.is_collection and not self._is_one(value):
            return self._collection(at, parameter, value)
        return self._object(at, parameter.direction, value)

    def _is_one(self, value: Any) -> bool:
        """Tell whether a container counts as one thing, since a task has it as one."""
        return type(value) is Future or self._app.tracker.find(value) is not None

    def _object(self, at: int | str, direction: str, value: Any) -> Any:
        if type(value) in PRIMITIVES:
            return value
        if direction == IN_DELETE:
            self._deleted.append(value)
            return read(self._app, value, self._after)
        entry = value.entry if type(value) is Future else self._app.tracker.track(value)
        if direction == COMMUTATIVE and self._app.has_turns and entry not in self._turns:
            return self._by_turns(at, entry)
        if direction == CONCURRENT:
            self._concurrents.append(entry)
            return _present(self._app, entry, value)
        self._written.append((at, 0))
        self._sinks.append(entry)
        if direction == OUT:
            return fresh(value)
        self._after += entry.concurrents
        return _present(self._app, entry, value)

    def _by_turns(self, at: int | str, entry: Entry) -> Any:
        turns = entry.turns
        if not isinstance(turns, ObjectTurns):
            now = _present(self._app, entry, entry.own())
            if not hasattr(now, "task_id"):
                now = self._app.put(now)
                entry.versions.append(now)
            turns = ObjectTurns(self._app, now, entry.concurrents)
            entry.concurrents = []
        self._turns[entry] = turns
        self._turned.append(at)
        self._after += turns.after
        return turns.anchor

    def _collection(self, at: int | str, parameter: Parameter, value: Any) -> Any:
        if type(value) in PRIMITIVES or not hasattr(type(value), "__iter__"):
            return self._object(at, parameter.direction, value)
        direction = parameter.direction
        if direction in (IN, IN_DELETE, CONCURRENT):
            read_at, after, app = read, self._after, self._app

            def leaf(item: Any) -> Any:
                if type(item) is Future and not item.entry.concurrents:
                    now = item.entry.current()
                    return now.default if type(now) is Future else now
                return item if type(item) in PRIMITIVES else read_at(app, item, after)

            made, _ = take_apart(value, parameter.depth, self._is_one, leaf)
            if direction == IN_DELETE:
                take_apart(value, parameter.depth, self._is_one, self._deleted.append)
            return made
        made, shape = take_apart(
            value, parameter.depth, self._is_one, lambda item: self._leaf(direction, item)
        )
        self._written.append((at, shape))
        return made

    def _leaf(self, direction: str, value: Any) -> Any:
        """Return what the task gets for a leaf that it writes."""
        if type(value) in PRIMITIVES:
            self._sinks.append(nowhere())
            return value
        entry = value.entry if type(value) is Future else self._app.tracker.track(value)
        self._sinks.append(entry)
        if direction == OUT:
            return fresh(value)
        self._after += entry.concurrents
        return _present(self._app, entry, value)

    # --- files

    def _file(self, at: tuple[Any, ...], name: str, direction: str, value: Any) -> Any:
        if value is None:
            return None
        path = path_of(value)
        need, before = self._app.files.use(path, direction)
        if need is not None:
            self._tokens.append((path, need))
        elif self._keeps and direction != OUT:
            self._contents.append(content_of(path))
        self._after += before
        self._files.append(FileUse(at, path, direction, name))
        return path

    def _files_in(
        self, at: tuple[Any, ...], name: str, parameter: Parameter, value: Any, level: int = 0
    ) -> Any:
        below = parameter.depth is None or level < parameter.depth
        if isinstance(value, (list, tuple)) and below:
            return [
                self._files_in((*at, place), name, parameter, item, level + 1)
                for place, item in enumerate(value)
            ]
        return self._file(at, name, parameter.direction, value)

    def _stream(self, name: str, direction: str, value: Any) -> DistroStream:
        from pilot.compat.compss.streams import DistroStream

        if not isinstance(value, DistroStream):
            raise PyCOMPSsException(
                f"{self._function.__name__}: {name} is a stream, such as ObjectDistroStream(), "
                f"and not {value!r:.60}"
            )
        if direction == IN:
            return value.for_consumer()
        producer = value.for_producer()
        self._produced.append(producer)
        return producer

    # --- results

    def _note(self, future: Any, parts: list[Any], count: int, has_token: bool) -> None:
        """Note the new versions, and who uses what."""
        app = self._app
        for entry, part in zip(self._sinks, parts[count:], strict=False):
            entry.write(part, app.let_go)
        number = future.task_id if self._files or self._concurrents else ""
        for entry in self._concurrents:
            entry.concurrents.append(number)
        for use in self._files:
            app.files.used(use.path, use.direction, number, parts[-1] if has_token else None)
        for value in self._deleted:
            app.tracker.forget(value)
        for producer in self._produced:
            # However it ends: nobody waits for what a dead one has not closed.
            future.add_done_callback(lambda _, ended=producer: ended.close())
