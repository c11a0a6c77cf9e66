"""The errors which the user of ``scripts/virtual-cluster`` may see, and how it waits for events.

Invariant: each message says what is wrong and what to do about it.
"""

import time
from collections.abc import Callable


class ClusterError(Exception):
    """The command could not be carried out."""

    exit_status = 1


class ClusterDownError(ClusterError):
    """The command needs a running cluster and there is none."""

    exit_status = 3


class UnfitMachineError(ClusterError):
    """This machine, or this user on it, can't have a virtual cluster at all."""

    exit_status = 4


class DeadlineError(ClusterError):
    """An event that was waited for did not come in time."""


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
