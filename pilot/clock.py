"""The clock of long-lived processes: seconds since the epoch, in steps that are never wrong.

The wall clock jumps: a machine whose time was wrong is set right, a virtual machine is moved. A
process that compares two of its readings takes a jump for silence, and gives up what lives, or
waits for as long as the clock was set back. So the head, agents and node workers read this clock
in place of ``time.time``: it is the wall clock as it was when the process started, and from then
on advances with the kernel's count of seconds since the boot.

Invariants
----------
- The difference of two readings in one process is the time that went by between them, including
  the time that the machine was suspended, whatever was done to the wall clock.
- Readings of different processes may be compared as wall clocks may be, and no better.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

#: Tells the time, in seconds since the epoch.
Clock: TypeAlias = Callable[[], float]

_gettime, _BOOTTIME = time.clock_gettime, time.CLOCK_BOOTTIME
_OFFSET_S = time.time() - _gettime(_BOOTTIME)


def now() -> float:
    """Return the seconds since the epoch, by a clock that does not jump."""
    return _gettime(_BOOTTIME) + _OFFSET_S


def from_wall(moment: float) -> float:
    """Convert a moment of the wall clock, such as the end of a job, to this clock.

    Convert it when it is learnt, and once: later the wall clock may have jumped.
    """
    return moment - time.time() + now()
