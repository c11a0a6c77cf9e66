"""The descriptors of a process that runs tasks: whether tasks have used them up, and which errors
come of that.

A task may leave files open. What comes after it in the same process then fails with "Too many open
files", be it Pilot's own reading and writing or another task. So such a process runs no other task,
and a task that failed there because of an earlier one has another attempt.

Invariants
----------
- Nothing is looked at after each task: the kernel numbers a file that is opened anyway, for
  `Usage`, by the lowest number that is free. All else is looked at only where something has failed.
- A task that has used them up itself is told so. It is known to be that one where a look just
  before it found most of them; and at the latest in its `MOST_ATTEMPTS`-th attempt.
"""

from __future__ import annotations

import errno
import os
from resource import RLIMIT_NOFILE, getrlimit

#: A process in which fewer are left runs no other task.
FEW = 32
#: A task may be the cause each time, however rarely that is seen: later attempts are its own fault.
MOST_ATTEMPTS = 3
_WANT = (errno.EMFILE, errno.ENFILE)
_TEXTS = tuple(map(os.strerror, _WANT))
#: So many errors are gone through that have led to each other.
_LONGEST_CHAIN = 100


class Descriptors:
    """The descriptors of this process, as few or as many as there are when the object is made."""

    def __init__(self) -> None:
        left = self._left(_lowest_free())
        # A process that begins with few is as good as the next one.
        self._few = 0 if left < FEW else FEW
        self._half = left // 2
        #: A number below which the kernel's lowest free one tells of no want.
        self._enough = max(0, getrlimit(RLIMIT_NOFILE)[0] - FEW)

    def are_few(self, lowest: int) -> bool:
        """Tell whether few are left where the lowest free number was this; negative: none was."""
        if 0 <= lowest < self._enough:
            return False
        return self._left(lowest) < self._few

    def is_worn(self, lowest: int) -> bool:
        """Tell whether less than half is left of what there was: a task that fails may miss the
        rest."""
        return self._left(lowest) < max(self._half, self._few)

    def is_worn_now(self) -> bool:
        """Look whether less than half is left."""
        return self.is_worn(_lowest_free())

    def _left(self, lowest: int) -> int:
        return getrlimit(RLIMIT_NOFILE)[0] - lowest if lowest >= 0 else 0


def is_of_want(error: BaseException) -> bool:
    """Tell whether an error, or one that has led to it, is that no file can be opened."""
    known: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting and len(known) < _LONGEST_CHAIN:
        cause = waiting.pop()
        if cause is None or any(cause is each for each in known):
            continue
        known.append(cause)
        if isinstance(cause, OSError) and cause.errno in _WANT:
            return True
        # Libraries that open files themselves have it in their text only.
        if isinstance(cause, (OSError, ImportError)) and any(
            isinstance(word, str) and text in word for word in cause.args for text in _TEXTS
        ):
            return True
        waiting += (cause.__cause__, cause.__context__)
    return False


def is_of_earlier(attempt: int, was_known: bool) -> bool:
    """Tell whether the descriptors that a task missed are to be thought used up before it.

    Parameters
    ----------
    attempt
        The attempt of the task that has failed.
    was_known
        True if a look just before the task found more than half of them left.
    """
    return not was_known and attempt <= MOST_ATTEMPTS


def _lowest_free() -> int:
    """Return the lowest number that is free; negative if none is."""
    try:
        descriptor = os.dup(0)
    except OSError as error:
        return -1 if error.errno in _WANT else 0
    os.close(descriptor)
    return descriptor
