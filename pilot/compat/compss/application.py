"""The application: one program's session, what is unfinished in it, and what has failed.

Invariants
----------
- The session is opened by the first task: a program without tasks opens none.
- What is told of the end of tasks comes on a thread of the session, which only notes it. What that
  means is decided in the calls of the program: each of them looks, and those that wait are woken.
- Once a task has failed for good, nothing more is submitted, and each call says so.
"""

from __future__ import annotations

import concurrent.futures
import os
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pilot.client.task import PYTHON, Task
from pilot.compat import search_directory
from pilot.compat.compss import running
from pilot.compat.compss.calls import Call, call_plain
from pilot.compat.compss.checkpoints import itself, restore
from pilot.compat.compss.errors import COMPSsException, PyCOMPSsException
from pilot.compat.compss.files import Files, path_of
from pilot.compat.compss.policies import CANCEL, IGNORE
from pilot.compat.compss.reducing import reduce_chunks
from pilot.compat.compss.tracker import Entry, Tracker, has_failed
from pilot.compat.compss.values import GONE, Future, without_empty
from pilot.errors import PilotError

if TYPE_CHECKING:
    from pilot.client.session import Session
    from pilot.compat.compss.decoration import TaskFunction
    from pilot.site import Site

#: Results are released together: so many of them, or what has come in this time.
_SEVERAL = 64
_MOMENT_S = 0.05
#: Where the program calls nothing for so long, what it has dropped meanwhile is released all the
#: same.
_SWEEP_S = 0.5


class Settings(NamedTuple):
    """The words of a launcher about a program."""

    #: True: calls of tasks inside of tasks are tasks.
    is_nested: bool = False
    #: True: results are found again by later runs; of these tasks they are not.
    has_checkpoints: bool = False
    not_kept: frozenset[str] = frozenset()


class GroupState:
    """Tasks that are waited for, and cancelled, together."""

    def __init__(self, name: str) -> None:
        self.name = name
        #: What is unfinished of it.
        self.unfinished: dict[Record, None] = {}
        #: What one of its tasks has raised to end the others.
        self.error: COMPSsException | None = None


class Record:
    """A task that has not ended."""

    __slots__ = ("app", "future", "groups", "policy")

    def __init__(
        self, app: Application, future: Any, policy: str, groups: tuple[GroupState, ...]
    ) -> None:
        self.app = app
        self.future = future
        self.policy = policy
        self.groups = groups

    def ended(self) -> None:
        """Note that the task has ended; on a thread of the session."""
        app = self.app
        with app.ended:
            app.unfinished.pop(self, None)
            for group in self.groups:
                group.unfinished.pop(self, None)
            if self.future.state != "COMPLETED":
                app.failed.append(self)
            if app.waiting:
                app.ended.notify_all()


class Application:
    """A program that runs.

    Parameters
    ----------
    name
        The name that lists of sessions show.
    settings
        What its launcher was told.
    site
        The site; default: ``$PILOT_SITE``, or ``local``.
    """

    def __init__(
        self, name: str, settings: Settings | None = None, site: Site | None = None
    ) -> None:
        self.name = name
        self.settings = settings or Settings()
        self._site = site
        self._process = os.getpid()
        self.lock = threading.RLock()
        self.tracker = Tracker(self.let_go)
        self.files = Files()
        #: The groups that are open, and all by name.
        self.open_groups: list[GroupState] = []
        self.groups: dict[str, GroupState] = {}
        #: Guards what follows.
        self.ended = threading.Condition(threading.Lock())
        self.waiting = 0
        self.unfinished: dict[Record, None] = {}
        self.failed: deque[Record] = deque()
        self._error: BaseException | None = None
        self._session: Session | None = None
        #: What the program has deleted, and is forgotten before anything is looked up.
        self.deleted: deque[Any] = deque()
        self._released: list[Any] = []
        self._released_at = 0.0
        #: Set when nothing is released any more.
        self._is_stopped = threading.Event()

    @property
    def has_turns(self) -> bool:
        """True if tasks can take objects by turns."""
        return not self.settings.has_checkpoints

    @property
    def keeps_any(self) -> bool:
        """True if results are found again by later runs."""
        return self.settings.has_checkpoints

    def put(self, value: Any) -> Any:
        """Store a value once; return its future."""
        if not self.settings.has_checkpoints:
            return self.session.put(value)
        # A later run knows it again by what it is, as the result of a task that is found.
        task: Task[..., Any] = Task(itself, PYTHON, {"name": "value", "cache": True})
        (future,) = self.session.submit_many(task, [(value,)])
        future._when_done(self.wake)
        return future

    def keeps(self, function: TaskFunction) -> bool:
        """Tell whether the results of a task are found again by later runs."""
        settings = self.settings
        if not settings.has_checkpoints:
            return False
        module = Path(self.name).stem if function.__module__ == "__main__" else function.__module__
        names = (function.__name__, f"{module}.{function.__qualname__}")
        return settings.not_kept.isdisjoint(names)

    @property
    def session(self) -> Session:
        """The session; it is opened if need be."""
        with self.lock:
            if self._session is None:
                from pilot.client.session import Session

                self._session = Session(
                    self._site,
                    name=self.name,
                    sys_path=[search_directory()],
                    variables={running.NESTED: "1"} if self.settings.is_nested else None,
                    ends_with_client=True,
                )
                threading.Thread(target=self._sweep, name="compss-sweep", daemon=True).start()
            return self._session

    @property
    def has_session(self) -> bool:
        """True if there was a task, or a value."""
        return self._session is not None

    # --- tasks

    def call(self, function: TaskFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Submit a call; return what the program gets for its results.

        Raises
        ------
        PyCOMPSsException
            A task has failed for good, or an option means nothing.
        """
        if self.failed or self._error is not None:
            self.check()
        with self.lock:
            if self.deleted:
                self._forget_deleted()
            if not kwargs and function.plan.is_plain:
                return call_plain(self, function, args)
            if "is_local" in function.said:
                return self._run_local(function, args, kwargs)
            if "chunk_size" in function.said:
                return reduce_chunks(self, function, args, kwargs)
            return Call(self, function, args, kwargs).submit()

    def _run_local(
        self, function: TaskFunction, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        values = [self.wait_on(value) for value in args]
        named = {name: self.wait_on(value) for name, value in kwargs.items()}
        return function.run_here(tuple(values), named)

    def submit(
        self, task: Task[..., Any], args: tuple[Any, ...], after: Iterable[str], policy: str
    ) -> Any:
        """Submit a task of Pilot, which is unfinished from now on; return its future."""
        (future,) = self.session.submit_many(task, [args], after=after or ())
        record = Record(self, future, policy, tuple(self.open_groups))
        with self.ended:
            self.unfinished[record] = None
            for group in record.groups:
                group.unfinished[record] = None
        future._when_done(record.ended)
        if self._released or GONE:
            self._release()
        return future

    def let_go(self, version: Any) -> None:
        """Have a version deleted once no task needs it."""
        self._released.append(version)

    def _forget_deleted(self) -> None:
        while self.deleted:
            obj = self.deleted.popleft()
            if type(obj) is Future:
                self._released += obj.entry.versions
                obj.entry.versions.clear()
            else:
                self.tracker.forget(obj)

    def _sweep(self) -> None:
        """Release what was let go while the program calls nothing: it may compute for hours."""
        while not self._is_stopped.wait(_SWEEP_S):
            with self.lock:
                if self._is_stopped.is_set() or self._session is None:
                    return
                try:
                    self._forget_deleted()
                    self._release()
                except PilotError:
                    return  # the session has ended: the program hears of that by itself

    def _release(self) -> None:
        """Release what was let go: several at once, or what has waited for a moment."""
        now = time.monotonic()
        if len(self._released) + len(GONE) < _SEVERAL and now - self._released_at < _MOMENT_S:
            return
        self._released_at = now
        self.tracker.sweep()
        while GONE:
            self._released += GONE.popleft()
        released, self._released = self._released, []
        mine = self._session
        if mine is not None and released:
            mine.release([future for future in released if self._is_mine(future)])

    def _is_mine(self, future: Any) -> bool:
        return future._session is self._session

    # --- failures

    def check(self) -> None:
        """Decide what failures mean that have come; raise if one ends the program.

        Raises
        ------
        PyCOMPSsException
            A task has failed for good: all others are cancelled. Or this is a forked copy of the
            program, which hears of no task.
        """
        if os.getpid() != self._process:
            raise PyCOMPSsException(
                f"this process ({os.getpid()}) is a forked copy of the program ({self._process}): "
                "tasks can be called, and waited for, in the program alone"
            )
        while self.failed:
            try:
                record = self.failed.popleft()
            except IndexError:
                break
            self._judge(record)
        if self._error is not None:
            raise PyCOMPSsException(f"a task has failed for good: {self._error}") from self._error

    def _judge(self, record: Record) -> None:
        future = record.future
        if future.cancelled() or future.first_cause is not None:
            return  # for another one's sake, or by the program
        error = future.exception()
        if isinstance(error, COMPSsException) and record.groups:
            group = record.groups[-1]
            group.error = group.error or error
            self.cancel_group(group.name)
        elif isinstance(error, COMPSsException) or record.policy not in (IGNORE, CANCEL):
            if self._error is None:
                self._error = error
                self.session.cancel()
        else:
            print(f"task {future.name} has failed: {error}", file=sys.stderr)  # noqa: T201 - as COMPSs

    def expire(self, seconds: float) -> None:
        """Cancel all tasks, since the program has run for so long."""
        with self.ended:
            self._error = TimeoutError(f"the program has run for its {seconds:g} s")
            self.ended.notify_all()
        if self._session is not None:
            self._session.cancel()

    # --- waiting

    def wake(self) -> None:
        """Have those look who wait."""
        with self.ended:
            if self.waiting:
                self.ended.notify_all()

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Wait; raise where a task fails for good meanwhile, as `check` does."""
        while True:
            self.check()
            with self.ended:
                self.waiting += 1
                try:
                    self.ended.wait_for(
                        lambda: reached() or bool(self.failed) or self._error is not None
                    )
                finally:
                    self.waiting -= 1
                if not self.failed and self._error is None:
                    return

    def barrier(self) -> None:
        """Wait for all tasks."""
        self.wait_until(lambda: not self.unfinished)
        with self.lock:
            self._forget_deleted()
            self._release()

    def barrier_group(self, name: str) -> None:
        """Wait for the tasks of a group.

        Raises
        ------
        COMPSsException
            One of its tasks has raised it.
        PyCOMPSsException
            There is no such group.
        """
        group = self.group(name)
        self.wait_until(lambda: not group.unfinished)
        if group.error is not None:
            error, group.error = group.error, None
            raise error

    def group(self, name: str) -> GroupState:
        """Return a group.

        Raises
        ------
        PyCOMPSsException
            There is none of this name.
        """
        found = self.groups.get(name)
        if found is None:
            raise PyCOMPSsException(f"there is no group {name!r} of tasks")
        return found

    def cancel_group(self, name: str) -> None:
        """Cancel what is unfinished of a group."""
        with self.ended:
            futures = [record.future for record in self.group(name).unfinished]
        if futures:
            self.session.cancel(futures)
            for future in futures:
                future._end_cancelled()

    def is_tracked(self, obj: Any) -> bool:
        """Tell whether tasks have made, or got, an object that the program has not waited for."""
        with self.lock:
            self._forget_deleted()
            entry = self.entry_of(obj)
            is_known = type(obj) is Future and obj.is_known
            return entry is not None and bool(entry.versions) and not is_known

    def entry_of(self, obj: Any) -> Entry | None:
        """Return what is known of an object."""
        return obj.entry if type(obj) is Future else self.tracker.find(obj)

    def wait_on(self, obj: Any) -> Any:
        """Return the last version of an object, or of all in a list or dict."""
        if type(obj) is Future and obj.is_known:
            return obj.value
        with self.lock:
            if self.deleted:
                self._forget_deleted()
            entry = self.entry_of(obj)
        if entry is None:
            if type(obj) is list:
                return without_empty([self.wait_on(item) for item in obj])
            if type(obj) is dict:
                return {self.wait_on(key): self.wait_on(item) for key, item in obj.items()}
            return obj
        value = self._value(entry, obj)
        if type(obj) is Future:
            obj.is_known, obj.value = True, value
        else:
            with self.lock:
                self.tracker.forget(obj)
        return value

    def _value(self, entry: Entry, obj: Any) -> Any:
        self.check()
        while True:
            with self.lock:
                now = entry.current()
            if now is obj or not hasattr(now, "_session"):
                break
            if not now.done():
                self.wait_until(now.done)
            if has_failed(now):
                self.check()
                continue
            try:
                return now.result()
            except (PilotError, concurrent.futures.CancelledError):
                if not has_failed(now):
                    raise
        if type(obj) is Future:
            if obj.default is None:
                warnings.warn("the task of a result has not ended well: it is None", stacklevel=4)
            return obj.default
        return obj

    def wait_on_file(self, path: Any, writes: bool = False) -> None:
        """Wait for those who write a file; before it is written, for those who read it as well."""
        with self.lock:
            entry = self.files.find(path)
            if entry is None:
                return
            ids = {*entry.concurrents, *(entry.readers if writes else ())}
            writer = entry.writer
        if writer is not None:
            self.wait_until(writer.done)
            self._restore(path, writer)
        self.wait_until(lambda: not any(r.future.task_id in ids for r in self.unfinished))
        if writes:
            with self.lock:
                self.files.written_here(path)

    def _restore(self, path: Any, writer: Any) -> None:
        if self.settings.has_checkpoints and not has_failed(writer):
            restore(path_of(path), writer.result())

    # --- the end

    def stop(self, is_failed: bool = False) -> None:
        """Wait for all tasks, and close the session; after an error of the program cancel them."""
        session = self._session
        if os.getpid() != self._process:
            return  # a forked copy of the program
        try:
            if not is_failed:
                self.barrier()
                for path in self.files if self.settings.has_checkpoints else ():
                    self.wait_on_file(path)
        except BaseException:
            is_failed = True
            raise
        finally:
            with self.lock:
                self._is_stopped.set()
            if session is not None and session.is_open:
                if is_failed:
                    session.cancel()
                session.shutdown()


def find() -> Application | None:
    """Return the application of this process; None where the program is plain Python."""
    return cast("Application | None", running.current)


def start(name: str = "", settings: Settings | None = None) -> Application:
    """Start the application of this process, unless it runs already."""
    found = find()
    if found is None:
        name = name or Path(sys.argv[0]).name or "pycompss"
        found = running.current = Application(name, settings)
    return found


def stop(is_failed: bool = False) -> None:
    """Stop the application of this process."""
    stopped, running.current = find(), None
    if stopped is not None:
        stopped.stop(is_failed)
