"""What each task of this process takes: processor time, and its peak of memory.

Invariants
----------
- A task that ran for less than a millisecond costs no call of the system: nothing starts children,
  or takes much memory, in less, and it is taken to have computed all the time.
- A peak is that of the process while the task ran, not of a task before it: the kernel is told to
  begin anew after one that made it rise, and now and then, as memory may have been given back.
- What goes on between two tasks counts for the next one that is looked at, and never for one that
  was too short for that.
"""

from __future__ import annotations

import contextlib
import errno
import os
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from time import process_time

#: What the kernel takes for the word to forget the peak of this process's memory, and where.
_CLEAR, _PEAK = "/proc/self/clear_refs", b"5"
#: A task that ran for less is not looked at closely, in seconds.
_LEAST_S = 0.001
#: The peak is forgotten when it has risen by so much, in KiB, and after so long, in seconds.
_RISE_KIB = 1024
_ANEW_S = 0.02


class Usage:
    """The usage of the tasks of this process, one after the other.

    Parameters
    ----------
    sample
        The words in which the node worker tells the memory of a task and all its processes (see
        `shared_memory.sample_of`); None: nobody does.
    """

    def __init__(self, sample: memoryview[int] | None = None) -> None:
        self._sample = [0, 0] if sample is None else sample
        self._own_s, self._below_s = process_time(), 0.0
        self._below_kib = getrusage(RUSAGE_CHILDREN)[2]
        self._forgot_at = 0.0
        self._least_kib = self._mib = 0
        #: The lowest descriptor that was free at the last look, and when that was; negative: none.
        self.lowest_free = 0
        self.looked_at = 0.0
        self._forget(0.0)

    def take(self, task: int, begin: float, end: float, program_kib: int = 0) -> tuple[float, int]:
        """Return what a task has taken that has just ended: seconds of processors, and MiB at most.

        Parameters
        ----------
        task
            The task.
        begin, end
            When it ran, in seconds since the epoch.
        program_kib
            Of a command: the peak of its program.
        """
        used_s, mib = end - begin, self._mib
        is_short = 0.0 <= used_s < _LEAST_S
        if is_short and end - self._forgot_at <= _ANEW_S:
            self._own_s += used_s
        else:
            looked_s, mib = self._look(end, program_kib)
            if not is_short:
                used_s = looked_s
        if self._sample[0] == task:
            mib = max(mib, self._sample[1])
            self._sample[0] = 0  # the next attempt may be here
        return used_s, mib

    def _look(self, now: float, program_kib: int) -> tuple[float, int]:
        """Return the processor time since the last look, but for what tasks have been told since,
        and the peak in MiB."""
        own_s = process_time()
        # Told tasks may have waited for what they were taken to compute.
        used_s = max(0.0, own_s - self._own_s)
        self._own_s = own_s
        own_kib = getrusage(RUSAGE_SELF)[2]
        below = getrusage(RUSAGE_CHILDREN)
        below_s = below[0] + below[1]
        used_s += below_s - self._below_s
        self._below_s = below_s
        kib = program_kib or own_kib
        if below[2] > self._below_kib:  # else one of an earlier task was larger
            self._below_kib = below[2]
            kib = max(kib, below[2])
        if own_kib > self._least_kib + _RISE_KIB or now - self._forgot_at > _ANEW_S:
            self._forget(now)
        return used_s, -(-kib // 1024)

    def _forget(self, now: float) -> None:
        """Have the next task begin with the memory that the process has now as its peak."""
        self._forgot_at = self.looked_at = now
        self.lowest_free = 0
        try:
            file = os.open(_CLEAR, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:  # a kernel that cannot: the peak is the process's own
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self.lowest_free = -1
        else:
            self.lowest_free = file
            with contextlib.suppress(OSError):
                os.write(file, _PEAK)
            os.close(file)
        self._least_kib = getrusage(RUSAGE_SELF)[2]
        self._mib = -(-self._least_kib // 1024)
