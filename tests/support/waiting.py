"""The one way in which tests wait: for something to be so, with a deadline. And a single look."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: How often a condition is looked at, in seconds.
_LOOK_S = 0.01


def wait_until(predicate: Callable[[], T], deadline_s: float = 30.0, what: str = "") -> T:
    """Return what `predicate` gives as soon as that is true; fail after `deadline_s` seconds."""
    end = time.monotonic() + deadline_s
    while not (value := predicate()):
        assert time.monotonic() < end, (
            f"waited {deadline_s:g} s in vain for {what or predicate.__name__}"
        )
        time.sleep(_LOOK_S)
    return value


def readable(source: int) -> bool:
    """Tell whether there is something to read, without waiting for it."""
    return bool(select.select([source], [], [], 0)[0])
