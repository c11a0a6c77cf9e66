"""Threads of a simulated head: each does one thing after the other, at some later time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from simulated.clock import Clock


class _Result(Future[Any]):
    """What a thread will have done; who waits for it has it done at once."""

    def __init__(self, thread: Thread) -> None:
        super().__init__()
        self._thread = thread

    def result(self, timeout: float | None = None) -> Any:
        """Have all that comes before it done, and it."""
        while not self.done():
            self._thread.do_next()
        return super().result(timeout)


class Thread(Executor):
    """A thread.

    Parameters
    ----------
    clock
        The time.
    delay
        Tells how long the next thing takes, in seconds.
    run
        Runs what a thread does as part of its process.
    """

    def __init__(
        self, clock: Clock, delay: Callable[[], float], run: Callable[[Callable[[], None]], None]
    ) -> None:
        self._clock = clock
        self._delay = delay
        self._run = run
        self._todo: deque[tuple[_Result, Callable[[], Any]]] = deque()
        self._is_alive = True
        self._is_busy = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have something done."""
        result = _Result(self)
        self._todo.append((result, lambda: fn(*args, **kwargs)))
        if not self._is_busy:
            self._is_busy = True
            self._clock.after(self._delay(), self._go_on)
        return result

    def _go_on(self) -> None:
        if self._is_alive and self._todo:
            self._run(self.do_next)
        self._is_busy = self._is_alive and bool(self._todo)
        if self._is_busy:
            self._clock.after(self._delay(), self._go_on)

    def do_next(self) -> None:
        """Do the next thing now."""
        result, action = self._todo.popleft()
        try:
            value = action()
        except Exception as error:
            result.set_exception(error)
        else:
            result.set_result(value)

    def die(self, goes_through: bool) -> None:
        """End with the process; what was under way is done or not."""
        self._is_alive = False
        if goes_through and self._todo:
            self.do_next()
        self._todo.clear()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End when all is done."""
        while self._todo:
            self.do_next()
