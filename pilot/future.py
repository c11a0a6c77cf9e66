"""Futures of tasks: `concurrent.futures.Future`, known to the head by the id of its task.

A future of a task with several results stands for all of them; ``future[0]`` or ``future["name"]``
is a future of one. Futures may be given to tasks as arguments (see `pilot.arguments`).
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pilot.arguments import refer
from pilot.data.values import Value, load
from pilot.wire.messages import task_label

if TYPE_CHECKING:
    from pilot.session import Session

T = TypeVar("T")


class Unread:
    """Values that are read from their files only when somebody asks for the result."""

    __slots__ = ("directory", "values", "whole")

    def __init__(self, values: tuple[Value, ...], directory: Path, whole: bool) -> None:
        self.values = values
        self.directory = directory
        #: Whether the result is the tuple of all values, or the only one.
        self.whole = whole

    def part(self, index: int) -> Unread:
        """One of the values."""
        return Unread((self.values[index],), self.directory, whole=False)

    def read(self) -> Any:
        """The result.

        Raises
        ------
        ResultError
            A file is missing or torn.
        """
        loaded = tuple(load(value, self.directory) for value in self.values)
        return loaded if self.whole else loaded[0]


class Future(concurrent.futures.Future[T]):
    """The result of a task that is submitted."""

    def __init__(
        self, session: Session, task: int, names: tuple[str, ...] = (), count: int = 1
    ) -> None:
        super().__init__()
        self._session = session
        self._names = names
        self._count = count
        #: The number that the head knows the task by.
        self.task = task

    @property
    def task_id(self) -> str:
        """The task's id as people read it, such as ``3.17``."""
        return task_label(self.task)

    @property
    def key(self) -> tuple[int, ...]:
        """What tells it from others: the number of its task, and the places of its results."""
        return (self.task, *range(self._count))

    def result(self, timeout: float | None = None) -> T:
        """The task's value; waits for it up to `timeout` seconds."""
        value: Any = super().result(timeout)
        if type(value) is Unread:
            value = value.read()
            self._result = value
        return cast("T", value)

    def cancel(self) -> bool:
        """End the task: one that waits does not start, one that runs is killed.

        Does not wait until the head and the pilots have heard of it. What starts in these few
        milliseconds is killed as well.

        Returns
        -------
        bool
            False where it had ended already.
        """
        if not self._end_cancelled():
            return self.cancelled()
        self._session._cancel(self)
        return True

    def why(self) -> str:
        """What the task waits for, back to the causes, or how it ended; as ``pilot why`` says it.

        Raises
        ------
        HeadError
            The head does not answer.
        """
        return self._session.why(self)

    def _end_cancelled(self) -> bool:
        """Become cancelled, whether running or not; False where it had ended."""
        with self._condition:
            if self.done():
                return False
            # The standard class refuses to cancel a running one; the head can end it.
            self._state = concurrent.futures._base.PENDING
            super().cancel()
        self.set_running_or_notify_cancel()
        return True

    def __getitem__(self, key: int | str) -> Future[Any]:
        """The future of one of several results, by number or name."""
        if isinstance(key, str):
            if key not in self._names:
                raise KeyError(
                    f"task {self.task_id} has no result {key!r}; it has "
                    + (", ".join(self._names) or f"{self._count}, without names")
                )
            index = self._names.index(key)
        else:
            index = range(self._count)[key]
        return PartFuture(self, index)

    def __reduce__(self) -> tuple[Any, ...]:
        return refer(self.task, tuple(range(self._count)), whole=self._count > 1)

    def __repr__(self) -> str:
        return f"<pilot future of task {self.task_id} {self._state.lower()}>"


class PartFuture(Future[Any]):
    """The future of one of a task's several results."""

    def __init__(self, whole: Future[Any], index: int) -> None:
        super().__init__(whole._session, whole.task)
        self._whole = whole
        self._index = index
        whole.add_done_callback(self._settle)

    def _settle(self, whole: concurrent.futures.Future[Any]) -> None:
        if whole.cancelled():
            self._end_cancelled()
        elif error := whole.exception():
            self.set_exception(error)
        else:
            values: Any = self._whole._result
            one = values.part(self._index) if type(values) is Unread else values[self._index]
            self.set_result(one)

    @property
    def key(self) -> tuple[int, ...]:
        """See `Future.key`."""
        return (self.task, self._index)

    def cancel(self) -> bool:
        """End the whole task."""
        return self._whole.cancel()

    def __reduce__(self) -> tuple[Any, ...]:
        return refer(self.task, (self._index,), whole=False)


def gather(
    futures: Iterable[concurrent.futures.Future[T]],
    *,
    timeout: float | None = None,
    progress: bool = False,
    return_exceptions: bool = False,
) -> list[T]:
    """The values of all futures, in their order.

    Parameters
    ----------
    futures
        Futures, of this package or of `concurrent.futures`.
    timeout
        Seconds to wait at most, for all together.
    progress
        Show a bar on the terminal.
    return_exceptions
        Put the exception in the place of a value, in place of raising the first.

    Raises
    ------
    TimeoutError
        Not all have ended in time.
    Exception
        The first one, in the order of `futures`, that a task ended with.
    """
    waiting = list(futures)
    watch: Callable[[], Any] = _bar(waiting) if progress else lambda: None
    try:
        not_done = concurrent.futures.wait(waiting, timeout).not_done
    finally:
        watch()
    if not_done:
        raise concurrent.futures.TimeoutError(f"{len(not_done)} of {len(waiting)} have not ended")
    if not return_exceptions:
        return [future.result() for future in waiting]
    return [_value_or_error(future) for future in waiting]


def _value_or_error(future: concurrent.futures.Future[Any]) -> Any:
    if future.cancelled():
        return concurrent.futures.CancelledError()
    return future.exception() or future.result()


def _bar(futures: list[concurrent.futures.Future[Any]]) -> Callable[[], None]:
    """Show a bar that follows the futures; returns what ends it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    bar = Progress(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = bar.add_task("", total=len(futures))
    bar.start()
    for future in futures:
        future.add_done_callback(lambda _: bar.advance(shown))
    return bar.stop
