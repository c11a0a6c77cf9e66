"""Sessions of a user's tasks, each a `concurrent.futures.Executor`.

``with Session(site="local") as session:`` starts or finds the site's head; leaving the block waits
for the tasks, as any executor's. The work does not depend on the client: `detach` leaves it
running, and a session is found again by its id.

Invariants
----------
- Input is checked in the call that gets it: nothing is sent that the head would not
  understand.
- Only futures of the session's own site are taken, whatever is to be done with them.
- A session belongs to the process that made it: in a forked copy each call raises, and nothing is
  done for it there, at the end of the process neither.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import logging
import math
import operator
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeVar, cast

import msgspec

from pilot.client import current
from pilot.client.arguments import Origin
from pilot.client.child_tasks import TaskSession
from pilot.client.connection import Connection
from pilot.client.context import serves_tasks
from pilot.client.events import Event, read_events
from pilot.client.failures import exception_of
from pilot.client.future import Future, Lines
from pilot.client.query_client import QueryClient, as_epoch, in_words
from pilot.client.search_path import search_path
from pilot.client.submission import Submission
from pilot.client.submitter import NO_GROUP, Call, GroupKey, Submitter, as_calls
from pilot.client.task import OptionError, Options, Task, make_options
from pilot.data.imported import Imported
from pilot.data.patience import set_patience
from pilot.data.values import TooLargeError, decode, encode_within
from pilot.errors import HeadError, PilotError, SiteError
from pilot.formatting import counted
from pilot.limits import OPTIONS_BYTES
from pilot.model.ids import parse_task_label, task_label
from pilot.model.session_retry import renumbered
from pilot.model.tasks import Environment, Function, TaskOutcome, TaskSpec, Template
from pilot.pickled import public
from pilot.site import Site, find_site, working_directory
from pilot.texts import as_name, size_text
from pilot.wire import messages as m

T = TypeVar("T")

#: The time that leaving a session after Ctrl-C waits for the head to confirm, in seconds.
_INTERRUPT_S = 10.0

#: The group that each thread submits in.
_stack = threading.local()

_IN_TASK = (
    "pilot.Session(...) was called in a worker, which runs tasks. Where a module opens a session "
    "when it is imported, put that below `if __name__ == '__main__':` or into a function: workers "
    "import the module to find its functions. A task submits with pilot.context().session; one "
    "that is to have a session of its own all the same says Session(..., in_task=True)"
)


@public
def current_session() -> Session | TaskSession:
    """Return the session that tasks are submitted to where none is named.

    This is the session of the innermost ``with`` block of this thread, or of the running task; or
    else the newest that this thread has opened and not closed, or the only one of the process. If
    there are sessions of several sites, none is chosen.

    Raises
    ------
    PilotError
        There is no session, or it is not clear which one is meant.
    """
    return cast("Session | TaskSession", current.find_current())


@public
class Session(concurrent.futures.Executor):
    """A user's tasks on a site.

    Parameters
    ----------
    site
        Name or path of a site; default: ``$PILOT_SITE``, or ``local``.
    name
        The name that lists show; default: the name of the program.
    session_id
        Attach to this session in place of creating one.
    sys_path
        Directories that workers search for modules first, before those of this process.
    variables
        Additions to the environment of the tasks.
    weight
        Its share of the cores beside other sessions of the same priority.
    priority
        Sessions of higher priority go first.
    options
        Default options of its tasks, such as ``{"retries": 2}``; a task's own options win.
    in_task
        A task may open a session of its own only with this: a module that opens one when it is
        imported does that in each worker, too.

    Raises
    ------
    SiteError, HeadError
        There is no such site, or its head cannot be reached.
    PilotError
        This is a worker, and `in_task` was not given; or a value has no meaning.
    """

    def __init__(
        self,
        site: str | os.PathLike[str] | Site | None = None,
        *,
        name: str | None = None,
        session_id: int | None = None,
        sys_path: Sequence[str | os.PathLike[str]] = (),
        variables: Mapping[str, str] | None = None,
        weight: float = 1.0,
        priority: int = 0,
        options: Mapping[str, Any] | None = None,
        in_task: bool = False,
    ) -> None:
        if serves_tasks() and not in_task:
            raise PilotError(_IN_TASK)
        self.name = as_name(name or _program_name())
        environment = Environment(_working_dir(), _searched(sys_path), _variables(variables))
        share = _number("weight", weight)
        precedence = _whole("priority", priority)
        known = 0 if session_id is None else _whole("session_id", session_id)
        defaults = _options(options)
        self.site = site if isinstance(site, Site) else find_site(site)
        set_patience(self.site.config.data.patience_s)
        self._connection = Connection(self.site)  # only now that nothing is wrong
        self._lock = threading.Lock()
        self._futures: set[Future[Any]] = set()
        self._closed = False
        self._was_entered = False
        try:
            reply: tuple[int, bytes, int, int] = self._connection.request(
                lambda n: m.OpenSession(
                    n,
                    self.name,
                    environment,
                    known,
                    share,
                    precedence,
                    defaults,
                )
            )
        except BaseException:
            self._connection.close()
            raise
        self.id, kept, *block = reply
        self._numbers = self._connection.numbers(self.id, *block)
        self._submitter = Submitter(
            self.id,
            self.site,
            decode(kept) if options is None else options,
            self._connection.database,
            python=lambda: self._connection.python,
        )
        self._connection.sessions.add(self.id)
        self._thread = threading.get_ident()
        self._opened = current.note_opened(self)

    @property
    def _is_here(self) -> bool:
        """True if the session belongs to this process, False in a forked copy of its process."""
        return not self._connection.owner

    @property
    def origin(self) -> Origin:
        """The site and database to which the ids of its tasks belong."""
        return self._submitter.origin

    def _leave(self) -> None:
        """Note that the user has left the session, other than by the end of a block."""
        if not self._was_entered:
            current.note_left(self._opened)

    def _check_here(self) -> None:
        """Raise if the session was left, for calls that need the connection.

        Raises
        ------
        PilotError
            The session was left.
        """
        self._check_process()
        if self._closed and self._connection.is_closed:
            raise PilotError(
                f"session {self.id} was shut down or detached here; attach to it again: "
                f"pilot.Session(site=…, session_id={self.id})"
            )

    @property
    def is_open(self) -> bool:
        """True if the session takes tasks."""
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
        task = self._submitter.task(fn)
        return self._submit(task, [(args, kwargs)])[0]

    def submit_many(
        self, fn: Callable[..., T], rows: Iterable[tuple[Any, ...] | Mapping[str, Any]]
    ) -> list[Future[T]]:
        """Submit one task for each row of arguments (a tuple, or a mapping of names), at once."""
        task = self._submitter.task(fn)
        return self._submit(task, as_calls(rows))

    def put(self, value: T, name: str = "value") -> Future[T]:
        """Store a value once, for any number of tasks that get its future as an argument.

        A large value is written to a file of its own, and each node that needs it reads it from
        there once.

        Parameters
        ----------
        value
            Any object that could be an argument; later changes to it have no effect.
        name
            The name that lists show; one for many values: each name costs the head some memory.

        Raises
        ------
        EncodingError
            It cannot be pickled.
        StorageError
            It cannot be written.
        RuntimeError
            The session was shut down.
        """
        return self._send(1, lambda p, ids, g: self._submitter.put(p, value, name, ids[0], g))[0]

    def import_file(self, path: str | os.PathLike[str], name: str = "file") -> Future[Path]:
        """Make an existing file a value, without a copy: tasks get its absolute path.

        Each time a task gets it, the file must exist with the same size and modification time.

        Parameters
        ----------
        path
            The file, on a file system that the compute nodes see.
        name
            The name that lists show.

        Raises
        ------
        ResultError
            The file does not exist, is not a regular file, or cannot be read.
        RuntimeError
            The session was shut down.
        """
        imported = Imported(path)
        return self._send(1, lambda p, ids, g: self._submitter.put(p, imported, name, ids[0], g))[0]

    def _submit(
        self,
        task: Task[..., Any],
        calls: list[Call],
    ) -> list[Future[Any]]:
        options = task.task_options
        return self._send(
            len(calls),
            lambda submission, ids, group: self._submitter.add(submission, task, calls, ids, group),
            options.return_names,
            options.return_count,
            task.__name__,
        )

    def _send(
        self,
        tasks: int,
        add: Callable[[Submission, list[int], GroupKey], None],
        names: tuple[str, ...] = (),
        count: int = 1,
        name: str = "",
    ) -> list[Future[Any]]:
        self._check_process()
        group: Group | None = getattr(_stack, "group", None)
        if group is not None and group.session is not self:
            group = None
        ids = [] if self._closed else self._numbers.take(tasks)
        # One submission at a time is made and queued: what it introduces comes before who refers
        # to it.
        with self._lock:
            if self._closed:
                raise RuntimeError(
                    "cannot schedule new futures after shutdown (or detach); open a session, or "
                    f"attach again: pilot.Session(site=…, session_id={self.id})"
                )
            submission = Submission()
            add(submission, ids, group.key if group else NO_GROUP)
            futures: list[Future[Any]] = [Future(self, n, names, count, name) for n in ids]
            self._futures.update(futures)
            if group is not None:
                group.futures.extend(futures)
            if ids:
                self._connection.submit(self.id, submission, [_Settler(self, f) for f in futures])
        return futures

    def retry(self, tasks: Iterable[str | Future[Any]] | None = None) -> dict[str, Future[Any]]:
        """Run failed tasks again, as new tasks with the same arguments and options.

        Tasks that were aborted because of them run again too, with the new results as arguments.

        Parameters
        ----------
        tasks
            Futures, or ids as `Future.task_id` gives them, also of cancelled tasks; default: all
            of the session that have failed.

        Returns
        -------
        dict
            The new futures, by the ids of the tasks whose places they take.

        Raises
        ------
        PilotError
            One of the tasks has not failed, or its arguments were purged.
        RuntimeError
            The session was shut down.
        """
        self._check_here()
        self._connection.flush()
        wanted = None
        if tasks is not None:
            wanted = [
                self._check_own([task])[0] if isinstance(task, Future) else _task_number(task)
                for task in ([tasks] if isinstance(tasks, (str, Future)) else tasks)
            ]
        kept = self.query("retry", session=self.id, tasks=wanted)
        submission = Submission()
        submission.functions = msgspec.convert(kept["functions"], list[Function])
        submission.templates = msgspec.convert(kept["templates"], list[Template])
        before = msgspec.convert(kept["tasks"], list[TaskSpec])
        ids = self._numbers.take(len(before)) if before else []
        submission.tasks = renumbered(before, ids)
        kinds = {template.id: template for template in submission.templates}
        with self._lock:
            if self._closed:
                raise RuntimeError(
                    "cannot schedule new futures after shutdown (or detach); open a session, or "
                    f"attach again: pilot.Session(site=…, session_id={self.id})"
                )
            futures = [
                Future[Any](self, spec.id, kind.return_names, kind.returns, kind.name)
                for spec in submission.tasks
                for kind in (kinds[spec.template],)
            ]
            self._futures.update(futures)
            if futures:
                self._connection.submit(self.id, submission, [_Settler(self, f) for f in futures])
        return {task_label(b.id): f for b, f in zip(before, futures, strict=True)}

    def group(self, name: str, *, on_failure: str = "continue") -> Group:
        """Return a group: tasks submitted in ``with session.group(…) as group:`` belong to it.

        Parameters
        ----------
        name
            The name of the group.
        on_failure
            ``cancel``: the failure of one task ends the others; ``continue``: it does not.
        """
        if on_failure not in ("cancel", "continue"):
            raise OptionError(f"on_failure={on_failure!r}: a group can cancel, or continue")
        return Group(self, GroupKey(as_name(name), on_failure == "cancel"))

    def future(self, task_id: str) -> Future[Any]:
        """Return the future of a task that was submitted before, here or by another process.

        Parameters
        ----------
        task_id
            The task's id, as in `Future.task_id`, such as ``3.17``.
        """
        self._check_here()
        future: Future[Any] = Future(self, _task_number(task_id), count=None)
        self._futures.add(future)
        self._connection.watch({future.task: _Settler(self, future)})
        return future

    def query(self, name: str, /, **arguments: Any) -> Any:
        """Ask the head a query; see `pilot.head.queries` for those there are.

        Raises
        ------
        PilotError
            There is no such query, or what it asks for does not exist.
        """
        self._check_process()
        if self._closed and self._connection.is_closed:
            with QueryClient(self.site) as ask:
                return ask(name, **arguments)
        return self._connection.request(lambda n: m.Query(n, name, arguments))

    def _query(self, name: str, /, **arguments: Any) -> Any:
        """Ask like `query`, after all submissions are accepted; possible in a left session too."""
        self._check_process()
        if not self._connection.is_closed:
            self._connection.flush()
        return self.query(name, **arguments)

    def events(self, since: int = 0, *, follow: bool = False) -> Iterator[Event]:
        """Yield the events of the session: every change of a state, once and in order.

        Parameters
        ----------
        since
            The number of the last event that is known already; below 0: begin with the last so
            many.
        follow
            Wait for further events until the session is closed; also over a restart of the head,
            and after this object was shut down or has detached.
        """
        self._check_process()
        with QueryClient(self.site) as ask:
            yield from read_events(ask, _whole("since", since), session=self.id, follow=follow)

    def tasks(
        self,
        *,
        sort: str = "id",
        reverse: bool = False,
        limit: int = 1000,
        offset: int = 0,
        **filters: Any,
    ) -> list[dict[str, Any]]:
        """Return the session's tasks as the head knows them: id, name, state, attempts, error, ….

        Parameters
        ----------
        sort
            ``id``, ``created``, ``ended``, ``name``, ``state`` or ``ran``; tasks without such a
            value come last.
        reverse
            The largest first.
        limit, offset
            The maximum number of tasks, and the number of first ones to skip.
        **filters
            ``state``, ``name``, ``pool``, ``error`` (the class of the error that ended it): a word,
            or several of which any will do. ``created_since``, ``created_until``, ``ended_since``,
            ``ended_until``: seconds since the epoch, or `datetime.datetime`. ``current=True``:
            without those whose places others have taken, by a retry.

        Raises
        ------
        PilotError
            There is no such state, filter, or order.
        """
        page = {"sort": sort, "reverse": reverse, "limit": limit, "offset": offset}
        found: list[dict[str, Any]] = self._list("tasks", filters, **page)
        return found

    def task_counts(self, **filters: Any) -> dict[str, int]:
        """Count the session's tasks by state; the filters are those of `tasks`."""
        counts: dict[str, int] = self._list("task_counts", filters)
        return counts

    def _list(self, query: str, filters: dict[str, Any], **page: Any) -> Any:
        given: dict[str, Any] = {
            name: as_epoch(value) if name.endswith(("_since", "_until")) else value
            for name, value in filters.items()
        }
        if (wanted := given.get("name")) is not None:
            several = isinstance(wanted, (list, tuple, set))
            given["name"] = [as_name(one) for one in wanted] if several else as_name(wanted)
        return self.query(query, session=self.id, **given, **page)

    def why(self, future: Future[Any] | str | None = None) -> str:
        """Return what a task, or else the session, waits for and why, or how it ended.

        Parameters
        ----------
        future
            The task's future or its id; default: the session as a whole. All submissions are
            accepted first.
        """
        self._check_process()
        if isinstance(future, Future):
            self._check_own([future])
        elif future is not None:
            _task_number(future)
        if not self._connection.is_closed:
            self._connection.flush()
        subject = future.task_id if isinstance(future, Future) else future or str(self.id)
        with QueryClient(self.site) as ask:
            return Lines(in_words(ask("why", subject=subject)))

    def ask(self, name: str, /, **arguments: Any) -> concurrent.futures.Future[Any]:
        """Ask like `query`, but return a future without waiting for the answer."""
        return self._connection.post(lambda n: m.Query(n, name, arguments))

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the head has accepted (or refused) all submissions, which are durable then.

        Returns
        -------
        bool
            False if that took longer than `timeout` seconds.
        """
        self._check_process()
        flushed = self._connection.flush(timeout)
        self.query("head")  # whatever was refused is known before this answer
        return flushed

    # --- the end of tasks

    def _cancel(self, future: Future[Any]) -> None:
        self._futures.discard(future)
        self._connection.post(lambda n: m.Cancel(n, self.id, [future.task]))

    def _check_process(self) -> None:
        """Raise in a forked copy of the process.

        Raises
        ------
        PilotError
            This process is a forked copy of the session's process.
        """
        if owner := self._connection.owner:
            raise PilotError(
                f"session {self.id} belongs to process {owner}, of which this process "
                f"({os.getpid()}) is a forked copy; open a session here: "
                f"pilot.Session(site=…, session_id={self.id}) attaches to the same one"
            )

    def _check_own(self, futures: Iterable[Future[Any]]) -> list[int]:
        """Return the numbers of tasks, after checking that they are of this site.

        Raises
        ------
        PilotError
            One is not a future of a task, or of another site, where its id names another task.
        """
        tasks = []
        for future in futures:
            if not isinstance(future, Future):
                raise PilotError(
                    f"{future!r:.100} is no future of a task, and nothing was done; the futures "
                    "that submit, map and session.future(id) give are"
                )
            if not future.origin.is_that_of(self.origin):
                raise PilotError(
                    f"the future of task {future.task_id} is of "
                    f"{future.origin.other_than(self.origin)}, and this session of site "
                    f"{self.site.name}; nothing was done"
                )
            tasks.append(future.task)
        return tasks

    # --- the end of the session

    def pause(self) -> None:
        """Start no more tasks until `resume`; running tasks go on."""
        self._control("pause")

    def resume(self) -> None:
        """Go on after `pause`."""
        self._control("resume")

    def stop(self) -> None:
        """Take no more tasks from clients; present tasks go on, and may submit."""
        self._connection.flush()
        self._control("stop")

    def cancel(self, futures: Iterable[Future[Any]] | None = None) -> None:
        """End these tasks, or all of the session, also running ones; return once it is recorded."""
        tasks = None if futures is None else sorted(self._check_own(_several(futures)))
        if tasks != []:
            self._request(lambda n: m.Cancel(n, self.id, tasks or []))

    def purge(self, futures: Iterable[Future[Any]] | None = None) -> None:
        """Delete results to free space on the disk; the records of the tasks stay.

        Parameters
        ----------
        futures
            The tasks whose results to delete, which must have ended; values that were put or
            imported, too (but never an imported file itself). Default: all data of the session,
            which must have ended, including checkpoints.

        Raises
        ------
        PilotError
            Nothing was deleted: a task has not ended, or one that has not still needs a result.
        """
        if futures is None:
            self._control("purge")
        elif tasks := sorted(set(self._check_own(_several(futures)))):
            self._connection.flush()  # whoever needs one of them is known to the head
            self._request(lambda n: m.DeleteResults(n, tasks))

    def delete(self) -> None:
        """Delete all records and data of a session that has ended."""
        self._control("delete")

    def _control(self, verb: str, timeout: float = 60.0) -> None:
        self._request(lambda n: m.ControlSession(n, self.id, verb), timeout)

    def _request(self, make: Callable[[int], m.Message], timeout: float = 60.0) -> None:
        """Send the head a request, also after this session was left."""
        self._check_process()
        if not self._connection.is_closed:
            try:
                self._connection.request(make, timeout)
                return
            except HeadError:
                # It may have been closed before the answer came: with the end of the last task.
                if not self._connection.is_closed:
                    raise
        connection = Connection(self.site, submits=False)
        try:
            connection.request(make, timeout)
        finally:
            connection.close()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; see `concurrent.futures.Executor.shutdown`.

        Parameters
        ----------
        wait
            Return when all tasks have ended; otherwise when the head has them all.
        cancel_futures
            Cancel the tasks that no pilot has yet; tasks that run, or are about to, are finished.
        """
        self._check_process()
        self._leave()
        with self._lock:
            first, self._closed = not self._closed, True
        if not first:
            if wait:
                concurrent.futures.wait(list(self._futures))
            return
        self._connection.flush()
        if cancel_futures:
            self._cancel_waiting()
        self._connection.sessions.clear()
        self._control("close")
        if wait:
            self._finish()
        else:
            # Results still come in; the thread ends with the last of them.
            threading.Thread(target=self._finish, name="pilot-shutdown", daemon=True).start()

    def _cancel_waiting(self) -> None:
        """Cancel those of this object's tasks that no pilot has."""
        waiting = {future.task: future for future in list(self._futures) if not future.done()}
        if waiting:
            asked = self._connection.request(
                # In the order of submission: what depends on others comes after these.
                lambda n: m.Cancel(n, self.id, sorted(waiting), waiting_only=True)
            )
            for task in asked:
                if (future := waiting.get(task)) is not None:
                    future._end_cancelled()
                    self._futures.discard(future)

    def _finish(self) -> None:
        concurrent.futures.wait(list(self._futures))
        self._connection.close(callbacks=True)

    def detach(self) -> int:
        """Leave the tasks running and the session open; return its id, for attaching again.

        A session that everybody has left ends a minute after its last task (`head.session_idle`),
        and is open again for a client that attaches to it.
        """
        self._check_process()
        self._leave()
        with self._lock:
            self._closed = True
        self._connection.flush()
        self._connection.close()
        return self.id

    def __enter__(self) -> Session:
        current.enter(self)
        self._was_entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        current.leave(self)
        if self._closed or self._connection.owner:
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
        """Cancel everything after Ctrl-C, and wait until the head has recorded it."""
        self._closed = True
        unfinished = sum(not future.done() for future in list(self._futures))
        self._connection.flush(_INTERRUPT_S)
        self._connection.request(lambda n: m.Cancel(n, self.id), _INTERRUPT_S)
        self._control("close", _INTERRUPT_S)
        self._connection.close()
        print(  # noqa: T201 - who interrupts a program wants to know what becomes of its tasks
            f"pilot: interrupted; {counted(unfinished, 'unfinished task')} of session {self.id} "
            f"{'was' if unfinished == 1 else 'were'} cancelled",
            file=sys.stderr,
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"session {self.id} cannot be sent to another process. A task submits with "
            "pilot.context().session; another program attaches to the session by its id: "
            f"pilot.Session(site=…, session_id={self.id})"
        )

    def __repr__(self) -> str:
        return f"<pilot session {self.id} {self.name!r} on {self.site.name}>"


class Group:
    """Tasks of a session that belong together; made by `Session.group`.

    Inside its ``with`` block, whatever this thread submits to the session belongs to it, and so do
    the children of its tasks. Leaving the block does not wait.
    """

    def __init__(self, session: Session, key: GroupKey) -> None:
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
        self, fn: Callable[..., T], rows: Iterable[tuple[Any, ...] | Mapping[str, Any]]
    ) -> list[Future[T]]:
        """Submit as with `Session.submit_many`, in this group."""
        with self:
            return self.session.submit_many(fn, rows)

    def cancel(self) -> None:
        """End all tasks of the group, running ones included."""
        session, name = self.session, self.key.name
        session._connection.flush()
        session._connection.request(lambda n: m.Cancel(n, session.id, [], name))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all tasks submitted in the group have ended; False if that took too long."""
        return not concurrent.futures.wait(self.futures, timeout).not_done

    def __enter__(self) -> Group:
        self._outer = getattr(_stack, "group", None)
        _stack.group = self
        return self

    def __exit__(self, *_: object) -> None:
        _stack.group = self._outer


class _Settler:
    """A link that passes the news of a task to its future."""

    __slots__ = ("future", "session")

    def __init__(self, session: Session, future: Future[Any]) -> None:
        self.session = session
        self.future = future

    def settle(self, outcome: TaskOutcome) -> None:
        self.future._settle(outcome)
        self.session._futures.discard(self.future)

    def refuse(self, error: Exception) -> None:
        self.future._fail(error, "REFUSED")
        self.session._futures.discard(self.future)

    def fail(self, error: Exception) -> None:
        self.future._fail(error, "LOST")
        self.session._futures.discard(self.future)

    def started(self) -> None:
        self.future._start()

    def disown(self, error: Exception) -> None:
        self.future._disown(error)


# --- what users give -----------------------------------------------------------------------------


def _several(futures: Any) -> Iterable[Future[Any]]:
    """Return an iterable of futures, also where a single one is given."""
    return [futures] if isinstance(futures, Future) else futures


def _task_number(task_id: Any) -> int:
    try:
        return parse_task_label(str(task_id))
    except ValueError as error:
        raise PilotError(str(error)) from None


def _whole(what: str, number: Any) -> int:
    try:
        whole = operator.index(number)
    except TypeError:
        raise PilotError(f"{what}={number!r}: give a whole number") from None
    if abs(whole) >= 1 << 31:
        raise PilotError(f"{what}={number!r}: the number is too large")
    return whole


def _number(what: str, number: Any) -> float:
    try:
        given = float(number)
    except (TypeError, ValueError, OverflowError):
        raise PilotError(f"{what}={number!r}: give a number") from None
    if not (math.isfinite(given) and given > 0):
        raise PilotError(f"{what}={number!r}: give a number above 0")
    return given


def _can_be_sent(text: str) -> bool:
    """Tell whether a text is UTF-8, and can be a path or a variable of a process."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _variables(given: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the additions to the environment of tasks.

    Raises
    ------
    SiteError
        A name or value cannot be a variable of a process.
    """
    variables = {}
    for name, value in (given or {}).items():
        if not isinstance(name, str) or not name or "=" in name or not _can_be_sent(name):
            raise SiteError(f"variables: {name!r} cannot be the name of a variable")
        if not isinstance(value, (str, os.PathLike)):
            raise SiteError(
                f"variables: {name} is {value!r}, a {type(value).__name__}; give a text: "
                f'{{"{name}": "{value}"}}'
            )
        text = os.fspath(value)
        if not isinstance(text, str) or not _can_be_sent(text):
            raise SiteError(
                f"variables: {name} is {text!a}, which cannot be sent: it holds a NUL or bytes "
                "that are no UTF-8"
            )
        variables[name] = str(text)
    _check_size("variables", [*variables, *variables.values()], "give what is large as an argument")
    return variables


def _check_size(what: str, texts: Iterable[str], advice: str) -> None:
    """Refuse texts that are too large for the messages and rows of each session.

    Raises
    ------
    SiteError
        The texts are too large.
    """
    size = sum(len(text.encode()) for text in texts)
    if size > OPTIONS_BYTES:
        raise SiteError(
            f"{what}: they have {size_text(size)}, and at most {size_text(OPTIONS_BYTES)} may "
            f"travel with a session; {advice}"
        )


def _options(given: Mapping[str, Any] | None) -> bytes:
    """Return the default options of a session, checked and encoded.

    Raises
    ------
    OptionError
        An option is not valid, or they are too large.
    """
    options = dict(given or {})
    make_options(Options(), options)
    try:
        return encode_within(options, OPTIONS_BYTES)
    except TooLargeError:
        raise OptionError(
            f"options: they are larger than {size_text(OPTIONS_BYTES)}; a default, or what a "
            "function among them refers to, must be small"
        ) from None


def _searched(first: Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Return the directories that workers search, without entries that cannot be sent.

    Raises
    ------
    SiteError
        One that was given cannot be sent.
    """
    if isinstance(first, (str, bytes)):
        raise SiteError(f"sys_path={first!r}: give a list of directories")
    for path in first:
        if not _can_be_sent(str(path)):
            raise SiteError(f"sys_path: {str(path)!a} has a name that is no UTF-8; rename it")
    found = tuple(path for path in search_path(first) if _can_be_sent(path))
    _check_size("sys_path", found, "name fewer directories")
    return found


def _program_name() -> str:
    """Return the name of this program: of a notebook its file's name, where that is known."""
    name = Path(sys.argv[0] if sys.argv else "").stem
    if name == "ipykernel_launcher":
        main = getattr(sys.modules.get("__main__"), "__dict__", {})
        file = os.environ.get("JPY_SESSION_NAME") or main.get("__vsc_ipynb_file__") or ""
        return Path(str(file)).stem or "notebook"
    return "python" if name in ("", "-", "-c", "-m") else name


def _working_dir() -> str:
    path = str(working_directory())
    if not _can_be_sent(path):
        raise SiteError(
            f"the working directory {path!a} has a name that is no UTF-8, so tasks cannot be sent "
            "there; rename it, or work in another"
        )
    return path


# --- the end of the program -----------------------------------------------------------------------


@atexit.register
def _detach_all() -> None:
    """Detach all sessions at the end of a program, which leaves its tasks running."""
    try:
        for session in current.opened_here():
            session.detach()
    except PilotError as error:
        _end_badly(str(error), error.exit_code)
    except KeyboardInterrupt:
        _end_badly("interrupted before the head had accepted all that was submitted", 130)


def _end_badly(text: str, status: int) -> None:
    """End a program that is already at its end: its exit status can be set in no other way."""
    print(f"pilot: {text}", file=sys.stderr)  # noqa: T201 - nobody else is left to
    with contextlib.suppress(Exception):
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    os._exit(status)


__all__ = ["Session", "current_session", "exception_of"]
