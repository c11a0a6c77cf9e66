"""The killing of a silent head of this machine, stopped or hung: it still locks the database."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Protocol

from pilot.errors import HeadError

#: The seconds within which a killed process ends, unless it hangs in the kernel.
_KILL_S = 10.0


class Head(Protocol):
    """A head, as its lease or its address names it."""

    @property
    def pid(self) -> int: ...
    def is_here(self) -> bool: ...
    def is_dead(self) -> bool: ...


def kill_head(head: Head, who: str) -> bool:
    """Kill the process of a head; return False where it cannot be seen from here.

    Parameters
    ----------
    head
        The head, which is silent, and whose lease has run out.
    who
        What messages call it.

    Raises
    ------
    HeadError
        The process does not end.
    """
    if not head.is_here():
        return False
    deadline = time.monotonic() + _KILL_S
    while not head.is_dead():
        with contextlib.suppress(ProcessLookupError):
            os.kill(head.pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise HeadError(
                f"{who} (pid {head.pid}) hangs in the kernel: killed {_KILL_S:.0f} s ago, it has "
                "not ended. Does the file system answer?"
            )
        time.sleep(0.01)
    return True
