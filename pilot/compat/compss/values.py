"""What stands for results in the program, and for what did not come.

`Future` is opaque, as PyCOMPSs's: `compss_wait_on` gives the value. Given to tasks, at any depth,
it is the value there.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from pilot.compat.compss.tracker import Entry

#: The versions of futures that are gone. It takes no lock, since they go in the middle of anything.
GONE: deque[deque[Any]] = deque()


class Future:
    """A result of a task."""

    __slots__ = ("__weakref__", "default", "entry", "is_known", "value")

    def __init__(self, default: Any = None) -> None:
        #: What it is where the task has not ended well.
        self.default = default
        #: Its versions: tasks may write to what is not there yet.
        self.entry = Entry(self)
        #: True once it was waited for, and has its value.
        self.is_known = False
        self.value: Any = None

    def __del__(self) -> None:
        if self.entry.versions:
            GONE.append(self.entry.versions)

    def __reduce__(self) -> Any:
        now = self.entry.current()
        if now is None or now is self:
            return itself, (self.default,)
        # Whoever pickles sees the version itself.
        return itself, (now,)

    def __repr__(self) -> str:
        return f"<Future of {self.entry.current()!r}>" if self.entry.versions else "<Future>"


def itself(value: Any) -> Any:
    """Return the argument, for pickles."""
    return value


class EmptyReturn:
    """What a task that returns less than it says has in place of the rest."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EmptyReturn)

    def __hash__(self) -> int:
        return hash(EmptyReturn)


def without_empty(values: list[Any]) -> list[Any]:
    """Return values without what was never returned at the end of them."""
    count = len(values)
    while count and isinstance(values[count - 1], EmptyReturn):
        count -= 1
    return values[:count] if count < len(values) else values


class Fresh:
    """In place of an object that a task is to write: the worker makes a new one of its class."""

    __slots__ = ("kind",)

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        return self.kind, ()
