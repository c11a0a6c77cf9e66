"""Groups of a session's tasks, which are cancelled together.

Invariant: a thread submits to one group at a time, that of its innermost ``with`` block, and only
what goes to that group's session belongs to it.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from msgspec import Struct

from pilot.client.ordering import After

if TYPE_CHECKING:
    from pilot.client.future import Future

T = TypeVar("T")


class GroupKey(Struct, frozen=True):
    """A group of tasks that are cancelled together."""

    #: Empty: none.
    name: str
    #: True if the failure of one task ends the others.
    fails_together: bool


NO_GROUP = GroupKey("", False)


class Grouping(Protocol):
    """A session, as far as its groups need it."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]: ...
    def submit_many(
        self,
        fn: Callable[..., T],
        rows: Iterable[tuple[Any, ...] | Mapping[str, Any]],
        *,
        after: After = (),
    ) -> list[Future[T]]: ...
    def _cancel_group(self, name: str) -> None: ...


#: The group that each thread submits in.
_stack = threading.local()


def current_group(session: Grouping) -> Group | None:
    """Return the group that this thread submits in, if that is one of this session."""
    group: Group | None = getattr(_stack, "group", None)
    return group if group is not None and group.session is session else None


class Group:
    """Tasks of a session that belong together; made by `Session.group`.

    Inside its ``with`` block, whatever this thread submits to the session belongs to it, and so do
    the children of its tasks. Leaving the block does not wait.
    """

    def __init__(self, session: Grouping, key: GroupKey) -> None:
        self.session = session
        self.key = key
        #: The futures of what was submitted in it.
        self.futures: list[Future[Any]] = []
        self._outer: Group | None = None

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Submit as with `Session.submit`, in this group."""
        with self:
            return self.session.submit(fn, *args, **kwargs)

    def submit_many(
        self,
        fn: Callable[..., T],
        rows: Iterable[tuple[Any, ...] | Mapping[str, Any]],
        *,
        after: After = (),
    ) -> list[Future[T]]:
        """Submit as with `Session.submit_many`, in this group."""
        with self:
            return self.session.submit_many(fn, rows, after=after)

    def cancel(self) -> None:
        """End all tasks of the group, running ones included."""
        self.session._cancel_group(self.key.name)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all tasks submitted in the group have ended; False if that took too long."""
        return not concurrent.futures.wait(self.futures, timeout).not_done

    def __enter__(self) -> Group:
        self._outer = getattr(_stack, "group", None)
        _stack.group = self
        return self

    def __exit__(self, *_: object) -> None:
        _stack.group = self._outer
