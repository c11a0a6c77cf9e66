"""Futures of tasks inside of another task, whose cores are lent while it waits for them.

Of detached children, and of tasks that are named by their ids. Other children come to be when their
parent has ended: for them there is `ChildFuture`.

Invariants
----------
- The head is asked how a task ends once somebody wants to know: a child that nobody waits for costs
  nothing more. It is asked once for all those of which it was not asked before.
- What a user's code does while a value is read, it does with the task's cores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pilot.client.future import Future, Owner, PartFuture
from pilot.client.lending import LendingWaiters, lending
from pilot.model.ids import Ref

if TYPE_CHECKING:
    from pilot.model.tasks import TaskOutcome

T = TypeVar("T")


class Asker(Owner, Protocol):
    """The session of a task, as far as its futures need it."""

    def _attend(self) -> None: ...


class Lending(Future[T]):
    """The part that futures of tasks, and of single results of them, have in common."""

    _waiters: list[Any]

    def _attend(self) -> None:
        """Have the head tell how the task ends."""
        raise NotImplementedError

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception that the task raised, or None; see `Future.exception`.

        The cores of the task that waits are lent meanwhile; `timeout` does not count the time until
        it has some again.
        """
        if not self.done():
            with lending(), self._condition:
                self._condition.wait_for(super().done, timeout)
            timeout = 0.0
        return super().exception(timeout)

    def done(self) -> bool:
        """Tell whether the task has ended."""
        self._attend()
        return super().done()

    def running(self) -> bool:
        """Tell whether the task runs."""
        self._attend()
        return super().running()

    def cancelled(self) -> bool:
        """Tell whether the task was cancelled."""
        self._attend()
        return super().cancelled()

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call `fn` when the task has ended; see `concurrent.futures.Future`."""
        self._attend()
        super().add_done_callback(fn)

    @property
    def refs(self) -> tuple[Ref, ...]:
        """The results that this future stands for."""
        task, *indices = self.key
        return tuple((task, index) for index in indices)


class InnerFuture(Lending[T]):
    """The future of a task inside of another one."""

    _session: Asker

    def __init__(
        self,
        session: Asker,
        task: int,
        names: tuple[str, ...] = (),
        count: int | None = 1,
        name: str = "",
    ) -> None:
        super().__init__(session, task, names, count, name)
        #: True once the head was asked how the task ends.
        self.is_attended = False
        self._waiters = LendingWaiters(self._attend)

    def _attend(self) -> None:
        if not self.is_attended:
            self._session._attend()

    def settle(self, outcome: TaskOutcome) -> None:
        """Take the outcome of the task."""
        self._settle(outcome)

    def refuse(self, error: Exception) -> None:
        """Take the error with which the head refused the task."""
        self._fail(error, "REFUSED")

    def fail(self, error: Exception) -> None:
        """Take the error after which nothing more will be heard of the task."""
        self._fail(error, "LOST")

    def started(self) -> None:
        """Note that the task runs."""
        self._start()

    def disown(self, error: Exception) -> None:
        """Take the error that this process is a forked copy of the one that waits."""
        self._disown(error)

    def __getitem__(self, key: int | str) -> Future[Any]:
        """Return the future of one of several results; see `Future`."""
        return _InnerPart(self, self._shape.index(key, f"task {self.task_id}"))

    def __iter__(self) -> Any:
        """Iterate over the futures of several results; see `Future`."""
        self._shape.check_parts(f"task {self.task_id}")
        return iter([_InnerPart(self, index) for index in range(self._shape.count)])


class _InnerPart(PartFuture, Lending[Any]):
    """The future of one of several results of a task, inside of another one."""

    def __init__(self, whole: InnerFuture[Any], index: int) -> None:
        self._inner = whole
        super().__init__(whole, index)
        self._waiters = LendingWaiters(self._attend)

    def _attend(self) -> None:
        self._inner._attend()
