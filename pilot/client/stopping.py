"""The notice to a running task that it is to stop soon, as the task's own process sees it.

The node worker writes words of memory that both share (`pilot.worker.shared_memory` says where).
So a task may look as often as it likes: a look is no system call, and needs no message to be read
by a process that is busy.

Invariants
----------
- A notice is for one attempt of one task. It is never taken back.
- A process in which no task looks for notices takes SIGTERM as any process does. Where one does,
  SIGTERM that is sent to all processes of a job does not end it before its time: it ends when the
  node worker means it, or by SIGKILL.
- A copy of the process that a task forks takes SIGTERM as any process does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Protocol

#: The places of the words: the task that looks for notices; the task and the attempt that are to
#: stop; and whether the process is to end at SIGTERM.
LISTENS, TASK, ATTEMPT, ENDS = range(4)
#: The thread that calls back looks so often, in seconds.
LOOK_S = 0.1


class Words(Protocol):
    """The four words in shared memory."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


class Stopping:
    """The words by which a process is told that its task is to stop.

    Parameters
    ----------
    words
        The words.
    notice
        Reads when the task will be ended, in seconds since the epoch, and why it is to stop.
    """

    def __init__(self, words: Words, notice: Callable[[], tuple[float, str]]) -> None:
        self.words = words
        self.notice = notice
        self._pid = os.getpid()

    def listen(self, task: int) -> bool:
        """Note that a task looks for notices, and may go on for a while after SIGTERM; return False
        if that has to be said again, by the main thread."""
        self.words[LISTENS] = task
        if threading.current_thread() is not threading.main_thread():
            return False
        # A handler of the task's own stays. This one is taken away after the task.
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._on_sigterm)
        return True

    def _on_sigterm(self, *_: object) -> None:
        if self.words[ENDS] or os.getpid() != self._pid:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)


def never() -> Stopping:
    """Return the words of a process that nobody tells to stop."""
    return Stopping([0] * 4, lambda: (0.0, ""))


class Callbacks:
    """The callbacks of one attempt, and the thread that calls them once it is told to stop.

    A thread of their own: the main thread may be in code that is not Python for minutes.

    Parameters
    ----------
    is_told
        Tells whether the attempt is to stop.
    """

    def __init__(self, is_told: Callable[[], bool]) -> None:
        self._is_told = is_told
        self._waiting: list[Callable[[], object]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="on-stop", daemon=True)
        self._thread.start()

    def add(self, callback: Callable[[], object]) -> None:
        """Call `callback` once the attempt is told to stop, or now if it is."""
        self._waiting.append(callback)

    def close(self) -> None:
        """Call nothing more; wait for a callback that runs."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(LOOK_S):
            while self._waiting and self._is_told() and not self._ended.is_set():
                callback = self._waiting.pop(0)
                try:
                    callback()
                except BaseException:
                    # As `concurrent.futures` does: the task goes on.
                    sys.stderr.write(f"on_stop: {callback!r} has raised\n")
                    traceback.print_exc()
