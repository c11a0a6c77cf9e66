"""The cores of a task that waits for other tasks: lent to others meanwhile.

Invariants
----------
- Cores are lent only while the main thread of the task's own process waits: what waits in another
  thread, or in a forked copy, keeps nothing from going on that has them.
- When a wait is over, however it ends, the thread goes on with cores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Lender(Protocol):
    """The process that runs the task, as far as it lends its cores."""

    def lend(self) -> bool:
        """Give the cores back to the pilot; return False if there are none to be lent now."""

    def take_again(self) -> None:
        """Wait until the pilot has cores for the task again."""


_lender: Lender | None = None


def set_lender(lender: Lender | None) -> None:
    """Set the lender of this process; for executors."""
    global _lender
    _lender = lender


@contextmanager
def lending() -> Iterator[None]:
    """Lend the cores of the task that runs here, if the caller is its main thread."""
    lender = _lender
    if (
        lender is None
        or threading.current_thread() is not threading.main_thread()
        or not lender.lend()
    ):
        yield
        return
    try:
        yield
    finally:
        lender.take_again()


class LendingEvent(threading.Event):
    """An event whose waits lend the cores of the task that runs here."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the event, for up to `timeout` seconds."""
        if self.is_set():
            return True
        with lending():
            return super().wait(timeout)


class LendingWaiters(list[Any]):
    """The waiters of a future, of `concurrent.futures.wait` and `as_completed`, which lend.

    Parameters
    ----------
    begin
        Called when there is one.
    """

    def __init__(self, begin: Callable[[], object]) -> None:
        super().__init__()
        self._begin = begin

    def append(self, waiter: Any) -> None:
        """Add a waiter, which does not wait yet."""
        self._begin()
        super().append(waiter)
        if type(waiter.event) is threading.Event:
            waiter.event = LendingEvent()
