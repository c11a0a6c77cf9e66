"""Tasks that call tasks, with ``--nested``: the application inside of a task.

Calls are detached children of the task, which may wait for them: other tasks have its cores
meanwhile. Without the flag a call inside of a task is a plain call.

Invariants
----------
- A task ends when all that it has called have ended. What it returns or writes that is a result of
  theirs becomes its own without being read.
- A child that has failed for good fails its parent.
- A task that is tried again finds the children that it has called before, by their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from pilot.client.context import context
from pilot.client.lending import lending
from pilot.compat.compss import running
from pilot.compat.compss.application import Application
from pilot.compat.compss.values import Future

if TYPE_CHECKING:
    from pilot.client.child_tasks import TaskSession
    from pilot.client.task import Task
    from pilot.site import Site


class NestedSession:
    """The session of a running task, as an application has its session.

    Parameters
    ----------
    session
        The task's session.
    """

    def __init__(self, session: TaskSession) -> None:
        self._session = session
        self.id = session.id
        self._futures: list[Any] = []

    @property
    def site(self) -> Site:
        """The site."""
        return self._session.site

    @property
    def is_open(self) -> bool:
        """True as long as the task runs."""
        return self._session.is_open

    def submit_many(
        self, task: Task[..., Any], rows: Iterable[tuple[Any, ...]], *, after: Any = ()
    ) -> list[Any]:
        """Submit children, which start at once."""
        futures = self._session.submit_many(task, rows, detached=True, after=after)
        self._futures += futures
        return list(futures)

    def put(self, value: Any) -> Any:
        """Store a value once, for children."""
        return self._session.put(value, detached=True)

    def release(self, futures: Iterable[Any]) -> None:
        """Promise not to ask for results again."""
        self._session.release(list(futures))

    def cancel(self, futures: Iterable[Any] | None = None) -> None:
        """Cancel children; default: all that the task has called."""
        for future in self._futures if futures is None else futures:
            future.cancel()

    def query(self, name: str, /, **arguments: Any) -> Any:
        """Ask the head."""
        return self._session.ask(name, **arguments).result()


class NestedApplication(Application):
    """The application inside of a task.

    Parameters
    ----------
    name
        The name of the task.
    session
        Its session.
    """

    def __init__(self, name: str, session: TaskSession) -> None:
        super().__init__(name)
        nested: Any = NestedSession(session)
        self._session = nested
        self._of_task = session

    @property
    def has_turns(self) -> bool:
        """False: children take nothing by turns."""
        return False

    def put(self, value: Any) -> Any:
        """Store a value once, for children; return its future."""
        return self.session.put(value)

    def _is_mine(self, future: Any) -> bool:
        return future._session is self._of_task

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Wait, while other tasks have the cores of this one."""
        if reached():
            self.check()
            return
        for record in list(self.unfinished):
            record.future.done()  # the head is asked how it ends
        with lending():
            super().wait_until(reached)

    def outcome(self, value: Any) -> Any:
        """Return what stands for a value that the task returns or has written: a future is the
        result of a child; inside of lists and the like it is waited for."""
        if type(value) is Future and value.is_known:
            return value.value
        entry = self.entry_of(value)
        if entry is not None and (entry.versions or type(value) is Future):
            now = entry.current()
            return now.default if type(now) is Future else now
        if type(value) is tuple:
            return tuple(self.outcome_within(item) for item in value)
        return self.outcome_within(value)

    def outcome_within(self, value: Any) -> Any:
        """Return a value as it is in the end."""
        if type(value) is tuple:
            return tuple(map(self.outcome_within, value))
        return self.wait_on(value)


def results_of(compute: Callable[[], list[Any]]) -> list[Any]:
    """Return the results of a task whose calls of tasks are its children.

    Parameters
    ----------
    compute
        A function that runs the task's function, and returns its results.

    Raises
    ------
    PyCOMPSsException
        A child has failed for good.
    """
    here = context()
    app = running.current = NestedApplication(here.name, here.session)
    try:
        found = compute()
        app.barrier()
        return [app.outcome(value) for value in found]
    finally:
        running.current = None
