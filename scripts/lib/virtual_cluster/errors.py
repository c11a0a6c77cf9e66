"""The errors that users of ``scripts/virtual-cluster`` may see, and the wait for events.

Invariant: each message says what is wrong and what to do about it.
"""

import time
from collections.abc import Callable


class ClusterError(Exception):
    """An error of a command that could not be carried out."""

    exit_status = 1


class ClusterDownError(ClusterError):
    """An error of a command that needs a running cluster: there is none."""

    exit_status = 3


class UnfitMachineError(ClusterError):
    """An error of this machine, or this user on it, which cannot have a virtual cluster at all."""

    exit_status = 4


class DeadlineError(ClusterError):
    """An error of an awaited event that did not come in time."""


_LOOK_EVERY_S = 0.05


def wait_until(happened: Callable[[], bool], deadline_s: float, what: str) -> None:
    """Return as soon as `happened` is true.

    Raises
    ------
    DeadlineError
        When `happened` is still false after `deadline_s` seconds; says `what` was waited for.
    """
    end = time.monotonic() + deadline_s
    while not happened():
        if time.monotonic() > end:
            raise DeadlineError(f"waited {deadline_s:g} s in vain for this: {what}")
        time.sleep(_LOOK_EVERY_S)
