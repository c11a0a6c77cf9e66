"""Children: the tasks that a running task submits.

Children are collected while the task runs and are sent with its end, in one message and one
transaction: a task that is tried again leaves no half of its children behind, and never doubles
them. A child's future is a name for its result, to be given to other children or to be returned:
returning it makes the child's result the task's own (delegation). It cannot be waited for in here:
the task would hold its cores while it does nothing.

Detached children are different: the head gets them at once, and they start while their
parent runs. They stay if it fails, and are found again by their order when it is tried again.

A child has a number of its session when it comes to be: until then it is the n-th child of its
parent, for whatever refers to it. So its future means nothing once the parent has ended.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import msgspec
from msgspec import UNSET

from pilot.client.arguments import Origin, refer
from pilot.client.group import NO_GROUP, GroupKey
from pilot.client.naming import naming_of, no_name
from pilot.client.ordering import After, has_parameter
from pilot.client.results import Results
from pilot.client.submission import Submission
from pilot.client.submitter import Call, Submitter, as_calls
from pilot.data.imported import Imported
from pilot.errors import PilotError, SubmissionError
from pilot.model.ids import Ref, session_of, task_label
from pilot.model.objects import Naming
from pilot.model.tasks import Children

if TYPE_CHECKING:
    from datetime import timedelta

_ADVICE = (
    "a task cannot wait for another inside itself; give the future to another task as an argument, "
    "or return it: then its result becomes this task's"
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
        #: The id of a detached child; of another one, which child of its parent it is.
        self.task = task
        self._parent = parent
        self._names = names
        self._count = count
        self._index = index

    @property
    def task_id(self) -> str:
        """The id of a detached child; another one has none yet, and is named by its place."""
        return task_label(self.task) if session_of(self.task) else f"child {self.task}"

    @property
    def place(self) -> tuple[int, Origin]:
        """The number of the task, and the site where it is one; raises as `refs`."""
        self._check_parent()
        return self.task, self._parent.origin

    def _check_parent(self) -> None:
        if self._parent.has_ended and not session_of(self.task):
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
        return f"task {self.task_id}" if session_of(self.task) else self.task_id

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
    """

    def __init__(
        self,
        submitter: Submitter,
        session: int,
        task_id: str,
        group: GroupKey = NO_GROUP,
        detached: Submitter | None = None,
        detach: Detach | None = None,
    ) -> None:
        self._submitter = submitter
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

    def submit(
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        detached: bool = False,
        after: After = UNSET,
        **kwargs: Any,
    ) -> ChildFuture:
        """Run ``fn(*args, **kwargs)`` as a task, once the submitting task has ended well.

        Parameters
        ----------
        fn
            A task, or any function.
        *args, **kwargs
            May hold futures of children at any depth.
        detached
            Start it while this task runs, and whatever becomes of it. It is on the disk when this
            returns. When this task is tried again, its n-th detached child is the one that it was
            the first time: submit them in the same order.
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
        return self._submit(fn, [(args, kwargs)], detached, () if after is UNSET else after)[0]

    def submit_many(
        self,
        fn: Callable[..., Any],
        rows: Iterable[tuple[Any, ...] | Mapping[str, Any]],
        detached: bool = False,
        *,
        after: After = (),
    ) -> list[ChildFuture]:
        """Submit one task for each row of arguments (a tuple, or a mapping of names)."""
        return self._submit(fn, as_calls(rows), detached, after)

    def put(
        self,
        value: object,
        name: str | None = None,
        *,
        detached: bool = False,
        tags: Mapping[str, Any] | None = None,
        keep: float | str | timedelta | None = None,
    ) -> ChildFuture:
        """Store a value once, for children to share; see `Session.put`.

        Parameters
        ----------
        value
            The value.
        name
            The name of an object: this is its next version, once the task has ended well.
        detached
            Make it known at once, as detached children need it.
        tags, keep
            As in `Session.put`.
        """
        naming = None
        if name is None:
            no_name(tags, keep)
            name = "value"
        else:
            naming = naming_of(name, tags, keep, type(value))
        return self._put(value, name, naming, detached)

    def _put(self, value: object, name: str, naming: Naming | None, detached: bool) -> ChildFuture:
        if detached:
            (number,) = self._detached_tasks(
                1, lambda s, p, ids: s.put(p, value, name, ids[0], self._group, naming)
            )
        else:
            number = next(self._numbers)
            self._submitter.put(self._children(), value, name, number, self._group, naming)
        return ChildFuture(self, number, (), 1)

    def put_many(
        self, values: Iterable[object], name: str = "value", *, detached: bool = False
    ) -> list[ChildFuture]:
        """Store many values at once, for children; see `Session.put_many`.

        Parameters
        ----------
        values
            The values.
        name
            The name that lists show.
        detached
            Make them known at once, as detached children need them.
        """
        given = list(values)
        if detached and given:
            numbers = self._detached_tasks(
                len(given), lambda s, p, ids: s.put_many(p, given, name, ids, self._group)
            )
        else:
            numbers = list(itertools.islice(self._numbers, len(given)))
            if given:
                self._submitter.put_many(self._children(), given, name, numbers, self._group)
        return [ChildFuture(self, number, (), 1) for number in numbers]

    def import_file(
        self, path: str | os.PathLike[str], name: str = "file", *, detached: bool = False
    ) -> ChildFuture:
        """Make an existing file a value, without a copy; see `Session.import_file`."""
        return self._put(Imported(path), name, None, detached)

    def release(self, futures: ChildFuture | Iterable[ChildFuture]) -> None:
        """Promise not to ask for these results of children again; see `Session.release`.

        It counts when this task has ended well, as its children do: an attempt that is tried again
        has released nothing. Children that were submitted before get the results, and so does this
        task if it returns the future.

        Raises
        ------
        PilotError
            One is no future of a child. Nothing is released then.
        """
        given = [futures] if isinstance(futures, ChildFuture) else list(futures)
        for future in given:
            if not isinstance(future, ChildFuture):
                raise PilotError(
                    f"{future!r:.100} is no future of a child of this task, and nothing was "
                    "released; the futures that submit, put and their like give in a task are"
                )
        self._released.update(dict.fromkeys(ref for future in given for ref in future.refs))

    def _check_released(self, future: ChildFuture) -> None:
        if self._released and not self._released.keys().isdisjoint(future.refs):
            raise SubmissionError(
                f"a result of {future._name} was released, and cannot be an argument any more"
            )

    def _submit(
        self, fn: Callable[..., Any], calls: list[Call], detached: bool, after: After
    ) -> list[ChildFuture]:
        task = self._submitter.task(fn)
        options = task.task_options
        count = len(calls)
        if detached:
            ids = self._detached_tasks(
                count, lambda s, p, given: s.add(p, task, calls, given, self._group, after)
            )
        else:
            ids = list(itertools.islice(self._numbers, count))
            self._submitter.add(self._children(), task, calls, ids, self._group, after)
        names, returns = options.return_names, options.return_count
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


def delegations(results: Iterable[Any]) -> dict[int, Ref]:
    """Return the results that are futures of children, each with the result it refers to.

    Raises
    ------
    PilotError
        One is the future of a task with several results: it is not one value.
    """
    found: dict[int, Ref] = {}
    for index, result in enumerate(results):
        if isinstance(result, ChildFuture):
            if len(result.refs) != 1:
                raise PilotError(
                    f"result {index} is a future of {len(result.refs)} results; return one of "
                    "them (future[0]), or give the task as many results"
                )
            found[index] = result.refs[0]
    return found
