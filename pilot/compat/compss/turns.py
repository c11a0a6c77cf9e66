"""Objects that tasks take by turns: ``COMMUTATIVE``, in whatever order, each the latest version.

The engine keeps the turns, by the option `commutative`; here is who takes part in them. What comes
after them, a reader, another writer or the program, ends them: it gets the version that all leave.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pilot.client.session import Session
    from pilot.client.task import Task


class Host(Protocol):
    """The application, as far as turns need it."""

    @property
    def session(self) -> Session: ...
    def let_go(self, version: Any) -> None: ...
    def wake(self) -> None: ...


class ObjectTurns:
    """The tasks that take an object by turns.

    Parameters
    ----------
    app
        The application.
    anchor
        The version that the first of them gets.
    after
        The tasks that have to end before.
    """

    def __init__(self, app: Host, anchor: Any, after: list[str]) -> None:
        self._app = app
        self.anchor = anchor
        self.after = after
        self._members: list[Any] = []
        self._tasks: dict[Any, tuple[Task[..., Any], Task[..., Any]]] = {}

    def task(self, made: Task[..., Any], anchors: tuple[Any, ...]) -> Task[..., Any]:
        """Return a task as one that takes these versions by turns; the same one each time."""
        key = (id(made), *map(id, anchors))
        if key not in self._tasks:
            # What the ids are of is kept.
            self._tasks[key] = made, made.options(commutative=list(anchors))
        return self._tasks[key][1]

    def join(self, version: Any) -> None:
        """Note the version that another task makes."""
        self._members.append(version)

    def end(self) -> Any:
        """Return the version that all leave; no more join."""
        if not self._members:
            return self.anchor
        latest = self._app.session.latest(self.anchor)
        latest._when_done(self._app.wake)
        for version in self._members:
            self._app.let_go(version)
        return latest
