"""The machine under the head: a clock, and threads that do one thing after the other.

The parts receive it as an argument. So a simulation can give them another machine, on which it
decides how fast time goes by and how long threads take.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import NamedTuple

from pilot import clock
from pilot.clock import Clock


def _start_thread(name: str) -> Executor:
    threads = ThreadPoolExecutor(1, name)
    # At once, since it would start with its first work, and keep that in its queue if it cannot.
    threads.submit(int).result()
    return threads


class Machine(NamedTuple):
    """The services of the machine that the parts of the head use."""

    #: Tells the time, in seconds since the epoch.
    now: Clock = clock.now
    #: Starts a thread of this name, which does one thing after the other; a RuntimeError says that
    #: there can be no more threads.
    start_thread: Callable[[str], Executor] = _start_thread
    #: Waits, in the thread that calls it, for a time in seconds.
    sleep: Callable[[float], None] = time.sleep


#: The machine of this process.
HERE = Machine()
