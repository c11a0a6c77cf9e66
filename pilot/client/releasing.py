"""Futures that release their results when nobody has them any more: `Session(release_on_del=True)`.

A user's future is another object than the one that the session awaits, and follows it. So it may
be deleted at any moment, also before the task has ended, and leaving the session waits for the
task all the same.

Invariants
----------
- A deletion does nothing but to append a number to a queue, which takes no lock: it may come in any
  thread, in the middle of anything, in a forked copy, and at the end of the interpreter.
- What has a callback lives until that was called, and what has parts as long as they do.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from pilot.client.future import ALL, Future, follow
from pilot.model.ids import Ref

T = TypeVar("T")


class ReleasingFuture(Future[T]):
    """A future whose results are released when it is deleted.

    Parameters
    ----------
    awaited
        The future that the session awaits.
    release
        Queues the number of a task whose results are released; it takes no lock.
    """

    def __init__(self, awaited: Future[T], release: Callable[[int], object]) -> None:
        shape = awaited._known_shape
        count, names = (None, ()) if shape is None else (shape.count, shape.names)
        super().__init__(awaited._session, awaited.task, names, count, awaited._name)
        self._awaited = awaited
        self._release = release
        this = weakref.ref(self)
        awaited._when_done(lambda: _follow(this))

    def _live_until_done(self) -> None:
        if not self.done():
            # By this reference; it does nothing where the other one came first.
            self._awaited._when_done(lambda: follow(self, self._awaited))

    def cancel(self) -> bool:
        """End the task; see `Future.cancel`."""
        return self._awaited.cancel()

    def _let_go(self) -> int | Ref:
        self._awaited._let_go()
        return super()._let_go()

    def _start(self) -> None:
        self._awaited._start()

    def running(self) -> bool:
        """Return True if the task runs."""
        return not self.done() and self._awaited.running()

    def __del__(self) -> None:
        # Not where `__init__` has failed, and not twice.
        if (self._released is None or ALL not in self._released) and hasattr(self, "_release"):
            self._release(self.task)


def _follow(this: weakref.ref[ReleasingFuture[Any]]) -> None:
    if (future := this()) is not None:
        follow(future, future._awaited)
