"""The current session: the one that tasks are submitted to where none is named."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from pilot.errors import PilotError


class Submits(Protocol):
    """A session, or the session of a running task, as far as tasks need it."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any: ...
    def submit_many(self, fn: Any, rows: Iterable[Any], *, after: Any = ()) -> Any: ...
    @property
    def origin(self) -> Any: ...


class OpenedSession(Submits, Protocol):
    """A session that this process has opened."""

    id: int
    name: str
    #: The number of its opening, and the thread that opened it.
    _opened: int
    _thread: int

    @property
    def is_open(self) -> bool: ...
    @property
    def _is_here(self) -> bool: ...
    def flush(self, timeout: float | None = None) -> bool: ...
    def _query(self, name: str, /, **arguments: Any) -> Any: ...
    def _detach(self) -> int: ...
    @property
    def origin(self) -> Any: ...
    @property
    def site(self) -> Any: ...


class _Stack(threading.local):
    """The sessions of a thread."""

    def __init__(self) -> None:
        #: The sessions whose ``with`` blocks the thread is in, the innermost last.
        self.entered: list[OpenedSession] = []
        #: The last of its openings that it has left, other than by the end of a block.
        self.left = -1


_stack = _Stack()
_sessions: weakref.WeakSet[OpenedSession] = weakref.WeakSet()
_openings = itertools.count()
#: The session of the task that runs in this process.
_running: Submits | None = None


def note_opened(session: OpenedSession) -> int:
    """Register a session as open, and return the number of its opening."""
    _sessions.add(session)
    return next(_openings)


def note_left(opened: int) -> None:
    """Note that this thread has left a session, other than by the end of a block."""
    _stack.left = max(opened, _stack.left)


def enter(session: OpenedSession) -> None:
    """Begin a ``with`` block of a session."""
    _stack.entered.append(session)


def leave(session: OpenedSession) -> None:
    """End a ``with`` block of a session."""
    _stack.entered.remove(session)


def set_running(session: Submits | None) -> None:
    """Set or clear the session of the task that runs in this process."""
    global _running
    _running = session


def is_running() -> bool:
    """Tell whether a task runs in this process."""
    return _running is not None


def opened_here() -> Iterator[OpenedSession]:
    """Yield the open sessions that belong to this process."""
    return (session for session in list(_sessions) if session.is_open and session._is_here)


def find_current() -> Submits:
    """Return the session that tasks are submitted to where none is named.

    See `pilot.current_session`.
    """
    entered = [session for session in _stack.entered if session._is_here]
    if entered:
        return entered[-1]
    if _running is not None:
        return _running
    everywhere = sorted((s for s in _sessions if s.is_open), key=lambda s: s._opened)
    here = [session for session in everywhere if session._is_here]
    mine = [session for session in here if session._thread == threading.get_ident()]
    found = mine or here or everywhere[-1:]  # a parent's says what is wrong with it
    if not found:
        raise PilotError(
            "there is no current session; submit inside `with pilot.Session(...) as session:`, "
            "or call session.submit"
        )
    if mine and _stack.left > mine[-1]._opened:
        raise PilotError(
            "the session that this thread has opened last was shut down or detached, and session "
            f"{mine[-1].id} ({mine[-1].name!r}) is an older one; open a new session, or call "
            "session.submit on the one you mean"
        )
    if len({session.origin for session in found}) > 1 or (len(found) > 1 and not mine):
        names = ", ".join(f"{s.id} ({s.name!r}, site {s.site.name})" for s in found)
        why = "of several sites" if mine else "by other threads"
        raise PilotError(
            f"sessions {names} are open {why}; call session.submit on the one you mean"
        )
    return found[-1]
