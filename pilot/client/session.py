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
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from msgspec import UNSET

from pilot.client import current
from pilot.client.arguments import Origin
from pilot.client.child_tasks import TaskSession
from pilot.client.connection import Connection
from pilot.client.context import serves_tasks
from pilot.client.events import Event, read_events
from pilot.client.failures import exception_of
from pilot.client.future import Future, Lines
from pilot.client.group import Group, GroupKey
from pilot.client.naming import naming_of, no_name
from pilot.client.objects import NamedObject, publish
from pilot.client.ordering import After, has_parameter
from pilot.client.program_end import detach_all
from pilot.client.query_client import QueryClient, in_words, list_filters
from pilot.client.session_settings import check_settings, whole_number
from pilot.client.session_tasks import SessionTasks, several
from pilot.client.submitter import Submitter, as_calls
from pilot.client.task import OptionError
from pilot.data.imported import Imported
from pilot.data.patience import set_patience
from pilot.data.pickles import decode
from pilot.errors import HeadError, PilotError
from pilot.formatting import counted
from pilot.model.ids import parse_task_label
from pilot.pickled import public
from pilot.site import Site, find_site
from pilot.texts import as_name
from pilot.wire.messages import client as m
from pilot.wire.messages.common import Message

if TYPE_CHECKING:
    from datetime import timedelta

    from pilot.client.command import CommandResult

T = TypeVar("T")

#: The time that leaving a session after Ctrl-C waits for the head to confirm, in seconds.
_INTERRUPT_S = 10.0

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
        The session's share of the cores beside other sessions of the same priority.
    priority
        Sessions of higher priority go first.
    options
        Default options of its tasks, such as ``{"retries": 2}``; a task's own options win, and of
        ``resources`` those of the same name.
    budget
        The node-hours that its tasks may use, as ``50`` or ``"50 node-hours"``: when they are used
        up no more tasks start. Of a new session; `pilot session budget` changes it.
    ends_with_client
        True: when this process has been gone for a minute without having closed the session (it
        was killed, its machine lost or asleep), the tasks are cancelled and the session is closed.
        Or for another time, as ``30`` (seconds) or ``"5m"``; at least 1 s. Of a new session.
    preload
        Modules, such as ``["numpy", "dislib"]``, that each node imports once for all executors of
        the session, which have them from their start. Of a new session.
    in_task
        A task may open a session of its own only with this: a module that opens one when it is
        imported does that in each worker, too.
    release_on_del
        True: when a future that this session has given is deleted (``del``, or the last variable
        with it is gone), its results are released, as by `release`. Of several results: when the
        futures of all are gone.

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
        budget: str | float | None = None,
        ends_with_client: bool | float | str | timedelta = False,
        preload: Sequence[str] = (),
        in_task: bool = False,
        release_on_del: bool = False,
    ) -> None:
        if serves_tasks() and not in_task:
            raise PilotError(_IN_TASK)
        settings = check_settings(
            name,
            session_id,
            sys_path,
            variables,
            weight,
            priority,
            options,
            budget,
            ends_with_client,
            preload,
        )
        self.name = settings.name
        self.site = site if isinstance(site, Site) else find_site(site)
        set_patience(self.site.config.data.patience_s)
        self._connection = Connection(self.site)  # only now that nothing is wrong
        self._was_entered = False
        try:
            reply: tuple[int, bytes, int, int] = self._connection.request(
                lambda n: m.OpenSession(n, *settings)
            )
        except BaseException:
            self._connection.close()
            raise
        self.id, kept, *block = reply
        submitter = Submitter(
            self.id,
            self.site,
            decode(kept) if options is None else options,
            self._connection.database,
            comparison=self._connection.comparison,
        )
        numbers = self._connection.numbers(self.id, *block)
        self._tasks = SessionTasks(self, self._connection, submitter, numbers, release_on_del)
        self._connection.sessions.add(self.id)
        #: True if the session was opened here, and ends with this client.
        self._is_bound = settings.grace_s > 0
        grace_s = settings.grace_s
        if session_id is not None:
            grace_s = self.query("session", session=self.id)["grace_s"]
        if grace_s:
            self._connection.attend(grace_s)
        self._thread = threading.get_ident()
        self._opened = current.note_opened(self)

    @property
    def origin(self) -> Origin:
        """The site and database to which the ids of its tasks belong."""
        return self._tasks.origin

    @property
    def is_open(self) -> bool:
        """True if the session takes tasks."""
        return self._tasks.is_open

    # --- submission

    def submit(
        self, fn: Callable[..., T], /, *args: Any, after: After = UNSET, **kwargs: Any
    ) -> Future[T]:
        """Run ``fn(*args, **kwargs)`` as a task.

        Parameters
        ----------
        fn
            A task, or any function.
        *args, **kwargs
            May hold futures of tasks at any depth; they become dependencies.
        after
            Tasks, as futures or ids: it starts when these have ended, however they end, and gets
            nothing of them. Where `fn` has a parameter of this name it is that; then give these
            as the option of a task.

        Raises
        ------
        SubmissionError
            No pool can ever run the task, or it cannot be pickled.
        RuntimeError
            The session was shut down.
        """
        if after is not UNSET and has_parameter(fn, "after"):
            kwargs["after"], after = after, UNSET
        return self._tasks.submit(fn, [(args, kwargs)], () if after is UNSET else after)[0]

    def submit_many(
        self,
        fn: Callable[..., T],
        rows: Iterable[tuple[Any, ...] | Mapping[str, Any]],
        *,
        after: After = (),
    ) -> list[Future[T]]:
        """Submit one task for each row of arguments (a tuple, or a mapping of names), at once.

        They start when the tasks of `after` (futures, or ids) have ended, however these end.
        """
        return self._tasks.submit(fn, as_calls(rows), after)

    def submit_script(
        self,
        path: str | os.PathLike[str],
        *arguments: str,
        directives: Sequence[str] = (),
        **options: Any,
    ) -> list[Future[CommandResult]]:
        """Submit a job script, such as one for ``sbatch``, as it is now.

        What of it is not honoured is named in a warning.

        Parameters
        ----------
        path
            The script.
        *arguments
            What it is called with.
        directives
            Options in the words of the script, such as ``--time=10``, which stand above its own.
        **options
            Those of tasks, and ``array`` (as ``"0-99"``), ``cwd``, ``env``, ``stdin``, ``stdout``
            and ``stderr``. They stand above what the script says.

        Returns
        -------
        list
            The future of the task; of an array, one for each index, in their order.

        Raises
        ------
        OptionError
            It is no job script, or the script or an option means nothing.
        SubmissionError
            No pool can ever run it.
        RuntimeError
            The session was shut down.
        """
        from pilot.client.script_tasks import made_of  # few sessions have scripts

        self._check_process()
        made = made_of(os.fspath(path), arguments, directives, self.site, options)
        for each in made.ignored:
            warnings.warn(f"{each} is ignored", stacklevel=2)
        return made.send(self)

    def put(
        self,
        value: T,
        name: str | None = None,
        *,
        tags: Mapping[str, Any] | None = None,
        keep: float | str | timedelta | None = None,
        compression: str | None = None,
    ) -> Future[T]:
        """Store a value once, for any number of tasks that get its future as an argument.

        A large value is written to a file of its own, and each node that needs it reads it from
        there once. With a name it is the next version of the object of that name, which outlives
        the session: see `pilot.named`.

        Parameters
        ----------
        value
            Any object that could be an argument; later changes to it have no effect.
        name
            The name of an object, such as ``mesh``: this is its next version. Lists show it, too.
            Default: none.
        tags
            What else is to be known of the version, such as ``{"run": 7}``.
        keep
            How long the version is kept, as ``"30d"`` or seconds; default: until it is removed.
        compression
            The compression of a large value in its file, such as ``"gzip:4"``, or ``"none"``;
            default: as the site file says.

        Raises
        ------
        EncodingError
            The value cannot be pickled.
        StorageError
            The value cannot be written.
        OptionError
            There is no such compression.
        PilotError
            The name can be none of an object, or there are tags without a name.
        RuntimeError
            The session was shut down.
        """
        if name is None:
            no_name(tags, keep)
            return self._tasks.put(value, "value", compression=compression)
        naming = naming_of(name, tags, keep, type(value))
        return self._tasks.put(value, name, naming, compression)

    def latest(self, future: Future[T]) -> Future[T]:
        """Return the future of a value as the tasks leave it that take it by turns.

        These are all that were submitted before, by this program, with the option
        ``commutative=future``. It waits for all of them; those that fail leave the value as it was.
        Give the new future to whatever comes after them, also to others that take it by turns.

        Raises
        ------
        PilotError
            There are no such tasks, or this was asked before.
        RuntimeError
            The session was shut down.
        """
        return self._tasks.latest(future)

    def publish(
        self,
        future: Future[Any],
        name: str,
        *,
        tags: Mapping[str, Any] | None = None,
        keep: float | str | timedelta | None = None,
        timeout: float | None = None,
    ) -> NamedObject:
        """Make the result of a task the next version of a named object, and return that.

        The task is waited for. Where the result is a version of that name already, that is
        returned; a `keep` counts from now, and other tags are refused. Nothing is copied: all
        results of the task are kept as long as the version is.

        Parameters
        ----------
        future
            The future of a task, or of one of its results.
        name
            The name of the object.
        tags, keep
            As in `put`.
        timeout
            How long to wait for the task, in seconds; default: as long as it takes.

        Raises
        ------
        PilotError
            The name can be none of an object, or the task has several results.
        TimeoutError, concurrent.futures.CancelledError, Exception
            As `Future.result` raises them, where the task does not end well.
        """
        self._check_process()
        self._tasks.numbers_of([future])
        return publish(future, self.site, name, tags, keep, timeout)

    def put_many(
        self, values: Iterable[T], name: str = "value", *, compression: str | None = None
    ) -> list[Future[T]]:
        """Store many values at once; return their futures, in the same order.

        All that are large go into one file, which is brought to the disk once: so this is much
        faster than `put` for each of them. Whoever needs one reads it from there. A value that
        many tasks need is better put by `put`: nodes keep a copy of it.

        Parameters
        ----------
        values
            Any objects that could be arguments.
        name
            The name that lists show, of all of them.
        compression
            As in `put`, of each.

        Raises
        ------
        EncodingError
            A value cannot be pickled. None was put.
        StorageError
            The values cannot be written.
        OptionError
            There is no such compression.
        RuntimeError
            The session was shut down.
        """
        return self._tasks.put_many(list(values), name, compression)

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
        return self._tasks.put(Imported(path), name)

    def retry(self, tasks: Iterable[str | Future[Any]] | None = None) -> dict[str, Future[Any]]:
        """Run failed tasks again, as new tasks with the same arguments and options.

        Tasks that were aborted because of them run again too, with the new results as arguments.

        Parameters
        ----------
        tasks
            Futures, or ids as `Future.task_id` gives them, also of cancelled tasks; default: all
            of the session that have failed, or were cancelled because their client was gone.

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
                self._tasks.numbers_of([task])[0] if isinstance(task, Future) else _number_of(task)
                for task in ([tasks] if isinstance(tasks, (str, Future)) else tasks)
            ]
        return self._tasks.submit_again(self.query("retry", session=self.id, tasks=wanted))

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
        return self._tasks.future(_number_of(task_id))

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the head has accepted (or refused) all submissions, which are durable then.

        Returns
        -------
        bool
            False if that took longer than `timeout` seconds.
        """
        self._check_process()
        if not self._connection.flush(timeout):
            return False
        self.query("head")  # whatever was refused is known before this answer
        return True

    # --- queries

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
            yield from read_events(
                ask, whole_number("since", since), session=self.id, follow=follow
            )

    def why(self, future: Future[Any] | str | None = None) -> str:
        """Return what a task, or else the session, waits for and why, or how it ended.

        Parameters
        ----------
        future
            The task's future or its id; default: the session as a whole. All submissions are
            accepted first, unless the head cannot write, which is the answer then.
        """
        self._check_process()
        if isinstance(future, Future):
            self._tasks.numbers_of([future])
        elif future is not None:
            _number_of(future)
        if not self._connection.is_closed:
            self._connection.flush_or_trouble()
        subject = future.task_id if isinstance(future, Future) else future or str(self.id)
        with QueryClient(self.site) as ask:
            return Lines(in_words(ask("why", subject=subject)))

    def query(self, name: str, /, **arguments: Any) -> Any:
        """Ask the head a query; see `pilot.head.queries` for those there are.

        Raises
        ------
        PilotError
            There is no such query, or what it asks for does not exist.
        """
        self._check_process()
        if self._is_left:
            with QueryClient(self.site) as ask:
                return ask(name, **arguments)
        return self._connection.request(lambda n: m.Query(n, name, arguments))

    def ask(self, name: str, /, **arguments: Any) -> concurrent.futures.Future[Any]:
        """Ask like `query`, but return a future without waiting for the answer."""
        return self._connection.post(lambda n: m.Query(n, name, arguments))

    # --- commands

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
        tasks = None if futures is None else sorted(self._tasks.numbers_of(several(futures)))
        if tasks != []:
            self._request(lambda n: m.Cancel(n, self.id, tasks or []))

    def release(self, futures: Future[Any] | Iterable[Future[Any]]) -> None:
        """Promise not to ask for these results again: each is deleted once no task needs it.

        The call does not wait. Tasks may be unfinished, and tasks that were submitted before still
        get the results, also when they are tried again; one that is submitted later is refused.
        Versions of named objects, and results that others find by ``cache=True``, stay. Where the
        session was left this waits for the head.

        Parameters
        ----------
        futures
            Futures of the session's tasks, and of what was put; of several results also
            ``future[0]`` or ``future["name"]`` alone. What is released already does no harm.

        Raises
        ------
        PilotError
            One is no future of a task of this session. Nothing is released then.
        """
        self._check_process()
        results = self._tasks.release(several(futures))
        if not self._connection.is_closed:
            self._connection.release(results)
            return
        connection = Connection(self.site, submits=False)
        try:
            connection.release(results)
            connection.flush()
        finally:
            connection.close()

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
        elif tasks := sorted(set(self._tasks.numbers_of(several(futures)))):
            self._connection.flush()  # whoever needs one of them is known to the head
            self._request(lambda n: m.DeleteResults(n, tasks))

    def delete(self) -> None:
        """Delete all records and data of a session that has ended."""
        self._control("delete")

    # --- the end

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
        if not self._tasks.close():
            if wait:
                self._tasks.wait()
            return
        self._connection.flush()
        if cancel_futures:
            self._tasks.cancel_waiting()
        self._connection.sessions.clear()
        self._control("close")
        if wait:
            self._finish()
        else:
            # Results still come in; the thread ends with the last of them.
            threading.Thread(target=self._finish, name="pilot-shutdown", daemon=True).start()

    def detach(self) -> int:
        """Leave the tasks running and the session open; return its id, for attaching again.

        A session that everybody has left ends a minute after its last task (`head.session_idle`),
        and is open again for a client that attaches to it. One that was opened here, to end with
        this client, does not any more.
        """
        self._check_process()
        if self._is_bound and self._tasks.is_open:
            self._control("unbind")
        return self._detach()

    def _detach(self) -> int:
        """Leave the session as it is: one that is to end with its client will."""
        self._check_process()
        self._leave()
        self._tasks.close()
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
        if not self.is_open or self._connection.owner:
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

    # --- for futures and groups

    def _query(self, name: str, /, **arguments: Any) -> Any:
        """Ask like `query`, after all submissions are accepted; possible in a left session too."""
        self._check_process()
        if not self._connection.is_closed:
            self._connection.flush()
        return self.query(name, **arguments)

    def _cancel(self, future: Future[Any]) -> None:
        """Have the head end a task, whose future is cancelled already."""
        self._tasks.cancel(future)

    def _cancel_group(self, name: str) -> None:
        """End all tasks of a group, and return once it is recorded."""
        self._connection.flush()
        self._connection.request(lambda n: m.Cancel(n, self.id, [], name))

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

    @property
    def _is_here(self) -> bool:
        """True if the session belongs to this process, False in a forked copy of its process."""
        return not self._connection.owner

    # --- parts of the above

    def _check_here(self) -> None:
        """Raise if the session was left, for calls that need the connection.

        Raises
        ------
        PilotError
            The session was left.
        """
        self._check_process()
        if self._is_left:
            raise PilotError(
                f"session {self.id} was shut down or detached here; attach to it again: "
                f"pilot.Session(site=…, session_id={self.id})"
            )

    @property
    def _is_left(self) -> bool:
        """True if the session was left, and what it waited for has come."""
        return not self._tasks.is_open and self._connection.is_closed

    def _list(self, query: str, filters: dict[str, Any], **page: Any) -> Any:
        return self.query(query, session=self.id, **list_filters(filters), **page)

    def _control(self, verb: str, timeout: float = 60.0) -> None:
        self._request(lambda n: m.ControlSession(n, self.id, verb), timeout)

    def _request(self, make: Callable[[int], Message], timeout: float = 60.0) -> None:
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

    def _leave(self) -> None:
        """Note that the user has left the session, other than by the end of a block."""
        if not self._was_entered:
            current.note_left(self._opened)

    def _finish(self) -> None:
        self._tasks.wait()
        self._connection.close(callbacks=True)

    def _interrupt(self) -> None:
        """Cancel everything after Ctrl-C, and wait until the head has recorded it."""
        self._tasks.is_open = False  # without the lock, which another thread may have for long
        unfinished = len(self._tasks.unfinished())
        self._connection.flush(_INTERRUPT_S)
        self._connection.request(lambda n: m.Cancel(n, self.id), _INTERRUPT_S)
        self._control("close", _INTERRUPT_S)
        self._connection.close()
        print(  # noqa: T201 - users who interrupt a program ask what becomes of its tasks
            f"pilot: interrupted; {counted(unfinished, 'unfinished task')} of session {self.id} "
            f"{'was' if unfinished == 1 else 'were'} cancelled",
            file=sys.stderr,
        )

    # --- in other forms

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"session {self.id} cannot be sent to another process. A task submits with "
            "pilot.context().session; another program attaches to the session by its id: "
            f"pilot.Session(site=…, session_id={self.id})"
        )

    def __repr__(self) -> str:
        return f"<pilot session {self.id} {self.name!r} on {self.site.name}>"


def _number_of(task_id: Any) -> int:
    """Return the number of a task from its id, such as ``3.17``."""
    try:
        return parse_task_label(str(task_id))
    except ValueError as error:
        raise PilotError(str(error)) from None


#: A program that ends leaves its tasks running.
atexit.register(detach_all)

__all__ = ["Session", "current_session", "exception_of"]
