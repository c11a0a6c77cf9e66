"""Sessions: where a user's tasks belong, and a `concurrent.futures.Executor` that takes them.

``with Session(site="local") as session:`` starts or finds the site's head; leaving the block waits
for the tasks, as any executor's. The work does not depend on the client: `detach` leaves it
running, and a session is found again by its id.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import hashlib
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from pilot.arguments import encode_arguments
from pilot.data.values import Value, decode, encode
from pilot.errors import (
    PilotError,
    RemoteTraceback,
    SubmissionError,
    TaskAborted,
    TaskCrashed,
    TaskError,
    TaskTimedOut,
)
from pilot.future import Future, Unread
from pilot.site import Site, find_site
from pilot.task import Options, ResolvedOptions, Task, as_task
from pilot.wire import messages as m
from pilot.wire.connection import Connection
from scheduler.assignment import refusal

T = TypeVar("T")

#: How long leaving a session after Ctrl-C waits for the head to confirm.
_INTERRUPT_S = 10.0

_stack = threading.local()
_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def current_session() -> Session:
    """The session of the innermost ``with`` block, or else the only one that is open.

    Raises
    ------
    PilotError
        There is none.
    """
    entered: list[Session] = getattr(_stack, "sessions", [])
    if entered:
        return entered[-1]
    opened = [session for session in _sessions if session.is_open]
    if len(opened) == 1:
        return opened[0]
    raise PilotError(
        "there is no current session; submit inside `with pilot.Session(...) as session:`, "
        "or call session.submit"
        if not opened
        else "several sessions are open; call session.submit on the one you mean"
    )


class Session(concurrent.futures.Executor):
    """A user's tasks on a site.

    Parameters
    ----------
    site
        Name or path of a site; default: ``$PILOT_SITE``, or ``local``.
    name
        What lists show; default: the name of the program.
    session_id
        Attach to this session in place of creating one.
    sys_path
        Directories that workers search for modules first, before those of this process.
    variables
        Additions to the environment of the tasks.

    Raises
    ------
    SiteError, HeadError
        There is no such site, or its head cannot be reached.
    """

    def __init__(
        self,
        site: str | os.PathLike[str] | Site | None = None,
        *,
        name: str | None = None,
        session_id: int | None = None,
        sys_path: Sequence[str | os.PathLike[str]] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.site = site if isinstance(site, Site) else find_site(site)
        self._connection = Connection(self.site)
        self._lock = threading.Lock()
        self._futures: set[Future[Any]] = set()
        self._functions: dict[int, tuple[Any, m.Function]] = {}
        self._sent_functions: set[bytes] = set()
        self._templates: dict[tuple[Any, ...], int] = {}
        self._recent: dict[tuple[int, ResolvedOptions], tuple[Any, int]] = {}
        self._tasks: dict[int, tuple[Any, Task[..., Any]]] = {}
        self._closed = False
        environment = m.Environment(
            working_dir=str(Path.cwd()),
            sys_path=_search_path(sys_path),
            variables=dict(variables or {}),
        )
        self.name = name or Path(sys.argv[0] or "python").stem or "python"
        try:
            self.id: int = self._connection.request(
                lambda n: m.OpenSession(n, self.name, environment, session_id or 0)
            )
        except BaseException:
            self._connection.close()
            raise
        _sessions.add(self)

    @property
    def is_open(self) -> bool:
        """Whether it takes tasks."""
        return not self._closed

    # --- submission

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run ``fn(*args, **kwargs)`` as a task.

        Parameters
        ----------
        fn
            A task, or any function.
        *args, **kwargs
            May hold futures of tasks at any depth; they become dependencies.

        Raises
        ------
        SubmissionError
            No pool can ever run it, or it cannot be pickled.
        RuntimeError
            The session was shut down.
        """
        task = self._as_task(fn)
        return self._submit(task, [(args, kwargs)])[0]

    def submit_many(
        self, fn: Callable[..., T], rows: Iterable[tuple[Any, ...] | Mapping[str, Any]]
    ) -> list[Future[T]]:
        """One task for each row of arguments (a tuple, or a mapping of names), sent as one."""
        task = self._as_task(fn)
        return self._submit(
            task,
            [((), dict(row)) if isinstance(row, Mapping) else (tuple(row), {}) for row in rows],
        )

    def _submit(
        self, task: Task[..., Any], calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
    ) -> list[Future[Any]]:
        options = task.task_options
        names, count = options.return_names, options.return_count
        dynamic = options.is_dynamic()
        functions: list[m.Function] = []
        templates: list[m.Template] = []
        specs: list[m.TaskSpec] = []
        futures: list[Future[Any]] = []
        template = 0
        # Ids are taken and the frame is queued under one lock: a task never overtakes its inputs.
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            for args, kwargs in calls:
                if dynamic or not template:
                    template = self._template(task, args, kwargs, functions, templates)
                payload, inputs = encode_arguments(args, kwargs)
                future: Future[Any] = Future(self, self._connection.next_task(), names, count)
                specs.append(m.TaskSpec(future.task, template, payload, inputs))
                futures.append(future)
            self._futures.update(futures)
            if specs:
                self._connection.submit(
                    self.id, functions, templates, specs, [_Settler(self, f) for f in futures]
                )
        return futures

    def _as_task(self, fn: Any) -> Task[..., Any]:
        if isinstance(fn, Task):
            return fn
        known = self._tasks.get(id(fn))
        if known is not None and known[0] is fn:
            return known[1]
        task = as_task(fn)
        if len(self._tasks) > 1000:
            self._tasks.clear()
        self._tasks[id(fn)] = (fn, task)
        return task

    def _template(
        self,
        task: Task[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        functions: list[m.Function],
        templates: list[m.Template],
    ) -> int:
        """The id of the template for a call; new ones are appended to what is to be sent."""
        options = task.task_options
        resolved = options.resolve(args, kwargs)
        recent = self._recent.get((id(task), resolved))
        if recent is not None and recent[0] is task:
            return recent[1]
        function = self._function(task)
        default = encode(options.default) if options.on_failure == "ignore" else b""
        key = (
            task.__name__,
            task.kind,
            function.digest,
            resolved,
            options.retries,
            options.retry_names(),
            options.max_crashes,
            options.priority,
            options.pool or "",
            options.return_count,
            options.on_failure,
            default,
        )
        number = self._templates.get(key)
        if number is None:
            self._check(options, resolved, task)
            number = self._connection.next_template()
            templates.append(
                m.Template(
                    id=number,
                    session=self.id,
                    name=task.__name__,
                    kind=task.kind,
                    function=function.digest,
                    resources=resolved.resources,
                    time_limit_s=resolved.time_limit_s,
                    retries=options.retries,
                    retry_on=options.retry_names(),
                    max_crashes=options.max_crashes,
                    priority=options.priority,
                    pool=options.pool or "",
                    returns=options.return_count,
                    on_failure=options.on_failure,
                    default=default,
                )
            )
            self._templates[key] = number
            if function.digest not in self._sent_functions:
                functions.append(function)
                self._sent_functions.add(function.digest)
        if len(self._recent) > 1000:
            self._recent.clear()
        self._recent[(id(task), resolved)] = (task, number)
        return number

    def _check(self, options: Options, resolved: ResolvedOptions, task: Task[..., Any]) -> None:
        pools = (
            (name, pool.shape, pool.nodes_per_pilot, pool.walltime_s)
            for name, pool in self.site.config.pools.items()
        )
        reason = refusal(resolved.resources, options.pool or "", pools, resolved.time_limit_s)
        if reason:
            raise SubmissionError(f"task {task.__name__!r} was not submitted: {reason}")

    def _function(self, task: Task[..., Any]) -> m.Function:
        """What is sent of a task's function; pickled once."""
        known = self._functions.get(id(task))
        if known is not None and known[0] is task:
            return known[1]
        by_name = isinstance(task.__reduce__()[1][0], str)
        try:
            payload = encode(task if by_name else task.function)
        except PilotError as error:
            raise SubmissionError(
                f"the function {task.__qualname__} cannot be sent to workers: {error}"
            ) from error
        function = m.Function(_digest(payload), payload)
        if len(self._functions) > 1000:
            self._functions.clear()
        self._functions[id(task)] = (task, function)
        return function

    def future(self, task_id: str) -> Future[Any]:
        """The future of a task that was submitted before, here or by another process.

        Parameters
        ----------
        task_id
            As `Future.task_id` gives it, such as ``3.17``.
        """
        future: Future[Any] = Future(self, m.parse_task_label(task_id))
        self._futures.add(future)
        self._connection.watch({future.task: _Settler(self, future)})
        return future

    # --- the end of tasks

    def _settle(self, future: Future[Any], outcome: m.TaskOutcome) -> None:
        self._futures.discard(future)
        if outcome.state == "CANCELLED":
            future._end_cancelled()
            return
        if future.done():
            return
        if not future.running():
            future.set_running_or_notify_cancel()
        if outcome.state == "COMPLETED":
            future.set_result(self._result(outcome.values))
        else:
            future.set_exception(exception_of(outcome))

    def _result(self, values: tuple[Value, ...]) -> Any:
        unread = Unread(values, self.site.directory, whole=len(values) != 1)
        if any(value.path for value in values):
            return unread
        try:
            return unread.read()
        except Exception:
            return unread  # the error is raised where somebody asks for the result

    def _fail(self, future: Future[Any], error: Exception) -> None:
        self._futures.discard(future)
        if not future.done():
            if not future.running():
                future.set_running_or_notify_cancel()
            future.set_exception(error)

    def _cancel(self, future: Future[Any]) -> None:
        self._futures.discard(future)
        self._connection.post(lambda n: m.Cancel(n, self.id, [future.task]))

    # --- the end of the session

    def cancel(self) -> None:
        """End all tasks of the session, running ones included."""
        self._connection.request(lambda n: m.Cancel(n, self.id))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; see `concurrent.futures.Executor.shutdown`.

        Parameters
        ----------
        wait
            Return when all tasks have ended; otherwise when the head has them all.
        cancel_futures
            Cancel the tasks that have not started.
        """
        with self._lock:
            first, self._closed = not self._closed, True
        if not first:
            if wait:
                concurrent.futures.wait(list(self._futures))
            return
        if cancel_futures:
            for future in list(self._futures):
                if not future.running():
                    future.cancel()
        self._connection.flush()
        self._connection.request(lambda n: m.CloseSession(n, self.id))
        if wait:
            self._finish()
        else:
            # Results still come in; the thread ends with the last of them.
            threading.Thread(target=self._finish, name="pilot-shutdown", daemon=True).start()

    def _finish(self) -> None:
        concurrent.futures.wait(list(self._futures))
        self._connection.close()

    def detach(self) -> int:
        """Leave the work running and the session open; returns its id, to attach again."""
        with self._lock:
            self._closed = True
        self._connection.flush()
        self._connection.close()
        return self.id

    def __enter__(self) -> Session:
        if not hasattr(_stack, "sessions"):
            _stack.sessions = []
        _stack.sessions.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        _stack.sessions.remove(self)
        if self._closed:
            return None
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._interrupt()
            return None
        try:
            self.shutdown(wait=True)
        except KeyboardInterrupt:
            self._interrupt()
            raise
        return None

    def _interrupt(self) -> None:
        """After Ctrl-C nothing is left running, and the head has it in writing."""
        self._closed = True
        self._connection.flush(_INTERRUPT_S)
        self._connection.request(lambda n: m.Cancel(n, self.id), _INTERRUPT_S)
        self._connection.request(lambda n: m.CloseSession(n, self.id), _INTERRUPT_S)
        self._connection.close()

    def __repr__(self) -> str:
        return f"<pilot session {self.id} {self.name!r} on {self.site.name}>"


class _Settler:
    """Brings the news of a task to its future."""

    __slots__ = ("future", "session")

    def __init__(self, session: Session, future: Future[Any]) -> None:
        self.session = session
        self.future = future

    def settle(self, outcome: m.TaskOutcome) -> None:
        self.session._settle(self.future, outcome)

    def fail(self, error: Exception) -> None:
        self.session._fail(self.future, error)

    def started(self) -> None:
        if not self.future.done() and not self.future.running():
            self.future.set_running_or_notify_cancel()


def exception_of(outcome: m.TaskOutcome) -> BaseException:
    """The exception that a failed task raises in its user's program."""
    failure = outcome.failure
    if failure is None:
        return TaskError(f"task {m.task_label(outcome.task)} is {outcome.state}")
    where = f" on {failure.node}" if failure.node else ""
    title = f"task {m.task_label(outcome.task)}, attempt {failure.attempt}{where}"
    error: BaseException | None = None
    if failure.exception:
        try:
            error = decode(failure.exception)
        except Exception as unreadable:
            title += f" (its exception cannot be read here: {unreadable})"
    if not isinstance(error, BaseException):
        kinds = {"TIMED_OUT": TaskTimedOut, "ABORTED": TaskAborted}
        kind = kinds.get(outcome.state, TaskCrashed if failure.is_crash else TaskError)
        text = failure.message if not failure.bases else f"{failure.type}: {failure.message}"
        error = kind(f"task {m.task_label(outcome.task)}{where}: {text}")
    if failure.detail:
        error.__cause__ = RemoteTraceback(f"{title}:\n{failure.detail}")
    return error


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=16).digest()


def _search_path(first: Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Directories in which this process finds modules, without those of Python itself."""
    own = {sys.prefix, sys.base_prefix, sys.exec_prefix}
    paths = [str(Path(path).absolute()) for path in [*first, *sys.path]]
    return tuple(
        dict.fromkeys(
            path
            for path in paths
            if not any(path.startswith(f"{prefix}/lib") for prefix in own) and Path(path).exists()
        )
    )


@atexit.register
def _detach_all() -> None:
    """A program that ends without closing its sessions leaves its work running."""
    for session in list(_sessions):
        if session.is_open:
            try:
                session.detach()
            except PilotError as error:
                print(f"pilot: {error}", file=sys.stderr)  # noqa: T201 - nobody else is left to


__all__ = ["Session", "current_session", "exception_of"]
