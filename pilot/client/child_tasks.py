"""Children: the tasks that a running task submits.

Children are collected while the task runs and are sent with its end, in one message and one
transaction: a task that is tried again leaves no half of its children behind, and never doubles
them. A child's future is a name for its result, to be given to other children or to be returned:
returning it makes the child's result the task's own (delegation). It cannot be waited for in here:
the child comes to be when its parent has ended.

Detached children are different: the head gets them at once, and they start while their
parent runs. They stay if it fails, and are found again by their order when it is tried again. They
have futures that can be waited for (`inner_future`), as has any other task of the session, by its
id.

A child has a number of its session when it comes to be: until then it is the n-th child of its
parent, for whatever refers to it. So its future means nothing once the parent has ended.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, TypeAlias, overload

import msgspec
from msgspec import UNSET

from pilot.client.arguments import Origin, refer
from pilot.client.future import Future
from pilot.client.group import NO_GROUP, GroupKey
from pilot.client.inner_future import InnerFuture, Lending
from pilot.client.naming import naming_of, no_name
from pilot.client.ordering import After, has_parameter
from pilot.client.results import Results
from pilot.client.submission import Submission
from pilot.client.submitter import Call, Submitter, as_calls
from pilot.data.imported import Imported
from pilot.errors import PilotError, SubmissionError
from pilot.model.ids import NUMBERS, Ref, parse_task_label, session_of, task_label
from pilot.model.objects import Naming
from pilot.model.tasks import Children
from pilot.wire.messages import client as m

if TYPE_CHECKING:
    import concurrent.futures
    from datetime import timedelta

    from pilot.client.awaited import Awaited
    from pilot.site import Site

_ADVICE = (
    "a task cannot wait for a child that comes to be with its end; submit it with detached=True to "
    "wait for it, give the future to another task as an argument, or return it: then its result "
    "becomes this task's"
)


class ChildFuture:
    """The result of a task that is submitted by a running task."""

    def __init__(
        self,
        parent: TaskSession,
        task: int,
        names: tuple[str, ...],
        count: int,
        index: int | None = None,
    ) -> None:
        #: Which child of its parent it is.
        self.task = task
        self._parent = parent
        self._names = names
        self._count = count
        self._index = index

    @property
    def task_id(self) -> str:
        """The place of the child among those of its parent: it has no id yet."""
        return f"child {self.task}"

    @property
    def place(self) -> tuple[int, Origin]:
        """The number of the task, and the site where it is one; raises as `refs`."""
        self._check_parent()
        return self.task, self._parent.origin

    def _check_parent(self) -> None:
        if self._parent.has_ended:
            raise PilotError(
                f"this is the future of a child of task {self._parent.task_id}, which has ended; "
                "it means nothing to other tasks: submit the child in the task that needs it"
            )

    @property
    def refs(self) -> tuple[Ref, ...]:
        """The results that this future stands for.

        Raises
        ------
        PilotError
            The parent has ended: in the next task of this process the future would stand for
            another child.
        """
        self._check_parent()
        if self._index is not None:
            return ((self.task, self._index),)
        return tuple((self.task, index) for index in range(self._count))

    def __getitem__(self, key: int | str) -> ChildFuture:
        """Return the future of one of several results, by number or name."""
        return self._part(Results(self._count, self._names).index(key, self._name))

    def __iter__(self) -> Iterator[ChildFuture]:
        """Iterate over the futures of several results; see `Future.__iter__`."""
        shape = Results(self._count, self._names)
        shape.check_parts(self._name)
        return iter([self._part(index) for index in range(shape.count)])

    def _part(self, index: int) -> ChildFuture:
        return ChildFuture(self._parent, self.task, (), 1, index)

    @property
    def _name(self) -> str:
        return self.task_id

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise PilotError(_ADVICE)

    result = exception = cancel = done = running = cancelled = add_done_callback = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        self._parent._check_released(self)
        indices = tuple(index for _, index in self.refs)
        whole = self._index is None and self._count > 1
        return refer(self.task, indices, whole, self._parent.origin)

    def __repr__(self) -> str:
        return f"<pilot future of {self._name}>"


#: Has the head take detached children; returns the ids that they have there.
Detach: TypeAlias = Callable[[Submission], list[int]]


class Link(Protocol):
    """A connection to the head, as far as a task needs it; `Connection` is one."""

    def watch(self, awaited: dict[int, Awaited]) -> None: ...
    def post(self, make: Callable[[int], Any]) -> concurrent.futures.Future[Any]: ...
    def request(self, make: Callable[[int], Any], timeout: float | None = ...) -> Any: ...


class TaskSession:
    """The session of a running task, for what it submits.

    Parameters
    ----------
    submitter
        The submitter that makes children of calls.
    session
        The session's id.
    task_id
        The task's id in text, such as ``3.17``.
    group
        The group of the task: its children belong to it too.
    detached
        The submitter for detached children.
    detach
        A function that sends detached children; None where the task cannot have any.
    link
        A function that returns the connection to the head, which it makes when there is none; None
        where the task cannot have one.
    """

    def __init__(
        self,
        submitter: Submitter,
        session: int,
        task_id: str,
        group: GroupKey = NO_GROUP,
        detached: Submitter | None = None,
        detach: Detach | None = None,
        link: Callable[[], Link] | None = None,
    ) -> None:
        self._submitter = submitter
        self._link = link
        #: The futures of tasks of whose ends the head was not asked yet.
        self._unattended: list[InnerFuture[Any]] = []
        self._group = group
        self._detached = detached
        self._detach = detach
        #: None: there are no children yet, as in most tasks.
        self._submission: Submission | None = None
        self._numbers = itertools.count(1)
        self._ordinal = 0
        #: What was released, in order.
        self._released: dict[Ref, None] = {}
        #: True if the task has ended: nothing refers to its children any more.
        self.has_ended = False
        self.id = session
        self.task_id = task_id

    @property
    def origin(self) -> Origin:
        """The site and database to which the ids of its tasks belong."""
        return self._submitter.origin

    @overload
    def submit(
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        detached: Literal[False] = False,
        after: After = UNSET,
        **kwargs: Any,
    ) -> ChildFuture: ...
    @overload
    def submit(
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        detached: Literal[True],
        after: After = UNSET,
        **kwargs: Any,
    ) -> Future[Any]: ...
    @overload
    def submit(
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        detached: bool,
        after: After = UNSET,
        **kwargs: Any,
    ) -> ChildFuture | Future[Any]: ...
    def submit(
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        detached: bool = False,
        after: After = UNSET,
        **kwargs: Any,
    ) -> ChildFuture | Future[Any]:
        """Run ``fn(*args, **kwargs)`` as a task, once the submitting task has ended well.

        Parameters
        ----------
        fn
            A task, or any function.
        *args, **kwargs
            May hold futures of children at any depth.
        detached
            Start it while this task runs, and whatever becomes of it. It is on the disk when this
            returns, and its future can be waited for: meanwhile other tasks have this one's cores.
            When this task is tried again, its n-th detached child is the one that it was the first
            time: submit them in the same order.
        after
            As in `Session.submit`; futures of children may be among them.

        Raises
        ------
        SubmissionError
            No pool can ever run it, or it cannot be pickled.
        PilotError
            The head refuses a detached child, such as one that needs a child that is not detached.
        """
        if after is not UNSET and has_parameter(fn, "after"):
            kwargs["after"], after = after, UNSET
        given = () if after is UNSET else after
        (future,) = self._submit(fn, [(args, kwargs)], detached, given)
        return future

    @overload
    def submit_many(
        self,
        fn: Callable[..., Any],
        rows: Iterable[tuple[Any, ...] | Mapping[str, Any]],
        detached: Literal[False] = False,
        *,
        after: After = (),
    ) -> list[ChildFuture]: ...
    @overload
    def submit_many(
        self,
        fn: Callable[..., Any],
        rows: Iterable[tuple[Any, ...] | Mapping[str, Any]],
        detached: Literal[True],
        *,
        after: After = (),
    ) -> list[Future[Any]]: ...
    @overload
    def submit_many(
        self,
        fn: Callable[..., Any],
        rows: Iterable[tuple[Any, ...] | Mapping[str, Any]],
        detached: bool,
        *,
        after: After = (),
    ) -> list[ChildFuture] | list[Future[Any]]: ...
    def submit_many(
        self,
        fn: Callable[..., Any],
        rows: Iterable[tuple[Any, ...] | Mapping[str, Any]],
        detached: bool = False,
        *,
        after: After = (),
    ) -> list[ChildFuture] | list[Future[Any]]:
        """Submit one task for each row of arguments (a tuple, or a mapping of names)."""
        return self._submit(fn, as_calls(rows), detached, after)

    def future(self, task: str | int) -> Future[Any]:
        """Return the future of a task of this session that was submitted before, by whomever.

        Of one that has ended, `result()` reads the result; one that has not is waited for, as a
        detached child is.

        Parameters
        ----------
        task
            The task's id, such as ``3.17``; or its number, as `Future.task`.

        Raises
        ------
        PilotError
            It is no task's id, or that of this task, or of a task of another session. That there is
            no such task tells `result()`.
        """
        number = _number_of(task)
        label = task_label(number)
        if session_of(number) != self.id:
            raise PilotError(
                f"task {label} is of session {session_of(number)}, and task {self.task_id} of "
                f"session {self.id}: a task can ask for results of its own session; give it others "
                "as arguments, by their futures"
            )
        if label == self.task_id:
            raise PilotError(f"task {label} cannot wait for itself")
        return self._inner(number, (), None)

    def _inner(
        self, number: int, names: tuple[str, ...], count: int | None, name: str = ""
    ) -> Future[Any]:
        future: InnerFuture[Any] = InnerFuture(self, number, names, count, name)
        self._unattended.append(future)
        return future

    # --- as the futures of tasks need it

    @property
    def site(self) -> Site:
        """The site."""
        return self._submitter.site

    @property
    def is_open(self) -> bool:
        """True as long as the task runs."""
        return not self.has_ended

    def _connection(self) -> Link:
        if self._link is None:
            raise PilotError("there is no connection to the head here")
        return self._link()

    def _attend(self) -> None:
        futures, self._unattended = self._unattended, []
        for future in futures:
            future.is_attended = True  # before the head is asked: it may answer at once
        again: list[InnerFuture[Any]] = []
        awaited: dict[int, Awaited] = {}
        for future in futures:
            if future.task in awaited:
                again.append(future)
            else:
                awaited[future.task] = future
        if awaited:
            self._connection().watch(awaited)
        for future in again:
            self._connection().watch({future.task: future})

    def why(self, future: Future[Any]) -> str:
        """Return what a task waits for, or how it ended; see `Session.why`."""
        from pilot.client.future import Lines
        from pilot.client.query_client import in_words

        return Lines(in_words(self._query("why", subject=future.task_id)))

    def ask(self, name: str, /, **arguments: Any) -> concurrent.futures.Future[Any]:
        """Ask the head a query, and return a future of the answer; see `Session.ask`."""
        return self._connection().post(lambda n: m.Query(n, name, arguments))

    def _query(self, name: str, /, **arguments: Any) -> Any:
        return self._connection().request(lambda n: m.Query(n, name, arguments), None)

    def _cancel(self, future: Future[Any]) -> None:
        self._connection().post(lambda n: m.Cancel(n, self.id, [future.task]))

    def _check_process(self) -> None:
        """Do nothing: the connection knows whether it is of this process."""

    def put(
        self,
        value: object,
        name: str | None = None,
        *,
        detached: bool = False,
        tags: Mapping[str, Any] | None = None,
        keep: float | str | timedelta | None = None,
        compression: str | None = None,
    ) -> ChildFuture | Future[Any]:
        """Store a value once, for children to share; see `Session.put`.

        Parameters
        ----------
        value
            The value.
        name
            The name of an object: this is its next version, once the task has ended well.
        detached
            Make it known at once, as detached children need it.
        tags, keep, compression
            As in `Session.put`.
        """
        naming = None
        if name is None:
            no_name(tags, keep)
            name = "value"
        else:
            naming = naming_of(name, tags, keep, type(value))
        return self._put(value, name, naming, detached, compression)

    def _put(
        self,
        value: object,
        name: str,
        naming: Naming | None,
        detached: bool,
        compression: str | None = None,
    ) -> ChildFuture | Future[Any]:
        more = self._group, naming, compression
        if detached:
            (number,) = self._detached_tasks(
                1, lambda s, p, ids: s.put(p, value, name, ids[0], *more)
            )
            return self._inner(number, (), 1, name)
        number = next(self._numbers)
        self._submitter.put(self._children(), value, name, number, *more)
        return ChildFuture(self, number, (), 1)

    def put_many(
        self,
        values: Iterable[object],
        name: str = "value",
        *,
        detached: bool = False,
        compression: str | None = None,
    ) -> list[ChildFuture] | list[Future[Any]]:
        """Store many values at once, for children; see `Session.put_many`.

        Parameters
        ----------
        values
            The values.
        name
            The name that lists show.
        detached
            Make them known at once, as detached children need them.
        compression
            As in `Session.put`.
        """
        given, more = list(values), (self._group, compression)
        if detached and given:
            numbers = self._detached_tasks(
                len(given), lambda s, p, ids: s.put_many(p, given, name, ids, *more)
            )
            return [self._inner(number, (), 1, name) for number in numbers]
        numbers = list(itertools.islice(self._numbers, len(given)))
        if given:
            self._submitter.put_many(self._children(), given, name, numbers, *more)
        return [ChildFuture(self, number, (), 1) for number in numbers]

    def import_file(
        self, path: str | os.PathLike[str], name: str = "file", *, detached: bool = False
    ) -> ChildFuture | Future[Any]:
        """Make an existing file a value, without a copy; see `Session.import_file`."""
        return self._put(Imported(path), name, None, detached)

    def release(
        self, futures: ChildFuture | Future[Any] | Iterable[ChildFuture | Future[Any]]
    ) -> None:
        """Promise not to ask for these results of children again; see `Session.release`.

        It counts when this task has ended well, as its children do: an attempt that is tried again
        has released nothing. Children that were submitted before get the results, and so does this
        task if it returns the future.

        Raises
        ------
        PilotError
            One is no future of a child. Nothing is released then.
        """
        is_one = isinstance(futures, (ChildFuture, Future))
        listed = not isinstance(futures, (str, bytes)) and isinstance(futures, Iterable)
        given: list[Any] = [futures] if is_one or not listed else list(futures)
        for future in given:
            if not isinstance(future, (ChildFuture, Lending)):
                raise PilotError(
                    f"{future!r:.100} is no future of a child of this task, and nothing was "
                    "released; the futures that submit, put and their like give in a task are"
                )
        self._released.update(dict.fromkeys(ref for future in given for ref in future.refs))
        for future in given:
            if isinstance(future, Lending):
                future._let_go()

    def _check_released(self, future: ChildFuture) -> None:
        if self._released and not self._released.keys().isdisjoint(future.refs):
            raise SubmissionError(
                f"a result of {future._name} was released, and cannot be an argument any more"
            )

    def _submit(
        self, fn: Callable[..., Any], calls: list[Call], detached: bool, after: After
    ) -> list[ChildFuture] | list[Future[Any]]:
        task = self._submitter.task(fn)
        options = task.task_options
        names, returns = options.return_names, options.return_count
        count = len(calls)
        if detached:
            ids = self._detached_tasks(
                count, lambda s, p, given: s.add(p, task, calls, given, self._group, after)
            )
            return [self._inner(number, names, returns, task.__name__) for number in ids]
        ids = list(itertools.islice(self._numbers, count))
        self._submitter.add(self._children(), task, calls, ids, self._group, after)
        return [ChildFuture(self, number, names, returns) for number in ids]

    def _detached_tasks(
        self, count: int, add: Callable[[Submitter, Submission, Sequence[int]], object]
    ) -> list[int]:
        if self._detached is None or self._detach is None:
            raise PilotError("only rank 0 of an MPI task can submit detached tasks")
        submission = Submission()
        add(self._detached, submission, list(itertools.islice(self._numbers, count)))
        for number, spec in enumerate(submission.tasks):
            needed = (*(source for source, _ in spec.inputs), *spec.after)
            if not all(map(session_of, needed)):
                raise PilotError(
                    "a detached task starts before its parent ends, so it cannot need, or come "
                    "after, a child that comes with the parent's end; detach that one too"
                )
            self._ordinal += 1
            submission.tasks[number] = msgspec.structs.replace(spec, ordinal=self._ordinal)
        try:
            return self._detach(submission)
        except BaseException:
            self._detached.forget(submission)
            raise

    def _children(self) -> Submission:
        if self._submission is None:
            self._submission = Submission()
        return self._submission

    def drop(self) -> None:
        """Forget the children: the task has failed."""
        self.has_ended = True
        if self._submission is not None:
            self._submitter.forget(self._submission)

    def take(self, delegated: dict[int, Ref]) -> Children | None:
        """Return the children, with the results delegated to them; None where there are none."""
        self.has_ended = True
        submission, self._submission = self._submission, None
        if submission is None:
            if not (delegated or self._released):
                return None
            submission = Submission()
        if not (submission.tasks or submission.templates or delegated or self._released):
            return None
        return Children(
            tuple(submission.functions),
            tuple(submission.templates),
            tuple(submission.tasks),
            delegated,
            tuple(self._released),
        )


def _number_of(task: str | int) -> int:
    """Return the number of a task from its id, or from itself."""
    try:
        if isinstance(task, int) and not isinstance(task, bool):
            if task > NUMBERS and parse_task_label(task_label(task)) == task:
                return task
            raise ValueError(f"{task} is no task's number; give the task's id, such as '3.17'")
        return parse_task_label(str(task))
    except ValueError as error:
        raise PilotError(str(error)) from None


def delegations(results: Iterable[Any]) -> dict[int, Ref]:
    """Return the results that are futures of children, each with the result it refers to.

    Raises
    ------
    PilotError
        One is the future of a task with several results: it is not one value.
    """
    found: dict[int, Ref] = {}
    for index, result in enumerate(results):
        if isinstance(result, (ChildFuture, Lending)):
            if len(result.refs) != 1:
                raise PilotError(
                    f"result {index} is a future of {len(result.refs)} results; return one of "
                    "them (future[0]), or give the task as many results"
                )
            found[index] = result.refs[0]
    return found
