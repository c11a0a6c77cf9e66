"""The one way in which tests wait: for something to be so, with a deadline. And a single look."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: The time between two looks, in seconds: a share of what has been waited, from the shortest to the
#: longest, so that long waits leave the cores to what is waited for.
_SHORTEST_S, _LONGEST_S, _SHARE = 0.01, 0.1, 0.02


def wait_until(predicate: Callable[[], T], deadline_s: float = 30.0, what: str = "") -> T:
    """Return what `predicate` gives as soon as that is true; fail after `deadline_s` seconds."""
    begin = time.monotonic()
    while not (value := predicate()):
        waited_s = time.monotonic() - begin
        assert waited_s < deadline_s, (
            f"waited {deadline_s:g} s in vain for {what or predicate.__name__}"
        )
        time.sleep(min(max(_SHORTEST_S, _SHARE * waited_s), _LONGEST_S))
    return value


def readable(source: int) -> bool:
    """Tell whether there is something to read, without waiting for it."""
    return bool(select.select([source], [], [], 0)[0])
