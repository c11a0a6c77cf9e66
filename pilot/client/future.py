"""Futures of tasks: `concurrent.futures.Future`, known to the head by the id of its task.

A future of a task with several results stands for all of them; ``future[0]`` or ``future["name"]``
is a future of one. Futures may be given to tasks as arguments (see `pilot.client.arguments`).

Invariants
----------
- A task's value or exception is unpickled in the thread that asks for it. So no code of a user's
  runs while results come in: neither imports of his modules nor his callbacks
  (`pilot.client.callbacks`).
- A future that is settled stays so, and each of its parts is settled with it.
- An id means something at one site only, as long as its database is there: `Future.origin`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import _base
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from pilot.client.arguments import Origin, refer
from pilot.client.callbacks import CalledBack
from pilot.client.failures import exception_of
from pilot.client.results import Results
from pilot.data.storing import load
from pilot.data.unpicklable import decoding_error
from pilot.errors import EncodingError, PilotError, ResultError, SubmissionError
from pilot.model.ids import Ref, task_label
from pilot.model.tasks import TaskFailure, TaskOutcome
from pilot.model.values import Value
from pilot.pickled import public

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pilot.data.stored_array import StoredArray
    from pilot.site import Site

T = TypeVar("T")


class Owner(Protocol):
    """The session of a future, as far as the future needs it."""

    @property
    def origin(self) -> Origin: ...
    @property
    def site(self) -> Site: ...
    @property
    def is_open(self) -> bool: ...
    @property
    def id(self) -> int: ...
    def why(self, future: Future[Any]) -> str: ...
    def ask(self, name: str, /, **arguments: Any) -> concurrent.futures.Future[Any]: ...
    def _query(self, name: str, /, **arguments: Any) -> Any: ...
    def _cancel(self, future: Future[Any]) -> None: ...
    def _check_process(self) -> None: ...


class Lines(str):
    """A text of several lines, which Python and notebooks show as such."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Unread:
    """Values that are read only when somebody asks for the result."""

    __slots__ = ("directory", "values", "whole")

    def __init__(self, values: tuple[Value, ...], directory: Path, whole: bool) -> None:
        self.values = values
        self.directory = directory
        #: True if the result is the tuple of all values, False if it is the only one.
        self.whole = whole

    def part(self, index: int) -> Unread:
        """Return one of the values."""
        return Unread((self.values[index],), self.directory, whole=False)

    def read(self, task: int) -> Any:
        """Return the result.

        Parameters
        ----------
        task
            The number of the task, for messages.

        Raises
        ------
        ResultError
            A file is missing or torn.
        EncodingError
            The value cannot be unpickled; also where that would end the program.
        """
        if any(value.is_released for value in self.values):
            raise released_error(task)
        try:
            if not self.whole:
                return load(self.values[0], self.directory)
            return tuple(load(value, self.directory) for value in self.values)
        except EncodingError as error:
            cause, text = error.__cause__, str(error)
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:
            cause, text = error, str(decoding_error(error))
        raise EncodingError(f"the result of task {task_label(task)}: {text}") from cause


def released_error(task: int) -> ResultError:
    """Return the error of whoever asks for a result that was released."""
    return ResultError(
        f"the result of task {task_label(task)} was released: it is deleted as soon as no task "
        "needs it, and nobody gets it any more; run the task again"
    )


class _UnreadError(Exception):
    """A task's failure, which becomes an exception when somebody asks for it."""

    def __init__(self, outcome: TaskOutcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


#: In place of places of results: all of them.
ALL = -1
#: A million futures share one shape.
_shape_of = functools.lru_cache(maxsize=1000)(Results)


@public
class Future(CalledBack[T]):
    """The result of a task that is submitted."""

    def __init__(
        self,
        session: Owner,
        task: int,
        names: tuple[str, ...] = (),
        count: int | None = 1,
        name: str = "",
    ) -> None:
        super().__init__()
        self._session = session
        #: None: as the head tells, when it is needed.
        self._known_shape = None if count is None else _shape_of(count, names)
        #: The number that the head knows the task by.
        self.task = task
        self._name = name
        self._ended = ""
        #: None: nothing is allocated, since there may be a million futures.
        self._followers: list[Callable[[], object]] | None = None

    #: The reason of a task that has ended because of another one.
    _followed: TaskFailure | None = None
    #: The places of results that were released here (`ALL`: of all); None: of none.
    _released: set[int] | None = None

    @property
    def task_id(self) -> str:
        """The task's id in text, such as ``3.17``."""
        return task_label(self.task)

    @property
    def name(self) -> str:
        """The task's name, as lists show it."""
        if not self._name:
            self._learn()
        return self._name

    @property
    def origin(self) -> Origin:
        """The site that the task's id belongs to."""
        return self._session.origin

    @property
    def place(self) -> tuple[int, Origin]:
        """The number of the task, and the site where it is one."""
        return self.task, self.origin

    @property
    def _shape(self) -> Results:
        return self._known_shape or self._learn()

    def _learn(self) -> Results:
        """Ask the head for the details that only the submission knew."""
        told = self._session._query("task", task=self.task_id)
        self._name = told["name"]
        self._known_shape = shape = Results(told["returns"], tuple(told["return_names"]))
        return shape

    @property
    def key(self) -> tuple[int, ...]:
        """The identity of the future: the number of its task, and the places of its results."""
        return (self.task, *range(self._shape.count))

    @property
    def state(self) -> str:
        """The task's state, as far as it is known without asking the head.

        ``COMPLETED``, ``FAILED``, ``TIMED_OUT``, ``CANCELLED`` or ``ABORTED`` when it has ended;
        ``RUNNING`` when it has run for half a second; else ``PENDING``, whatever it waits for (see
        `why`). ``REFUSED`` where the head did not take it, ``LOST`` where nothing more will be
        heard of it.
        """
        if self.cancelled():
            return "CANCELLED"
        if self.done():
            return self._ended or ("FAILED" if self._exception is not None else "COMPLETED")
        return "RUNNING" if self.running() else "PENDING"

    @property
    def first_cause(self) -> str | None:
        """The id of the task for whose end this one was aborted or cancelled: the first on the way.

        None as long as the task has not ended, and where it has ended by itself or by you.
        """
        return None if self._followed is None else task_label(self._followed.cause)

    def result(self, timeout: float | None = None) -> T:
        """Return the task's value; wait for it up to `timeout` seconds.

        Raises
        ------
        TimeoutError
            The task has not ended in time.
        concurrent.futures.CancelledError
            The task was cancelled.
        Exception
            The exception that the task raised. One that affects the caller's control flow, such
            as `SystemExit` or `StopIteration`, is the cause of a `TaskError`.
        """
        if self._is_released and not self._is_here():
            raise released_error(self.task)
        # Most are settled, and a settled future stays so: no lock is needed to see that.
        if self._state != _base.FINISHED or self._exception is not None:
            error = self.exception(timeout)
            if error is not None:
                try:
                    raise error
                finally:
                    del self, error  # the traceback shall not keep them
        value: Any = self._result
        if type(value) is Unread:
            try:
                read = value.read(self.task)
            except ResultError as error:
                raise self._since_gone() or error from None
            with self._condition:  # of two threads that have read it, the first one's counts
                if self._result is value:
                    self._result = read
                value = self._result
        return cast("T", value)

    @property
    def _is_released(self) -> bool:
        """True if the result, or one of several, was released here."""
        return self._released is not None

    def _is_here(self) -> bool:
        """Tell whether the outcome is here, with the value in memory or small."""
        if self._state != _base.FINISHED:
            return self.cancelled()
        value: Any = self._result
        return type(value) is not Unread or all(one.payload for one in value.values)

    def _since_gone(self) -> BaseException | None:
        """Return the error if the result was released or deleted meanwhile, here or elsewhere."""
        if self._is_released:
            return released_error(self.task)
        with contextlib.suppress(PilotError):
            told = self._session._query("result", task=self.task_id)
            if told["state"] == "DELETED":
                return exception_of(TaskOutcome(self.task, "DELETED"))
            values = [Value(**each) for each in told["values"]]
            if any(value.is_released for value in self._mine(values)):
                return released_error(self.task)
        return None

    def _mine(self, values: Sequence[Value]) -> Sequence[Value]:
        """Return the future's own among the values of the task."""
        return values

    def _let_go(self) -> int | Ref:
        """Know that results are released; return which: all of a task, or one of several."""
        self._released = {ALL}
        return self.task

    def loaded_type(self) -> type | None:
        """Return the class of the result if that is in memory, or small; None: it would be read."""
        value: Any = self._result
        if type(value) is Unread:
            if value.whole or not value.values[0].is_inline:
                return None
            value = self.result()
        return type(value)

    def array(self, name: str = "", timeout: float | None = None) -> StoredArray | NDArray[Any]:
        """Return an array of the result without reading it: slices of it read what they take.

        A small result, or one that `result` has read, has its array in memory: that is a NumPy
        array. What a slice reads is not checked for damage, as `result` does it.

        Parameters
        ----------
        name
            The array's place in the result: ``fields/1`` is that of ``result["fields"][1]``; empty
            if the result is the array.
        timeout
            The time to wait for the task, in seconds; None: however long it takes.

        Raises
        ------
        KeyError
            The result has no such array; the message names those that it has.
        TypeError
            The task has several results: take the future of one.
        ResultError
            The file with the result is gone or damaged.
        TimeoutError, concurrent.futures.CancelledError, Exception
            As `result` raises them.
        """
        from pilot.data.stored_array import array_in, stored_array  # loads NumPy and HDF5

        if self._shape.count > 1:
            raise TypeError(
                f"task {self.task_id} has {self._shape.count} results: take future[0].array()"
            )
        if self._is_released and not self._is_here():
            raise released_error(self.task)
        if (error := self.exception(timeout)) is not None:
            raise error
        value: Any = self._result
        if type(value) is Unread and value.values[0].is_released:
            raise released_error(self.task)
        if type(value) is not Unread:
            return array_in(value, name)
        return stored_array(value.directory, value.values[0], name, self._since_gone)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception that the task raised, or None; wait up to `timeout` seconds."""
        try:
            error = super().exception(timeout)
        except concurrent.futures.CancelledError:
            if self._followed is None:
                raise
            told = f"task {self.task_id} was cancelled: {self._followed.message}"
            raise concurrent.futures.CancelledError(told) from None
        if isinstance(error, _UnreadError):
            made = exception_of(error.outcome)
            with self._condition:
                if self._exception is error:
                    self._exception = made
                error = self._exception
        return error

    def cancel(self) -> bool:
        """End the task: a waiting one does not start, a running one is killed.

        Does not wait until the head and the pilots have heard of it. What starts in these few
        milliseconds is killed as well.

        Returns
        -------
        bool
            False if the task had already ended.
        """
        self._session._check_process()
        if not self._end_cancelled():
            return self.cancelled()
        self._session._cancel(self)
        return True

    def why(self) -> str:
        """Return what the task waits for, or how it ended, in lines, as ``pilot why`` prints it.

        Raises
        ------
        HeadError
            The head does not answer.
        """
        return self._session.why(self)

    def logs(self) -> str:
        """Return the output of the task's last attempt, up to now if it is still running.

        Raises
        ------
        HeadError
            The head does not answer.
        PilotError
            The head knows no such task.
        """
        from pilot.client.logs import Output, last_attempt  # loads what only terminals need

        ask, directory = self._session._query, self._session.site.directory
        spans = last_attempt(ask("logs", task=self.task_id))
        known: dict[str, int] | None = None
        if any(span["end"] < 0 for span in spans):
            # What is written after this is the task's only if it still runs then.
            paths = {span["path"] for span in spans}
            known = {p: (directory / p).stat().st_size for p in paths if (directory / p).exists()}
            spans = last_attempt(ask("logs", task=self.task_id))
        pieces: list[bytes] = []
        Output(directory, pieces.append).show(spans, known)
        return Lines(b"".join(pieces).decode(errors="replace"))

    # --- the end, as the session tells it

    def _settle(self, outcome: TaskOutcome) -> None:
        """Take the outcome of the task, which has ended; its value is not read yet."""
        if outcome.failure is not None and outcome.failure.cause and not self.done():
            self._followed = outcome.failure
        if outcome.state == "CANCELLED":
            self._end_cancelled()
            return
        if outcome.state != "COMPLETED":
            self._fail(_UnreadError(outcome), outcome.state)
            return
        values = outcome.values
        value = Unread(values, self._session.site.directory, len(values) != 1)
        # As `set_result` does it, which raises where this one was cancelled meanwhile.
        with self._condition:
            self._ended = self._ended or "COMPLETED"
            if self._state not in (_base.PENDING, _base.RUNNING):
                return
            self._result = cast("T", value)
            self._state = _base.FINISHED
            for waiter in self._waiters:
                waiter.add_result(self)
            self._condition.notify_all()
        self._invoke_callbacks()

    def _fail(self, error: BaseException, state: str) -> None:
        """End the future with an error: nothing more will be heard of the task."""
        self._ended = self._ended or state
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self.set_exception(error)

    def _disown(self, error: BaseException) -> None:
        """Fail in a forked copy of the process, where nothing will be heard of the task."""
        # Another thread, which is not here, may have held the lock; callbacks are the parent's.
        self._condition = threading.Condition()
        self._waiters.clear()
        self._done_callbacks.clear()
        self._fail(error, "LOST")

    def _start(self) -> None:
        """Note that the task runs."""
        with self._condition:
            if self._state == _base.PENDING:
                self._state = _base.RUNNING

    def _end_cancelled(self) -> bool:
        """Become cancelled, whether running or not; False if the task had ended."""
        with self._condition:
            if self.done():
                return False
            # The standard class refuses to cancel a running one; the head can end it.
            self._state = _base.CANCELLED
            self._condition.notify_all()
        self._invoke_callbacks()
        with self._condition:
            if self._state == _base.CANCELLED:
                self.set_running_or_notify_cancel()
        return True

    def _invoke_callbacks(self) -> None:
        # None is added to a future that is done.
        followers, self._followers = self._followers, None
        for follow in followers or ():
            follow()
        if self._done_callbacks:
            super()._invoke_callbacks()

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call a function with the future when it is done, or at once if it is.

        Callbacks run in order on one thread of the session.
        """
        self._live_until_done()
        super().add_done_callback(fn)

    def _live_until_done(self) -> None:
        """Have the future live until it is done, whoever deletes it: it has a callback."""

    def _when_done(self, call: Callable[[], object]) -> None:
        """Call a function of Pilot's, which may not wait, as soon as the future is done."""
        with self._condition:
            if not self.done():
                if self._followers is None:
                    self._followers = []
                self._followers.append(call)
                return
        call()

    # --- parts

    def __getitem__(self, key: int | str) -> Future[Any]:
        """Return the future of one of several results, by number or name.

        Raises
        ------
        TypeError
            The task has one result.
        KeyError, IndexError
            The task has no such result.
        """
        return PartFuture(self, self._shape.index(key, f"task {self.task_id}"))

    def __iter__(self) -> Iterator[Future[Any]]:
        """Iterate over the futures of several results.

        Raises
        ------
        TypeError
            The task has one result.
        """
        self._shape.check_parts(f"task {self.task_id}")
        return iter([PartFuture(self, index) for index in range(self._shape.count)])

    def _check_argument(self) -> None:
        if self._is_released:
            raise SubmissionError(
                f"a result of task {self.task_id} was released, and cannot be an argument any more"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        self._check_argument()
        count = (self._known_shape or self._learn()).count
        places = (0,) if count == 1 else tuple(range(count))
        return refer(self.task, places, count > 1, self._session.origin)

    def __repr__(self) -> str:
        name = f" {self._name!r}" if self._name else ""
        return f"<pilot future of task {self.task_id}{name}: {self.state}>"


class PartFuture(Future[Any]):
    """The future of one of a task's several results."""

    def __init__(self, whole: Future[Any], index: int) -> None:
        super().__init__(whole._session, whole.task, name=whole._name)
        self._whole = whole
        self._index = index
        whole._when_done(self._follow)

    def _follow(self) -> None:
        """Settle the part as the whole is settled."""
        follow(self, self._whole, self._part)

    def _live_until_done(self) -> None:
        self._whole._live_until_done()

    def _part(self, value: Any) -> Any:
        if type(value) is Unread:
            return value.part(self._index)
        return value[self._index] if self._whole._shape.count > 1 else value

    @property
    def _is_released(self) -> bool:
        released = self._whole._released
        return released is not None and not released.isdisjoint((self._index, ALL))

    def _mine(self, values: Sequence[Value]) -> Sequence[Value]:
        return values[self._index : self._index + 1]

    def _let_go(self) -> int | Ref:
        if self._whole._shape.count == 1:
            return self._whole._let_go()
        released = self._whole._released
        self._whole._released = {self._index} if released is None else {self._index, *released}
        return self.task, self._index

    @property
    def key(self) -> tuple[int, ...]:
        """The identity of the part; see `Future.key`."""
        return (self.task, self._index)

    def cancel(self) -> bool:
        """End the whole task."""
        return self._whole.cancel()

    def __reduce__(self) -> tuple[Any, ...]:
        self._check_argument()
        return refer(self.task, (self._index,), whole=False, origin=self.origin)


def follow(
    future: Future[Any], other: Future[Any], take: Callable[[Any], Any] = lambda value: value
) -> None:
    """Settle a future as another one is settled, with what `take` makes of the other's value."""
    if future.done():
        return
    future._followed = other._followed
    if other.cancelled():
        future._end_cancelled()
        return
    if other._exception is not None:
        future._fail(other._exception, other._ended)
        return
    future._ended = other._ended
    try:
        value = take(other._result)
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(value)
