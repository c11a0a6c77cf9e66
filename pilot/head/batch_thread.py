"""The thread that speaks to the batch system, which is slow and sometimes silent.

Invariants
----------
- One command at a time; its answer is taken in by the head's loop, in `BatchThread.take`.
- A command without an answer says nothing of jobs; that there was none is known until the next
  answer.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from pilot.head.machine import HERE, Machine
from pilot.scheduler.batch import BatchError, BatchUnavailable

log = logging.getLogger("pilot.fleet")


class BatchThread:
    """Runs commands of the batch system one after the other.

    Parameters
    ----------
    wake
        Called from the thread when there is something for `take`.
    machine
        Has the thread, and tells the time.
    """

    def __init__(self, wake: Callable[[], None], machine: Machine = HERE) -> None:
        self._wake = wake
        self._now = machine.now
        self._thread = machine.start_thread("batch")
        self._answers: deque[Callable[[], None]] = deque()
        #: The reason why the batch system gives no answer, and since when; empty: it answers.
        self.silence, self.silent_since = "", 0.0

    def ask(
        self,
        question: Callable[[], Any],
        answer: Callable[[Any], None],
        failed: Callable[[BatchError], None] | None = None,
        done: Callable[[], None] | None = None,
    ) -> None:
        """Run `question` in the thread; in the loop then `answer` or `failed`, and last `done`."""

        def work() -> None:
            try:
                result = question()
            except BatchError as error:
                caught = error
                self._answers.append(lambda: (failed or self.no_answer)(caught))
            except Exception as error:
                unexpected = BatchUnavailable(f"{type(error).__name__}: {error}")
                log.exception("the batch adapter failed")
                self._answers.append(lambda: (failed or self.no_answer)(unexpected))
            else:
                self._answers.append(lambda: answer(result))
            if done is not None:
                self._answers.append(done)
            self._wake()

        self._thread.submit(work)

    def take(self) -> None:
        """Handle the answers of the batch system that have arrived."""
        while self._answers:
            self._answers.popleft()()

    def wait_for(self, command: Callable[[], None]) -> None:
        """Queue a command, and return when it has ended."""
        self._thread.submit(command).result()

    def answered(self) -> None:
        """Note that the batch system answers."""
        self.silence = ""

    def no_answer(self, error: BatchError) -> None:
        """Note that the batch system does not answer."""
        self.silent_since = self.silent_since if self.silence else self._now()
        self.silence = str(error)
        log.warning("the batch system does not answer: %s", error)

    def close(self) -> None:
        """Wait for the command in progress."""
        self._thread.shutdown()
