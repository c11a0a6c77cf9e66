"""What a running task can submit: its children.

They are collected while the task runs and go with its end, in one message and one transaction: a
task that is tried again leaves no half of its children behind, and never doubles them. A child's
future is a name for its result, to be given to other children or to be returned: returning it makes
the child's result the task's own (delegation). It cannot be waited for in here: the task would hold
its cores while it does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from pilot.arguments import refer
from pilot.errors import PilotError
from pilot.submission import NO_GROUP, Call, GroupKey, Parcel, Submitter, as_calls
from pilot.task import Task
from pilot.wire.messages import Children, Ref, task_label

_ADVICE = (
    "a task cannot wait for another inside itself; give the future to another task as an argument, "
    "or return it: then its result becomes this task's"
)


class ChildFuture:
    """The result of a task that is submitted by a running task."""

    def __init__(
        self, task: int, names: tuple[str, ...], count: int, index: int | None = None
    ) -> None:
        #: The number that the head knows the task by.
        self.task = task
        self._names = names
        self._count = count
        self._index = index

    @property
    def task_id(self) -> str:
        """The task's id as people read it."""
        return task_label(self.task)

    @property
    def refs(self) -> tuple[Ref, ...]:
        """The results that this stands for."""
        if self._index is not None:
            return ((self.task, self._index),)
        return tuple((self.task, index) for index in range(self._count))

    def __getitem__(self, key: int | str) -> ChildFuture:
        """The future of one of several results, by number or name."""
        if isinstance(key, str):
            if key not in self._names:
                raise KeyError(f"task {self.task_id} has no result {key!r}")
            key = self._names.index(key)
        return ChildFuture(self.task, (), 1, range(self._count)[key])

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise PilotError(_ADVICE)

    result = exception = cancel = done = running = cancelled = add_done_callback = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        indices = tuple(index for _, index in self.refs)
        return refer(self.task, indices, whole=self._index is None and self._count > 1)

    def __repr__(self) -> str:
        return f"<pilot future of child {self.task_id}>"


class TaskSession:
    """The session of a running task, for what it submits."""

    def __init__(self, submitter: Submitter, session: int, group: GroupKey = NO_GROUP) -> None:
        self._submitter = submitter
        self._group = group  # children belong to the group of their parent
        self._parcel = Parcel()
        self.id = session

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> ChildFuture:
        """Run ``fn(*args, **kwargs)`` as a task, once this one has ended well.

        Raises
        ------
        SubmissionError
            No pool can ever run it, or it cannot be pickled.
        """
        task = self._submitter.task(fn)
        return self._submit(task, [(args, kwargs)])[0]

    def submit_many(
        self, fn: Callable[..., Any], rows: Iterable[tuple[Any, ...] | Mapping[str, Any]]
    ) -> list[ChildFuture]:
        """One task for each row of arguments (a tuple, or a mapping of names)."""
        task = self._submitter.task(fn)
        return self._submit(task, as_calls(rows))

    def _submit(self, task: Task[..., Any], calls: list[Call]) -> list[ChildFuture]:
        options = task.task_options
        ids = self._submitter.add(self._parcel, task, calls, self._group)
        return [ChildFuture(n, options.return_names, options.return_count) for n in ids]

    def take(self, delegated: dict[int, Ref]) -> Children | None:
        """The children, with the results that are theirs; None where there are none."""
        parcel, self._parcel = self._parcel, Parcel()
        if not (parcel.tasks or parcel.templates or delegated):
            return None
        return Children(
            tuple(parcel.functions), tuple(parcel.templates), tuple(parcel.tasks), delegated
        )


def delegations(results: Iterable[Any]) -> dict[int, Ref]:
    """Which of a task's results are futures of children.

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
