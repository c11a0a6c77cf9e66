"""Objects of a program, and which future each of them is now.

An object is known by its identity. Each task that writes to it makes a version, the future of a
result; what counts is the last version that has come, or may come. Versions never change, so a task
that reads one needs no order with those that make others.

Invariants
----------
- The program's own object is never changed.
- An object that nobody has any more is forgotten, with its versions, where its type allows that.
- A version is let go when a later one has come.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures._base import FINISHED, PENDING, RUNNING
from typing import Any, Protocol, TypeAlias

#: What is always sent by value: it has no identity of its own.
PRIMITIVES = frozenset({bool, int, float, complex, str, bytes, type(None)})


class Version(Protocol):
    """The future of a result, as `concurrent.futures` has them."""

    _state: str
    _exception: BaseException | None

    def done(self) -> bool: ...


def has_failed(version: Version) -> bool:
    """Tell whether a version will never come.

    It looks without a lock, since there may be thousands in a call; what has ended stays so.
    """
    state = version._state
    if state == FINISHED:
        return version._exception is not None
    return state not in (PENDING, RUNNING)


class Turns(Protocol):
    """Tasks that take an object by turns, and of which each makes a version."""

    def end(self) -> Version:
        """Return the version that all of them leave; no more join."""


#: What stands for an object that was given: the object, or a future of it.
Current: TypeAlias = Any


class Entry:
    """An object that tasks got, and its versions."""

    __slots__ = ("_held", "_weak", "concurrents", "turns", "versions")

    def __init__(self, obj: Any, gone: Callable[[Any], object] | None = None) -> None:
        self._held: Any = None
        self._weak: Any = None
        try:
            self._weak = weakref.ref(obj, gone)
        except TypeError:
            self._held = obj
        #: The versions that count or may count, the newest last.
        self.versions: deque[Any] = deque()
        #: The ids of tasks that have it at the same time since the last version.
        self.concurrents: list[str] = []
        #: The tasks that take it by turns now, after the last version.
        self.turns: Turns | None = None

    def own(self) -> Any:
        """Return the program's own object; None where it is gone."""
        return self._held if self._weak is None else self._weak()

    def current(self) -> Current:
        """Return the last version that has come or may come; without any, the object."""
        versions = self.versions
        if self.turns is not None:
            turns, self.turns = self.turns, None
            versions.append(turns.end())
        while versions:
            last = versions[-1]
            # The usual ones without a call: a task may have thousands of these.
            if (last._state == FINISHED and last._exception is None) or not has_failed(last):
                return last
            versions.pop()
        return self.own()

    def write(self, version: Version, let_go: Callable[[Version], object]) -> None:
        """Note a new version.

        Parameters
        ----------
        version
            The version.
        let_go
            Called with each version that nobody can get any more.
        """
        versions = self.versions
        while len(versions) > 1 and versions[1].done():
            # The next one has come, and takes its place; or it has failed, and is none.
            if has_failed(versions[1]):
                del versions[1]
            else:
                let_go(versions.popleft())
        versions.append(version)
        if self.concurrents:
            self.concurrents = []


class Tracker:
    """The objects of a program that tasks got.

    Not safe for threads: whoever calls has a lock.

    Parameters
    ----------
    let_go
        Called with each version that nobody can get any more.
    """

    def __init__(self, let_go: Callable[[Version], object]) -> None:
        self._entries: dict[int, Entry] = {}
        self._let_go = let_go
        #: What is gone. It takes no lock, since objects go in the middle of anything.
        self._gone: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, obj: Any) -> Entry | None:
        """Return what is known of an object; None: nothing."""
        found = self._entries.get(id(obj))
        # Another one may have had its address before.
        return found if found is not None and found.own() is obj else None

    def track(self, obj: Any) -> Entry:
        """Return what is known of an object, which is known from now on."""
        if self._gone:
            self.sweep()
        found = self.find(obj)
        if found is None:
            key, gone = id(obj), self._gone
            found = self._entries[key] = Entry(obj, lambda _: gone.append(key))
        return found

    def forget(self, obj: Any) -> bool:
        """Forget an object, and let its versions go; tell whether it was known."""
        found = self.find(obj)
        if found is None:
            return False
        del self._entries[id(obj)]
        for version in found.versions:
            self._let_go(version)
        return True

    def __iter__(self) -> Iterator[int]:
        return iter(self._entries)

    def sweep(self) -> None:
        """Forget what is gone."""
        while self._gone:
            key = self._gone.popleft()
            found = self._entries.get(key)
            if found is not None and found.own() is None:
                del self._entries[key]
                for version in found.versions:
                    self._let_go(version)
