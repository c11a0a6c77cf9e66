"""The thread that looks at files and writes them, so that nobody else waits for a file system.

What it has for the loop of its process it tells by a descriptor, as a socket would.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable

log = logging.getLogger("pilot.wire")

#: The longest time between two turns, in seconds.
_MOST_S = 1.0


class Helper:
    """A thread with turns, which come when they are due or when it is woken.

    Parameters
    ----------
    turn
        Called with the time (`time.monotonic`) for each turn; returns the time of the next one;
        None: there is none, and the thread ends.
    """

    def __init__(self, turn: Callable[[float], float | None]) -> None:
        self._turn = turn
        self._woken = threading.Event()
        self._turned = threading.Condition()
        #: Can be read when there is something for the loop.
        self.source = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="files", daemon=True)

    def start(self) -> None:
        """Begin with the turns."""
        self._thread.start()

    def _run(self) -> None:
        due: float | None = 0.0
        while due is not None:
            self._woken.wait(min(_MOST_S, max(0.0, due - time.monotonic())))
            self._woken.clear()
            try:
                due = self._turn(time.monotonic())
            except Exception:
                # The connections of all peers depend on it.
                log.exception("looking at files failed")
                due = time.monotonic() + _MOST_S
            with self._turned:
                self._turned.notify_all()

    def wake(self) -> None:
        """Have a turn at once."""
        if not self._woken.is_set():
            self._woken.set()

    def tell(self) -> None:
        """Make `source` readable."""
        with self._lock:
            if self._is_open:
                os.eventfd_write(self.source, 1)

    def hear(self) -> None:
        """Make `source` unreadable, until something new is told."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.source)

    def poll(self, timeout_s: float | None) -> bool:
        """Wait until `source` is readable, for up to `timeout_s` seconds; None: without a limit."""
        poller = select.poll()
        poller.register(self.source, select.POLLIN)
        return bool(poller.poll(None if timeout_s is None else timeout_s * 1e3))

    def wait_until(self, has_come: Callable[[], bool], deadline: float) -> bool:
        """Wait until turns have brought something about, or `deadline` (`time.monotonic`)."""
        with self._turned:
            while not has_come():
                left_s = deadline - time.monotonic()
                if left_s <= 0.0 or not self._thread.is_alive():
                    return has_come()
                self._turned.wait(min(left_s, _MOST_S))
        return True

    def close(self, deadline: float) -> None:
        """Wait for the end of the thread, until `deadline`, and close `source`."""
        self.wake()
        if self._thread is not threading.current_thread():
            self._thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            if self._is_open:
                self._is_open = False
                os.close(self.source)
