"""The thread that runs users' callbacks when futures are done.

The connection's thread brings the results, so no code of a user's may run on it: a callback that
waits for another result would wait for itself.

Invariants
----------
- A callback that has to wait holds up other callbacks, and nothing else.
- Whatever a callback raises, `SystemExit` too, is logged, and the next one comes.
- Callbacks come in the order in which their futures were done.
"""

from __future__ import annotations

import concurrent.futures
import logging
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_log = logging.getLogger("concurrent.futures")  # where users look for it

_thread = threading.local()


class Callbacks:
    """A thread for callbacks, which starts with the first one."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._runner: threading.Thread | None = None

    def serve_this_thread(self) -> None:
        """Take over the callbacks of futures that this thread settles."""
        _thread.callbacks = self

    def later(self, call: Callable[[], object]) -> None:
        """Call a function on the thread, after everything that was queued before."""
        if self._runner is None:
            self._runner = threading.Thread(target=self._run, name="pilot-callbacks", daemon=True)
            self._runner.start()
        self._queue.put(call)

    def close(self, wait: bool = True) -> None:
        """End the thread after the queued calls; wait for that, unless called on the thread."""
        if self._runner is not None:
            self._queue.put(None)
            if wait and self._runner is not threading.current_thread():
                self._runner.join()

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            call()
            del call  # it holds a future, which nobody else may want any more


class CalledBack(concurrent.futures.Future[T]):
    """A future whose callbacks do not run on the thread of a connection."""

    _done_callbacks: list[Callable[..., object]]

    def _invoke_callbacks(self) -> None:
        callbacks: Callbacks | None = getattr(_thread, "callbacks", None)
        if callbacks is None:
            super()._invoke_callbacks()  # type: ignore[misc]  # not in its stubs
        elif self._done_callbacks:
            callbacks.later(self._call_back)

    def _call_back(self) -> None:
        for callback in self._done_callbacks:
            try:
                callback(self)
            except BaseException:
                _log.exception("exception calling callback for %r", self)
